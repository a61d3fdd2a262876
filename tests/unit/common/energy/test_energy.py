"""Energy: the model, and the meter that joins it with readers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fog_common.energy.battery import Battery
from fog_common.energy.meter import Meter
from fog_common.energy.model import EnergyConfig, JoulesPerByte, carbon_g, modelled
from fog_common.telemetry.metrics import USES, joules
from support.boards import battery_tree

# -- the model -------------------------------------------------------------------------------


def test_the_model_is_idle_plus_cores_plus_bytes():
    config = EnergyConfig(idle_w=2.0, core_w=1.5, link="wifi", joules_per_byte=JoulesPerByte(wifi=1e-6))
    parts = modelled(config, seconds=10.0, cpu_seconds=4.0, sent_bytes=1e6, received_bytes=2e6)
    assert (parts.idle, parts.compute, parts.send, parts.receive) == pytest.approx((20.0, 6.0, 1.0, 2.0))
    assert parts.total == pytest.approx(29.0)


def test_without_an_idle_power_nothing_is_modelled():
    assert modelled(EnergyConfig(idle_w=None), 10.0, 4.0, 0, 0) is None


def test_carbon_is_derived_from_joules_and_absent_without_a_factor():
    assert carbon_g(3.6e6, 400.0) == pytest.approx(400.0)
    assert carbon_g(3.6e6, None) is None


# -- the meter -------------------------------------------------------------------------------


class Given:
    """A reader that says what it is told to."""

    def __init__(self, name: str, totals: list[float | None], source: str = "measured", covers: str = "node") -> None:
        self.name, self.source, self.covers, self.period_s, self.held = name, source, covers, 1.0, False
        self._totals = iter(totals)

    def read_joules(self, now: float) -> float | None:
        return next(self._totals)


MODEL = EnergyConfig(reader="model", idle_w=2.0, core_w=1.0, joules_per_byte=JoulesPerByte(lan=0.0))


def test_before_the_first_interval_nothing_is_known(tmp_path):
    meter = Meter(MODEL, tmp_path)
    assert meter.sample(0.0, 0.0) == {} and meter.watts is None


def test_a_node_without_sensors_is_modelled_and_says_so(tmp_path):
    meter = Meter(MODEL, tmp_path)
    meter.sample(0.0, cpu_seconds=100.0)
    assert meter.sample(10.0, cpu_seconds=105.0) == {"modelled": pytest.approx(25.0)}
    assert meter.source == "modelled" and meter.watts == pytest.approx(2.5)


def test_unknown_is_absent_not_zero(tmp_path):
    meter = Meter(EnergyConfig(reader="none"), tmp_path)
    meter.sample(0.0, 0.0)
    assert meter.sample(10.0, 5.0) == {} and meter.watts is None and meter.source == ""


def test_a_measured_interval_is_not_modelled_as_well():
    meter = Meter(MODEL, found=[Given("ina3221", [0.0, 40.0, 70.0])])
    meter.sample(0.0, 0.0)
    meter.sample(10.0, 0.0)
    assert meter.sample(20.0, 0.0) == {"measured": 70.0}


def test_an_interval_that_the_sensor_missed_is_modelled():
    meter = Meter(MODEL, found=[Given("ina3221", [0.0, 40.0, None, 90.0, 100.0])])
    for now in (0.0, 10.0, 20.0, 30.0):
        meter.sample(now, 0.0)
    assert meter.sample(40.0, 0.0) == {"measured": 50.0, "modelled": pytest.approx(40.0)}


def test_graphics_cards_alone_are_added_to_the_model_of_the_board():
    meter = Meter(MODEL, found=[Given("nvml", [0.0, 500.0], covers="cards")])
    meter.sample(0.0, 0.0)
    assert meter.sample(10.0, 0.0) == {"measured": 500.0, "modelled": pytest.approx(20.0)}


def test_measured_joules_are_divided_by_use_as_the_model_would():
    config = EnergyConfig(reader="model", idle_w=2.0, core_w=1.0, joules_per_byte=JoulesPerByte(lan=1e-6))
    meter = Meter(config, found=[Given("ina3221", [0.0, 92.0])])
    meter.sample(0.0, 0.0)
    meter.sample(10.0, cpu_seconds=2.0, sent_bytes=1e6)
    uses = [meter.uses.get(joules("measured", use), 0.0) for use in USES]  # the model says 20 + 2 + 1 + 0
    assert uses == pytest.approx([80.0, 8.0, 4.0, 0.0])


def test_what_a_graphics_card_used_is_computing():
    meter = Meter(MODEL, found=[Given("nvml", [0.0, 500.0], covers="cards")])
    meter.sample(0.0, 0.0)
    meter.sample(10.0, cpu_seconds=5.0)
    assert meter.uses[joules("measured", "compute")] == 500.0 and joules("measured", "idle") not in meter.uses
    assert (meter.uses[joules("modelled", "idle")], meter.uses[joules("modelled", "compute")]) == pytest.approx((20.0, 5.0))


def test_without_a_model_measured_joules_are_not_divided():
    meter = Meter(EnergyConfig(idle_w=None), found=[Given("ina3221", [0.0, 50.0])])
    meter.sample(0.0, 0.0)
    assert meter.sample(10.0, 5.0) == {"measured": 50.0} and meter.uses == {joules("measured", "unknown"): 50.0}


def test_a_battery_gauge_that_stands_still_holds_the_interval_open(tmp_path):
    battery = Battery.found(EnergyConfig(), battery_tree(tmp_path, "Discharging", energy_now="50000000"))
    meter = Meter(EnergyConfig(idle_w=2.0, core_w=0.0), found=[battery])
    meter.sample(0.0, 0.0)
    assert meter.sample(30.0, 0.0) == {} and meter.watts is None  # neither 0 J nor the model's 60 J
    battery_tree(tmp_path, "Discharging", energy_now="49900000")
    assert meter.sample(60.0, 0.0) == {"measured": pytest.approx(360.0)} and meter.watts == pytest.approx(6.0)
    for now in range(90, 90 + 630, 30):  # it is stuck: that is unknown, and the model's, once for the whole time
        found = meter.sample(float(now), 0.0)
    assert found["modelled"] == pytest.approx(2.0 * (690.0 - 60.0))


def test_totals_that_begin_anew_are_not_subtracted(tmp_path):
    meter = Meter(MODEL, tmp_path)
    meter.sample(0.0, cpu_seconds=100.0)
    assert meter.sample(10.0, cpu_seconds=3.0) == {"modelled": pytest.approx(23.0)}


@given(
    totals=st.lists(st.one_of(st.none(), st.floats(0, 1e6)), min_size=2, max_size=15),
    cpu=st.lists(st.floats(0, 1e5), min_size=15, max_size=15),
)
def test_joules_only_grow(totals, cpu):
    meter, before = Meter(MODEL, found=[Given("rapl", totals)]), {}
    for step, seconds in zip(range(len(totals)), cpu, strict=False):
        after = meter.sample(float(step), seconds)
        assert all(after[source] >= joules for source, joules in before.items())
        before = after

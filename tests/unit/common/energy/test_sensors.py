"""Every sensor on a folder that looks like /sys, the choice among them, and the registry."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fog_agent.check import energy_source
from fog_agent.config import load_config
from fog_agent.node import probes
from fog_common.energy.battery import Battery
from fog_common.energy.ina3221 import Ina3221
from fog_common.energy.meter import Meter
from fog_common.energy.model import EnergyConfig, PmicFit
from fog_common.energy.nvml import Nvml
from fog_common.energy.pmic import Pmic, rails_watts
from fog_common.energy.rapl import Rapl
from fog_common.energy.reader import Integral
from fog_common.energy.sensors import SENSORS, readers
from fog_common.errors import ConfigError
from support.boards import VCGENCMD, battery_tree, jetson_tree, rapl_tree, tree

CONFIG = EnergyConfig()


def test_power_is_integrated_by_trapezoids_and_a_gap_is_not_bridged():
    watts = iter([2.0, 4.0, None, 100.0, 100.0])
    sensor = Integral(lambda: next(watts))
    assert [sensor.read_joules(now) for now in (0.0, 10.0, 20.0, 30.0, 31.0)] == [0.0, 30.0, None, 30.0, 130.0]


def test_rapl_adds_packages_and_dram_and_nothing_that_is_within_them(tmp_path):
    rapl = Rapl.found(CONFIG, rapl_tree(tmp_path, package=1_000_000, dram=500_000))
    rapl_tree(tmp_path, package=3_000_000, dram=1_500_000)
    assert rapl.read_joules(1.0) == pytest.approx(3.0)


def test_rapl_wraps_around(tmp_path):
    rapl = Rapl.found(CONFIG, rapl_tree(tmp_path, package=9_000_000, span=10_000_000))
    rapl_tree(tmp_path, package=2_000_000, span=10_000_000)
    assert rapl.read_joules(1.0) == pytest.approx(3.0)
    rapl_tree(tmp_path, package=4_000_000, span=10_000_000)
    assert rapl.read_joules(2.0) == pytest.approx(5.0)


@pytest.mark.thorough
@given(steps=st.lists(st.integers(0, 9_999_999), min_size=1, max_size=20), start=st.integers(0, 9_999_999))
def test_rapl_only_grows_and_loses_nothing(tmp_path_factory, steps, start):
    root, span, total = tmp_path_factory.mktemp("rapl"), 10_000_000, start
    rapl, before = Rapl.found(CONFIG, rapl_tree(root, start, span=span)), 0.0
    for step in steps:
        total += step
        rapl_tree(root, total % span, span=span)
        joules = rapl.read_joules(0.0)
        assert joules >= before
        before = joules
    assert before == pytest.approx((total - start) / 1e6)


def test_rapl_that_may_not_be_read_is_absent(tmp_path):
    rapl_tree(tmp_path, 1)
    for domain in (tmp_path / "sys/class/powercap").glob("*"):
        (domain / "energy_uj").unlink()  # root only since CVE-2020-8694
    assert Rapl.found(CONFIG, tmp_path) is None


@pytest.mark.parametrize("label", ["VDD_IN", "POM_5V_IN"])
def test_a_jetson_is_its_total_rail_only(tmp_path, label):
    rail = Ina3221.found(CONFIG, jetson_tree(tmp_path, label))
    rail.read_joules(0.0)
    assert rail.read_joules(1.0) == pytest.approx(10.0) and rail.covers == "node"


def test_a_jetson_without_a_total_rail_is_unknown(tmp_path):
    assert Ina3221.found(CONFIG, jetson_tree(tmp_path, "VDD_GPU_SOC")) is None


def test_the_pmic_is_the_sum_of_rails_that_have_both_volts_and_amps():
    assert rails_watts(VCGENCMD) == pytest.approx(0.1 * 3.7 + 0.2 * 3.3 + 2.0 * 0.75)
    assert rails_watts('error=1 error_msg="Command not registered"') is None


def test_a_pi_5_is_fitted_with_the_configured_line(tmp_path):
    config = EnergyConfig(pmic=PmicFit(slope=2.0, offset_w=1.0))
    reader = Pmic.found(config, tmp_path, run=lambda: VCGENCMD)
    reader.read_joules(0.0)
    assert reader.source == "fitted"
    assert reader.read_joules(10.0) == pytest.approx(10 * (2.0 * rails_watts(VCGENCMD) + 1.0))


def test_a_pi_whose_pmic_fails_is_not_asked_for_ever(tmp_path):
    answers = [VCGENCMD]
    calls = []

    def vcgencmd() -> str:
        calls.append(1)
        if not answers:
            raise OSError("no /dev/vcio")
        return answers.pop()

    reader = Pmic.found(CONFIG, tmp_path, run=vcgencmd)
    assert [reader.read_joules(float(now)) for now in range(10)] == [None] * 10
    assert len(calls) == 4  # the first, found good, then three failures


def test_a_battery_counts_what_it_gave_while_discharging(tmp_path):
    battery = Battery.found(CONFIG, battery_tree(tmp_path, "Discharging", energy_now="50000000"))
    battery_tree(tmp_path, "Discharging", energy_now="49000000")
    assert battery.read_joules(60.0) == pytest.approx(3600.0)
    battery_tree(tmp_path, "Charging", energy_now="50000000")
    assert battery.read_joules(120.0) is None


def test_a_battery_that_only_knows_its_charge(tmp_path):
    battery = Battery.found(CONFIG, battery_tree(tmp_path, "Discharging", charge_now="2000000", voltage_now="12000000"))
    battery_tree(tmp_path, "Discharging", charge_now="1900000", voltage_now="12000000")
    assert battery.read_joules(60.0) == pytest.approx(0.1 * 12 * 3600)


def test_the_battery_of_a_mouse_is_not_the_nodes(tmp_path):
    tree(
        tmp_path,
        **{"sys/class/power_supply/hid/type": "Battery", "sys/class/power_supply/hid/scope": "Device", "sys/class/power_supply/hid/energy_now": "5"},
    )
    assert Battery.found(CONFIG, tmp_path) is None and probes.battery_level(tmp_path) is None


def test_a_machine_without_the_nvidia_library_has_no_cards():
    assert Nvml.found(CONFIG, Path("/"), "libnvidia-ml-that-is-not-there.so") is None


class Library:
    """libnvidia-ml as ctypes shows it: two cards; an energy counter only if told so."""

    def __init__(self, counter: bool) -> None:
        self.millijoules, self.milliwatts, self.counter = 1_000_000, 50_000, counter

    def nvmlDeviceGetTotalEnergyConsumption(self, card, value) -> int:
        value._obj.value = self.millijoules
        return 0 if self.counter else 3

    def nvmlDeviceGetPowerUsage(self, card, value) -> int:
        value._obj.value = self.milliwatts
        return 0


def test_cards_with_an_energy_counter_are_read_from_where_they_stood():
    cards = Library(counter=True)
    nvml = Nvml(cards, [None, None])
    cards.millijoules += 7_000
    assert nvml.read_joules(1.0) == pytest.approx(14.0) and nvml.period_s > 1


def test_cards_without_a_counter_have_their_power_integrated():
    nvml = Nvml(Library(counter=False), [None, None])
    nvml.read_joules(0.0)
    assert nvml.read_joules(10.0) == pytest.approx(1000.0) and nvml.period_s == 1.0


def test_an_empty_machine_has_no_readers(tmp_path):
    assert readers(EnergyConfig(), tmp_path) == []


def test_a_named_reader_is_the_only_one_looked_for(tmp_path):
    rapl_tree(jetson_tree(tmp_path), 1)
    assert [reader.name for reader in readers(EnergyConfig(reader="rapl"), tmp_path)] == ["rapl"]
    assert [reader.name for reader in readers(EnergyConfig(reader="auto"), tmp_path)] == ["ina3221"]
    assert readers(EnergyConfig(reader="model"), tmp_path) == []


def test_the_order_of_preference():
    assert list(SENSORS) == ["pmic", "ina3221", "rapl", "battery", "nvml"]


def test_cards_are_read_beside_a_board_but_not_beside_a_sensor_of_the_whole_node(tmp_path, monkeypatch):
    monkeypatch.setitem(SENSORS, "nvml", Cards)
    assert [reader.name for reader in readers(CONFIG, rapl_tree(tmp_path / "x86", 1))] == ["rapl", "toy cards"]
    assert [reader.name for reader in readers(CONFIG, jetson_tree(tmp_path / "jetson"))] == ["ina3221"]
    assert [reader.name for reader in readers(EnergyConfig(reader="nvml"), rapl_tree(tmp_path, 1))] == ["toy cards"]


# -- the registry ----------------------------------------------------------------------------


class Toy:
    """A sensor as a new file would hold it: three joules more with every reading."""

    name, source, covers, period_s, held = "toy", "measured", "board", 7.0, False

    def __init__(self) -> None:
        self.joules = 0.0

    @classmethod
    def found(cls, config: EnergyConfig, root: Path) -> Toy | None:
        return cls()

    def read_joules(self, now: float) -> float | None:
        self.joules += 3.0
        return self.joules


class Cards(Toy):
    name, covers = "toy cards", "cards"


class Absent(Toy):
    @classmethod
    def found(cls, config: EnergyConfig, root: Path) -> None:
        return None


def agent_yaml(folder: Path, reader: str) -> Path:
    file = folder / "agent.yaml"
    file.write_text(f"node: pi-1\nmetrics: true\nenergy:\n  idle_w: 2.0\n  reader: {reader}\n")
    return file


def test_a_row_is_all_that_a_new_sensor_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(SENSORS, "toy", Toy)
    config = load_config(agent_yaml(tmp_path, "toy"))
    meter = Meter(config.energy, tmp_path)
    meter.sample(0.0, 0.0)
    assert meter.sample(10.0, 5.0) == {"measured": 3.0} and meter.watts == pytest.approx(0.3)
    assert meter.source == "measured toy" and meter.period_s == 7.0
    assert energy_source(config) == "measured toy"  # fog-agent check
    assert probes.profile(config, tmp_path, (), meter.source).energy_source == "measured toy"
    assert Meter(EnergyConfig(), tmp_path).source == "measured toy"


def test_an_unknown_sensor_is_refused_with_file_line_key_and_what_is_allowed(tmp_path):
    file = agent_yaml(tmp_path, "toy")
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    assert str(refused.value) == f"{file}:5: energy.reader: expected one of auto, model, none, {', '.join(SENSORS)}, got 'toy'"
    assert refused.value.exit_code == 2
    with pytest.raises(ConfigError, match=r"energy\.reader: expected one of auto"):
        Meter(EnergyConfig(reader="toy"), tmp_path)


def test_a_sensor_that_this_machine_lacks_is_told_by_the_check(tmp_path, monkeypatch):
    monkeypatch.setitem(SENSORS, "toy", Absent)
    with pytest.raises(ConfigError, match="no readable toy"):
        energy_source(load_config(agent_yaml(tmp_path, "toy")))


def test_a_row_stands_under_the_name_of_its_sensor():
    assert {name: sensor.name for name, sensor in SENSORS.items()} == {name: name for name in SENSORS}

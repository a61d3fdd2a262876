"""Energy: the model, every reader on a folder that looks like /sys, and the meter that joins them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fog_agent.node import probes
from fog_common.energy.meter import Meter
from fog_common.energy.model import EnergyConfig, JoulesPerByte, PmicFit, carbon_g, modelled
from fog_common.energy.readers import Battery, Integral, Nvml, Rapl, ina3221_watts, pmic_watts, readers
from fog_common.telemetry.metrics import USES, joules

VCGENCMD = """ 3V7_WL_SW_A current(0)=0.10000000A
   3V3_SYS_A current(1)=0.20000000A
  VDD_CORE_A current(7)=2.00000000A
 3V7_WL_SW_V volt(8)=3.70000000V
   3V3_SYS_V volt(9)=3.30000000V
  VDD_CORE_V volt(15)=0.75000000V
     EXT5V_V volt(24)=5.15000000V
      BATT_V volt(25)=0.00000000V
"""


def tree(root: Path, **files: str) -> Path:
    """Files below root; '__' in a name is a '/'."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def rapl_tree(root: Path, package: int, dram: int | None = None, span: int = 262_143_328_850) -> Path:
    base = root / "sys/class/powercap"
    domains = {"intel-rapl:0": ("package-0", package), "intel-rapl:0:0": ("core", 999), "intel-rapl:1": ("psys", 77)}
    if dram is not None:
        domains["intel-rapl:0:1"] = ("dram", dram)
    for domain, (name, energy) in domains.items():
        folder = base / domain
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "name").write_text(name + "\n")
        (folder / "energy_uj").write_text(f"{energy}\n")
        (folder / "max_energy_range_uj").write_text(f"{span}\n")
    return root


def jetson_tree(root: Path, total_label: str = "VDD_IN") -> Path:
    folder = "sys/bus/i2c/devices/1-0040/hwmon/hwmon3/"
    labels = {1: (total_label, 5000, 2000), 2: ("VDD_CPU_GPU_CV", 5000, 800), 3: ("VDD_SOC", 5000, 400)}
    files = {folder + "name": "ina3221", folder + "in7_label": "sum of shunt voltages", folder + "in7_input": "3"}
    for channel, (label, millivolts, milliamps) in labels.items():
        files |= {
            f"{folder}in{channel}_label": label,
            f"{folder}in{channel}_input": str(millivolts),
            f"{folder}curr{channel}_input": str(milliamps),
        }
    return tree(root, **files)


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


# -- readers ---------------------------------------------------------------------------------


def test_power_is_integrated_by_trapezoids_and_a_gap_is_not_bridged():
    watts = iter([2.0, 4.0, None, 100.0, 100.0])
    sensor = Integral("x", lambda: next(watts))
    assert [sensor.read_joules(now) for now in (0.0, 10.0, 20.0, 30.0, 31.0)] == [0.0, 30.0, None, 30.0, 130.0]


def test_rapl_adds_packages_and_dram_and_nothing_that_is_within_them(tmp_path):
    rapl = Rapl.found(rapl_tree(tmp_path, package=1_000_000, dram=500_000))
    rapl_tree(tmp_path, package=3_000_000, dram=1_500_000)
    assert rapl.read_joules(1.0) == pytest.approx(3.0)


def test_rapl_wraps_around(tmp_path):
    rapl = Rapl.found(rapl_tree(tmp_path, package=9_000_000, span=10_000_000))
    rapl_tree(tmp_path, package=2_000_000, span=10_000_000)
    assert rapl.read_joules(1.0) == pytest.approx(3.0)
    rapl_tree(tmp_path, package=4_000_000, span=10_000_000)
    assert rapl.read_joules(2.0) == pytest.approx(5.0)


@pytest.mark.thorough
@given(steps=st.lists(st.integers(0, 9_999_999), min_size=1, max_size=20), start=st.integers(0, 9_999_999))
def test_rapl_only_grows_and_loses_nothing(tmp_path_factory, steps, start):
    root, span, total = tmp_path_factory.mktemp("rapl"), 10_000_000, start
    rapl, before = Rapl.found(rapl_tree(root, start, span=span)), 0.0
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
    assert Rapl.found(tmp_path) is None


@pytest.mark.parametrize("label", ["VDD_IN", "POM_5V_IN"])
def test_a_jetson_is_its_total_rail_only(tmp_path, label):
    assert ina3221_watts(jetson_tree(tmp_path, label))() == pytest.approx(10.0)


def test_a_jetson_without_a_total_rail_is_unknown(tmp_path):
    assert ina3221_watts(jetson_tree(tmp_path, "VDD_GPU_SOC")) is None


def test_the_pmic_is_the_sum_of_rails_that_have_both_volts_and_amps():
    assert pmic_watts(VCGENCMD) == pytest.approx(0.1 * 3.7 + 0.2 * 3.3 + 2.0 * 0.75)
    assert pmic_watts('error=1 error_msg="Command not registered"') is None


def test_a_pi_5_is_fitted_with_the_configured_line(tmp_path):
    config = EnergyConfig(pmic=PmicFit(slope=2.0, offset_w=1.0))
    (reader,) = readers(config, tmp_path, vcgencmd=lambda: VCGENCMD)
    reader.read_joules(0.0)
    assert reader.source == "fitted"
    assert reader.read_joules(10.0) == pytest.approx(10 * (2.0 * pmic_watts(VCGENCMD) + 1.0))


def test_a_pi_whose_pmic_fails_is_not_asked_for_ever(tmp_path):
    answers = [VCGENCMD]
    calls = []

    def vcgencmd() -> str:
        calls.append(1)
        if not answers:
            raise OSError("no /dev/vcio")
        return answers.pop()

    (reader,) = readers(EnergyConfig(), tmp_path, vcgencmd=vcgencmd)
    assert [reader.read_joules(float(now)) for now in range(10)] == [None] * 10
    assert len(calls) == 4  # the first, found good, then three failures


def battery_tree(root: Path, status: str, **files: str) -> Path:
    base = "sys/class/power_supply/BAT0/"
    return tree(root, **{base + "type": "Battery", base + "status": status}, **{base + name: value for name, value in files.items()})


def test_a_battery_counts_what_it_gave_while_discharging(tmp_path):
    battery = Battery.found(battery_tree(tmp_path, "Discharging", energy_now="50000000"))
    battery_tree(tmp_path, "Discharging", energy_now="49000000")
    assert battery.read_joules(60.0) == pytest.approx(3600.0)
    battery_tree(tmp_path, "Charging", energy_now="50000000")
    assert battery.read_joules(120.0) is None


def test_a_battery_that_only_knows_its_charge(tmp_path):
    battery = Battery.found(battery_tree(tmp_path, "Discharging", charge_now="2000000", voltage_now="12000000"))
    battery_tree(tmp_path, "Discharging", charge_now="1900000", voltage_now="12000000")
    assert battery.read_joules(60.0) == pytest.approx(0.1 * 12 * 3600)


def test_the_battery_of_a_mouse_is_not_the_nodes(tmp_path):
    tree(
        tmp_path,
        **{"sys/class/power_supply/hid/type": "Battery", "sys/class/power_supply/hid/scope": "Device", "sys/class/power_supply/hid/energy_now": "5"},
    )
    assert Battery.found(tmp_path) is None and probes.battery_level(tmp_path) is None


def test_a_machine_without_the_nvidia_library_has_no_cards():
    assert Nvml.found("libnvidia-ml-that-is-not-there.so") is None


class Cards:
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
    cards = Cards(counter=True)
    nvml = Nvml(cards, [None, None])
    cards.millijoules += 7_000
    assert nvml.read_joules(1.0) == pytest.approx(14.0) and nvml.period_s > 1


def test_cards_without_a_counter_have_their_power_integrated():
    nvml = Nvml(Cards(counter=False), [None, None])
    nvml.read_joules(0.0)
    assert nvml.read_joules(10.0) == pytest.approx(1000.0) and nvml.period_s == 1.0


def test_an_empty_machine_has_no_readers(tmp_path):
    assert readers(EnergyConfig(), tmp_path) == []


def test_a_named_reader_is_the_only_one_looked_for(tmp_path):
    rapl_tree(jetson_tree(tmp_path), 1)
    assert [reader.name for reader in readers(EnergyConfig(reader="rapl"), tmp_path)] == ["rapl"]
    assert [reader.name for reader in readers(EnergyConfig(reader="auto"), tmp_path)] == ["ina3221"]
    assert readers(EnergyConfig(reader="model"), tmp_path) == []


# -- the meter -------------------------------------------------------------------------------


class Given:
    """A reader that says what it is told to."""

    def __init__(self, name: str, totals: list[float | None], source: str = "measured", whole: bool = True) -> None:
        self.name, self.source, self.whole, self.period_s, self.held = name, source, whole, 1.0, False
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
    meter = Meter(MODEL, found=[Given("nvml", [0.0, 500.0], whole=False)])
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
    meter = Meter(MODEL, found=[Given("nvml", [0.0, 500.0], whole=False)])
    meter.sample(0.0, 0.0)
    meter.sample(10.0, cpu_seconds=5.0)
    assert meter.uses[joules("measured", "compute")] == 500.0 and joules("measured", "idle") not in meter.uses
    assert (meter.uses[joules("modelled", "idle")], meter.uses[joules("modelled", "compute")]) == pytest.approx((20.0, 5.0))


def test_without_a_model_measured_joules_are_not_divided():
    meter = Meter(EnergyConfig(idle_w=None), found=[Given("ina3221", [0.0, 50.0])])
    meter.sample(0.0, 0.0)
    assert meter.sample(10.0, 5.0) == {"measured": 50.0} and meter.uses == {joules("measured", "unknown"): 50.0}


def test_a_battery_gauge_that_stands_still_holds_the_interval_open(tmp_path):
    battery = Battery.found(battery_tree(tmp_path, "Discharging", energy_now="50000000"))
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


# -- probes ----------------------------------------------------------------------------------


def test_memory_is_the_tighter_of_machine_and_control_group(tmp_path):
    root = tree(tmp_path, **{"proc/meminfo": "MemTotal: 8000 kB\nMemFree: 1 kB\nMemAvailable: 6000 kB", "proc/self/cgroup": "0::/fog"})
    assert probes.memory_bytes(root) == (8000 * 1024, 6000 * 1024)
    tree(root, **{"sys/fs/cgroup/fog/memory.max": str(1000 * 1024), "sys/fs/cgroup/fog/memory.current": str(400 * 1024)})
    assert probes.memory_bytes(root) == (1000 * 1024, 600 * 1024)


def test_temperature_prefers_the_processors_zone_and_is_absent_without_one(tmp_path):
    assert probes.temperature_c(tmp_path) is None
    zones = {"0/type": "acpitz", "0/temp": "90000", "1/type": "x86_pkg_temp", "1/temp": "61500", "2/type": "cpu-thermal", "2/temp": "-274000"}
    tree(tmp_path, **{f"sys/class/thermal/thermal_zone{name}": value for name, value in zones.items()})
    assert probes.temperature_c(tmp_path) == 61.5


def test_battery_level_is_a_ratio(tmp_path):
    assert probes.battery_level(battery_tree(tmp_path, "Discharging", capacity="87")) == pytest.approx(0.87)


def test_cpu_ratio_counts_waiting_for_disks_as_idle(tmp_path):
    before = probes.cpu_times(tree(tmp_path, **{"proc/stat": "cpu  100 0 100 700 100 0 0 0 0 0"}))
    after = probes.cpu_times(tree(tmp_path, **{"proc/stat": "cpu  150 0 100 700 150 0 0 0 0 0"}))
    assert probes.cpu_ratio(before, after) == pytest.approx(0.5)
    assert probes.cpu_ratio(None, after) is None

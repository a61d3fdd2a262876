"""Probes on a folder that looks like /proc and /sys."""

from __future__ import annotations

import pytest

from fog_agent.node import probes
from support.boards import battery_tree, tree


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

"""Probes on a folder that looks like /proc and /sys, and what an agent's configuration adds to the facts that it announces."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fog_agent.config import load_config
from fog_agent.node import probes
from fog_common.errors import ConfigError
from fog_common.facts import Link
from fog_common.wire.messages import Announce, decode, encode
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


def config(folder: Path, links: str) -> Path:
    file = folder / "agent.yaml"
    file.write_text(f"node: pi-1\nlinks: {links}\n")
    return file


def test_declared_links_are_announced_with_the_facts(tmp_path: Path):
    known = load_config(config(tmp_path, "{pi-2: {latency_s: 0.0005, bytes_per_s: 12000000.0}}"))
    profile = probes.profile(known, tmp_path, [], "modelled")
    message = decode(encode(Announce("pi-1", "n", profile)))
    assert isinstance(message, Announce)
    assert message.profile.links == {"pi-2": Link(0.0005, 1.2e7)}
    assert msgspec.to_builtins(message.profile) == msgspec.to_builtins(profile)


@pytest.mark.parametrize("link", ["{latency_s: 0.1}", "{latency_s: 0.1, bytes_per_s: 0}", "{latency_s: 0.1, bytes_per_s: 1, rate: 3}"])
def test_a_link_that_cannot_be_is_a_mistake_in_the_file(tmp_path: Path, link: str):
    with pytest.raises(ConfigError, match="links"):
        load_config(config(tmp_path, f"{{pi-2: {link}}}"))

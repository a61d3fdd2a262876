"""Facts of this node, measured now. An unknown fact is absent (None, or left out), never zero. Imports neither torch nor numpy."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from fog_agent.config import AgentConfig
from fog_common.energy.battery import battery_folder
from fog_common.telemetry.speed import Speed
from fog_common.wire.messages import Profile

SPEED_FILE: Final = "speed.json"


def profile(config: AgentConfig, folder: Path, datasets: Iterable[str], energy_source: str, root: Path = Path("/")) -> Profile:
    """The node's profile. FLOP/s come from an earlier worker, if there was one; round trip and bandwidth follow later, from the bus."""
    known = saved_speed(folder)
    total, free = memory_bytes(root)
    limit = config.memory_mb * 1_000_000
    return Profile(
        tier=config.tier,
        site=config.site,
        cores=cores(),
        memory_bytes=min(total, limit) if limit and total else limit or total,
        memory_free_bytes=free,
        disk_free_bytes=disk_free_bytes(folder) or 0,
        arch=platform.machine(),
        python=platform.python_version(),
        version=version(),
        torch=can_train(config),
        battery=battery_level(root),
        datasets=tuple(sorted(datasets)),
        energy_source=energy_source,
        labels=config.labels,
        flops=known.flops if known else None,
        op_s=known.op_s if known else None,
        idle_w=config.energy.idle_w,
        core_w=config.energy.core_w,
        byte_j=getattr(config.energy.joules_per_byte, config.energy.link),
    )


def saved_speed(folder: Path) -> Speed | None:
    """Speed measured by the last worker on this node; None without one, or if the file is damaged."""
    try:
        return msgspec.json.decode((folder / SPEED_FILE).read_bytes(), type=Speed)
    except (OSError, msgspec.MsgspecError):
        return None


def save_speed(folder: Path, speed: Speed) -> None:
    """Keep the speed for the next start of the agent, without an fsync. OSError if the disk is full."""
    fresh = folder / f"{SPEED_FILE}.{os.getpid()}"
    fresh.write_bytes(msgspec.json.encode(speed))
    os.replace(fresh, folder / SPEED_FILE)


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Largest number of cores that our control group may use; None without a limit."""
    try:
        quota, period = (_group_folder(root) / "cpu.max").read_text().split()[:2]
        return None if quota == "max" else float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def can_train(config: AgentConfig) -> bool:
    """Whether a worker can run here. torch is looked for, not imported."""
    return config.backend == "standin" or importlib.util.find_spec("torch") is not None


def version() -> str:
    try:
        return importlib.metadata.version("foglearn")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return ""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes(root: Path = Path("/")) -> tuple[int, int]:
    """(total, available) bytes, the smaller of the machine's and the control group's; (0, 0) = unknown."""
    sizes: dict[str, int] = {}
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            key, _, rest = line.partition(":")
            if key in {"MemTotal", "MemAvailable"}:
                sizes[key] = int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return _memory_elsewhere() if root == Path("/") else (0, 0)
    total, free = sizes.get("MemTotal", 0), sizes.get("MemAvailable", 0)
    group = _group_folder(root)
    limit, used = _whole_number(group / "memory.max"), _whole_number(group / "memory.current")
    if limit is not None and limit < total:
        total, free = limit, min(free, max(0, limit - (used or 0)))
    return total, free


def disk_free_bytes(folder: Path) -> int | None:
    """Free bytes of the file system that holds the folder; None if they cannot be read."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def battery_level(root: Path = Path("/")) -> float | None:
    """Charge from 0 to 1; None without a battery."""
    folder = battery_folder(root)
    percent = None if folder is None else _whole_number(folder / "capacity")
    return None if percent is None else min(1.0, max(0.0, percent / 100))


def temperature_c(root: Path = Path("/")) -> float | None:
    """Temperature of the processor in °C: the hottest thermal zone that names it, otherwise the hottest of all; None without a zone."""
    named: list[float] = []
    others: list[float] = []
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        reading = _whole_number(zone / "temp")
        if reading is None or not -40_000 < reading < 150_000:
            continue
        try:
            kind = (zone / "type").read_text().lower()
        except OSError:
            kind = ""
        (named if any(word in kind for word in ("cpu", "pkg", "soc", "core")) else others).append(reading / 1000)
    return max(named or others, default=None)


def cpu_ratio(before: tuple[float, float] | None, after: tuple[float, float] | None) -> float | None:
    """Busy part of the processor between two cpu_times(), 0 to 1; None if it is unknown."""
    if before is None or after is None or after[1] <= before[1]:
        return None
    return min(1.0, max(0.0, (after[0] - before[0]) / (after[1] - before[1])))


def cpu_times(root: Path = Path("/")) -> tuple[float, float] | None:
    """(busy, all) clock ticks of all cores since boot."""
    try:
        with open(root / "proc/stat") as file:
            ticks = [float(part) for part in file.readline().split()[1:9]]  # user … steal; guest is within user
    except (OSError, ValueError):
        return None
    return (sum(ticks) - ticks[3] - ticks[4], sum(ticks)) if len(ticks) == 8 else None  # idle, iowait


def _group_folder(root: Path) -> Path:
    """Our control group (v2)."""
    try:
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return root / "sys/fs/cgroup" / line[3:].lstrip("/")
    except OSError:
        pass
    return root / "sys/fs/cgroup"


def _memory_elsewhere() -> tuple[int, int]:
    import psutil  # only without /proc, because it takes 1.5 MB

    memory = psutil.virtual_memory()
    return memory.total, memory.available


def _whole_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None

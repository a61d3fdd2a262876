"""The agent's configuration file, as types. Strict: an unknown key or an impossible value names file, line and key.

    node: pi-3
    tier: edge
    site: hall-2
    broker: {host: 10.0.0.5, username: pi-3, password_file: broker-password}
    datasets: {machines: /srv/machines}

Only `node` has no default. Every key is enforced; what a key does stands under it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from fog_common.bus.base import BrokerConfig
from fog_common.config import load
from fog_common.energy.model import EnergyConfig
from fog_common.energy.sensors import check_reader

Id = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class AgentConfig(Struct, frozen=True, forbid_unknown_fields=True):
    node: Id
    """The node's name in the fleet, and its user at the broker."""
    tier: Literal["thing", "edge", "fog", "cloud"] = "edge"
    site: Id = "home"
    """Nodes of one site share a local network; `cloud` is the coordinator's."""
    fleet: Id = "main"
    """First level of all topics: several fleets may share a broker."""
    broker: BrokerConfig = BrokerConfig()
    state_dir: str = ""
    """Blobs, Saves, locks. '' = $STATE_DIRECTORY of the unit, else ~/.local/state/foglearn/NODE."""
    datasets: dict[str, str] = {}
    """Name of a data set -> local path. Beside it, every folder in $FOGLEARN_DATA is a data set of that name."""
    weights: dict[Id, str] = {}
    """Name of weights that a job may begin with (`model.weights`) -> safetensors file. Beside it, $FOGLEARN_DATA/NAME.safetensors."""
    allow_models: tuple[str, ...] = ()
    """Python modules that a job may import on this node (`model: {import: "pkg.mod:Factory"}`)."""
    methods: tuple[str, ...] = ()
    """Learning methods of installed packages that a job may name on this node, beside those of this program (entry points of the group `foglearn.methods`)."""
    labels: dict[Id, Annotated[str, Meta(max_length=64)]] = {}
    """Free text for people and selectors; sent with the profile."""

    heartbeat_s: Seconds = 5.0
    """Seconds between heartbeats (±10 %, so that a fleet does not beat in step)."""
    max_workers: Annotated[int, Meta(ge=1, le=256)] = 1
    """Workers (one per job) at a time; further jobs wait in the order in which they came."""
    memory_mb: Annotated[int, Meta(ge=0)] = 0
    """All workers together: a job that needs more waits or is refused, a worker that takes more is stopped. 0 = no limit."""
    duty: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Fraction of the time in which a worker may compute: after each op it pauses, so that the machine stays free for its own work."""
    link_probe_kb: Annotated[int, Meta(ge=0, le=256)] = 64
    """The link's rate is measured with so much, sent to ourselves over the broker, at the start and then hourly while no job runs. 0 = never."""
    chunk_bytes: Annotated[int, Meta(ge=1024, le=262_144)] = 262_144
    """Largest piece of a tensor in one MQTT message; the broker's own limit still counts."""
    drain_s: Annotated[float, Meta(ge=0, le=86_400)] = 20.0
    """On SIGTERM: how long to wait for the coordinator to move the tasks away. systemd's TimeoutStopSec must be longer."""
    stop_s: Seconds = 10.0
    """How long a worker may take to end when asked to; then it is killed."""

    backend: Literal["torch", "standin"] = "torch"
    """standin computes nothing that learns: for tests of everything else."""
    spawner: str = ""
    """Unix socket of a `fog_agent.process.spawner` that forks workers; '' = each worker is a process of its own."""
    worker_command: tuple[str, ...] = ()
    """Program in the place of `python -m fog_agent.worker`, e.g. under nice; `--fd N` is appended. Not together with spawner."""
    energy: EnergyConfig = EnergyConfig()
    metrics: bool = True
    """Measure load, memory, energy and what workers do, and say it with the heartbeats. off: heartbeats carry only what placement, budgets of
    time and bytes, and presence need: tasks, bytes by plane, the speed of the node and its link. Not together with metrics_port."""
    metrics_port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    """Serve this node's own metrics on 127.0.0.1 too, beside those of the coordinator. 0 = no."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    def __post_init__(self) -> None:
        if self.node == "coordinator":
            raise ValueError("node: 'coordinator' is the coordinator's own name; choose another")
        if not self.metrics and self.metrics_port:
            raise ValueError("metrics_port: there is nothing to serve with `metrics: off`; leave one of them out")
        if self.spawner and self.worker_command:
            raise ValueError("worker_command: cannot be combined with `spawner`, which forks its own workers")
        check_reader(self.energy.reader)


def load_config(path: str | Path) -> AgentConfig:
    """ConfigError names file, line, key, what was found and what is allowed."""
    return load(path, AgentConfig)


def state_dir(config: AgentConfig, environ: Mapping[str, str] = os.environ) -> Path:
    """Where this agent keeps its state; not created here."""
    if config.state_dir:
        return Path(config.state_dir).expanduser()
    if unit := environ.get("STATE_DIRECTORY"):
        return Path(unit.split(":")[0])
    home = environ.get("XDG_STATE_HOME") or os.path.join(environ.get("HOME", "/"), ".local", "state")
    return Path(home) / "foglearn" / config.node


def datasets(config: AgentConfig, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """All data sets of the node: the folders in $FOGLEARN_DATA, overridden by the configured ones."""
    found: dict[str, str] = {}
    if root := environ.get("FOGLEARN_DATA"):
        try:
            found = {entry.name: entry.path for entry in sorted(os.scandir(root), key=lambda entry: entry.name) if entry.is_dir()}
        except OSError:
            found = {}
    return {**found, **{name: str(Path(path).expanduser()) for name, path in config.datasets.items()}}

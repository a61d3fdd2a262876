"""The agent's configuration file, as types. Strict: a ConfigError for an unknown key or impossible value names file, line and key.

    node: pi-3
    tier: edge
    site: hall-2
    broker: {host: 10.0.0.5, username: pi-3, password_file: broker-password}
    datasets: {machines: /srv/machines}

Only `node` has no default. Every key is enforced; its effect is described below it.
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
    """Name of the fleet in all topics: several fleets may share a broker."""
    broker: BrokerConfig = BrokerConfig()
    state_dir: str = ""
    """Folder of blobs, Saves and locks. '' = $STATE_DIRECTORY of the unit, otherwise ~/.local/state/foglearn/NODE."""
    datasets: dict[str, str] = {}
    """Name of a data set -> local path. Every folder in $FOGLEARN_DATA is a data set of its name, too."""
    weights: dict[Id, str] = {}
    """Name of a job's first weights (`model.weights`) -> safetensors file. $FOGLEARN_DATA/NAME.safetensors serves, too."""
    allow_models: tuple[str, ...] = ()
    """Python modules that a job may import on this node (`model: {import: "pkg.mod:Factory"}`)."""
    methods: tuple[str, ...] = ()
    """Learning methods of installed packages that a job may name on this node (entry points of the group `foglearn.methods`); those of
    this program are always allowed."""
    labels: dict[Id, Annotated[str, Meta(max_length=64)]] = {}
    """Free text for people and selectors; sent with the profile."""

    heartbeat_s: Seconds = 5.0
    """Seconds between heartbeats (±10 %, so that the nodes of a fleet do not send all at once)."""
    max_workers: Annotated[int, Meta(ge=1, le=256)] = 1
    """Workers (one per job) at a time; further jobs wait in the order in which they came."""
    memory_mb: Annotated[int, Meta(ge=0)] = 0
    """Memory of all workers together, in MB: a job that needs more waits or is refused, a worker that takes more is stopped. 0 = no limit."""
    duty: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Fraction of the time in which a worker may compute: after each op it pauses, so that the machine stays free for its own work."""
    link_probe_kb: Annotated[int, Meta(ge=0, le=256)] = 64
    """Size of the probes that measure the link's rate, sent over the broker to this node itself, at the start and then hourly while no job
    runs. 0 = never."""
    chunk_bytes: Annotated[int, Meta(ge=1024, le=262_144)] = 262_144
    """Largest piece of a tensor in one MQTT message; the broker's own limit may be lower."""
    drain_s: Annotated[float, Meta(ge=0, le=86_400)] = 20.0
    """On SIGTERM: seconds to wait until the coordinator has moved the tasks away. systemd's TimeoutStopSec must be longer."""
    stop_s: Seconds = 10.0
    """Seconds that a worker may take to end before it is killed."""

    backend: Literal["torch", "standin"] = "torch"
    """standin does not learn, and serves tests without torch."""
    spawner: str = ""
    """Unix socket of a `fog_agent.process.spawner` that forks workers; '' = the agent starts each worker itself."""
    worker_command: tuple[str, ...] = ()
    """Command instead of `python -m fog_agent.worker`, e.g. with nice; `--fd N` is appended. Excludes `spawner`."""
    energy: EnergyConfig = EnergyConfig()
    metrics: bool = True
    """Measure load, memory, energy and the work of workers, and report them in heartbeats. false: heartbeats carry only tasks, bytes by plane,
    and the speed of the node and its link, for placement, budgets of time and bytes, and presence. Excludes `metrics_port`."""
    metrics_port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    """Port on 127.0.0.1 for this node's own metrics, beside those of the coordinator. 0 = none."""
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
    """The configuration in a file. ConfigError names file, line, key, found value and allowed values."""
    return load(path, AgentConfig)


def state_dir(config: AgentConfig, environ: Mapping[str, str] = os.environ) -> Path:
    """Folder of this agent's state, which may not exist yet."""
    if config.state_dir:
        return Path(config.state_dir).expanduser()
    if unit := environ.get("STATE_DIRECTORY"):
        return Path(unit.split(":")[0])
    home = environ.get("XDG_STATE_HOME") or os.path.join(environ.get("HOME", "/"), ".local", "state")
    return Path(home) / "foglearn" / config.node


def datasets(config: AgentConfig, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """name -> path of all data sets of the node: the folders in $FOGLEARN_DATA, overridden by the configured ones."""
    folders: dict[str, str] = {}
    if root := environ.get("FOGLEARN_DATA"):
        try:
            folders = {entry.name: entry.path for entry in sorted(os.scandir(root), key=lambda entry: entry.name) if entry.is_dir()}
        except OSError:
            folders = {}
    return {**folders, **{name: str(Path(path).expanduser()) for name, path in config.datasets.items()}}

"""The coordinator's configuration file, as types. Strict: an unknown key or an impossible value names file, line and key.

    fleet: main
    broker: {host: 10.0.0.5, username: coordinator, password_file: coordinator.password}

Everything has a default; what a key does stands under it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from fog_common.bus.base import BrokerConfig
from fog_common.config import load
from fog_common.ids import Id
from fog_coordinator.state.rules import Rules

Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class Metrics(Struct, frozen=True, forbid_unknown_fields=True):
    """Pages for Prometheus: /metrics, /healthz, /readyz."""

    host: str = "127.0.0.1"
    """Where they are served. There is no password on them: open this to other machines only behind something that has one."""
    port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    """0 = not served."""


class CoordinatorConfig(Struct, frozen=True, forbid_unknown_fields=True):
    broker: BrokerConfig = BrokerConfig()
    fleet: Id = "main"
    """First level of all topics: several fleets may share a broker."""
    state_dir: str = ""
    """Journal and results. '' = $STATE_DIRECTORY of the unit, else ~/.local/state/foglearn/coordinator."""
    journal: str = ""
    """SQLAlchemy URL of the journal; '' = journal.sqlite in state_dir."""

    heartbeat_s: Seconds = 5.0
    """heartbeat_s of the agents of this fleet (the longest, if they differ): a node is offline after three missing heartbeats and 5 s."""
    move_after_s: Seconds = 5.0
    """A task that is not bound to data moves to a copy of its state when its node is gone for this long."""
    orphan_after_s: Seconds = 60.0
    """... and begins anew, if it never made a Save, when its node is gone for this long. A data slot is then free for another node."""
    return_s: Seconds = 10.0
    """A round waits this long for a node with data that is gone, or whose worker ended: it may come back with its update."""
    finish_s: Seconds = 15.0
    """A node with data that drains may finish its round, if that takes no longer. Agents wait drain_s (20 s) after SIGTERM."""
    jobs_per_node: Annotated[int, Meta(ge=1, le=256)] = 1
    """Jobs that share a node; further ones wait in the queue. Agents have a limit of their own (max_workers)."""
    keep_jobs: Annotated[int, Meta(ge=1, le=100_000)] = 200
    """Ended jobs that are remembered; what is older is forgotten, its result too."""
    methods: tuple[str, ...] = ()
    """Learning methods of installed packages that a job may name, beside those of this program (entry points of the group `foglearn.methods`)."""
    metrics: Metrics = Metrics()
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @property
    def rules(self) -> Rules:
        return Rules(
            heartbeat_s=self.heartbeat_s,
            move_after_s=self.move_after_s,
            return_s=self.return_s,
            orphan_after_s=self.orphan_after_s,
            finish_s=self.finish_s,
            jobs_per_node=self.jobs_per_node,
            keep_jobs=self.keep_jobs,
        )


def load_config(path: str | Path) -> CoordinatorConfig:
    """ConfigError names file, line, key, what was found and what is allowed."""
    return load(path, CoordinatorConfig)


def state_dir(config: CoordinatorConfig, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the coordinator keeps its state; not created here."""
    if config.state_dir:
        return Path(config.state_dir).expanduser()
    if unit := environ.get("STATE_DIRECTORY"):
        return Path(unit.split(":")[0])
    home = environ.get("XDG_STATE_HOME") or os.path.join(environ.get("HOME", "/"), ".local", "state")
    return Path(home) / "foglearn" / "coordinator"

"""`fog-agent check`: all checks that are possible before the daemon runs, in one go."""

from __future__ import annotations

import importlib.util
import os
import queue
import stat
import time
from pathlib import Path
from typing import Any, Final

from fog_agent.config import AgentConfig, datasets, state_dir
from fog_agent.node import probes
from fog_agent.node.state import StateDir
from fog_common.bus.base import BusEvent, Connected, Disconnected
from fog_common.bus.mqtt import MqttBus
from fog_common.energy.meter import Meter
from fog_common.energy.sensors import SENSORS
from fog_common.errors import ConfigError, FogError, Refused, Unreachable
from fog_common.program import envelope
from fog_common.wire import topics

CONNECT_S: Final = 10.0


def check(config: AgentConfig, as_json: bool = False) -> int:
    """Print the results; returns 0, or the exit code of the first problem (2 configuration, 3 broker, 4 refused)."""
    results: dict[str, Any] = {"node": config.node, "tier": config.tier, "site": config.site}
    problems: list[FogError] = []
    for name, look in (
        ("state_dir", _folder),
        ("datasets", _datasets),
        ("weights", _weights),
        ("workers", _workers),
        ("energy", energy_source),
        ("broker", _broker),
    ):
        try:
            results[name] = look(config)
        except FogError as error:
            problems.append(error)
    if as_json:
        worst = type(problems[0])("; ".join(map(str, problems))) if problems else None
        print(envelope.failed(worst, worst.exit_code) if worst else envelope.ok(results))  # noqa: T201
    else:
        for key, value in results.items():
            print(f"{key:<10} {', '.join(value) or 'none' if isinstance(value, list) else value}")  # noqa: T201
        for problem in problems:
            os.write(2, f"fog-agent: {problem}\n".encode())
    return problems[0].exit_code if problems else 0


def _folder(config: AgentConfig) -> str:
    folder = state_dir(config)
    try:
        StateDir(folder).close()
    except Refused as error:  # the daemon of this configuration runs
        return str(error).partition(";")[0]
    free = probes.disk_free_bytes(folder)
    return f"{folder}, free space unknown" if free is None else f"{folder}, {free / 1e9:.1f} GB free"


def _datasets(config: AgentConfig) -> list[str]:
    missing = [f"{name} ({path})" for name, path in datasets(config).items() if not Path(path).exists()]
    if missing:
        raise ConfigError(f"datasets: not there: {', '.join(missing)}; correct the paths")
    return sorted(datasets(config))


def _weights(config: AgentConfig) -> list[str]:
    missing = [f"{name} ({path})" for name, path in config.weights.items() if not Path(path).expanduser().is_file()]
    if missing:
        raise ConfigError(f"weights: no file: {', '.join(missing)}; correct the paths")
    return sorted(config.weights)


def _workers(config: AgentConfig) -> str:
    total, _ = probes.memory_bytes()
    if config.memory_mb * 1_000_000 > total > 0:
        raise ConfigError(f"memory_mb: {config.memory_mb} MB are more than the {total // 1_000_000} MB of this machine")
    for module in config.allow_models:
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            raise ConfigError(f"allow_models: no module {module!r} can be imported here; install it beside foglearn")
    if config.methods:
        from fog_learning.methods import METHODS

        METHODS.allow(config.methods)
    if config.spawner and not _is_socket(config.spawner):
        raise ConfigError(f"spawner: no socket at {config.spawner}; start `python -m fog_agent.process.spawner --socket {config.spawner}` first")
    if not probes.can_train(config):
        return (
            "torch is not installed: this node cannot train; install it from PyTorch's CPU index (the line stands in README.md, under real machines)"
        )
    return f"{config.max_workers} at a time, backend {config.backend}"


def energy_source(config: AgentConfig) -> str:
    """Like `Meter.source`, 'unknown' without one. ConfigError if this machine lacks the configured sensor."""
    source = Meter(config.energy).source
    if config.energy.reader in SENSORS and config.energy.reader not in source:
        raise ConfigError(
            f"energy.reader: this machine has no readable {config.energy.reader}; use auto or model, or give this user the right to read it"
        )
    return source or "unknown"


def _broker(config: AgentConfig) -> str:
    """Connect as this node and subscribe to its own inbox, which checks name, password and access list."""
    events: queue.SimpleQueue[BusEvent] = queue.SimpleQueue()
    bus = MqttBus(config.broker, f"{config.node}_check", events.put)
    bus.subscribe(*topics.inbox_filters(config.fleet, config.site, config.node, topics.CONTROL), qos=1)
    where, began = f"{config.broker.host}:{config.broker.port}", time.monotonic()
    bus.start()
    try:
        event = events.get(timeout=CONNECT_S)
    except queue.Empty:
        raise Unreachable(f"cannot reach the broker at {where}: no answer within {CONNECT_S:g} s") from None
    finally:
        bus.close()
    match event:
        case Connected(_, ()):
            return f"answers at {where} after {1000 * (time.monotonic() - began):.0f} ms"
        case Connected(_, refused):
            raise Refused(f"the broker at {where} refuses user {config.broker.username!r} its inbox ({', '.join(refused)}); correct its access list")
        case Disconnected(why):
            raise Unreachable(why if where in why else f"cannot reach the broker at {where}: {why}")
        case _:
            raise Unreachable(f"the broker at {where} behaves unexpectedly")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False

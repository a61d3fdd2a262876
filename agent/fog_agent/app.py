"""`fog-agent run | check | install`: the only place of the agent that builds objects. Uses argparse to keep the daemon small."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from fog_agent.config import AgentConfig, datasets, load_config, state_dir
from fog_agent.core import AgentCore
from fog_agent.daemon import Daemon, Item
from fog_agent.node import probes
from fog_agent.node.gauges import Gauges
from fog_agent.node.state import StateDir
from fog_agent.process.workers import Workers
from fog_agent.supervisor import AgentLimits
from fog_common.bus.base import Will
from fog_common.energy.meter import Meter
from fog_common.errors import ConfigError
from fog_common.program import guard
from fog_common.program.inbox import Inbox, stop_on_signals
from fog_common.program.logs import log_to_stderr
from fog_common.wire import messages, topics
from fog_common.wire.messages import Presence


def run(config: AgentConfig) -> int:
    """Run the daemon until SIGTERM; returns its exit code."""
    log_to_stderr(config.log_level, f"agent {config.node}")
    from fog_common.bus.mqtt import MqttBus

    inbox: Inbox[Item] = Inbox()
    stop_on_signals(inbox.put)  # before any process starts that a signal would leave behind
    state = StateDir(state_dir(config))
    sets = datasets(config)
    meter = Meter(config.energy)

    def measure() -> messages.Profile:
        return probes.profile(config, state.folder, sets, meter.source)

    nonce = secrets.token_hex(6)
    limits = AgentLimits(config.heartbeat_s, config.max_workers, config.memory_mb, config.drain_s, config.stop_s, config.link_probe_kb * 1024)
    will = Will(
        topic=topics.PRESENCE.at(fleet=config.fleet, node=config.node),
        payload=messages.encode(Presence(config.node, nonce, online=False)),
    )
    core = AgentCore(config.node, nonce, measure(), limits, state.incarnations(), seed=secrets.randbits(32), now=time.monotonic())
    if config.metrics_port:
        from fog_agent.scrape import serve

        serve(config, core)
    daemon = Daemon(
        config,
        core=core,
        inbox=inbox,
        bus=MqttBus(config.broker, f"{config.node}_agent", inbox.put, will=will),
        state=state,
        workers=Workers(config, state.folder, sets, inbox.put),
        gauges=Gauges(meter, state.folder),
        profile=measure,
    )
    return daemon.run()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 ok, 1 a fault of the agent, 2 bad configuration or command line, 3 broker not reachable, 4 the state folder is in use."""
    given = sys.argv[1:] if argv is None else list(argv)
    try:
        arguments = _parser().parse_args(given)
        if arguments.command == "run":
            return run(load_config(arguments.config))
        if arguments.command == "check":
            from fog_agent.check import check

            return check(load_config(arguments.config), as_json=arguments.json)
        from fog_agent.install import install

        return install(arguments.config, prefix=arguments.prefix, start=not arguments.no_start, show=arguments.print)
    except Exception as error:
        return guard.failed(error, given, "fog-agent", "fog-agent")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fog-agent", description="The agent of a node: announces it, runs and watches its workers.")
    parser.add_argument("--version", action="version", version=f"fog-agent {probes.version()}")
    commands: Any = parser.add_subparsers(dest="command", required=True, metavar="run | check | install")
    described = {
        "run": "run the daemon in the foreground, until SIGTERM",
        "check": "check the configuration, the folder, the data sets, and the broker",
        "install": "write the systemd unit and the configuration to their places, enable and start it",
    }
    for name, text in described.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--config", required=True, type=Path, metavar="FILE", help="YAML file, see `docs/agent.md`")
        command.add_argument("--debug", action="store_true", help="show a traceback with an error")
        if name == "check":
            command.add_argument("--json", action="store_true", help="machine-readable answer on standard output")
        if name == "install":
            command.add_argument("--prefix", type=Path, default=Path("/"), help="root of the file system to write to (default /)")
            command.add_argument("--no-start", action="store_true", help="write the files, do not enable or start the service")
            command.add_argument("--print", action="store_true", help="print what would be written, change nothing")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

"""A whole fleet on this machine: broker, coordinator, agents, each a real process. For `fogctl demo`, benchmarks, chaos and tests.

Every child is tethered to this process (fog_agent.process.tether), so that no process is left running even after kill -9.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from fog_common.bus.base import BrokerConfig
from fog_common.errors import TimedOut, Unreachable
from fog_common.ids import CLOUD_SITE
from fog_common.wire.api.states import ONLINE
from fog_common.wire.api.verbs import ListNodes
from fogctl.client import Client
from fogctl.fleet.broker import Broker
from fogctl.fleet.tap import Tap
from fogctl.settings import Settings

if TYPE_CHECKING:
    import psutil

CLOUD_NODE: Final = "cloud-1"


class LocalFleet:
    """A fleet as a context manager: entering starts broker, coordinator, a cloud agent and `agents` others; leaving ends all."""

    def __init__(
        self,
        folder: Path,
        agents: int,
        *,
        broker: str = "auto",
        backend: str = "torch",
        fleet: str = "main",
        agent_options: Mapping[str, Any] | None = None,
        coordinator_options: Mapping[str, Any] | None = None,
        log_level: str = "WARNING",
        start_agents: bool = True,
        metrics: bool = True,
        sites: int = 0,
        bridge_port: Callable[[str, int], int] = lambda site, port: port,
        broker_lines: str = "",
    ) -> None:
        """metrics: the coordinator serves them on a free port of this machine, see `metrics_url`.

        sites: number of sites (site-1 …), each with a mosquitto of its own that is bridged to the cloud's; agents are spread over them in turn.
        0: one broker. bridge_port: (site, the cloud broker's port) -> the port to which the site's bridge connects (e.g. of a proxy).
        broker_lines: further lines of the configuration of the (cloud's) mosquitto.
        """
        self.folder = folder
        self.fleet = fleet
        self.agents = [f"agent-{number}" for number in range(1, agents + 1)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._broker_kind = broker
        self._broker_lines = broker_lines
        self._backend = backend
        self._options = dict(agent_options or {})
        self._coordinator_options = dict(coordinator_options or {})
        self._log_level = log_level
        self._start_agents = start_agents
        self.broker: Broker | None = None
        """The cloud's broker, which is the only one without sites."""
        self.sites = [f"site-{number}" for number in range(1, sites + 1)]
        self._bridge_port = bridge_port
        self.site_brokers: dict[str, Broker] = {}
        self.taps: dict[str, Tap] = {}
        """broker (a site, or `cloud`) -> its tap; only with sites."""
        self.metrics_port = _free_port() if metrics else 0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            kind: Any = None if self._broker_kind == "auto" else self._broker_kind
            self.broker = Broker.start("mosquitto" if self.sites else kind, config=self._broker_lines, log=self.folder / "broker.log")
            self._start_sites()
            if self._backend == "torch":
                self.start_spawner()
            self.start_coordinator()
            if self._start_agents:
                for node in (CLOUD_NODE, *self.agents):
                    self.start_agent(node)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End all processes of the fleet. Idempotent."""
        for name in [name for name in self.processes if name not in {"spawner"}]:
            self.kill(name)
        if "spawner" in self.processes:
            self.kill("spawner")
        for tap in self.taps.values():
            tap.close()
        self.taps.clear()
        for broker in self.site_brokers.values():
            broker.stop()
        self.site_brokers.clear()
        if self.broker is not None:
            self.broker.stop()
            self.broker = None

    # -- parts -----------------------------------------------------------------------------

    @property
    def broker_config(self) -> BrokerConfig:
        assert self.broker is not None, "the fleet is not started"
        return BrokerConfig(host=self.broker.host, port=self.broker.port)

    def site_of(self, node: str) -> str:
        """Site of an agent."""
        if node == CLOUD_NODE:
            return CLOUD_SITE
        return self.sites[self.agents.index(node) % len(self.sites)] if self.sites and node in self.agents else "home"

    def tier_of(self, node: str) -> str:
        return "cloud" if node == CLOUD_NODE else "edge"

    def places(self) -> dict[str, tuple[str, str]]:
        """node -> (tier, site) of every node, started or not."""
        return {node: (self.tier_of(node), self.site_of(node)) for node in (CLOUD_NODE, *self.agents)}

    def _start_sites(self) -> None:
        from fogctl.fleet import mosquitto

        at = self.broker_config
        if not self.sites:
            return
        self.taps[CLOUD_SITE] = Tap(self.fleet, at, CLOUD_SITE)
        for site in self.sites:
            config = mosquitto.bridge(site, f"{at.host}:{self._bridge_port(site, at.port)}")
            self.site_brokers[site] = broker = Broker.start("mosquitto", config=config, log=self.folder / f"broker-{site}.log")
            self.taps[site] = Tap(self.fleet, BrokerConfig(host=broker.host, port=broker.port), site)

    def restart_broker(self) -> None:
        """End the (cloud's) broker as a power cut does, if it runs, and start it again on its port."""
        assert self.broker is not None, "the fleet is not started"
        kind, port = self.broker.kind, self.broker.port
        self.broker.kill()
        self.broker.stop()
        self.broker = Broker.start("embedded" if kind == "embedded" else "mosquitto", port, self._broker_lines, log=self.folder / "broker.log")

    def client(self, timeout_s: float = 10.0) -> Client:
        return Client(Settings(fleet=self.fleet, broker=self.broker_config), timeout_s=timeout_s)

    def start_coordinator(self) -> None:
        config: dict[str, Any] = {
            "broker": self._broker_section(),
            "fleet": self.fleet,
            "state_dir": str(self.folder / "coordinator"),
            "log_level": self._log_level,
            "metrics": {"port": self.metrics_port},
            **self._coordinator_options,
        }
        self.spawn("coordinator", [sys.executable, "-m", "fog_coordinator.shell.app", "run", "--config", str(self._write("coordinator", config))])

    def start_spawner(self) -> None:
        """Start the process that has imported torch and forks the workers."""
        self.spawn("spawner", [sys.executable, "-m", "fog_agent.process.spawner", "--socket", str(self._spawner_socket)], stdin=subprocess.PIPE)

    def start_agent(self, node: str) -> None:
        config: dict[str, Any] = {
            "node": node,
            "tier": self.tier_of(node),
            "site": self.site_of(node),
            "fleet": self.fleet,
            "broker": self._broker_section(self.site_of(node)),
            "state_dir": str(self.folder / node),
            "backend": self._backend,
            "heartbeat_s": 2.0,
            "drain_s": 20.0,
            "log_level": self._log_level,
            "energy": {"reader": "model"},  # the agents share one machine, whose meter each of them would count
        }
        if self._backend == "torch":
            config["spawner"] = str(self._spawner_socket)
        config |= self._options
        self.spawn(node, [sys.executable, "-m", "fog_agent.app", "run", "--config", str(self._write(node, config))])

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    @property
    def _spawner_socket(self) -> Path:
        return self.folder / "spawner.sock"

    def _broker_section(self, site: str = CLOUD_SITE) -> dict[str, Any]:
        """The `broker` section for a site: its own broker, otherwise the cloud's."""
        at = self.site_brokers.get(site) or self.broker_config
        return {"host": at.host, "port": at.port}

    def _write(self, name: str, config: dict[str, Any]) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(config, indent=1) + "\n")  # JSON is YAML
        return path

    # -- processes -------------------------------------------------------------------------

    def spawn(self, name: str, command: list[str], **options: Any) -> None:
        log = open(self.folder / f"{name}.log", "ab")  # noqa: SIM115 - the child keeps it
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        stdin = options.pop("stdin", subprocess.DEVNULL)
        tethered = [sys.executable, "-m", "fog_agent.process.tether", str(os.getpid()), *command]
        with log:
            self.processes[name] = subprocess.Popen(tethered, stdin=stdin, stdout=log, stderr=log, env=environment, start_new_session=True, **options)

    def kill(self, name: str, signum: int = signal.SIGKILL, wait_s: float = 10.0) -> None:
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signum)
            process.send_signal(signal.SIGCONT)
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def freeze(self, name: str) -> None:
        """Send SIGSTOP to a process; `thaw` wakes it."""
        self.processes[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGCONT)

    def workers_of(self, node: str) -> list[int]:
        """Process ids of the node's workers: children of its daemon, and forks of the spawner that hold a file of the node."""
        import psutil

        pids: list[int] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            pids += [child.pid for child in psutil.Process(self.processes[node].pid).children(recursive=True)]
        if "spawner" in self.processes:
            own = f"{self.folder / node}{os.sep}"
            with contextlib.suppress(psutil.NoSuchProcess):
                forks = psutil.Process(self.processes["spawner"].pid).children(recursive=True)
                pids += [fork.pid for fork in forks if any(file.path.startswith(own) for file in _open_files(fork))]
        return pids

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # -- waiting ---------------------------------------------------------------------------

    def wait_for_nodes(self, client: Client, count: int, timeout_s: float = 60.0) -> None:
        """Wait until `count` nodes are online. TimedOut names missing nodes; Unreachable shows the log of a process that ended."""
        until = time.monotonic() + timeout_s
        while True:
            online = {node.node for node in client.ask(ListNodes()).nodes if node.state == ONLINE}
            if len(online) >= count:
                return
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise Unreachable(f"{name} ended with code {process.returncode}: {self.log(name).strip()[-400:]}")
            if time.monotonic() > until:
                missing = sorted({CLOUD_NODE, *self.agents} - online)
                raise TimedOut(f"{len(online)} of {count} nodes are online after {timeout_s:.0f} s; missing: {', '.join(missing)}")
            time.sleep(0.1)


def _open_files(process: psutil.Process) -> list[Any]:
    import psutil

    try:
        return list(process.open_files())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])

"""A LocalFleet whose faults can be ordered: agents reach the broker through a fault proxy, disks can be full, clocks can be wrong."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import psutil

from fog_common.errors import FogError, Unreachable
from fog_sim.faults import CLOCK_S, SLOW_LATENCY_S, SLOW_RATE_BYTES_S, Fault
from fogctl.client import Client
from fogctl.fleet.local_fleet import CLOUD_NODE, LocalFleet
from fogctl.fleet.proxy import Proxy, ProxyLink

log = logging.getLogger(__name__)

LATENCY_S: Final = 0.01
"""One way, of every node's link when all is well: rounds get a length, and faults fall between their messages too."""
HEARTBEAT_S: Final = 2.0
"""Of agents, known to the coordinator: 11 s of silence make a node offline."""
DISK_BYTES: Final = 16 << 20
CLOCKS: Final = Path(__file__).parent / "clock"


class ChaosFleet(LocalFleet):
    """`with ChaosFleet(folder, agents=3) as fleet: fleet.strike(fault); …; fleet.heal(fault)`. Stand-in ops, mosquitto, real processes."""

    def __init__(self, folder: Path, agents: int, log_level: str = "INFO") -> None:
        super().__init__(folder, agents, broker="mosquitto", backend="standin", log_level=log_level)
        self.proxy = Proxy()
        self.links: dict[str, ProxyLink] = {}
        self.small_disks = os.geteuid() == 0
        """A full disk is a full tmpfs; without root it is a folder that refuses writes."""
        self._mounts: list[Path] = []

    def __enter__(self) -> ChaosFleet:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.proxy.__enter__()
        for node in (CLOUD_NODE, *self.agents):
            self._prepare_disk(self.folder / node)
        super().__enter__()
        return self

    def close(self) -> None:
        super().close()
        self.proxy.close()
        for path in self._mounts:
            subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)
        self._mounts.clear()

    # -- how it is started ---------------------------------------------------------------------

    def _write(self, name: str, config: dict[str, Any]) -> Path:
        """Agents are led through their link; the coordinator is told how often they speak."""
        if name == "coordinator":
            config = {**config, "heartbeat_s": HEARTBEAT_S}
        else:
            if name not in self.links:
                at = self.broker_config
                self.links[name] = self.proxy.link(name, at.host, at.port)
                self.links[name].shape(latency_s=LATENCY_S)
            config = {**config, "heartbeat_s": HEARTBEAT_S, "broker": {"host": "127.0.0.1", "port": self.links[name].port}}
        return super()._write(name, config)

    def spawn(self, name: str, command: list[str], **options: Any) -> None:
        environment = {
            "FOG_CLOCK": str(self.folder / f"{name}.clock"),
            "PYTHONPATH": os.pathsep.join([str(CLOCKS), os.environ.get("PYTHONPATH", "")]),
        }
        shifted = ["/usr/bin/env", *(f"{key}={value}" for key, value in environment.items()), *command]
        super().spawn(name, shifted, **options)

    def _prepare_disk(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        if self.small_disks:
            mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], check=False, capture_output=True)
            self.small_disks = mounted.returncode == 0
            if self.small_disks:
                self._mounts.append(folder)

    # -- faults ----------------------------------------------------------------------------------

    def strike(self, fault: Fault, client: Client) -> None:
        """Let it happen. What is there already (a node that is down) is left as it is."""
        node = fault.node
        match fault.kind:
            case "kill_worker":
                self._signal(self.workers_of(node) if node in self.processes else [], signal.SIGKILL)
            case "kill_agent":
                self._end(node)
            case "power_loss":  # nobody says goodbye on the wire: the broker finds out by its keepalive, or when the node is back
                self.links[node].black_hole()
                self._signal(self._family(node), signal.SIGKILL)
                self._end(node)
            case "stop" | "leave":
                self._signal([self.processes[node].pid] if node in self.processes else [], signal.SIGTERM)
            case "join":
                if node not in self.processes:
                    self.start_agent(node)
            case "freeze":
                self._signal(self._family(node), signal.SIGSTOP)
            case "cut":
                self.links[node].cut()
            case "black_hole":
                self.links[node].black_hole()
            case "half_open":
                self.links[node].half_open()
            case "reset":
                self.links[node].reset()
            case "slow":
                self.links[node].shape(SLOW_LATENCY_S, SLOW_RATE_BYTES_S)
            case "drain":
                self._drain(client, node, undo=False)
            case "disk_full":
                self._fill(self.folder / node)
            case "clock_ahead" | "clock_behind":
                shift = CLOCK_S if fault.kind == "clock_ahead" else -CLOCK_S
                (self.folder / f"{node or 'coordinator'}.clock").write_text(str(shift))
            case "kill_coordinator":
                self._end("coordinator")
            case "restart_broker":
                assert self.broker is not None
                self.broker.kill()

    def heal(self, fault: Fault, client: Client) -> None:
        """The end of what strike() began."""
        node = fault.node
        match fault.kind:
            case "kill_agent" | "power_loss":
                if fault.kind == "power_loss":
                    self._heal_link(node)
                if node not in self.processes:
                    self.start_agent(node)
            case "stop":
                self._end(node)  # it has ended by itself by now, or its service would end it
                self.start_agent(node)
            case "freeze":
                self._signal(self._family(node), signal.SIGCONT)
            case "cut" | "black_hole" | "half_open" | "slow":
                self._heal_link(node)
            case "drain":
                self._drain(client, node, undo=True)
            case "disk_full":
                self._empty(self.folder / node)
            case "clock_ahead" | "clock_behind":
                (self.folder / f"{node or 'coordinator'}.clock").write_text("0")
            case "kill_coordinator":
                if "coordinator" not in self.processes:
                    self.start_coordinator()
            case "restart_broker":
                self._bring_broker_back()

    def heal_all(self, client: Client, timeout_s: float = 60.0) -> None:
        """Whatever was done: everything runs, every link is whole, every node is online and takes tasks. A FogError otherwise."""
        until = time.monotonic() + timeout_s
        while True:
            self._put_right()
            try:
                self.wait_for_nodes(client, 1 + len(self.agents), max(1.0, until - time.monotonic()))
                for node in (CLOUD_NODE, *self.agents):
                    client.request("node.drain", node=node, undo=True)
            except Unreachable:  # the coordinator is just starting, or something ended by itself
                if time.monotonic() > until:
                    raise
            else:
                return

    def _put_right(self) -> None:
        self._bring_broker_back()
        for name in ("coordinator", CLOUD_NODE, *self.agents):
            if name in self.processes and self.processes[name].poll() is not None:
                self.kill(name)  # it ended by itself, e.g. released after its drain
            if name not in self.processes:
                self.start_coordinator() if name == "coordinator" else self.start_agent(name)
            (self.folder / f"{name}.clock").write_text("0")
        for node in (CLOUD_NODE, *self.agents):
            self._signal(self._family(node), signal.SIGCONT)
            self._empty(self.folder / node)
            self._heal_link(node)

    # -- parts -----------------------------------------------------------------------------------

    def saves_of(self, job: str, task: str) -> Mapping[str, Path]:
        """node -> folder of the task's Saves there."""
        return {node: self.folder / node / "jobs" / job / "saves" / task for node in (CLOUD_NODE, *self.agents)}

    def _family(self, node: str) -> list[int]:
        return [self.processes[node].pid, *self.workers_of(node)] if node in self.processes else []

    def _signal(self, pids: list[int], signum: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def _end(self, name: str) -> None:
        if name in self.processes:
            self.kill(name)

    def _heal_link(self, node: str) -> None:
        self.links[node].heal()
        self.links[node].shape(latency_s=LATENCY_S)

    def _drain(self, client: Client, node: str, undo: bool) -> None:
        try:
            client.request("node.drain", node=node, undo=undo)
        except FogError as error:  # the coordinator or the broker is away: an operator would try again later
            log.info("drain node=%s undo=%s: %s", node, undo, error)

    def _bring_broker_back(self) -> None:
        assert self.broker is not None
        if not self.broker.running:
            self.restart_broker()

    def _fill(self, folder: Path) -> None:
        if self.small_disks:
            with contextlib.suppress(OSError), open(folder / "ballast", "ab", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        else:
            for path in [folder, *folder.rglob("*")]:
                if path.is_dir():
                    path.chmod(0o500)

    def _empty(self, folder: Path) -> None:
        if self.small_disks:
            (folder / "ballast").unlink(missing_ok=True)
        else:
            for path in [folder, *folder.rglob("*")]:
                if path.is_dir():
                    path.chmod(0o700)


def memory_of(fleet: LocalFleet) -> dict[str, float]:
    """Resident MB of each process of the fleet."""
    found = {}
    for name, process in fleet.processes.items():
        with contextlib.suppress(psutil.NoSuchProcess):
            found[name] = psutil.Process(process.pid).memory_info().rss / 1e6
    return found

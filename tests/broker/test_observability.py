"""What operators see: a real coordinator and agents that measure everything, and a real Prometheus that scrapes it."""

from __future__ import annotations

import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from broker.test_coordinator import Scene
from fog_common.bus.base import BrokerConfig
from fog_common.bus.mqtt import MqttBus
from fog_common.telemetry.metrics import METRICS
from fog_common.wire import topics
from fog_common.wire.messages import Announce, Heartbeat
from fogctl.fleet.broker import Broker
from support.agents import Agent, Coordinator, job
from support.broker import Inbox
from support.prometheus import free_port, promtool, shipped
from support.reports import MeasuringNode
from support.stand_ins import SPEC

BEAT_S = 1.0


class Watched(Scene):
    """A coordinator with pages, and agents that report by themselves while the test asks."""

    def __init__(self, address: BrokerConfig, folder: Path) -> None:
        self.port = free_port()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._report)
        super().__init__(address, folder)

    def start(self) -> None:
        import subprocess
        import sys

        config = {
            "broker": {"host": self.address.host, "port": self.address.port},
            "state_dir": str(self.folder / "state"),
            "heartbeat_s": BEAT_S,
            "metrics": {"port": self.port},
        }
        (self.folder / "coordinator.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "fog_coordinator.shell.app", "run", "--config", str(self.folder / "coordinator.yaml")]
        with open(self.folder / "coordinator.log", "ab") as log:
            self.process = subprocess.Popen(command, stderr=log)

    def go(self) -> None:
        self._thread.start()

    def _report(self) -> None:
        """Agents report; once in a while a round ends, and somebody says nonsense."""
        round_at = 0.0
        stranger = MqttBus(self.address, "stranger", Inbox())
        stranger.start()
        while not self._over.wait(0.05):
            for agent in list(self.agents.values()):
                agent.pump()
            if time.monotonic() >= round_at:
                round_at = time.monotonic() + 0.7
                stranger.publish(topics.to_coordinator("main", "stranger"), b"nonsense")
                cloud = self.agents["cloud-1"].node
                if cloud.ready(time.monotonic(), "digits"):
                    labels = cloud.disk.setdefault("digits", {}).setdefault("server", [0])
                    labels.append(labels[-1] + 1)
        stranger.close()

    def page(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=15) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def close(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        super().close()


@pytest.fixture
def watched(broker: Broker, tmp_path: Path) -> Iterator[Watched]:
    scene = Watched(BrokerConfig(host=broker.host, port=broker.port), tmp_path)
    try:
        scene.add(MeasuringNode("cloud-1", "cloud", "cloud"), MeasuringNode("pi-1"), MeasuringNode("pi-2"))
        scene.until(lambda body: sum(node["state"] == "online" for node in body["nodes"]) == 3, "node.list")
        scene.ask(
            "job.submit", spec={**SPEC, "train": {"rounds": 1000}, "budgets": {"time_s": 900, "bytes": 10**12, "joules": 1e9, "node_joules": 1e9}}
        )
        scene.go()
        scene.until(lambda body: body["state"] == "running" and body["round"] >= 3, job="digits")
        yield scene
    finally:
        scene.close()


def test_restarts_reset_no_counter_and_a_node_that_left_is_down(watched: Watched, tmp_path: Path):
    with shipped(tmp_path, watched.port) as server:
        energy = 'fog_node_energy_joules_total{node="pi-1"}'
        server.until(f"rate({energy}[10s])")
        before = float(server.query(energy)[0]["value"][1])
        pi = watched.agents["pi-1"].node
        watched.agents["pi-1"].say(*pi.boot(time.monotonic()))  # a new process of the agent: it counts from zero
        server.until(f"{energy} > {before} + 5")
        assert float(server.query(f"resets({energy}[1m])")[0]["value"][1]) == 0
        for counter in (metric.name for metric in METRICS if metric.kind == "counter"):
            assert all(float(series["value"][1]) == 0 for series in server.query(f"resets({counter}[1m])")), counter
        assert server.query(f"rate({energy}[30s]) > 0")
        pi2 = watched.agents["pi-2"]
        pi2.node.up = False
        pi2.say(pi2.node.kill())
        server.until('fog_node_up{node="pi-2"} == 0')
        server.until('count({node="pi-2",__name__=~"fog_node_.*|fog_link_.*"}) == 2')  # up and last seen
        assert {series["metric"]["__name__"] for series in server.query('{node="pi-2",__name__=~"fog_node_.*|fog_link_.*"}')} == {
            "fog_node_up",
            "fog_node_last_seen_timestamp_seconds",
        }
        assert server.query('fog_node_cpu_ratio{node="pi-1"}')


def counters(text: str) -> dict[tuple[str, ...], float]:
    """All that may only grow, but for what tells of the coordinator's own process."""
    grows = {metric.name for metric in METRICS if metric.kind == "counter" and not metric.name.startswith("fog_coordinator")}
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        (sample.name, *sample.labels.values()): sample.value
        for sample in samples
        if sample.name in grows or sample.name.endswith(("_bucket", "_count"))
    }


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_coordinator_that_comes_back_shows_no_counter_lower_than_before(watched: Watched, number: signal.Signals):
    before = counters(watched.page("/metrics")[1])
    ours = {key for key in before if not key[0].startswith("fog_node")}  # a node's are shown once it has reported again
    assert {"fog_job_energy_joules_total", "fog_job_bytes_total", "fog_ack_round_trip_seconds_count"} <= {key[0] for key in ours}
    energy = next(key for key in ours if key[0] == "fog_job_energy_joules_total" and before[key] > 0)
    first = before[energy]
    watched.stop(number)
    watched.start()
    end = time.monotonic() + 30
    while True:
        try:
            status, text = watched.page("/metrics")
        except OSError:  # it is starting
            status, text = 0, ""
        if status == 200:
            now = counters(text)
            assert ours <= now.keys()
            assert not {key: (before[key], value) for key, value in now.items() if value < before.get(key, 0.0)}
            before |= now
            if before.keys() == now.keys() and now[energy] > first:
                break
        assert time.monotonic() < end


def test_the_page_is_clean_complete_and_on_loopback(watched: Watched):
    status, text = watched.page("/metrics")
    assert status == 200
    checked = promtool("check", "metrics", stdin=text.encode())
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {metric.name.removesuffix("_total") for metric in METRICS} == families.keys()
    assert watched.page("/nothing")[0] == 404
    import psutil

    assert watched.process is not None
    listening = {(c.laddr.ip, c.laddr.port) for c in psutil.Process(watched.process.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", watched.port)}


def test_ready_means_that_the_broker_is_there(watched: Watched, broker: Broker):
    assert watched.page("/healthz") == (200, "ok\n")
    assert watched.page("/readyz") == (200, "ready\n")
    broker.stop()
    end = time.monotonic() + 20
    while (answer := watched.page("/readyz"))[0] == 200 and time.monotonic() < end:
        pass
    assert answer == (503, "not connected to the broker\n")
    assert watched.page("/healthz")[0] == 200
    assert "fog_broker_up 0" in watched.page("/metrics")[1]


def test_a_port_that_is_taken_is_said_in_one_line(watched: Watched, tmp_path: Path):
    import subprocess
    import sys

    config = tmp_path / "second.yaml"
    config.write_text(yaml.safe_dump({"state_dir": str(tmp_path / "second"), "metrics": {"port": watched.port}}))
    ended = subprocess.run(
        [sys.executable, "-m", "fog_coordinator.shell.app", "run", "--config", str(config)], capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.returncode == 2
    assert f"error: metrics: cannot listen on 127.0.0.1:{watched.port}: Address already in use; choose another port" in ended.stderr
    assert "Traceback" not in ended.stderr


# -- the agent's own page ------------------------------------------------------------------


def test_an_agent_serves_its_own_metrics_and_stays_light(broker: Broker, tmp_path: Path):
    from fog_agent.process.workers import resident_bytes

    address, port = BrokerConfig(host=broker.host, port=broker.port), free_port()
    with Coordinator(address) as coordinator, Agent(tmp_path / "a", address, metrics_port=port) as agent:
        coordinator.hear(Announce)
        coordinator.want("pi-1", job("digits"))
        coordinator.worker("digits", lambda state: state.phase == "ready")
        coordinator.hear(Heartbeat, lambda beat: "rtt_seconds" in beat.gauges and bool(beat.energy_j))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read()
        checked = promtool("check", "metrics", stdin=text)
        assert (checked.returncode, checked.stderr) == (0, b"")
        for name in (
            b"fog_node_cpu_ratio",
            b"fog_node_power_watts",
            b"fog_link_rtt_seconds",
            b'fog_node_energy_joules_total{node="pi-1",site="home",source="modelled",use="idle"}',
            b'fog_node_bytes_total{direction="sent",node="pi-1",plane="ctl",site="home"}',
        ):
            assert name in text
        families = {family.name for family in text_string_to_metric_families(text.decode())}
        assert all(name == "fog_build_info" or name.startswith(("fog_node_", "fog_link_", "fog_worker_")) for name in families)
        assert resident_bytes(agent.pid) < 40e6


def test_an_agent_whose_port_is_taken_says_so(broker: Broker, tmp_path: Path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        agent = Agent(tmp_path / "a", BrokerConfig(host=broker.host, port=broker.port), metrics_port=taken.getsockname()[1]).start()
        assert agent.wait() == 2
    assert "metrics_port: cannot listen on" in agent.log.read_text()

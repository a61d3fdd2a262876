"""The agent as a process, against a real broker: presence, reconciling, crashes, leaving, and how light it is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fog_agent.process.workers import resident_bytes
from fog_common.bus.base import BrokerConfig
from fog_common.runtime.machine import Peer
from fog_common.wire import messages, topics
from fog_common.wire.messages import Announce, DesiredJob, Goodbye, Heartbeat, Placement, Presence
from fogctl.fleet.broker import Broker, find_mosquitto
from support.agents import FAKE_WORKER, FLEET, Agent, Coordinator, alive, gone, job


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if find_mosquitto() is None and not os.environ.get("CI"):
        pytest.skip("mosquitto is not installed")
    with Broker.start("mosquitto", log=tmp_path / "mosquitto.log") as broker:
        yield broker


@pytest.fixture
def address(broker: Broker) -> BrokerConfig:
    return BrokerConfig(host=broker.host, port=broker.port)


@pytest.fixture
def coordinator(address: BrokerConfig) -> Iterator[Coordinator]:
    with Coordinator(address) as coordinator:
        yield coordinator


@pytest.fixture
def agent(tmp_path: Path, address: BrokerConfig) -> Iterator[Agent]:
    with Agent(tmp_path / "pi-1", address) as agent:
        yield agent


def test_it_announces_itself_with_what_it_is(tmp_path, address, coordinator):
    keys = {"tier": "fog", "datasets": {"machines": "/srv/machines"}, "labels": {"room": "12"}}
    with Agent(tmp_path / "a", address, **keys):
        announced = coordinator.hear(Announce)
        profile = announced.profile
        assert (announced.node, profile.tier, profile.site, profile.labels) == ("pi-1", "fog", "home", {"room": "12"})
        assert profile.datasets == ("machines",) and profile.cores >= 1 and profile.memory_bytes > 1e8 and profile.energy_source == "modelled"
        assert coordinator.hear(Presence) == Presence("pi-1", announced.nonce, True, "home")
        beat = coordinator.hear(Heartbeat, lambda beat: "rtt_seconds" in beat.gauges and beat.energy_j)
        assert beat.nonce == announced.nonce and 0 < beat.gauges["rtt_seconds"] < 5 and set(beat.energy_j) == {"modelled"}


def test_its_presence_is_retained_and_its_will_ends_it(coordinator, agent, address):
    nonce = coordinator.hear(Announce).nonce
    coordinator.hear(Presence, lambda presence: presence.online)
    with Coordinator(address) as late:
        assert late.hear(Presence) == Presence("pi-1", nonce, True, "home")
        agent.kill()
        assert late.hear(Presence) == Presence("pi-1", nonce, False)


def test_it_starts_what_is_wanted_and_stops_what_is_not(coordinator, agent):
    coordinator.hear(Announce)
    coordinator.want("pi-1", job("digits"))
    state = coordinator.worker("digits", lambda state: state.phase == "ready")
    assert state.incarnation == 1 and state.view == 1
    coordinator.want("pi-1", job("digits", view=2))
    assert coordinator.worker("digits", lambda state: state.view == 2).gauges["pid"] == state.gauges["pid"]
    coordinator.want("pi-1")
    assert coordinator.hear(Heartbeat, lambda beat: not beat.workers).desired == 3
    assert gone(int(state.gauges["pid"]))


def test_a_killed_worker_is_reported_and_replaced_with_a_higher_incarnation(coordinator, agent):
    coordinator.hear(Announce)
    coordinator.want("pi-1", job("digits", floor=4))
    first = coordinator.worker("digits", lambda state: state.phase == "ready")
    os.kill(int(first.gauges["pid"]), signal.SIGKILL)
    assert "killed by signal 9" in coordinator.worker("digits", lambda state: state.phase == "exited").problems[0]
    second = coordinator.worker("digits", lambda state: state.phase == "ready")
    assert (first.incarnation, second.incarnation) == (5, 6)


def test_a_crash_shows_the_exit_code_and_the_last_line_of_its_log(coordinator, agent):
    coordinator.hear(Announce)
    coordinator.want("pi-1", job("digits", do="crash"))
    exited = coordinator.worker("digits", lambda state: state.phase == "exited")
    assert exited.problems == ("exit code 3: out of cheese",)
    assert exited.waited_s is not None
    assert exited.retry_s is not None
    assert 0.0 <= exited.waited_s < exited.retry_s + 2.0
    assert (agent.state_dir / "logs" / "digits.log").read_text().startswith("first line")


def test_a_worker_that_speaks_nonsense_is_replaced(coordinator, agent):
    coordinator.hear(Announce)
    coordinator.want("pi-1", job("digits", do="nonsense"))
    problem = coordinator.worker("digits", lambda state: state.phase == "exited").problems[0]
    assert "it sent nonsense: frame is 4294967295 B" in problem
    coordinator.want("pi-1", job("digits"))
    assert coordinator.worker("digits", lambda state: state.phase == "ready").incarnation == 2


def test_systemd_is_told_how_it_is(tmp_path, address, coordinator):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(15)
        heard: list[str] = []

        def wait_for(state: str) -> None:
            while state not in heard:
                heard.extend(systemd.recv(4096).decode().splitlines())

        agent = Agent(tmp_path / "a", address).start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="300000")
        with agent:
            wait_for("READY=1")
            wait_for("STATUS=connected, 0 worker(s), 0 job(s)")
            heard.clear()
            wait_for("WATCHDOG=1")
            agent.terminate()
            wait_for("STOPPING=1")


def test_a_program_that_is_not_there_is_a_reason_not_an_end(tmp_path, address, coordinator):
    with Agent(tmp_path / "a", address, spawner=str(tmp_path / "nobody.sock"), worker_command=None):
        coordinator.hear(Announce)
        coordinator.want("pi-1", job("digits"))
        assert "cannot start: spawner at" in coordinator.worker("digits", lambda state: state.phase == "exited").problems[0]


@pytest.mark.parametrize("do", ["ready", "deaf"])
def test_a_killed_daemon_leaves_no_worker_behind(coordinator, agent, do):
    coordinator.hear(Announce)
    coordinator.want("pi-1", job("digits", do=do))
    pid = int(coordinator.worker("digits", lambda state: state.phase == "ready").gauges["pid"])
    assert alive(pid)
    agent.kill()
    assert gone(pid, patience_s=5)


def test_an_agent_that_comes_back_does_not_reuse_an_incarnation(tmp_path, address, coordinator):
    with Agent(tmp_path / "a", address) as agent:
        coordinator.hear(Announce)
        coordinator.want("pi-1", job("digits"))
        coordinator.worker("digits", lambda state: state.incarnation == 1 and state.phase == "ready")
        agent.kill()
        agent.start()
        coordinator.hear(Announce)
        coordinator.want("pi-1", job("digits"))
        assert coordinator.worker("digits", lambda state: state.phase == "ready").incarnation == 2


def test_sigterm_without_work_ends_in_order(coordinator, agent):
    nonce = coordinator.hear(Announce).nonce
    coordinator.hear(Presence, lambda presence: presence.online)
    agent.terminate()
    assert coordinator.hear(Goodbye) == Goodbye("pi-1", nonce)
    assert coordinator.hear(Presence) == Presence("pi-1", nonce, False)
    assert agent.wait() == 0


def test_sigterm_with_work_waits_for_the_release(coordinator, agent):
    coordinator.hear(Announce)
    coordinator.want("pi-1", job("digits"))
    pid = int(coordinator.worker("digits", lambda state: state.phase == "ready").gauges["pid"])
    agent.terminate()
    coordinator.hear(Goodbye)
    assert coordinator.hear(Heartbeat, lambda beat: beat.draining).workers[0].phase == "ready"
    assert alive(pid) and alive(agent.pid)
    coordinator.want("pi-1", job("digits"), release=True)
    assert agent.wait() == 0
    assert gone(pid)


def test_a_deaf_worker_is_killed_when_its_time_is_up(tmp_path, address, coordinator):
    with Agent(tmp_path / "a", address, stop_s=0.5):
        coordinator.hear(Announce)
        coordinator.want("pi-1", job("digits", do="deaf"))
        pid = int(coordinator.worker("digits", lambda state: state.phase == "ready").gauges["pid"])
        coordinator.want("pi-1")
        coordinator.hear(Heartbeat, lambda beat: not beat.workers)
        assert gone(pid)


def test_a_frozen_worker_does_not_freeze_its_daemon(coordinator, agent):
    coordinator.hear(Announce)
    coordinator.want("pi-1", job("digits"))
    pid = int(coordinator.worker("digits", lambda state: state.phase == "ready").gauges["pid"])
    os.kill(pid, signal.SIGSTOP)
    for view in range(2, 42):  # far more than the socket between them holds
        coordinator.want("pi-1", job("digits", view=view, ballast="x" * 30_000))
    assert coordinator.hear(Heartbeat, lambda beat: beat.desired == 41)
    os.kill(pid, signal.SIGCONT)
    assert coordinator.worker("digits", lambda state: state.view == 41)


def test_it_comes_back_after_the_broker_did(tmp_path, broker, address, agent):
    with Coordinator(address) as coordinator:
        nonce = coordinator.hear(Announce).nonce
        coordinator.want("pi-1", job("digits"))
        pid = coordinator.worker("digits", lambda state: state.phase == "ready").gauges["pid"]
    broker.kill()
    with Broker.start("mosquitto", port=broker.port, log=tmp_path / "second.log"), Coordinator(address) as coordinator:
        assert coordinator.hear(Announce, patience_s=30).nonce == nonce
        assert coordinator.worker("digits", lambda state: state.phase == "ready").gauges["pid"] == pid


def test_it_starts_before_its_broker(tmp_path, broker, address):
    broker.kill()
    second = tmp_path / "second.log"
    with Agent(tmp_path / "a", address) as agent, Broker.start("mosquitto", port=broker.port, log=second), Coordinator(address) as coordinator:
        coordinator.hear(Announce, patience_s=30)
        agent.terminate()
        assert agent.wait() == 0


def test_a_stale_will_is_answered(coordinator, agent):
    nonce = coordinator.hear(Announce).nonce
    coordinator.hear(Presence, lambda presence: presence.online)
    stale = messages.encode(Presence("pi-1", "a-former-connection", online=False))
    coordinator.bus.publish(topics.PRESENCE.at(fleet=FLEET, node="pi-1"), stale, qos=1, retain=True)
    assert coordinator.hear(Presence, lambda presence: presence.online).nonce == nonce


def test_nonsense_is_counted_and_dropped(coordinator, agent):
    coordinator.hear(Announce)
    inbox = topics.from_coordinator(FLEET, "home", "pi-1")
    coordinator.bus.publish(inbox, b"\xff\x00nonsense", qos=1)
    coordinator.bus.publish(inbox, b"x" * (messages.MAX_CONTROL_BYTES + 1), qos=1)
    forged = topics.inbox(FLEET, "home", "pi-1", "pi-2", "home", topics.CONTROL)
    coordinator.bus.publish(forged, messages.encode(messages.Desired(99, "c1", (job("evil"),))), qos=1)
    reasons = {"rejected_sender", "rejected_malformed", "rejected_too_large"}
    beat = coordinator.hear(Heartbeat, lambda beat: reasons <= set(beat.counters))
    assert not beat.workers


def test_two_daemons_never_share_a_folder(coordinator, agent):
    coordinator.hear(Announce)
    command = [sys.executable, "-m", "fog_agent.app", "run", "--config", str(agent.config)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 4 and f"in use by the agent with pid {agent.pid}" in second.stderr and "Traceback" not in second.stderr


def test_an_idle_daemon_is_light_and_imports_neither_numpy_nor_torch(tmp_path, address, coordinator):
    listed = tmp_path / "modules.json"
    program = "import sys, json; from fog_agent.app import main; code = main(); json.dump(sorted(sys.modules), open({!r}, 'w')); sys.exit(code)"
    with Agent(tmp_path / "a", address).start([sys.executable, "-c", program.format(str(listed))]) as agent:
        coordinator.hear(Announce)
        coordinator.want("pi-1", job("digits"))
        coordinator.worker("digits", lambda state: state.phase == "ready")
        coordinator.want("pi-1")
        coordinator.hear(Heartbeat, lambda beat: not beat.workers)
        assert resident_bytes(agent.pid) < 40e6
        agent.terminate()
        assert agent.wait() == 0
    roots = {name.partition(".")[0] for name in json.loads(listed.read_text())}
    assert "paho" in roots and not roots & {"numpy", "torch", "typer", "rich", "click", "sklearn", "psutil", "prometheus_client", "fog_learning"}


def test_an_idle_heartbeat_is_at_most_a_kilobyte(coordinator, agent):
    beat = coordinator.hear(Heartbeat, lambda beat: "rtt_seconds" in beat.gauges)
    assert len(messages.encode(beat)) <= 1000


# -- forked workers --------------------------------------------------------------------------

SPAWNER = """
import sys
sys.path.insert(0, {support!r})
import fake_worker
from fog_agent.process.spawner import Spawner
spawner = Spawner(sys.argv[1], fake_worker.main, sys.stdin.fileno())
print("ready", flush=True)
spawner.run()
"""


@pytest.fixture
def spawner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    program = SPAWNER.format(support=str(Path(FAKE_WORKER[1]).parent))
    path = str(tmp_path / "spawner.sock")
    with subprocess.Popen([sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.fixture
def forking(tmp_path: Path, address: BrokerConfig, spawner: subprocess.Popen[str]) -> Iterator[Agent]:
    with Agent(tmp_path / "forking", address, spawner=str(tmp_path / "spawner.sock"), worker_command=None) as agent:
        yield agent


def test_a_spawner_forks_workers_and_tells_how_they_ended(coordinator, forking, spawner):
    coordinator.hear(Announce)
    coordinator.want("pi-1", job("digits"))
    first = coordinator.worker("digits", lambda state: state.phase == "ready")
    assert Path(f"/proc/{int(first.gauges['pid'])}/stat").read_text().rpartition(")")[2].split()[1] == str(spawner.pid)
    os.kill(int(first.gauges["pid"]), signal.SIGKILL)
    assert "killed by signal 9" in coordinator.worker("digits", lambda state: state.phase == "exited").problems[0]
    assert coordinator.worker("digits", lambda state: state.phase == "ready").incarnation == 2
    coordinator.want("pi-1", job("other", do="crash"))
    assert "exit code 3: out of cheese" in coordinator.worker("other", lambda state: state.phase == "exited").problems[0]


def test_a_killed_daemon_takes_its_forked_worker_along(coordinator, forking, spawner):
    coordinator.hear(Announce)
    coordinator.want("pi-1", job("digits", do="deaf"))
    pid = int(coordinator.worker("digits", lambda state: state.phase == "ready").gauges["pid"])
    forking.kill()
    assert gone(pid, patience_s=5) and spawner.poll() is None


def test_a_spawner_ends_with_its_parent_and_takes_the_workers_along(coordinator, forking, spawner):
    coordinator.hear(Announce)
    coordinator.want("pi-1", job("digits", do="deaf"))
    pid = int(coordinator.worker("digits", lambda state: state.phase == "ready").gauges["pid"])
    spawner.stdin.close()
    assert spawner.wait(5) == 0 and gone(pid, patience_s=5)
    assert "cannot start" in coordinator.worker("digits", lambda state: state.phase == "exited" and "spawner" in state.problems[0]).problems[0]


def test_a_killed_spawner_takes_the_workers_along(coordinator, forking, spawner):
    coordinator.hear(Announce)
    coordinator.want("pi-1", job("digits", do="deaf"))
    pid = int(coordinator.worker("digits", lambda state: state.phase == "ready").gauges["pid"])
    spawner.kill()
    assert gone(pid, patience_s=5)


# -- the command -----------------------------------------------------------------------------


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fog_agent.app", *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False)


def test_a_wrong_configuration_is_one_line_and_exit_2(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text("node: pi-1\nheartbeats: 3\n")
    result = command("run", "--config", path)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"{path}:2: heartbeats: unknown key" in result.stderr


@pytest.mark.parametrize("arguments", [["run"], ["run", "--nope"], ["walk"], []])
def test_a_wrong_command_line_is_one_line_and_exit_2(arguments):
    result = command(*arguments)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "--help" in result.stderr
    told = json.loads(command(*arguments, "--json").stdout)
    assert (told["status"], told["error"]["exit_code"]) == ("error", 2)


def test_check_says_what_is_right_and_what_is_not(tmp_path, address, broker):
    front = tmp_path / "front.safetensors"
    agent = Agent(tmp_path / "a", address, datasets={"machines": str(tmp_path / "none")}, weights={"front": str(front)})
    result = command("check", "--config", agent.config, "--json")
    answer = json.loads(result.stdout)
    assert result.returncode == 2 and answer["status"] == "error"
    assert "machines" in answer["error"]["message"] and f"weights: no file: front ({front})" in answer["error"]["message"]
    front.touch()
    Agent(tmp_path / "a", address, datasets={"machines": str(tmp_path)}, weights={"front": str(front)})
    result = command("check", "--config", agent.config, "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(result.stdout)["data"]
    assert found["broker"].startswith("answers") and (found["datasets"], found["weights"]) == (["machines"], ["front"])
    broker.stop()
    result = command("check", "--config", agent.config)
    assert result.returncode == 3 and "cannot reach" in result.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_install_writes_a_unit_that_systemd_accepts(tmp_path, address):
    agent = Agent(tmp_path / "a", address, state_dir=None)
    root = tmp_path / "root"
    result = command("install", "--config", agent.config, "--prefix", root, "--no-start")
    if result.returncode == 2 and "out of a service's sight" in result.stderr:
        pytest.skip("this environment lies in a home or in /tmp, which services do not see")
    assert result.returncode == 0, result.stderr
    unit = root / "etc/systemd/system/fog-agent.service"
    assert (root / "etc/foglearn/agent.yaml").read_text() == agent.config.read_text()
    program = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
    assert Path(program.removeprefix("ExecStart=").split()[0]).exists()
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stderr


# -- brokers that take small packets only ---------------------------------------------------


def test_a_table_of_six_thousand_tasks_arrives_over_a_broker_with_small_packets(tmp_path: Path):
    with Broker.start("mosquitto", config="max_packet_size 131072", log=tmp_path / "small.log") as small:
        address = BrokerConfig(host=small.host, port=small.port)
        with Coordinator(address) as coordinator, Agent(tmp_path / "pi-1", address):
            coordinator.hear(Announce)
            peers = tuple(Peer(f"trainer-{n}", "trainer", n, f"pi-{n}", f"site-{n % 50}", "edge") for n in range(6000))
            wanted = DesiredJob("digits", {"name": "digits"}, Placement("digits", 3, "trainer-0", peers), 0)
            assert len(messages.encode(messages.Desired(1, "c1", (wanted,)))) > 131_072
            coordinator.want("pi-1", wanted)
            assert coordinator.worker("digits", lambda state: state.phase == "ready" and state.view == 3)
            assert coordinator.hear(Heartbeat).counters.get("rejected_too_large", 0) == 0

"""`fogctl broker init` on a real mosquitto: its users get in, others do not, and each writes and reads only what is its own."""

from __future__ import annotations

import base64
import json
import os
import queue
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fog_agent.config import load_config
from fog_common.bus.backoff import Backoff
from fog_common.bus.base import BrokerConfig, BusEvent, Connected, Disconnected, Received
from fog_common.bus.mqtt import MqttBus
from fog_common.errors import ConfigError, Refused
from fog_common.wire import topics
from fogctl import app as fogctl
from fogctl.client import Client
from fogctl.fleet import mosquitto
from fogctl.fleet.broker import Broker, find_mosquitto, start_process
from fogctl.settings import settings
from fogctl.verbs.broker import Member, write

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

MEMBERS = [
    Member("coordinator", "coordinator"),
    Member("operator", "operator"),
    Member("pi-1", "agent", "edge", "home"),
    Member("pi-2", "agent", "edge", "home"),
    Member("cloud-1", "agent", "cloud", "cloud"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path, port: int) -> Broker:
    program = find_mosquitto()
    assert program is not None
    return start_process([program, "-c", str(folder / "mosquitto.conf")], port, folder / "log", "mosquitto")


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a broker that runs as `broker init` says."""
    folder, port = _open_folder(tmp_path_factory.mktemp("lan")), free_port()
    write(folder, f"127.0.0.1:{port}", "main", MEMBERS)
    with start(folder, port):
        yield folder


def _open_folder(path: Path) -> Path:
    """As mosquitto's own user must enter it when the tests are run by root; pytest closes its folders."""
    for place in (path, *path.parents):
        if not place.stat().st_mode & 0o001:
            place.chmod(place.stat().st_mode | 0o011)
    return path


class Someone:
    """A connection of one member; `heard` are the topics that reached it, in order."""

    def __init__(self, folder: Path, file: str, password: str | None = None) -> None:
        section = yaml.safe_load((folder / file).read_text())["broker"]
        config = BrokerConfig(**{**section, **({"password": password} if password is not None else {})})
        self.user = config.username
        self.events: queue.SimpleQueue[BusEvent] = queue.SimpleQueue()
        self.bus = MqttBus(config, f"test-{self.user}", self.events.put, backoff=Backoff(first_s=30.0))

    def connect(self, *filters: str) -> BusEvent:
        self.bus.subscribe(*filters)
        self.bus.start()
        return self.events.get(timeout=10)

    def publish(self, topic: str) -> None:
        self.bus.publish(topic, b"x", qos=1)

    def heard_until(self, last: str) -> list[str]:
        heard: list[str] = []
        while last not in heard:
            event = self.events.get(timeout=10)
            assert isinstance(event, Received)
            heard.append(event.topic)
        return heard

    def __enter__(self) -> Someone:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bus.close()


def test_every_member_gets_in_with_its_own_file(lan: Path) -> None:
    for member in MEMBERS:
        with Someone(lan, member.file) as someone:
            assert isinstance(someone.connect(), Connected), member.name


def test_a_wrong_password_and_no_password_do_not(lan: Path) -> None:
    with Someone(lan, "agent-pi-1.yaml", password="guess") as someone:
        event = someone.connect()
        assert isinstance(event, Disconnected)
        assert "Not authorized" in event.why
    broker = yaml.safe_load((lan / "fogctl-operator.yaml").read_text())["broker"]
    nobody = settings(broker=f"127.0.0.1:{broker['port']}")
    with pytest.raises(Refused, match="refuses user"), Client(nobody, timeout_s=5.0):
        pass


def test_a_node_hears_its_inbox_and_casts_and_nothing_else(lan: Path) -> None:
    with Someone(lan, "agent-pi-1.yaml") as pi_1, Someone(lan, "agent-pi-2.yaml") as pi_2, Someone(lan, "agent-cloud-1.yaml") as cloud:
        assert isinstance(pi_1.connect("fog/v1/main/#"), Connected)
        assert isinstance(pi_2.connect(*topics.inbox_filters("main", "home", "pi-2", "ctl")), Connected)
        assert isinstance(cloud.connect(), Connected)
        to_pi_2 = topics.inbox("main", "home", "pi-2", "cloud-1", "cloud", "ctl")
        cast = topics.CAST.at(fleet="main", scope="all", group="digits-1~trainer", sender="cloud-1", kind="bulk~digits-1")
        own = topics.inbox("main", "home", "pi-1", "cloud-1", "cloud", "ctl")
        for topic in (to_pi_2, cast, own):
            cloud.publish(topic)
        assert pi_2.heard_until(to_pi_2) == [to_pi_2]
        assert pi_1.heard_until(own) == [cast, own]


def test_nobody_writes_in_anothers_name(lan: Path) -> None:
    with Someone(lan, "agent-pi-1.yaml") as victim, Someone(lan, "agent-pi-2.yaml") as liar:
        assert isinstance(victim.connect(*topics.inbox_filters("main", "home", "pi-1", "ctl"), topics.CAST.filter(fleet="main")), Connected)
        assert isinstance(liar.connect(), Connected)
        honest = topics.inbox("main", "home", "pi-1", "pi-2", "home", "ctl")
        for forged in (
            topics.from_coordinator("main", "home", "pi-1"),
            topics.inbox("main", "home", "pi-1", "cloud-1", "cloud", "ctl"),
            topics.inbox("main", "home", "pi-1", "pi-1", "home", "ctl"),
            topics.CAST.at(fleet="main", scope="all", group="digits-1~trainer", sender="cloud-1", kind="bulk~digits-1"),
            honest.replace("/main/", "/other/"),
            honest,
        ):
            liar.publish(forged)
        assert victim.heard_until(honest) == [honest]


def test_the_coordinator_hears_presence_and_operators_and_no_node_asks(lan: Path) -> None:
    with Someone(lan, "coordinator.yaml") as coordinator, Someone(lan, "agent-pi-1.yaml") as node, Someone(lan, "fogctl-operator.yaml") as operator:
        watched = [
            topics.PRESENCE.filter(fleet="main"),
            topics.REQUEST.filter(fleet="main"),
            *topics.inbox_filters("main", "cloud", "coordinator", "ctl"),
        ]
        assert isinstance(coordinator.connect(*watched), Connected)
        assert isinstance(node.connect(), Connected)
        assert isinstance(operator.connect(), Connected)
        node.publish(topics.REQUEST.at(fleet="main", sender="pi-1", kind="request~1"))
        node.publish(topics.REQUEST.at(fleet="main", sender="operator", kind="request~1"))
        node.publish(topics.PRESENCE.at(fleet="main", node="pi-2"))
        mine = topics.PRESENCE.at(fleet="main", node="pi-1")
        heartbeat = topics.to_coordinator("main", "pi-1")
        node.publish(mine)
        node.publish(heartbeat)
        assert coordinator.heard_until(heartbeat) == [mine, heartbeat]
        asked = topics.REQUEST.at(fleet="main", sender="operator", kind="request~1")
        operator.publish(topics.PRESENCE.at(fleet="main", node="pi-1"))
        operator.publish(asked)
        assert coordinator.heard_until(asked) == [asked]


def test_doctor_finds_the_access_list_in_order(lan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = fogctl.run(["doctor", "--config", str(lan / "fogctl-operator.yaml"), "--timeout", "0.5", "--json"])
    error = json.loads(capsys.readouterr().out)["error"]
    states = {check["name"]: check["state"] for check in error["checks"]}
    assert code == 3
    assert states["broker"] == states["round trip"] == states["access list"] == "ok"
    assert states["coordinator"] == "failed"


def test_doctor_notices_an_open_broker(capsys: pytest.CaptureFixture[str]) -> None:
    with Broker.start("mosquitto") as broker:
        fogctl.run(["doctor", "--broker", f"{broker.host}:{broker.port}", "--timeout", "0.5", "--json"])
    states = {check["name"]: check["state"] for check in json.loads(capsys.readouterr().out)["error"]["checks"]}
    assert (states["round trip"], states["access list"]) == ("ok", "warning")


def test_a_second_run_adds_users_and_changes_no_password(tmp_path: Path) -> None:
    folder, port = _open_folder(tmp_path) / "lan", free_port()
    write(folder, f"127.0.0.1:{port}", "main", MEMBERS[:3])
    before = {path.name: path.read_text() for path in folder.iterdir()}
    written = write(folder, f"127.0.0.1:{port}", "main", [*MEMBERS[:2], Member("pi-9", "agent", "edge", "home")])
    assert [member["name"] for member in written["members"] if member["new"]] == ["pi-9"]
    assert {name: (folder / name).read_text() for name in before if name.endswith(".yaml")} == {
        n: t for n, t in before.items() if n.endswith(".yaml")
    }
    with start(folder, port):
        for file in ("agent-pi-1.yaml", "agent-pi-9.yaml"):
            with Someone(folder, file) as someone:
                assert isinstance(someone.connect(), Connected)


def test_files_are_their_owners_alone_and_are_good_configurations(tmp_path: Path) -> None:
    folder = _open_folder(tmp_path) / "lan"
    write(folder, "0.0.0.0", "lab", MEMBERS)
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    agent = load_config(folder / "agent-pi-1.yaml")
    assert (agent.node, agent.tier, agent.site, agent.fleet, agent.broker.username) == ("pi-1", "edge", "home", "lab", "pi-1")
    assert agent.broker.host not in ("0.0.0.0", "")
    operator = settings(str(folder / "fogctl-operator.yaml"))
    assert (operator.fleet, operator.user, operator.broker.username) == ("lab", "operator", "operator")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--node", "Pi.1"], "--node 'Pi.1' is not allowed"),
        (["--node", "pi-1:moon"], "tier 'moon' is not one of thing, edge, fog, cloud"),
        (["--node", "pi-1", "--node", "pi-1"], "'pi-1' is named twice"),
        (["--node", "operator"], "'operator' is named twice"),
        (["--fleet", "My Fleet"], "--fleet 'My Fleet' is not allowed"),
    ],
)
def test_bad_names_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    folder = tmp_path / "lan"
    code = fogctl.run(["broker", "init", "--listen", "127.0.0.1", "--out", str(folder), *arguments])
    assert code == 2
    assert said in capsys.readouterr().err
    assert not folder.exists()


def test_it_prints_a_line_for_every_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _open_folder(tmp_path) / "lan"
    assert fogctl.run(["broker", "init", "--listen", "10.0.0.5:1884", "--out", str(folder), "--node", "pi-1:thing:hall"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith(f"mosquitto -c {folder}/mosquitto.conf") for line in lines)  # with its folder, if that is not in PATH
    for line in (
        f"fog-coordinator run --config {folder}/coordinator.yaml",
        f"fog-agent run --config {folder}/agent-cloud-1.yaml",
        f"scp {folder}/agent-pi-1.yaml pi-1:",
        "fog-agent run --config ~/agent-pi-1.yaml",
    ):
        assert line in lines
    assert "listener 1884 10.0.0.5" in (folder / "mosquitto.conf").read_text()


@pytest.mark.skipif(shutil.which("mosquitto_passwd") is None, reason="mosquitto_passwd is not installed")
def test_mosquitto_passwd_and_we_write_the_same_format(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(theirs), "ada", "a password"], check=True, capture_output=True)
    line = mosquitto.parse_password_file(theirs.read_text())["ada"]
    _, version, iterations, salt, _ = line.split("$")
    assert (version, int(iterations)) == ("7", mosquitto.ITERATIONS)
    assert mosquitto.hashed("a password", base64.b64decode(salt)) == line


def test_root_is_told_of_a_folder_that_mosquitto_cannot_enter(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root's broker changes its user")
    closed = _open_folder(tmp_path) / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match="closed to mosquitto's own user"):
        write(closed / "lan", "127.0.0.1", "main", MEMBERS)

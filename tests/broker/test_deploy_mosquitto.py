"""The files of deploy/mosquitto, started as they are: what they allow, what they forbid, what crosses a bridge."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fog_common.bus.backoff import Backoff
from fog_common.bus.base import BrokerConfig, Connected, Disconnected, Received
from fog_common.bus.mqtt import MqttBus
from fogctl.fleet.broker import Broker, find_mosquitto
from fogctl.fleet.mosquitto import configuration
from support.broker import PATIENCE_S, Inbox, needs

DEPLOY = Path(__file__).parents[2] / "deploy" / "mosquitto"
SECRET = "a-password"


class Fleet:
    """Brokers from the files, with the users given, and connections to them."""

    def __init__(self, folder: Path) -> None:
        needs("mosquitto", find_mosquitto())
        needs("mosquitto", shutil.which("mosquitto_passwd"))
        self.folder, self.brokers, self.buses = folder, list[Broker](), list[MqttBus]()
        self.texts = dict[int, str]()
        """port -> configuration of the broker there."""

    def start(self, conf: str, users: tuple[str, ...] = (), acl: str = "", **words: str) -> Broker:
        port = free_port()
        folder = self.folder / f"{conf}-{port}"
        folder.mkdir()
        passwords, access = folder / "passwords", folder / "acl"
        passwords.write_text("".join(f"{user}:{SECRET}\n" for user in users))
        passwords.chmod(0o600)
        if users:
            subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
        access.write_text((DEPLOY / "acl").read_text() + acl)
        access.chmod(0o600)
        text = (
            (DEPLOY / conf).read_text().replace("listener 1883 ADDRESS", f"listener {port} 127.0.0.1").replace("listener 1883 ", f"listener {port} ")
        )
        text = text.replace("/etc/foglearn/passwords", str(passwords)).replace("/etc/foglearn/acl", str(access))
        for word, value in words.items():
            text = text.replace(word, value)
        self.texts[port] = text
        self.brokers.append(Broker.start("mosquitto", port=port, config=text, listener=False, log=folder / "log"))
        return self.brokers[-1]

    def restart(self, broker: Broker) -> Broker:
        """The same one again, after it was killed; it remembers nothing."""
        self.brokers.append(Broker.start("mosquitto", port=broker.port, config=self.texts[broker.port], listener=False, log=broker.log))
        return self.brokers[-1]

    def connect(self, broker: Broker, user: str, *filters: str) -> tuple[MqttBus, Inbox]:
        inbox = Inbox()
        access = {"username": user, "password": SECRET} if user else {}
        bus = MqttBus(BrokerConfig(port=broker.port, **access), f"{user}-{len(self.buses)}", inbox, backoff=Backoff(first_s=60.0))
        self.buses.append(bus)
        bus.subscribe(*filters, qos=1)
        bus.start()
        inbox.next(Connected)
        return bus, inbox

    def close(self) -> None:
        for bus in self.buses:
            bus.close()
        for broker in self.brokers:
            broker.stop()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_local_conf_serves_this_machine_only(fleet: Fleet) -> None:
    broker = fleet.start("local.conf")
    bus, inbox = fleet.connect(broker, "", "a")
    bus.publish("a", b"end", 1)
    assert inbox.until(b"end") == []
    with pytest.raises(OSError):  # noqa: PT011  # refused or unreachable, as the kernel likes
        socket.create_connection((own_address(), broker.port), timeout=2.0)


def own_address() -> str:
    """An address of this machine that is not 127.0.0.1."""
    return "127.0.0.2"


def test_lan_conf_is_what_broker_init_writes() -> None:
    def settings(text: str) -> list[str]:
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    written = configuration("ADDRESS", 1883, "/etc/foglearn/passwords", "/etc/foglearn/acl")
    assert settings((DEPLOY / "lan.conf").read_text()) == settings(written)


def test_lan_conf_wants_a_password(fleet: Fleet) -> None:
    broker = fleet.start("lan.conf", users=("pi-1",))
    for access in ({}, {"username": "pi-1", "password": "wrong"}, {"username": "pi-2", "password": SECRET}):
        inbox = Inbox()
        bus = MqttBus(BrokerConfig(port=broker.port, **access), "x", inbox, backoff=Backoff(first_s=60.0))
        fleet.buses.append(bus)
        bus.start()
        assert "check broker.username and broker.password" in inbox.next(Disconnected).why


AUDITOR = "\nuser auditor\ntopic read #\ntopic write fog/v1/main/#\n"
USERS = ("coordinator", "operator", "pi-1", "pi-2", "auditor")


@pytest.mark.parametrize(
    ("user", "allowed", "forbidden"),
    [
        (
            "pi-1",
            ["d2d/hall/pi-2/pi-1/ctl", "to/cloud/coordinator/pi-1/ctl", "cast/hall/job~server/pi-1/bulk~job", "node/pi-1/presence"],
            [
                "d2d/hall/pi-2/pi-3/ctl",
                "to/cloud/coordinator/pi-2/ctl",
                "to/hall/pi-2/coordinator/ctl",
                "cast/hall/job~server/pi-2/bulk~job",
                "node/pi-2/presence",
                "node/pi-1/presence/more",
                "ctl/pi-1/request~1",
                "ctl/operator/request~1",
                "pi-1/pi-1/pi-1/pi-1/pi-1",
            ],
        ),
        ("operator", ["ctl/operator/request~1"], ["ctl/coordinator/request~1", "to/hall/pi-1/coordinator/ctl", "node/pi-1/presence"]),
        (
            "coordinator",
            ["to/hall/pi-1/coordinator/ctl", "to/cloud/operator/coordinator/reply~1"],
            ["to/hall/pi-1/pi-2/ctl", "ctl/operator/request~1"],
        ),
    ],
)
def test_who_may_write_what(fleet: Fleet, user: str, allowed: list[str], forbidden: list[str]) -> None:
    broker = fleet.start("lan.conf", users=USERS, acl=AUDITOR)
    _, audit = fleet.connect(broker, "auditor", "#")
    bus, _ = fleet.connect(broker, user)
    for topic in [*forbidden, *allowed]:
        bus.publish("fog/v1/main/" + topic, topic.encode(), 1)
    bus.publish(f"fog/v1/main/to/x/x/{user}/end", b"end", 1)
    assert audit.until(b"end") == [topic.encode() for topic in allowed]


@pytest.mark.parametrize(
    ("user", "allowed", "forbidden"),
    [
        (
            "pi-1",
            ["d2d/hall/pi-1/pi-2/ctl", "to/hall/pi-1/coordinator/ctl", "cast/hall/job~trainer/pi-2/bulk~job", "cast/all/job~trainer/pi-2/bulk~job"],
            [
                "d2d/hall/pi-2/pi-1/ctl",
                "to/hall/pi-2/coordinator/ctl",
                "to/cloud/coordinator/pi-2/ctl",
                "node/pi-2/presence",
                "ctl/operator/request~1",
            ],
        ),
        (
            "coordinator",
            ["to/cloud/coordinator/pi-2/ctl", "to/cloud/coordinator/pi-1/bulk~job", "node/pi-2/presence", "ctl/operator/request~1"],
            ["d2d/hall/pi-2/pi-1/ctl", "to/hall/pi-2/coordinator/ctl", "to/cloud/operator/coordinator/reply~1"],
        ),
        ("operator", ["to/cloud/operator/coordinator/reply~1"], ["to/cloud/coordinator/pi-2/ctl", "node/pi-2/presence", "ctl/operator/request~1"]),
    ],
)
def test_who_may_read_what(fleet: Fleet, user: str, allowed: list[str], forbidden: list[str]) -> None:
    broker = fleet.start("lan.conf", users=USERS, acl=AUDITOR)
    _, inbox = fleet.connect(broker, user, "#", "fog/v1/main/to/#", "fog/v1/main/node/+/presence")
    auditor, _ = fleet.connect(broker, "auditor")
    for topic in [*forbidden, *allowed]:
        auditor.publish("fog/v1/main/" + topic, topic.encode(), 1)
    auditor.publish(f"fog/v1/main/to/x/{user}/x/end", b"end", 1)
    assert list(dict.fromkeys(inbox.until(b"end"))) == [topic.encode() for topic in allowed]


def test_a_node_sees_when_somebody_says_that_it_is_gone(fleet: Fleet) -> None:
    broker = fleet.start("lan.conf", users=USERS, acl=AUDITOR)
    _, inbox = fleet.connect(broker, "pi-1", "fog/v1/main/node/pi-1/presence")
    auditor, _ = fleet.connect(broker, "auditor")
    auditor.publish("fog/v1/main/node/pi-1/presence", b"offline", 1, retain=True)
    assert inbox.next(Received).payload == b"offline"


def test_the_largest_packet_is_told(fleet: Fleet) -> None:
    broker = fleet.start("lan.conf", users=("pi-1",))
    bus, _ = fleet.connect(broker, "pi-1")
    assert bus.max_payload == 2_000_000 - 1024


# -- two brokers, bridged ------------------------------------------------------------------


SOON = {"restart_timeout 1 30": "restart_timeout 1"}
"""A bridge that tries again after a second."""


class Bridged:
    """The cloud's broker and that of the site `hall`, with a connection for each party that takes part."""

    def __init__(self, fleet: Fleet) -> None:
        bridge = (DEPLOY / "acl.bridge").read_text().replace("SITE", "hall")
        cloud = fleet.start("cloud.conf", users=("coordinator", "operator", "cloud-1", "auditor", "bridge-hall"), acl=bridge + AUDITOR)
        address = f"127.0.0.1:{cloud.port}"
        site = fleet.start("site.conf", users=("pi-1", "pi-2", "auditor"), acl=AUDITOR, SITE="hall", CLOUD=address, SECRET=SECRET, **SOON)
        self.cloud = cloud
        self.cloud_audit, self.above = fleet.connect(cloud, "auditor", "#")
        self.site_audit, self.below = fleet.connect(site, "auditor", "#")
        self.coordinator, _ = fleet.connect(cloud, "coordinator")
        self.cloud_1, self.cloud_1_inbox = fleet.connect(cloud, "cloud-1", "fog/v1/main/to/cloud/cloud-1/+/+", "fog/v1/main/cast/all/+/+/+")
        self.pi_1, self.pi_1_inbox = fleet.connect(site, "pi-1", "fog/v1/main/to/hall/pi-1/+/+", "fog/v1/main/cast/all/+/+/+")
        self.pi_2, _ = fleet.connect(site, "pi-2")
        # the bridge subscribes before it sends, so when this is above it works both ways
        self.pi_1.publish("fog/v1/main/node/pi-1/presence", b"bridge works", 1, retain=True)
        self.above.until(b"bridge works")

    def settle(self) -> tuple[list[str], list[str]]:
        """Topics that passed (the cloud's broker, the site's) up to now, once a marker of each sender has come to everybody."""
        users = {"pi-1": self.pi_1, "pi-2": self.pi_2, "cloud-1": self.cloud_1, "coordinator": self.coordinator}
        marks = []
        for side, bus in [*users.items(), ("above", self.cloud_audit), ("below", self.site_audit)]:
            for qos in (0, 1):  # which keep their order among themselves only
                marks.append(f"end of {side}, {qos}".encode())
                bus.publish(f"fog/v1/main/cast/all/mark/{side if side in users else 'auditor'}/ctl", marks[-1], qos)
        for inbox in (self.above, self.below, self.pi_1_inbox, self.cloud_1_inbox):
            inbox.all_of(marks)
        return topics_of(self.above), topics_of(self.below)


def topics_of(inbox: Inbox) -> list[str]:
    inbox.payloads()
    return [event.topic.removeprefix("fog/v1/main/") for event in inbox.seen if isinstance(event, Received) and "/mark/" not in event.topic]


@pytest.fixture
def bridged(fleet: Fleet) -> Bridged:
    return Bridged(fleet)


def test_what_nodes_of_a_site_say_to_each_other_stays_there(bridged: Bridged) -> None:
    own = ["d2d/hall/pi-1/pi-2/bulk~job", "cast/hall/job~trainer/pi-2/bulk~job"]
    for topic in own:
        bridged.pi_2.publish("fog/v1/main/" + topic, bytes(256 * 1024))
    above, below = bridged.settle()
    assert [topic for topic in above if topic in own] == []
    assert [topic for topic in below if topic in own] == own


def test_the_clouds_own_traffic_stays_there(bridged: Bridged) -> None:
    own = [
        "d2d/cloud/cloud-2/cloud-1/bulk~job",
        "cast/cloud/job~root/cloud-1/bulk~job",
        "to/other/pi-9/cloud-1/bulk~job",
        "to/cloud/coordinator/cloud-1/ctl",
    ]
    for topic in own:
        bridged.cloud_1.publish("fog/v1/main/" + topic, b"x", 1)
    above, below = bridged.settle()
    assert [topic for topic in above if topic in own] == own
    assert [topic for topic in below if topic in own] == []


@pytest.mark.parametrize("qos", [0, 1])
def test_what_is_for_others_crosses_exactly_once(bridged: Bridged, qos: int) -> None:
    up = ["to/cloud/coordinator/pi-1/ctl", "to/cloud/cloud-1/pi-1/bulk~job", "cast/all/job~server/pi-1/bulk~job"]
    down = ["to/hall/pi-1/cloud-1/bulk~job", "cast/all/job~trainer/cloud-1/bulk~job"]
    for topic in up:
        bridged.pi_1.publish("fog/v1/main/" + topic, b"up " + topic.encode(), qos)
    for topic in down:
        bridged.cloud_1.publish("fog/v1/main/" + topic, b"down " + topic.encode(), qos)
    bridged.coordinator.publish("fog/v1/main/to/hall/pi-1/coordinator/ctl", b"command", qos)
    above, below = bridged.settle()
    crossing = [*up, *down, "to/hall/pi-1/coordinator/ctl"]
    assert {topic: (above.count(topic), below.count(topic)) for topic in crossing} == {topic: (1, 1) for topic in crossing}
    assert sorted(bridged.pi_1_inbox.payloads()).count(b"command") == 1
    assert [payload for payload in bridged.cloud_1_inbox.payloads() if payload.startswith(b"up to/")] == [b"up to/cloud/cloud-1/pi-1/bulk~job"]


def test_presence_goes_up_and_not_down(bridged: Bridged) -> None:
    bridged.cloud_1.publish("fog/v1/main/node/cloud-1/presence", b"here", 1, retain=True)
    above, below = bridged.settle()
    assert "node/cloud-1/presence" in above
    assert "node/cloud-1/presence" not in below
    assert above.count("node/pi-1/presence") == below.count("node/pi-1/presence") == 1


def test_a_site_cannot_speak_in_the_coordinators_name(bridged: Bridged) -> None:
    bridged.site_audit.publish("fog/v1/main/to/cloud/cloud-1/coordinator/ctl", b"forged", 1)
    bridged.site_audit.publish("fog/v1/main/to/other-site/pi-9/coordinator/ctl", b"forged", 1)
    above, _ = bridged.settle()
    assert [topic for topic in above if "/coordinator/ctl" in topic] == []


def test_a_large_message_crosses(bridged: Bridged) -> None:
    bridged.pi_1.publish("fog/v1/main/to/cloud/cloud-1/pi-1/bulk~job", bytes(256 * 1024))
    assert len(bridged.cloud_1_inbox.next(Received).payload) == 256 * 1024


def test_a_site_goes_on_while_the_clouds_broker_is_down_and_is_bridged_again_afterwards(fleet: Fleet, bridged: Bridged) -> None:
    """What was for others in between is the sender's to repeat: nothing here relies on a broker's memory."""
    bridged.settle()
    bridged.cloud.kill()
    own, abroad = "fog/v1/main/d2d/hall/pi-2/pi-1/bulk~job", "fog/v1/main/to/cloud/cloud-1/pi-1/bulk~job"
    for number in range(50):
        bridged.pi_1.publish(own, b"own %d" % number, 1)
        bridged.pi_1.publish(abroad, b"in vain", 1)
    bridged.pi_1.publish(own, b"end of the outage", 1)
    heard = bridged.below.until(b"end of the outage")
    assert [payload for payload in heard if payload.startswith(b"own")] == [b"own %d" % number for number in range(50)]

    again = fleet.restart(bridged.cloud)
    auditor, above = fleet.connect(again, "auditor", "#")
    _, there = fleet.connect(again, "cloud-1", "fog/v1/main/to/cloud/cloud-1/+/+")
    end = time.monotonic() + PATIENCE_S
    while b"repeated" not in there.payloads():
        assert time.monotonic() < end, "the bridge did not come back"
        bridged.pi_1.publish(own, b"own, meanwhile", 1)
        bridged.pi_1.publish(abroad, b"repeated", 1)
        time.sleep(0.05)
    bridged.pi_1.publish(abroad, b"end up", 1)
    above.until(b"end up")
    auditor.publish("fog/v1/main/to/hall/pi-1/cloud-1/bulk~job", b"and down", 1)
    assert bridged.pi_1_inbox.next(Received, lambda event: event.payload == b"and down")
    assert [event.topic for event in above.seen if isinstance(event, Received) and "/d2d/" in event.topic] == []

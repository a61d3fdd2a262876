"""MqttBus against a real mosquitto, and against brokers that misbehave."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fog_common.bus import mqtt
from fog_common.bus.backoff import Backoff
from fog_common.bus.base import BrokerConfig, Connected, Denied, Disconnected, Received, Will
from fog_common.bus.mqtt import MqttBus
from fog_common.bus.sendqueue import MAX_TRIES
from fog_common.errors import ConfigError, TooLarge
from fogctl.fleet.broker import Broker, find_mosquitto
from support.broker import Inbox, needs

CHUNK = bytes(256 * 1024)
TESTS = Path(__file__).parents[1]


@pytest.fixture
def connect() -> Iterator[Any]:
    """connect(broker or port, client id, *filters, **options) -> (bus, inbox); all are closed at the end."""
    buses: list[MqttBus] = []

    def make(
        where: Broker | int,
        client_id: str,
        *filters: str,
        config: dict[str, Any] | None = None,
        will: Will | None = None,
        first: tuple[str, bytes] | None = None,
        **options: Any,
    ) -> Any:
        inbox = Inbox()
        port = where if isinstance(where, int) else where.port
        options.setdefault("backoff", Backoff(first_s=0.05, cap_s=0.2, yield_s=0.05))
        bus = MqttBus(BrokerConfig(port=port, **(config or {})), client_id, inbox, will, **options)
        buses.append(bus)
        bus.subscribe(*filters, qos=1)
        if first is not None:
            bus.publish(*first, 1)  # before it has ever been connected
        bus.start()
        return bus, inbox

    yield make
    for bus in buses:
        bus.close()


@pytest.fixture
def process(broker: Broker) -> Iterator[Any]:
    """process(client id, filter, keepalive) -> a bus in a process of its own, connected; ended with the test."""
    running: list[subprocess.Popen[str]] = []

    def start(client_id: str, pattern: str, keepalive_s: int = 15) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "support.bus_process", str(broker.port), client_id, pattern, str(keepalive_s)]
        running.append(subprocess.Popen(command, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert line_of(running[-1]) == "connected"
        return running[-1]

    yield start
    for one in running:
        one.kill()
        one.wait()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# -- presence ------------------------------------------------------------------------------


def test_kill_9_of_a_client_is_told_by_its_will(broker: Broker, connect: Any, process: Any) -> None:
    _, inbox = connect(broker, "watcher", "will/+")
    inbox.next(Connected)
    process("ada", "x").kill()
    assert inbox.next(Received) == Received("will/ada", b"offline")
    _, late = connect(broker, "late", "will/+")
    assert late.next(Received) == Received("will/ada", b"offline", True)


def test_a_process_that_ends_in_order_leaves_no_will(broker: Broker, connect: Any, process: Any) -> None:
    _, inbox = connect(broker, "watcher", "will/+", "said/+")
    inbox.next(Connected)
    ada = process("ada", "x")
    ada.stdin.write("bye\n")
    ada.stdin.close()
    assert ada.wait() == 0
    bus, _ = connect(broker, "bob")
    bus.publish("said/bob", b"end", 1)
    assert inbox.until(b"end") == [b"bye"]


# -- a broker that goes and comes ----------------------------------------------------------


def test_kill_9_of_the_broker_and_a_new_one_on_its_port(broker: Broker, connect: Any, tmp_path: Path) -> None:
    ada, inbox = connect(broker, "ada", "a/+")
    inbox.next(Connected)
    broker.kill()
    inbox.next(Disconnected)
    for number in range(20):
        ada.publish("a/1", b"%d" % number, 1)
    with Broker.start("mosquitto", port=broker.port, log=tmp_path / "second.log"):
        inbox.next(Connected)
        ada.publish("a/1", b"end", 1)
        assert inbox.until(b"end") == [b"%d" % number for number in range(20)]
        ada.close()


def test_a_start_without_a_broker_connects_when_there_is_one(connect: Any, tmp_path: Path) -> None:
    needs("mosquitto", find_mosquitto())
    with Broker.start("mosquitto") as first:
        port = first.port
    ada, inbox = connect(port, "ada", "a")
    assert f"cannot reach 127.0.0.1:{port}" in inbox.next(Disconnected).why
    ada.publish("a", b"kept", 1)
    with Broker.start("mosquitto", port=port, log=tmp_path / "broker.log"):
        inbox.next(Connected)
        assert inbox.next(Received).payload == b"kept"
        ada.close()


def test_a_frozen_broker_blocks_nobody_and_is_found_out(broker: Broker, connect: Any) -> None:
    ada, inbox = connect(broker, "ada", "a", config={"keepalive_s": 1}, max_bytes=8 * len(CHUNK))
    inbox.next(Connected)
    broker_signal(broker, signal.SIGSTOP)
    for _ in range(200):  # more than any kernel buffer takes; returns because it never blocks
        ada.publish("a", CHUNK)
    assert ada.queued_bytes <= 8 * len(CHUNK)
    assert ada.dropped > 0
    assert "Keep alive timeout" in inbox.next(Disconnected).why
    broker_signal(broker, signal.SIGCONT)
    inbox.next(Connected)
    ada.publish("a", b"end", 1)
    inbox.until(b"end")


def test_qos_1_bulk_is_bounded_too(broker: Broker, connect: Any) -> None:
    ada, inbox = connect(broker, "ada", max_bytes=8 * len(CHUNK))
    inbox.next(Connected)
    broker_signal(broker, signal.SIGSTOP)
    for _ in range(200):
        ada.publish("a", CHUNK, 1)
    assert ada.queued_bytes <= (8 + mqtt.WINDOW) * len(CHUNK)
    broker_signal(broker, signal.SIGCONT)


# -- a subscriber that does not read ------------------------------------------------------


def test_a_frozen_subscriber_harms_only_itself(broker: Broker, connect: Any, process: Any) -> None:
    frozen = process("frozen", "bulk/#")
    ada, _ = connect(broker, "ada")
    _, other = connect(broker, "other", "bulk/#", "mark")
    other.next(Connected)
    frozen.send_signal(signal.SIGSTOP)
    for number in range(300):
        ada.publish("bulk/1", b"%3d" % number + CHUNK, 1)
        if number % 50 == 49:  # as the windows of the transfer layer do: never far ahead of a receiver
            other.next(Received, lambda event, last=number: event.payload[:3] == b"%3d" % last)
    assert ada.dropped == 0
    frozen.send_signal(signal.SIGCONT)
    assert line_of(frozen).startswith("received bulk/1 262147 b'  0")
    ada.publish("bulk/end", b"end", 1)
    lines = []
    while not lines or "bulk/end" not in lines[-1]:
        lines.append(line_of(frozen))
    assert len(lines) < 301, "none twice"


def test_one_that_slept_longer_than_its_keepalive_comes_back_at_once(broker: Broker, connect: Any, process: Any) -> None:
    _, inbox = connect(broker, "watcher", "will/+", "said/+")
    inbox.next(Connected)
    sleeper = process("sleeper", "x", keepalive_s=1)
    sleeper.send_signal(signal.SIGSTOP)
    assert inbox.next(Received) == Received("will/sleeper", b"offline")
    sleeper.send_signal(signal.SIGCONT)
    assert "this process stood still" in line_of(sleeper)
    assert line_of(sleeper) == "connected"
    sleeper.stdin.write("awake\n")
    sleeper.stdin.flush()
    assert inbox.next(Received).payload == b"awake"


# -- limits --------------------------------------------------------------------------------


def test_the_brokers_own_packet_limit_counts(connect: Any, tmp_path: Path) -> None:
    needs("mosquitto", find_mosquitto())
    with Broker.start("mosquitto", config="max_packet_size 100000", log=tmp_path / "broker.log") as broker:
        ada, inbox = connect(broker, "ada", "a", first=("a", CHUNK))  # nobody knows the limit yet
        assert inbox.next(Connected) == Connected(100_000 - 1024)
        with pytest.raises(TooLarge):
            ada.publish("a", bytes(100_000), 1)
        ada.publish("a", bytes(98_976), 1)
        ada.publish("a", b"end", 1)
        assert [len(payload) for payload in inbox.until(b"end")] == [98_976]
        assert (ada.dropped, inbox.count(Disconnected)) == (1, 0)
        ada.close()


class Grumpy(threading.Thread):
    """A broker that speaks 3.1.1, refuses subscriptions of `secret/…`, and closes the connection on the first QoS 1 PUBLISH; `mute`: it never
    says a word."""

    def __init__(self, mute: bool = False) -> None:
        super().__init__(daemon=True)
        self.mute, self.publishes = mute, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.start()

    def run(self) -> None:
        held = []
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            held.append(sock)
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock: socket.socket) -> None:
        stream = sock.makefile("rb")
        while head := stream.read(1):
            body = stream.read(stream.read(1)[0])
            if head[0] >> 4 == 1 and not self.mute:
                sock.sendall(b"\x20\x02\x00" + (b"\x00" if body[6] == 4 else b"\x01"))
            elif head[0] >> 4 == 8:
                reasons, at = b"", 2
                while at < len(body):
                    size = int.from_bytes(body[at : at + 2])
                    reasons += b"\x80" if body[at + 2 : at + 2 + size].startswith(b"secret/") else b"\x00"
                    at += size + 3
                sock.sendall(b"\x90" + bytes([2 + len(reasons)]) + body[:2] + reasons)
            elif head[0] >> 4 == 3:
                self.publishes += 1
                stream.close()
                sock.shutdown(socket.SHUT_RDWR)
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_a_message_that_makes_the_broker_hang_up_is_given_up(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "PROBE_S", 0.01)
    grumpy = Grumpy()
    ada, inbox = connect(grumpy.port, "ada")
    ada.publish("a", b"poison", 1)
    for _ in range(MAX_TRIES):
        inbox.next(Connected)
        inbox.next(Disconnected)
    inbox.next(Connected)
    assert (grumpy.publishes, ada.dropped, ada.queued_bytes) == (MAX_TRIES, 1, 0)
    ada.close()
    grumpy.close()


def test_refused_subscriptions_are_told_with_the_connection_and_after_it(connect: Any) -> None:
    grumpy = Grumpy()
    ada, inbox = connect(grumpy.port, "ada", "open/a", "secret/a")
    assert inbox.next(Connected).refused == ("secret/a",)
    ada.subscribe("open/b", "secret/b")
    assert inbox.next(Denied).filters == ("secret/b",)
    ada.close()
    grumpy.close()


def test_a_listener_that_is_no_broker_is_named(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "CONNECT_S", 0.3)
    grumpy = Grumpy(mute=True)
    _, inbox = connect(grumpy.port, "ada")
    assert "does not answer as an MQTT broker" in inbox.next(Disconnected).why
    grumpy.close()


# -- access --------------------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Broker]:
    needs("mosquitto", find_mosquitto())
    passwords, acl = tmp_path / "passwords", tmp_path / "acl"
    passwords.write_text("ada:secret\n")
    passwords.chmod(0o600)
    subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)
    acl.write_text("pattern readwrite own/%u/#\n")
    config = f"allow_anonymous false\npassword_file {passwords}\nacl_file {acl}"
    with Broker.start("mosquitto", config=config, log=tmp_path / "broker.log") as broker:
        yield broker


def test_a_wrong_password_says_so(guarded: Broker, connect: Any) -> None:
    _, inbox = connect(guarded, "ada", config={"username": "ada", "password": "wrong"})
    assert "check broker.username and broker.password" in inbox.next(Disconnected).why


def test_the_password_may_be_a_credential(guarded: Broker, connect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broker-password").write_text("secret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    ada, inbox = connect(guarded, "ada", "own/ada/#", config={"username": "ada", "password_file": "broker-password"})
    assert inbox.next(Connected).refused == ()
    ada.publish("other/1", b"dropped by the access list", 1)
    ada.publish("own/ada/1", b"end", 1)
    assert inbox.until(b"end") == []


def test_a_missing_password_file_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"broker.password_file: cannot read .*/nowhere"):
        MqttBus(BrokerConfig(password_file=str(tmp_path / "nowhere")), "ada", Inbox())


def test_tls_with_a_private_ca(connect: Any, tmp_path: Path) -> None:
    needs("mosquitto", find_mosquitto())
    needs("openssl", shutil.which("openssl"))
    ca, key = certificate(tmp_path)
    config = f"listener {{port}} 127.0.0.1\ncafile {ca}\ncertfile {ca}\nkeyfile {key}"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Broker.start("mosquitto", port=port, listener=False, config=config.format(port=port), tls=True, log=tmp_path / "broker.log") as broker:
        ada, inbox = connect(broker, "ada", "a", config={"tls_ca": str(ca)})
        inbox.next(Connected)
        for _ in range(20):
            ada.publish("a", CHUNK, 1)
        ada.publish("a", b"end", 1)
        assert [len(payload) for payload in inbox.until(b"end")] == [len(CHUNK)] * 20
        ada.close()
        _, plain = connect(broker, "plain")
        assert plain.next(Disconnected)
        _, stranger = connect(broker, "stranger", config={"tls_ca": "/etc/ssl/certs/ca-certificates.crt"})
        assert "certificate verify failed" in stranger.next(Disconnected).why


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


def broker_signal(broker: Broker, number: signal.Signals) -> None:
    subprocess.run(["kill", f"-{number.value}", str(broker.pid)], check=True)

"""The bus: publish, subscribe, and events into one inbox. Implementations: mqtt.py (live), memory.py (tests)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection is open and all subscriptions are confirmed. max_payload: largest payload of this broker in bytes; 0 = unlimited or unknown."""

    max_payload: int = 0
    refused: tuple[str, ...] = ()
    """Filters that the broker's access list refuses: no message arrives on them."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    why: str


@dataclass(frozen=True, slots=True)
class Denied:
    """The broker refused filters on an open connection: no message arrives on them."""

    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Received:
    topic: str
    payload: bytes
    retain: bool = False


BusEvent = Connected | Denied | Disconnected | Received


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    """A message that the broker publishes when the connection ends without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


class Bus(Protocol):
    """One connection, which reconnects by itself for ever, after a random wait. `on_event` runs on the bus's thread and only enqueues."""

    def start(self) -> None: ...

    def subscribe(self, *filters: str, qos: int = 0) -> None:
        """Subscribe now and on every reconnect. May be called at any time, even before start()."""
        ...

    def unsubscribe(self, *filters: str) -> None: ...

    def publish(self, topic: str, payload: bytes | bytearray | memoryview, qos: int = 0, retain: bool = False) -> None:
        """Queue a message; never blocks. TooLarge if it exceeds the broker's limit, ValueError for a topic with a wildcard.

        While disconnected QoS 0 is dropped and QoS 1 is kept up to a bound (the oldest goes first); delivery is not promised.
        QoS 1 goes before waiting QoS 0; order holds within a topic and a QoS.
        """
        ...

    def close(self, farewell: Will | None = None) -> None:
        """Publish `farewell` if connected, disconnect so that no will is published, end the thread. Idempotent."""
        ...


OnEvent = Callable[[BusEvent], None]


class BrokerConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The `broker:` section of every configuration file."""

    host: str = "127.0.0.1"
    port: int = 1883
    username: str = ""
    password: str = ""
    password_file: str = ""
    """Read at start. A relative path names a systemd credential in $CREDENTIALS_DIRECTORY, if that is set."""
    tls_ca: str = ""
    """CA file; a path switches TLS on."""
    keepalive_s: int = 15
    max_payload_bytes: int = 0
    """Cap for brokers that do not announce their limit (AWS IoT 128 KB, …); 0 = the broker's limit."""

"""What a bus is: publish, subscribe, and events into one inbox. Implementations: mqtt.py (live), memory.py (tests)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection stands and all subscriptions are confirmed. max_payload: largest payload this broker takes, 0 = no limit known."""

    max_payload: int = 0
    refused: tuple[str, ...] = ()
    """Filters that the broker refused (its access list): nothing will arrive on them."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    why: str


@dataclass(frozen=True, slots=True)
class Denied:
    """The broker refused these filters, which were asked for on a connection that stands: nothing will arrive on them."""

    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Received:
    topic: str
    payload: bytes
    retain: bool = False


BusEvent = Connected | Denied | Disconnected | Received


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


class Bus(Protocol):
    """One connection. `on_event` is called on the bus's own thread: it only enqueues. Reconnects by itself, jittered, for ever."""

    def start(self) -> None: ...

    def subscribe(self, *filters: str, qos: int = 0) -> None:
        """Remembered and renewed on every connect. May be called before start() and at any time."""
        ...

    def unsubscribe(self, *filters: str) -> None: ...

    def publish(self, topic: str, payload: bytes | bytearray | memoryview, qos: int = 0, retain: bool = False) -> None:
        """Never blocks. TooLarge before anything is sent if the broker would not take it. While disconnected QoS 0 is dropped
        and QoS 1 is kept up to a bound (oldest dropped); neither is a promise of delivery. QoS 1 goes before QoS 0 that
        waits; order holds within a topic and a QoS."""
        ...

    def close(self, farewell: Will | None = None) -> None:
        """Publish `farewell` if connected, disconnect in order, end the thread. Idempotent."""
        ...


OnEvent = Callable[[BusEvent], None]


class BrokerConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The `broker:` section of every configuration file."""

    host: str = "127.0.0.1"
    port: int = 1883
    username: str = ""
    password: str = ""
    password_file: str = ""
    """Read at start; with systemd a credential ($CREDENTIALS_DIRECTORY/NAME when the path is relative)."""
    tls_ca: str = ""
    """CA file; not '' switches TLS on."""
    keepalive_s: int = 15
    max_payload_bytes: int = 0
    """Cap for brokers that do not say theirs (AWS IoT 128 KB, …); 0 = what the broker says."""

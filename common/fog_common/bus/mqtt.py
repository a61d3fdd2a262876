"""MqttBus: one MQTT connection on a thread of its own. The only module that knows paho.

The thread owns the paho client; everyone else puts into a bounded queue and rings. A new paho client is made for every
attempt, so that it carries nothing over: sessions are clean, subscriptions are renewed, what waits lies in our queue.
MQTT 5 is tried first, 3.1.1 when the broker does not speak it. Nothing that a handler raises ends the thread.

Reading: a message is handed to `on_event` when it is complete, and the next is not read before that returns. A handler that
blocks stops the reading, the kernel's buffer fills, and the broker holds or drops what follows: this side keeps one message.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
import time
from collections import deque
from typing import Any, Final, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from fog_common.bus.access import MQTT_MAX_PAYLOAD, password, payload_limit, tls_context
from fog_common.bus.backoff import Backoff, Ending
from fog_common.bus.base import BrokerConfig, BusEvent, Connected, Disconnected, OnEvent, Received, Will
from fog_common.bus.bell import Bell
from fog_common.bus.sendqueue import MAX_BYTES, MAX_CONTROL, Letter, SendQueue
from fog_common.errors import TooLarge

log = logging.getLogger(__name__)

MAX_INCOMING: Final = 8 * 1024 * 1024
"""Larger packets are not for us; an MQTT 5 broker is told so and keeps them."""
WINDOW: Final = 32
"""QoS 1 messages that may be unacknowledged; less if the broker says so."""
FILTERS_PER_PACKET: Final = 8
AHEAD_BYTES: Final = 512 * 1024
"""What paho is given at a time. The rest stays in our queue, so that a ping never waits long behind bulk."""
UNSENT_BYTES: Final = 256 * 1024
"""What the kernel may hold beyond what is on its way (TCP_NOTSENT_LOWAT): same reason."""
READ_BATCH: Final = 64
MAX_TOPIC: Final = 512
CONNECT_S: Final = 10.0
"""TCP, TLS and CONNACK each."""
PROBE_S: Final = 0.25
CLOSE_S: Final = 2.0
"""How long close() lets the queue drain."""

_TCP_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
V5, V311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311


class _End(NamedTuple):
    """How a connection ended. version: because the broker does not speak this version of MQTT, as far as one can tell."""

    ending: Ending
    why: str
    version: bool = False


class MqttBus:
    """See fog_common.bus.base.Bus. ConfigError from the constructor if a password or CA file cannot be read."""

    def __init__(
        self,
        config: BrokerConfig,
        client_id: str,
        on_event: OnEvent,
        will: Will | None = None,
        *,
        backoff: Backoff | None = None,
        max_control: int = MAX_CONTROL,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.config, self.client_id, self.will = config, client_id, will
        self.password = password(config)
        self.tls = tls_context(config)
        self._on_event = on_event
        self._backoff = backoff or Backoff()
        self.lock = threading.Lock()  # guards the queue, filters, changes and `up`
        self.queue = SendQueue(max_control, max_bytes)
        self.filters: dict[str, int] = {}
        self.changes: deque[tuple[str, int | None]] = deque()  # (filter, qos or None to leave) since the CONNACK
        self.up = False
        self.farewell: Will | None = None
        self.closing = threading.Event()
        self.abandoned = False
        self.max_payload = payload_limit(config)
        self._handed_bytes = 0
        self.handler_errors = 0
        self.reconnects = 0
        self.bell = Bell()
        self._thread = threading.Thread(target=self._run, name=f"mqtt {client_id}", daemon=True)
        self._started = False

    # -- for everyone ----------------------------------------------------------------------

    @property
    def queued_bytes(self) -> int:
        """Payload bytes that wait to be sent, or to be acknowledged (QoS 1)."""
        return self.queue.bytes + self._handed_bytes

    @property
    def dropped(self) -> int:
        """Messages that were thrown away instead of sent."""
        return self.queue.dropped

    def start(self) -> None:
        if not self._started:
            self._started = True
            self._thread.start()

    def subscribe(self, *filters: str, qos: int = 0) -> None:
        with self.lock:
            for one in filters:
                self.filters[one] = qos
                self.changes.append((one, qos))
        self.bell.ring()

    def unsubscribe(self, *filters: str) -> None:
        with self.lock:
            for one in filters:
                if self.filters.pop(one, None) is not None:
                    self.changes.append((one, None))
        self.bell.ring()

    def publish(self, topic: str, payload: bytes | bytearray | memoryview, qos: int = 0, retain: bool = False) -> None:
        """See Bus.publish. ValueError for a topic that is none."""
        if not topic or "+" in topic or "#" in topic or len(topic) > MAX_TOPIC:
            raise ValueError(f"not a topic to publish on: {topic[:80]!r}")
        size = payload.nbytes if isinstance(payload, memoryview) else len(payload)
        if size > self.max_payload:
            raise TooLarge(size, self.max_payload, f"message on {topic}")
        letter = Letter(topic, bytes(payload), qos, retain)
        with self.lock:
            self.queue.put(letter, self.up)
        self.bell.ring()

    def close(self, farewell: Will | None = None) -> None:
        with self.lock:
            first = not self.closing.is_set()
            if first:
                self.farewell = farewell
                self.closing.set()
        self.bell.ring()
        if self._started and threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_S + CONNECT_S)
        elif first and not self._started:
            self.bell.close()

    def abandon(self) -> None:
        """End as a crash would: no DISCONNECT, so the broker publishes the will."""
        self.abandoned = True
        self.close()

    # -- the thread ------------------------------------------------------------------------

    def handed(self, change_bytes: int) -> None:
        self._handed_bytes += change_bytes

    def emit(self, event: BusEvent) -> None:
        try:
            self._on_event(event)
        except Exception:
            self.handler_errors += 1
            log.exception("handler failed on %s", type(event).__name__)

    def _run(self) -> None:
        version = V5
        while not self.closing.is_set():
            session = _Session(self, version)
            began = time.monotonic()
            try:
                end: _End | None = session.run()
            except Exception as error:  # a bug, here or in paho, must not end the thread
                log.exception("connection failed in an unexpected way")
                end = _End("lost", f"unexpected {type(error).__name__}: {error}")
            stood_s = time.monotonic() - session.up_at if session.up_at else 0.0
            self._down(session)
            if end is None or self.closing.is_set():
                break
            if end.version and version == V5:
                log.info("no MQTT 5 here (%s), trying 3.1.1", end.why)
                version = V311
                continue
            if not session.answered_connect:
                version = V5  # we know nothing about this broker any more
            self.emit(Disconnected(end.why))
            wait_s = self._backoff.wait_s(end.ending, stood_s)
            log.warning("disconnected after %.1f s: %s; next attempt in %.1f s", time.monotonic() - began, end.why, wait_s)
            self.closing.wait(wait_s)
            self.reconnects += 1
        self.bell.close()

    def _down(self, session: _Session) -> None:
        with self.lock:
            was_up, self.up = self.up, False
            given_up = self.queue.put_back(session.unacknowledged())
            self.queue.drop_bulk()
            self._handed_bytes = 0
        for letter in given_up:
            log.error("gave up a message that no connection survived topic=%s size=%d", letter.topic, len(letter.payload))
        if was_up and self.closing.is_set():
            self.emit(Disconnected("closed"))


class _Session:
    """One connection, from the attempt to its end. All on the bus's thread."""

    def __init__(self, bus: MqttBus, version: MQTTProtocolVersion) -> None:
        self.bus, self.version = bus, version
        self.answered_connect = False
        self.up_at = 0.0
        self._end: _End | None = None
        self._window = WINDOW
        self._limit = bus.max_payload
        self._subscribing: dict[int, list[str]] = {}
        self._refused: list[str] = []
        self._unacknowledged: deque[tuple[paho.MQTTMessageInfo, Letter]] = deque()
        self._arrived = 0
        self._close_by = 0.0
        self._pause_s = 0.0
        self._where = f"{bus.config.host}:{bus.config.port}"
        self._client = self._make()

    def unacknowledged(self) -> list[Letter]:
        return [letter for _, letter in self._unacknowledged]

    def _make(self) -> paho.Client:
        bus, config = self.bus, self.bus.config
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=bus.client_id,
            clean_session=None if self.version == V5 else True,
            protocol=self.version,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(0)  # the window is ours
        if config.username:
            client.username_pw_set(config.username, bus.password)
        if bus.tls is not None:
            client.tls_set_context(bus.tls)
        if bus.will is not None:
            client.will_set(bus.will.topic, bus.will.payload, bus.will.qos, bus.will.retain)
        client.connect_timeout = CONNECT_S
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_socket_open = self._on_socket_open
        client.on_socket_register_write = lambda *_: None  # or publish() would write at once, under paho's feet
        return client

    def run(self) -> _End | None:
        """None: closed by ourselves."""
        bus, client = self.bus, self._client
        properties = None
        if self.version == V5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = MAX_INCOMING
        try:
            client.connect_async(bus.config.host, bus.config.port, bus.config.keepalive_s, clean_start=True, properties=properties)
            client.reconnect()
        except (OSError, ValueError) as error:
            return _End("unreachable", f"cannot reach {self._where}: {error}")
        try:
            return self._loop(time.monotonic() + CONNECT_S)
        finally:
            if (sock := client.socket()) is not None:
                sock.close()

    def _loop(self, connack_by: float) -> _End | None:
        bus, client = self.bus, self._client
        poll, polled, misc_at, looked_at = select.poll(), -1, 0.0, time.monotonic()
        poll.register(bus.bell, select.POLLIN)
        while True:
            now = time.monotonic()
            self._pause_s, looked_at = now - looked_at, now
            if bus.closing.is_set() and self._closed(now):
                return None
            if self.answered_connect and self._end is None:
                self._renew()
            if client.want_write():
                client.loop_write()
            more = self.up_at > 0 and not client.want_write() and self._feed()
            if now >= misc_at:
                client.loop_misc()
                misc_at = now + 0.25
            sock = client.socket()
            if sock is None or self._end is not None:
                return self._end or _End("lost", f"connection to {self._where} lost")
            if not self.answered_connect and now >= connack_by:
                return _End("refused", f"{self._where} accepts connections but does not answer as an MQTT broker", True)
            waiting = client.want_write()
            if polled != sock.fileno():
                polled = sock.fileno()
                poll.register(polled, select.POLLIN)
            poll.modify(polled, select.POLLIN | select.POLLOUT if waiting else select.POLLIN)
            buffered = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
            ready = dict(poll.poll(0 if buffered or more else 250))
            if bus.bell.fileno() in ready:
                bus.bell.answer()
            if buffered or ready.get(polled, 0) & ~select.POLLOUT:
                self._read(sock)

    def _read(self, sock: Any) -> None:
        """Up to READ_BATCH packets. paho cannot tell an end in order from a broken line, so look first."""
        if not isinstance(sock, ssl.SSLSocket):
            try:
                if not sock.recv(1, socket.MSG_PEEK):
                    self._ended(self._hung_up())
                    return
            except BlockingIOError:
                return
            except OSError as error:
                self._ended(_End("lost", f"connection to {self._where} lost: {error.strerror or error}"))
                return
        for _ in range(READ_BATCH):
            before = self._arrived
            self._client.loop_read()
            if self._arrived == before or self._client.socket() is None:
                break
        while self._unacknowledged and self._unacknowledged[0][0].rc == 0 and self._unacknowledged[0][0].is_published():
            _, letter = self._unacknowledged.popleft()
            self.bus.handed(-len(letter.payload))

    def _hung_up(self) -> _End:
        """The broker closed the connection without a word (mosquitto 2.0 gives no reason even under MQTT 5)."""
        if not self.answered_connect:
            return _End("refused", f"{self._where} closed the connection instead of answering", True)
        if self._pause_s > self.bus.config.keepalive_s:
            return _End("lost", f"{self._where} closed the connection: this process stood still for {self._pause_s:.0f} s")
        if not self._serves_others():
            return _End("lost", f"{self._where} closed the connection and is gone")
        return _End("taken_over", f"{self._where} closed this connection and no other: {self._twin()}")

    def _serves_others(self) -> bool:
        """A broker that ends, or a proxy before one that is gone, does not keep a new connection open."""
        self.bus.closing.wait(PROBE_S)  # one that is just dying still listens for a moment
        try:
            probe = socket.create_connection((self.bus.config.host, self.bus.config.port), timeout=PROBE_S)
        except OSError:
            return False
        with probe:
            try:
                return bool(probe.recv(1))
            except TimeoutError:
                return True
            except OSError:
                return False

    def _twin(self) -> str:
        return f"probably another client took over the id {self.bus.client_id!r}: do two nodes have the same name?"

    def _ended(self, end: _End) -> None:
        """The first reason is the one that counts."""
        self._end = self._end or end

    def _renew(self) -> None:
        """Send the changes of subscriptions; say Connected when all are confirmed."""
        bus, client = self.bus, self._client
        while True:
            with bus.lock:
                batch: list[tuple[str, int | None]] = []
                while bus.changes and len(batch) < FILTERS_PER_PACKET and (not batch or (bus.changes[0][1] is None) == (batch[0][1] is None)):
                    batch.append(bus.changes.popleft())
            if not batch:
                break
            if batch[0][1] is None:
                client.unsubscribe([name for name, _ in batch])
            else:
                _, mid = client.subscribe([(name, qos) for name, qos in batch if qos is not None])
                if mid is not None:
                    self._subscribing[mid] = [name for name, _ in batch]
        if not self._subscribing and not self.up_at:
            with bus.lock:
                bus.up = True
            self.up_at = time.monotonic()
            bus.emit(Connected(0 if self._limit == MQTT_MAX_PAYLOAD else self._limit, tuple(self._refused)))

    def _feed(self) -> bool:
        """Hand some of the queue to paho and write it. True if more could go at once."""
        bus, ahead = self.bus, 0
        while ahead < AHEAD_BYTES:
            with bus.lock:  # a subscription goes before what was published after it
                letter = None if bus.changes else bus.queue.take(self._window - len(self._unacknowledged))
            if letter is None:
                break
            if len(letter.payload) > self._limit:  # it was queued before the broker told its limit
                log.error("dropped a message over the broker's limit topic=%s size=%d limit=%d", letter.topic, len(letter.payload), self._limit)
                with bus.lock:
                    bus.queue.dropped += 1
                continue
            info = self._client.publish(letter.topic, letter.payload, letter.qos, letter.retain)
            while info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:  # the packet id came round to one that is still in use
                info = self._client.publish(letter.topic, letter.payload, letter.qos, letter.retain)
            if letter.qos:
                self._unacknowledged.append((info, letter))
                bus.handed(len(letter.payload))
            ahead += len(letter.payload) + 64
        if ahead:
            self._client.loop_write()
        return (letter is not None or bool(bus.changes)) and not self._client.want_write()

    def _closed(self, now: float) -> bool:
        """Go in order: drain the queue, say farewell, disconnect. True when that is done, or its time is up."""
        bus, client = self.bus, self._client
        if bus.abandoned:
            return True
        if not self._close_by:
            self._close_by = now + CLOSE_S
            if bus.farewell is not None and self.up_at:
                with bus.lock:
                    bus.queue.put(Letter(bus.farewell.topic, bus.farewell.payload, bus.farewell.qos, bus.farewell.retain), True)
        drained = not len(bus.queue) and not self._unacknowledged and not client.want_write()
        if not self.up_at or drained:
            sock = client.socket()
            client.on_socket_close = self._on_last_close
            if self.answered_connect and sock is not None:
                client.disconnect()
                client.loop_write()
            return True
        return now >= self._close_by  # without a farewell that arrived, the will speaks

    # -- paho's callbacks: none may raise --------------------------------------------------

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if _TCP_NOTSENT_LOWAT is not None:
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        except OSError as error:
            log.debug("socket option not set: %s", error)

    def _on_last_close(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        """Bytes that nobody read would turn the close into a reset, and the broker might miss the DISCONNECT."""
        try:
            sock.setblocking(True)
            sock.settimeout(0.2)
            sock.shutdown(socket.SHUT_WR)
            until = time.monotonic() + 0.5
            while sock.recv(65536) and time.monotonic() < until:
                pass
        except OSError:
            pass

    def _on_connect(self, client: paho.Client, userdata: Any, flags: Any, reason: ReasonCode, properties: Properties | None) -> None:
        bus = self.bus
        if reason.is_failure:
            if str(reason) == "Unsupported protocol version":
                self._ended(_End("refused", f"{self._where} refuses {'MQTT 5' if self.version == V5 else 'MQTT 3.1.1'}", True))
            else:
                hint = "; check broker.username and broker.password" if str(reason) in ("Not authorized", "Bad user name or password") else ""
                self._ended(_End("refused", f"{self._where} refuses {bus.client_id!r}: {reason}{hint}"))
            return
        self.answered_connect = True
        self._window = max(1, min(WINDOW, getattr(properties, "ReceiveMaximum", WINDOW)))
        self._limit = bus.max_payload = payload_limit(bus.config, getattr(properties, "MaximumPacketSize", None))
        with bus.lock:
            bus.changes.clear()
            bus.changes.extend(bus.filters.items())

    def _on_subscribe(self, client: paho.Client, userdata: Any, mid: int, reasons: list[ReasonCode], properties: Any) -> None:
        for name, reason in zip(self._subscribing.pop(mid, []), reasons, strict=False):
            if reason.is_failure:
                self._refused.append(name)
                log.error("the broker refuses the subscription %s: %s; check its access list", name, reason)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        self._arrived += 1
        try:
            topic = message.topic
        except UnicodeDecodeError:
            log.warning("message dropped: its topic is not UTF-8")
            return
        self.bus.emit(Received(topic, bytes(message.payload), message.retain))

    def _on_publish(self, client: paho.Client, userdata: Any, mid: int, reason: ReasonCode, properties: Any) -> None:
        self._arrived += 1
        if reason.is_failure:
            topic = next((letter.topic for info, letter in self._unacknowledged if info.mid == mid), "?")
            log.error("the broker refuses the message on %s: %s; check its access list", topic, reason)

    def _on_disconnect(self, client: paho.Client, userdata: Any, flags: Any, reason: ReasonCode, properties: Any) -> None:
        if getattr(flags, "is_disconnect_packet_from_server", False):
            if str(reason) == "Session taken over":
                self._ended(_End("taken_over", f"{self._where} closed the connection: {self._twin()}"))
            else:
                self._ended(_End("lost", f"{self._where} closed the connection: {reason}"))
        else:
            self._ended(_End("lost", f"connection to {self._where} lost: {reason}", not self.answered_connect))

"""MqttBus: one MQTT connection on a thread of its own. The only module that knows paho.

The thread owns the paho client; other threads put messages into a bounded queue and ring. Every attempt makes a new paho
client, so that no state carries over: sessions are clean, subscriptions are renewed, waiting messages lie in our queue.
MQTT 5 is tried first, 3.1.1 when the broker does not speak it. A handler's exception never ends the thread.

Reading: a complete message is handed to `on_event`, and the next is not read before that returns. While a handler
blocks, the broker holds or drops later messages, and this side keeps one message.
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
from fog_common.bus.base import BrokerConfig, Connected, Denied, Disconnected, OnEvent, Received, Will
from fog_common.bus.line import BusLine
from fog_common.bus.sendqueue import MAX_BYTES, MAX_CONTROL, Queued, SendQueue

log = logging.getLogger(__name__)

MAX_INCOMING: Final = 8 * 1024 * 1024
"""Largest packet that is accepted, in bytes; an MQTT 5 broker is told this limit and keeps larger packets."""
WINDOW: Final = 32
"""QoS 1 messages that may be unacknowledged; fewer if the broker's limit is lower."""
FILTERS_PER_PACKET: Final = 8
AHEAD_BYTES: Final = 512 * 1024
"""Bytes given to paho at a time. The rest stays in our queue, so that a ping never waits long behind bulk."""
UNSENT_BYTES: Final = 256 * 1024
"""Bytes that the kernel may hold unsent (TCP_NOTSENT_LOWAT), for the same reason."""
READ_BATCH: Final = 64
TICK_MS: Final = 1000
"""Longest wait between two checks of the keepalive."""
CONNECT_S: Final = 10.0  # timeout of TCP, TLS and CONNACK, each
PAUSE_COUNTS_S: Final = 5.0
"""A connection that the broker closes this soon after a pause of this process is lost because of the pause."""
PROBE_S: Final = 0.25
CLOSE_S: Final = 2.0
"""Time that close() gives the queue to drain."""

_TCP_NOTSENT_LOWAT: Final[int | None] = getattr(socket, "TCP_NOTSENT_LOWAT", None)
V5, V311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311


class _End(NamedTuple):
    """The end of a connection. version: the broker probably does not speak this version of MQTT."""

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
        self.line = BusLine(on_event, SendQueue(max_control, max_bytes), payload_limit(config))
        self.closing = threading.Event()
        self.farewell: Will | None = None
        self.abandoned = False
        self._backoff = backoff or Backoff()
        self._thread = threading.Thread(target=self._run, name=f"mqtt {client_id}", daemon=True)
        self._closing_lock = threading.Lock()
        self._started = False

    @property
    def max_payload(self) -> int:
        """Largest payload in bytes, as known now."""
        return self.line.max_payload

    @property
    def queued_bytes(self) -> int:
        """Payload bytes that wait to be sent, or to be acknowledged (QoS 1)."""
        return self.line.queued_bytes

    @property
    def dropped(self) -> int:
        """Messages dropped instead of sent."""
        return self.line.dropped

    @property
    def handler_errors(self) -> int:
        """Events on which `on_event` raised."""
        return self.line.handler_errors

    def start(self) -> None:
        if not self._started and not self.closing.is_set():
            self._started = True
            self._thread.start()

    def subscribe(self, *filters: str, qos: int = 0) -> None:
        self.line.subscribe(filters, qos)

    def unsubscribe(self, *filters: str) -> None:
        self.line.unsubscribe(filters)

    def publish(self, topic: str, payload: bytes | bytearray | memoryview, qos: int = 0, retain: bool = False) -> None:
        """See Bus.publish. ValueError also for a topic over 512 characters."""
        self.line.publish(topic, payload, qos, retain)

    def close(self, farewell: Will | None = None) -> None:
        with self._closing_lock:
            if not self.closing.is_set():
                self.farewell = farewell
                self.closing.set()
                if not self._started:
                    self.line.bell.close()
        self.line.bell.ring()
        if self._started and threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_S + CONNECT_S)

    def abandon(self) -> None:
        """End as in a crash: without a DISCONNECT, so that the broker publishes the will."""
        self.abandoned = True
        self.close()

    def _run(self) -> None:
        version, up = V5, False
        while not self.closing.is_set():
            session = _Session(self, version)
            try:
                end = session.run()
            except Exception as error:  # a bug, here or in paho, must not end the thread
                log.exception("connection failed in an unexpected way")
                end = _End("lost", f"unexpected {type(error).__name__}: {error}")
            up = session.up_at > 0
            self.line.lost(session.unacknowledged())
            if end is None or self.closing.is_set():
                break
            if end.version and version == V5:
                log.info("no MQTT 5 here (%s), trying 3.1.1", end.why)
                version = V311
                continue
            if not session.answered_connect:
                version = V5  # the broker may be another one by now
            stood_s, up = time.monotonic() - session.up_at if up else 0.0, False
            wait_s = self._backoff.wait_s(end.ending, stood_s)
            log.warning("not connected (was for %.0f s): %s; next attempt in %.1f s", stood_s, end.why, wait_s)
            self.line.emit(Disconnected(end.why))
            self.closing.wait(wait_s)
        if up:
            self.line.emit(Disconnected("closed"))
        self.line.bell.close()


class _Client(paho.Client):
    """paho reports only that a connection is lost; this subclass knows whether the broker closed it."""

    hung_up = False
    fault: OSError | None = None

    def _sock_recv(self, bufsize: int) -> bytes:
        try:
            received = super()._sock_recv(bufsize)
        except BlockingIOError:
            raise
        except OSError as error:
            self.fault = error
            raise
        self.hung_up = self.hung_up or not received
        return received


class _Session:
    """One connection, from the attempt to its end. Runs on the bus's thread only."""

    def __init__(self, bus: MqttBus, version: MQTTProtocolVersion) -> None:
        self.bus, self.version = bus, version
        self.answered_connect = False
        self.up_at = 0.0
        self._end: _End | None = None
        self._reason = "no reason given"
        self._window = WINDOW
        self._subscribing: dict[int, list[str]] = {}
        self._refused: list[str] = []
        self._unacknowledged: deque[tuple[paho.MQTTMessageInfo, Queued]] = deque()
        self._arrived = 0
        self._close_by = 0.0
        self._looked_at, self._pause, self._pause_ended = time.monotonic(), 0.0, 0.0
        self._where = f"{bus.config.host}:{bus.config.port}"
        self._client = self._make()

    def unacknowledged(self) -> list[Queued]:
        return [letter for _, letter in self._unacknowledged]

    def _make(self) -> _Client:
        bus, config = self.bus, self.bus.config
        client = _Client(
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
        client.on_socket_register_write = lambda *_: None  # otherwise publish() writes at once, within paho's own calls
        return client

    def run(self) -> _End | None:
        """Run until the connection ends; None if this side closed it."""
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
        bus, bell, client = self.bus, self.bus.line.bell, self._client
        poll, polled, misc_at = select.poll(), -1, 0.0
        poll.register(bell, select.POLLIN)
        while True:
            now = time.monotonic()
            self._note_pause(now)
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
                return self._end or self._lost()
            if not self.answered_connect and now >= connack_by:
                return _End("refused", f"{self._where} accepts connections but does not answer as an MQTT broker", True)
            waiting = client.want_write()
            if polled != sock.fileno():
                polled = sock.fileno()
                poll.register(polled, select.POLLIN)
            poll.modify(polled, select.POLLIN | select.POLLOUT if waiting else select.POLLIN)
            buffered = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
            ready = dict(poll.poll(0 if buffered or more else TICK_MS if self.up_at else TICK_MS // 10))
            if bell.fileno() in ready:
                bell.answer()
            if buffered or ready.get(polled, 0) & ~select.POLLOUT:
                self._read()

    def _read(self) -> None:
        self._note_pause(time.monotonic())
        for _ in range(READ_BATCH):
            before = self._arrived
            self._client.loop_read()
            if self._arrived == before or self._client.socket() is None:
                break
        while self._unacknowledged and self._unacknowledged[0][0].rc == 0 and self._unacknowledged[0][0].is_published():
            _, letter = self._unacknowledged.popleft()
            self.bus.line.acknowledged(letter)

    def _note_pause(self, now: float) -> None:
        """Remember a pause longer than the keepalive (a stopped process, a blocked handler): the broker may close the connection for it."""
        if now - self._looked_at > max(1, self.bus.config.keepalive_s):
            self._pause, self._pause_ended = now - self._looked_at, now
        self._looked_at = now

    def _lost(self) -> _End:
        """The end of a connection that the broker closed without a reason (mosquitto 2.0 gives none even under MQTT 5)."""
        if not self._client.hung_up:
            return _End("lost", f"connection to {self._where} lost: {self._client.fault or self._reason}", not self.answered_connect)
        if not self.answered_connect:
            return _End("refused", f"{self._where} closed the connection instead of answering", True)
        if self._pause and self._looked_at - self._pause_ended < PAUSE_COUNTS_S:
            return _End("lost", f"{self._where} closed the connection: this process stood still for {self._pause:.0f} s")
        if not self._serves_others():
            return _End("lost", f"{self._where} closed the connection and is gone")
        return _End("taken_over", f"{self._where} closed this connection and no other: {self._twin()}")

    def _serves_others(self) -> bool:
        """Whether the broker keeps a new connection open; a broker that ends, or a proxy before a dead one, does not."""
        self.bus.closing.wait(PROBE_S)  # a broker that ends still listens for a moment
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
        """Keep the first reason."""
        self._end = self._end or end

    def _renew(self) -> None:
        """Send the changes of subscriptions; emit Connected when all are confirmed."""
        line, client = self.bus.line, self._client
        while batch := line.changes(FILTERS_PER_PACKET):
            if batch[0][1] is None:
                client.unsubscribe([name for name, _ in batch])
            else:
                _, mid = client.subscribe([(name, qos) for name, qos in batch if qos is not None])
                if mid is not None:
                    self._subscribing[mid] = [name for name, _ in batch]
        if not self._subscribing and not self.up_at:
            line.opened()
            self.up_at = time.monotonic()
            line.emit(Connected(0 if line.max_payload == MQTT_MAX_PAYLOAD else line.max_payload, tuple(self._refused)))

    def _feed(self) -> bool:
        """Hand messages to paho, up to AHEAD_BYTES, and write them. True if more could be sent at once."""
        line, client, ahead = self.bus.line, self._client, 0
        while ahead < AHEAD_BYTES and (letter := line.take(self._window - len(self._unacknowledged))) is not None:
            if len(letter.payload) > line.max_payload:  # queued before the broker announced its limit
                line.forget(letter, f"over the broker's limit of {line.max_payload} B")
                continue
            info = client.publish(letter.topic, letter.payload, letter.qos, letter.retain)
            while info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:  # the next packet id is still in use
                info = client.publish(letter.topic, letter.payload, letter.qos, letter.retain)
            if letter.qos:
                self._unacknowledged.append((info, letter))
            ahead += len(letter.payload) + 64
        if ahead:
            client.loop_write()
        return not client.want_write() and line.more(self._window - len(self._unacknowledged))

    def _closed(self, now: float) -> bool:
        """Drain the queue, publish the farewell, disconnect. True when that is done, or its time is up."""
        bus, client = self.bus, self._client
        if bus.abandoned:
            return True
        if not self._close_by:
            self._close_by = now + CLOSE_S
            if bus.farewell is not None and self.up_at:
                bus.line.publish(bus.farewell.topic, bus.farewell.payload, bus.farewell.qos, bus.farewell.retain)
        drained = not bus.line.more(1) and not self._unacknowledged and not client.want_write()
        if not self.up_at or drained:
            sock = client.socket()
            client.on_socket_close = self._on_last_close
            if self.answered_connect and sock is not None:
                client.disconnect()
                client.loop_write()
            return True
        return now >= self._close_by  # if the farewell does not arrive, the broker publishes the will

    # -- paho's callbacks: none may raise --------------------------------------------------

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if _TCP_NOTSENT_LOWAT is not None:
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        except OSError as error:
            log.debug("socket option not set: %s", error)

    def _on_last_close(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        """Read the remaining bytes: unread bytes would turn the close into a reset, and the broker might miss the DISCONNECT."""
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
        bus.line.max_payload = payload_limit(bus.config, getattr(properties, "MaximumPacketSize", None))
        bus.line.renew()

    def _on_subscribe(self, client: paho.Client, userdata: Any, mid: int, reasons: list[ReasonCode], properties: Any) -> None:
        refused = [name for name, reason in zip(self._subscribing.pop(mid, []), reasons, strict=False) if reason.is_failure]
        self._refused += refused
        for name in refused:
            log.error("the broker refuses user %r the subscription %s; check its access list", self.bus.config.username, name)
        if refused and self.up_at:  # before that, Connected carries the refused filters
            self.bus.line.emit(Denied(tuple(refused)))

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        self._arrived += 1
        try:
            topic = message.topic
        except UnicodeDecodeError:
            log.warning("message dropped: its topic is not UTF-8")
            return
        self.bus.line.emit(Received(topic, bytes(message.payload), message.retain))

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
            self._reason = str(reason)

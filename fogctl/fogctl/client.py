"""fogctl's connection: requests to the coordinator over the same broker as everything else, replies on the user's own inbox.

Requests carry an id and are sent again until they are answered; the coordinator answers a repeated one without doing it twice
(`job.submit` by its token, all others by being idempotent).
"""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import msgspec

from fog_common import config
from fog_common.bus.base import Bus, BusEvent, Connected, Disconnected, OnEvent, Received
from fog_common.errors import ConfigError, FogError, JobFailed, Refused, TimedOut, TooLarge, Unreachable, WireError
from fog_common.ids import CLOUD_SITE, COORDINATOR
from fog_common.wire import messages, topics
from fog_common.wire.api.shown import shown
from fog_common.wire.api.verbs import QUESTIONS, Body, Question
from fog_common.wire.messages import Reply, Request
from fog_common.wire.parts import ControlCodec
from fogctl.settings import Settings

RESEND_S = 2.0
Connect = Callable[[Settings, str, OnEvent], Bus]
"""(settings, client id, on_event) -> a bus that is not started."""


class Client:
    """One connection of one invocation. `with Client(settings) as client: client.ask(ListJobs())`.

    timeout_s: for the connection, and for each answer. connect: makes the bus (tests put another one here).
    """

    def __init__(self, settings: Settings, timeout_s: float = 10.0, connect: Connect | None = None) -> None:
        self.settings = settings
        self.timeout_s = timeout_s
        self.session = secrets.token_hex(6)
        self.user = settings.user
        self._events: queue.SimpleQueue[BusEvent] = queue.SimpleQueue()
        self._bus = (connect or _mqtt)(settings, f"fogctl-{self.user}-{self.session}", self._events.put)
        self._codec = ControlCodec(self.session)
        self._connected = False
        self._why = "no answer"
        self.denied: tuple[str, ...] = ()
        """Subscriptions that the broker refuses us."""
        self.on_bulk: Callable[[topics.Route, bytes], None] = lambda route, payload: None
        """Gets the frames of transfers to this session, on the caller's thread, while a request waits or `pump` runs."""

    def __enter__(self) -> Self:
        kinds = (self._reply_kind, self.bulk_kind)
        inbox = [filter for kind in kinds for filter in topics.inbox_filters(self.settings.fleet, CLOUD_SITE, self.user, kind)]
        self._bus.subscribe(*inbox)
        self._bus.start()
        try:
            deadline = time.monotonic() + self.timeout_s
            while not self._connected:
                self._handle(self._next(deadline))
                if time.monotonic() >= deadline and not self._connected:
                    raise self._unreachable()
        except BaseException:
            self._bus.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bus.close()

    def ask(self, question: Question[Body]) -> Body:
        """The coordinator's answer. ConfigError, Refused, JobFailed … as it says; Unreachable if it says nothing in time."""
        body = self._answer(question)
        try:
            return msgspec.convert(body, question.body)  # type: ignore[return-value]
        except msgspec.ValidationError as error:
            raise WireError(f"the coordinator's answer to {question.verb} is of another version: {error}") from None

    def request(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """As `ask`, by the names of the verb and its arguments; the JSON that `--json` prints. None: not given. ConfigError for an
        unknown verb."""
        if verb not in QUESTIONS:
            raise ConfigError(f"unknown request {verb!r}: {config.suggest(verb, list(QUESTIONS), 'request')}")
        return shown(self.ask(config.convert({key: value for key, value in arguments.items() if value is not None}, QUESTIONS[verb])))

    def _answer(self, question: Question[Body]) -> Any:
        request = Request(secrets.token_hex(8), question.verb, msgspec.to_builtins(question))
        topic = topics.REQUEST.at(fleet=self.settings.fleet, sender=self.user, kind=f"request~{self.session}")
        deadline, again = time.monotonic() + self.timeout_s, 0.0
        while (now := time.monotonic()) < deadline:
            if self._connected and now >= again:
                for payload in self._payloads(request):
                    self._bus.publish(topic, payload, qos=1)
                again = now + RESEND_S
            reply = self._handle(self._next(min(deadline, again) if self._connected else deadline))
            if reply is not None and reply.id == request.id:
                return _body(reply)
        if not self._connected:
            raise self._unreachable()
        raise Unreachable(
            f"the coordinator does not answer (fleet {self.settings.fleet!r}, broker {self.where}, {self.timeout_s:g} s); "
            f"is `fog-coordinator run` up, and may user {self.user!r} ask it? `fogctl doctor` finds out"
        )

    def _payloads(self, request: Request) -> list[bytes]:
        """For every try anew: its parts have ids of their own."""
        try:
            return self._codec.payloads(request)
        except TooLarge as error:
            raise ConfigError(f"{request.verb}: the job file takes {error.size_bytes} B, more than the {error.limit_bytes} B of a message") from None

    def pump(self, until: float) -> None:
        """Take in one event, or none until that moment (monotonic)."""
        self._handle(self._next(until))

    def publish(self, topic: str, payload: bytes | bytearray | memoryview) -> None:
        self._bus.publish(topic, payload)

    def echo(self, text: str, sender: str | None = None) -> str:
        """Publish a message to our own inbox, as ourselves or in another's name; its id, for `hear`."""
        id = f"{text}-{secrets.token_hex(8)}"
        topic = topics.TO.at(fleet=self.settings.fleet, site=CLOUD_SITE, node=self.user, sender=sender or self.user, kind=self._reply_kind)
        self._bus.publish(topic, messages.encode(Reply(id)), qos=1)
        return id

    def hear(self, ids: set[str], until: set[str], at_most_s: float) -> dict[str, float]:
        """Which echoes came, and when (monotonic): returns once all of `until` have, or the time is over."""
        deadline, came = time.monotonic() + at_most_s, dict[str, float]()
        while not until <= came.keys() and (event := self._next(deadline)) is not None:
            self._handle(event)
            if isinstance(event, Received):
                try:
                    message = messages.decode(event.payload)
                except WireError:
                    continue
                if isinstance(message, Reply) and message.id in ids:
                    came[message.id] = time.monotonic()
        return came

    @property
    def where(self) -> str:
        return f"{self.settings.broker.host}:{self.settings.broker.port}"

    @property
    def _reply_kind(self) -> str:
        return f"reply~{self.session}"

    @property
    def bulk_kind(self) -> str:
        return f"bulk~{self.session}"

    def _next(self, deadline: float) -> BusEvent | None:
        try:
            return self._events.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None

    def _handle(self, event: BusEvent | None) -> Reply | None:
        match event:
            case Connected(max_payload, refused):
                self._codec.connected(max_payload)
                self._connected, self.denied = True, refused
            case Disconnected(why):
                self._connected, self._why = False, why
                if "Not authorized" in why or "Bad user name or password" in why:
                    raise Refused(
                        f"the broker {self.where} refuses user {self.settings.broker.username or '(none)'!r}; give --user and --password-file, or a fogctl.yaml"
                    )
            case Received(topic, payload):
                try:
                    route = topics.parse(topic)
                    if route.kind == self.bulk_kind:
                        self.on_bulk(route, payload)
                        return None
                    if route.sender != COORDINATOR or route.kind != self._reply_kind:
                        return None
                    message = self._codec.message(route.sender, route.kind, payload)
                except WireError:
                    return None
                return message if isinstance(message, Reply) else None
        return None

    def _unreachable(self) -> Unreachable:
        return Unreachable(f"the broker {self.where} cannot be reached ({self._why}); is it running, and is --broker right?")


def _body(reply: Reply) -> Any:
    """The body, or the error as the type that has its exit code."""
    if not reply.exit_code:
        return reply.body
    kinds: dict[int, type[FogError]] = {1: JobFailed, 2: ConfigError, 3: Unreachable, 4: Refused, 5: TimedOut}
    raise kinds.get(reply.exit_code, FogError)(reply.error or "the coordinator gives no reason")


def _mqtt(settings: Settings, client_id: str, on_event: OnEvent) -> Bus:
    from fog_common.bus.backoff import Backoff
    from fog_common.bus.mqtt import MqttBus

    return MqttBus(settings.broker, client_id, on_event, backoff=Backoff(first_s=0.2, cap_s=2.0))

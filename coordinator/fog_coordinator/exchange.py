"""Everything between the bus and the core: what arrives is checked and handed to the core, what the core says becomes frames. Pure.

The live service and the simulator drive it the same way: call a handler, then perform what `take()` returns, in order, until it returns
nothing; call `on_timer(now)` when `next_timer()` is reached. A result is told to the core after it is stored, and accepted after the
core's record of it is durable: a crash between the steps loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from fog_common.bus.base import BusEvent, Connected, Denied, Disconnected, Received
from fog_common.errors import ConfigError, TooLarge, WireError
from fog_common.ids import CLOUD_SITE, COORDINATOR, TIERS, checked_id
from fog_common.wire import topics
from fog_common.wire.messages import Announce, Goodbye, Heartbeat, Presence, Reply, Request
from fog_common.wire.parts import ControlCodec
from fog_coordinator.core import Core
from fog_coordinator.letters import Came, Letters
from fog_coordinator.reading import verbs
from fog_coordinator.state.effects import Answer, SendResult, Tell
from fog_coordinator.state.effects import Effect as CoreEffect


class Store(Struct, frozen=True):
    """Make the result durable, then call on_stored; performed at once, not behind records that wait for the journal."""

    came: Came


class Accept(Struct, frozen=True):
    """Call on_accepted, after the records before this effect are durable."""

    came: Came


class Turned(Struct, frozen=True):
    """A result was refused; the node keeps it no longer."""

    job: str
    node: str
    reason: str


class Unsent(Struct, frozen=True):
    """The Desired of a node is too large to send; emitted once per content."""

    node: str
    why: str


Effect = CoreEffect | Store | Accept | Turned | Unsent


def filters(fleet: str) -> tuple[str, ...]:
    """Topic filters of the coordinator's inbox."""
    return topics.TO.filter(fleet=fleet, site=CLOUD_SITE, node=COORDINATOR), topics.PRESENCE.filter(fleet=fleet), topics.REQUEST.filter(fleet=fleet)


class Exchange:
    """Owns the letters; the core belongs to the shell."""

    def __init__(self, fleet: str, core: Core, boots: int, publish: Callable[[str, bytes], None]) -> None:
        """boots: grows with every start of the coordinator. publish: takes every frame of letters, as (topic, payload), for QoS 0."""
        self._core = core
        self._fleet = fleet
        self._codec = ControlCodec(f"coordinator-{boots}")
        self._letters = Letters(fleet, boots, publish)
        self._out: list[Effect] = []
        self._jobs = 0

    # -- out ---------------------------------------------------------------------------------

    def take(self) -> list[Effect]:
        """Effects to perform now, in order."""
        self._collect()
        if self._jobs != len(self._core.book):
            self._jobs = len(self._core.book)
            self._letters.forget_all_but(self._core.book.names)
        effects, self._out = self._out, []
        return effects

    def frames(self, now: float, effect: Tell | Answer) -> list[tuple[str, bytes]]:
        """(topic, payload) pairs of a control message, for QoS 1, in this order. Of a message that is too large: the error instead of an
        answer; for a node nothing, and the core knows why."""
        if isinstance(effect, Answer):
            topic = topics.TO.at(fleet=self._fleet, site=CLOUD_SITE, node=effect.user, sender=COORDINATOR, kind=f"reply~{effect.session}")
            try:
                payloads = self._codec.payloads(effect.reply)
            except TooLarge as error:
                text = f"the answer is {error.size_bytes} B, more than the {error.limit_bytes} B of a message: ask for less"
                payloads = self._codec.payloads(Reply(effect.reply.id, exit_code=1, error=text))
            return [(topic, payload) for payload in payloads]
        topic = topics.from_coordinator(self._fleet, effect.site, effect.node)
        try:
            return [(topic, payload) for payload in self._codec.payloads(effect.message)]
        except TooLarge as error:
            if (why := self._core.on_unsent(now, effect.node, error.size_bytes, error.limit_bytes)) is not None:
                self._out.append(Unsent(effect.node, why))
            return []

    def next_timer(self) -> float | None:
        """None: only another event can change anything."""
        times = (self._core.next_timer(), self._letters.next_timer())
        return min((time for time in times if time is not None), default=None)

    # -- in ----------------------------------------------------------------------------------

    def on_bus(self, now: float, event: BusEvent) -> None:
        """WireError for a message that is dropped; its `reason` says why."""
        match event:
            case Connected(max_payload, refused):
                self._codec.connected(max_payload)
                self._core.denied = refused
                self._core.on_connected(now)
                self._letters.connected(now)
            case Denied(refused):
                self._core.denied = (*self._core.denied, *refused)
            case Disconnected():
                self._core.on_disconnected(now)
                self._letters.disconnected(now)
            case Received(topic, payload):
                self._receive(now, topics.parse(topic), payload)

    def on_timer(self, now: float) -> None:
        at = self._core.next_timer()
        if at is not None and at <= now:
            self._core.on_timer(now)
        at = self._letters.next_timer()
        if at is not None and at <= now:
            for came in self._letters.on_timer(now):
                self.on_result(now, came)

    def on_result(self, now: float, came: Came) -> None:
        """A result arrived; called again for one that the shell could not store."""
        result, node = came.result, came.letter.node
        why = self._core.expects(result.job, result.task, node)
        if why is None:
            self._out.append(Store(came))
        elif why:
            self._out.append(Turned(result.job, node, why))
            came.refuse(why)
        else:
            came.accept()  # stored already: the acknowledgement was lost
        self._letters.pump()

    def on_stored(self, now: float, came: Came) -> None:
        """The result is durable."""
        result = came.result
        self._core.on_result(now, result.job, result.numbers, came.digest, result.why, result.history)
        self._collect()
        self._out.append(Accept(came))

    def on_accepted(self, came: Came) -> None:
        """The core's record of the result is durable: the node may forget the result."""
        came.accept()
        self._letters.pump()

    def send_result(self, now: float, effect: SendResult, weights: bytes) -> None:
        """Performs a SendResult. weights: as stored."""
        numbers = self._core.book[effect.job].job.numbers
        self._letters.send(now, effect.user, effect.session, effect.job, numbers, effect.digest, weights)

    # -- inside ------------------------------------------------------------------------------

    def _collect(self) -> None:
        self._out += self._core.take()

    def _receive(self, now: float, route: topics.Route, payload: bytes) -> None:
        core = self._core
        if route.kind.startswith(f"{topics.BULK}~"):
            known = route.kind.removeprefix(f"{topics.BULK}~") in core.book and core.registry.get(route.sender) is not None
            for came in self._letters.on_frame(now, route, payload, known):
                self.on_result(now, came)
            return
        message = self._codec.message(route.sender, f"{route.plane} {route.kind}", payload)
        if message is None:
            return
        if isinstance(message, Request):
            if route.plane != "ctl" or not route.kind.startswith("request~"):
                raise WireError("a request outside the operators' topic", "not_allowed")
            verbs.answer(core, now, route.sender, route.kind.removeprefix("request~"), message)
            return
        if isinstance(message, Presence | Announce | Heartbeat | Goodbye) and message.node != route.sender:
            raise WireError(f"{type(message).__name__} of {message.node!r} came from {route.sender!r}", "wrong_sender")
        if isinstance(message, Announce):
            _check_announced(message)
        match message:
            case Presence() if route.plane == "node":
                core.on_presence(now, message)
            case Announce() if route.kind == topics.CONTROL:
                core.on_announce(now, message)
            case Heartbeat() if route.kind == topics.CONTROL:
                core.on_heartbeat(now, message)
            case Goodbye() if route.kind == topics.CONTROL:
                core.on_goodbye(now, message)
            case _:
                raise WireError(f"the coordinator takes no {type(message).__name__} on this topic", "not_for_coordinator")


def _check_announced(announce: Announce) -> None:
    """WireError for an id or a site that cannot become a level of a topic, and for an unknown tier."""
    try:
        checked_id(announce.node, "node")
        checked_id(announce.profile.site, "site")
    except ConfigError as error:
        raise WireError(str(error), "bad_id") from None
    if announce.node == COORDINATOR or announce.profile.tier not in TIERS:
        raise WireError(f"announced as node {announce.node!r} of tier {announce.profile.tier!r}; tiers are {', '.join(TIERS)}", "bad_id")

"""The coordinator's live shell: one inbox, one thread that owns the core and performs what it wants."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from fog_common.bus.base import Bus, BusEvent, Connected, Denied, Disconnected, Received
from fog_common.errors import FogError, WireError
from fog_common.program.inbox import Inbox, StopAsked
from fog_common.program.notify import Pulse, notify
from fog_coordinator.core import Core
from fog_coordinator.exchange import Accept, Effect, Exchange, Store, Turned, Unsent, filters
from fog_coordinator.letters import Came
from fog_coordinator.reading.exporter import Exporter
from fog_coordinator.shell.journal import Journal, JournalError
from fog_coordinator.shell.results import Results
from fog_coordinator.shell.scrape import Look, LookAsked
from fog_coordinator.state.effects import Answer, JournalRecord, SendResult, Tell

log = logging.getLogger(__name__)

KEEP_S: Final = 60.0
"""So often the counts are written down, whether somebody looks at them or not."""
RETRY_S: Final = 2.0
"""After this long a write that the disk refused is tried again."""
LONGEST_SLEEP_S: Final = 60.0
MAX_HELD: Final = 10_000
"""Effects that wait for the journal; beyond it the oldest messages to nodes are dropped (they are level-triggered)."""


Item = BusEvent | StopAsked | LookAsked


class Clock:
    """The coordinator's seconds: about Unix time, but they never jump while it runs and never go back over restarts."""

    def __init__(self, latest: float) -> None:
        """latest: the last time that was ever recorded."""
        self._zero = max(time.time(), latest) - time.monotonic()

    def __call__(self) -> float:
        return self._zero + time.monotonic()


class Service:
    """Built by fog_coordinator.shell.app; run() is the whole life."""

    def __init__(
        self, fleet: str, *, core: Core, journal: Journal, results: Results, bus: Bus, inbox: Inbox[Item], clock: Callable[[], float]
    ) -> None:
        self._fleet = fleet
        self._core, self._journal, self._results, self._bus, self._inbox, self._clock = core, journal, results, bus, inbox, clock
        self._exchange = Exchange(fleet, core, journal.boots, self._send)
        self._waiting: deque[Effect] = deque()
        self._retry_at: float | None = None
        self._unsaved: list[Came] = []
        self._jobs = 0
        self._stopped = False
        self._connected = False
        self._exporter = Exporter(core)
        self._pulse = Pulse()
        self._keep_at = 0.0
        self._bytes = {"sent": 0, "received": 0}
        self.rejected: dict[str, int] = {}
        """Messages that were dropped, by reason."""

    def run(self) -> int:
        """Until SIGTERM. Jobs go on without us. 0."""
        self._bus.subscribe(*filters(self._fleet), qos=1)
        self._bus.start()
        notify("READY=1", "STATUS=connecting")
        try:
            while not self._stopped:
                item = self._inbox.next(self._wake_at() - self._clock())
                now = self._clock()
                if item is not None:
                    self._handle(item, now)
                self._keep_time(now)
                self._perform(now)
        finally:
            self._bus.close()
            self._journal.close()
        log.info("stopped")
        return 0

    def _wake_at(self) -> float:
        now = self._clock()
        times = [self._exchange.next_timer(), self._retry_at, self._pulse.next_at, now + LONGEST_SLEEP_S]
        return min(time for time in times if time is not None)

    def _keep_time(self, now: float) -> None:
        at = self._exchange.next_timer()
        if at is not None and at <= now:
            self._exchange.on_timer(now)
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            unsaved, self._unsaved = self._unsaved, []
            for came in unsaved:
                self._exchange.on_result(now, came)
        if now >= self._keep_at:
            self._keep(now)
        self._pulse.beat(now)

    # -- in ----------------------------------------------------------------------------------

    def _handle(self, item: Item, now: float) -> None:
        match item:
            case Connected(_, refused):
                log.info("connected")
                self._say_deaf(refused)
                notify(f"STATUS=connected, fleet {self._fleet}")
                self._connected = True
                self._exchange.on_bus(now, item)
            case Denied(refused):
                self._say_deaf(refused)
                self._exchange.on_bus(now, item)
            case Disconnected(why):
                log.warning("disconnected why=%s", why)
                self._connected = False
                self._exchange.on_bus(now, item)
            case Received(topic, payload):
                self._bytes["received"] += len(payload)
                try:
                    self._exchange.on_bus(now, item)
                except WireError as error:
                    self._reject(error.reason, topic, error)
                except Exception as error:  # one bad message must not keep the others from being heard
                    log.exception("a message could not be handled topic=%s", topic[:200])
                    self._reject("internal", topic, error)
            case StopAsked():
                notify("STOPPING=1")
                self._keep(now)
                self._stopped = True
            case LookAsked():
                if item.samples:
                    self._keep(now)
                item.answer(self._look(now, item.samples))

    def _say_deaf(self, refused: tuple[str, ...]) -> None:
        if refused:
            log.error("the coordinator is deaf: the broker refuses %s; correct its access list", ", ".join(refused))

    def _keep(self, now: float) -> None:
        """Not while the journal refuses: what waits for it must not pile up."""
        self._keep_at = now + KEEP_S
        if self._retry_at is None:
            self._core.keep()
            self._perform(now)

    def _look(self, now: float, samples: bool) -> Look:
        problems: tuple[str, ...] = () if self._connected else ("not connected to the broker",)
        if self._retry_at is not None:
            problems += ("the journal or a result cannot be written",)
        if not samples:
            return Look({}, problems)
        try:
            return Look(self._exporter.collect(now, connected=self._connected, rejected=self.rejected, traffic=self._bytes), problems)
        except Exception as error:  # who only looks must not end the one who works
            log.exception("the metrics cannot be collected")
            return Look({}, problems, f"the metrics cannot be collected: {type(error).__name__}: {error}")

    def _reject(self, reason: str, topic: str, error: Exception) -> None:
        count = self.rejected[reason] = self.rejected.get(reason, 0) + 1
        if count & (count - 1) == 0:  # 1, 2, 4, 8 …: a flood must not fill the log
            log.warning("message rejected topic=%s reason=%s count=%d error=%s", topic[:200], reason, count, error)

    # -- out ---------------------------------------------------------------------------------

    def _perform(self, now: float) -> None:
        """Effects in order; all wait while the journal cannot be written."""
        self._collect(now)
        if self._retry_at is not None and self._waiting and isinstance(self._waiting[0], JournalRecord):
            self._shed()
            return
        while self._waiting:
            effect = self._waiting[0]
            match effect:
                case JournalRecord(rows):
                    try:
                        self._journal.write(rows, now)
                    except JournalError as error:
                        log.error("%s; trying again in %.0f s", error, RETRY_S)
                        self._retry_at = now + RETRY_S
                        return
                case Tell() | Answer():
                    for frame in self._exchange.frames(now, effect):
                        self._send(*frame, qos=1)
                case SendResult():
                    self._send_result(now, effect)
                case Accept(came):
                    self._exchange.on_accepted(came)
            self._waiting.popleft()
        if self._jobs != len(self._core.book):
            self._jobs = len(self._core.book)
            self._results.forget_all_but(self._core.book.names)

    def _collect(self, now: float) -> None:
        """Results are stored at once; everything else waits its turn."""
        while effects := self._exchange.take():
            for effect in effects:
                match effect:
                    case Store(came):
                        self._store(now, came)
                    case Turned(job, node, reason):
                        log.warning("result refused job=%s node=%s reason=%s", job, node, reason)
                    case Unsent(node, why):
                        log.error("a node cannot be told what to run node=%s why=%s", node, why)
                    case _:
                        self._waiting.append(effect)

    def _store(self, now: float, came: Came) -> None:
        result, entry = came.result, self._core.book[came.result.job]
        history = {record.round: record for record in (*(item.record for item in entry.history.after(0)), *result.history)}
        figures = {
            "job": result.job,
            "numbers": result.numbers,
            "why": result.why,
            "digest": came.digest,
            "history": [msgspec.to_builtins(history[number]) for number in sorted(history)],
            "spec": entry.job.spec,
        }
        try:
            self._results.save(result.job, came.weights, figures)
        except OSError as error:
            log.error("result cannot be stored, trying again job=%s error=%s", result.job, error)
            self._unsaved.append(came)
            self._retry_at = now + RETRY_S
            return
        self._exchange.on_stored(now, came)

    def _shed(self) -> None:
        if len(self._waiting) > MAX_HELD:
            self._waiting = deque(effect for effect in self._waiting if not isinstance(effect, Tell))

    def _send_result(self, now: float, effect: SendResult) -> None:
        weights = self._results.weights(effect.job)
        if weights is None:
            log.error("the weights of a finished job are not in the results folder job=%s", effect.job)
            return
        self._exchange.send_result(now, effect, weights)

    def _send(self, topic: str, payload: bytes, qos: int = 0) -> None:
        self._bytes["sent"] += len(payload)
        try:
            self._bus.publish(topic, payload, qos=qos)
        except (FogError, ValueError) as error:
            log.error("cannot send topic=%s error=%s", topic[:200], error)

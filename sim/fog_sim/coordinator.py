"""The coordinator's process in virtual time: the real core and exchange; the journal is kept in memory as the rows that SQLite would hold."""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from fog_common.bus.base import BusEvent
from fog_common.errors import WireError
from fog_common.wire.api.shown import shown
from fog_common.wire.api.verbs import Body, Question
from fog_common.wire.messages import Reply, Request
from fog_coordinator.core import Core
from fog_coordinator.exchange import Accept, Exchange, Store, Turned, Unsent, filters
from fog_coordinator.reading import verbs
from fog_coordinator.state.effects import Answer, JournalRecord, Row, SendResult, Tell
from fog_sim.kernel import Kernel, Wakeup
from fog_sim.links import WIRED
from fog_sim.network import Connection, Port, SimBroker

USER: Final = "operator"


class Surroundings(Protocol):
    """The simulation, as the coordinator needs it."""

    kernel: Kernel
    broker: SimBroker
    fleet: str

    def trace(self, what: str, node: str, text: str) -> None: ...


class SimCoordinator:
    """Rows and results survive kill()."""

    def __init__(self, world: Surroundings) -> None:
        self.world = world
        self.port = Port(WIRED)
        self.rows: dict[str, dict[tuple[str | int, ...], bytes]] = {}
        self.results: dict[str, bytes] = {}
        self.replies: dict[str, Reply] = {}
        self.alive = False
        self.connection: Connection | None = None
        self.core: Core | None = None
        self._exchange: Exchange | None = None
        self._boots = 0
        self._asked = 0
        self._alarm = Wakeup(world.kernel, self._timer)

    def boot(self) -> None:
        self._boots += 1
        self.alive = True
        tables = {table: sorted(rows.items()) for table, rows in self.rows.items()}
        connection = self.connection = Connection(self.world.broker, self.port, self._bus_event)
        core = self.core = Core(f"coordinator-{self._boots}", tables)
        self._exchange = Exchange(self.world.fleet, core, self._boots, connection.publish)
        connection.subscribe(*filters(self.world.fleet))
        connection.start()

    def kill(self) -> None:
        if self.alive and self.connection is not None:
            self.alive = False
            self._alarm.set(None)
            self.connection.kill()

    def request(self, verb: str, **arguments: Any) -> Reply:
        """As fogctl would, without the wire: the answer comes at once, its body as the JSON that fogctl prints."""
        reply = self._reply(verb, arguments)
        return Reply(reply.id, shown(reply.body) if reply.body is not None else {}, reply.exit_code, reply.error)

    def ask(self, question: Question[Body]) -> Body:
        """As `request`, for a question that the coordinator does not refuse."""
        body: Body = self._reply(question.verb, msgspec.to_builtins(question)).body
        return body

    def _reply(self, verb: str, arguments: dict[str, Any]) -> Reply:
        assert self.core is not None
        self._asked += 1
        session = f"s{self._asked}"
        verbs.answer(self.core, self.world.kernel.now, USER, session, Request(f"r{self._asked}", verb, arguments))
        self._perform()
        return self.replies.pop(session)

    def _bus_event(self, event: BusEvent) -> None:
        if not self.alive or self._exchange is None:
            return
        try:
            self._exchange.on_bus(self.world.kernel.now, event)
        except WireError as error:
            self.world.trace("rejected", "coordinator", f"{error.reason}: {error}")
        self._perform()

    def _timer(self) -> None:
        if self.alive and self._exchange is not None:
            self._exchange.on_timer(self.world.kernel.now)
            self._perform()

    def _perform(self) -> None:
        exchange, connection, now = self._exchange, self.connection, self.world.kernel.now
        assert exchange is not None
        assert connection is not None
        while effects := exchange.take():
            for effect in effects:
                match effect:
                    case JournalRecord(rows):
                        self._write(rows)
                    case Tell():
                        for frame in exchange.frames(now, effect):
                            connection.publish(*frame, qos=1)
                    case Answer(_, session, reply):
                        self.replies[session] = reply
                    case Store(came):
                        self.results[came.result.job] = bytes(came.weights or b"")
                        exchange.on_stored(now, came)
                    case Accept(came):
                        exchange.on_accepted(came)
                    case SendResult(job):
                        exchange.send_result(now, effect, self.results[job])
                    case Turned(job, node, reason):
                        self.world.trace("refused", node, f"result of {job}: {reason}")
                    case Unsent(node, why):
                        self.world.trace("unsent", node, why)
        self._alarm.set(exchange.next_timer() if self.alive else None)

    def _write(self, rows: tuple[Row, ...]) -> None:
        for row in rows:
            table = self.rows.setdefault(row.table, {})
            if row.body is None:
                for key in [key for key in table if key[: len(row.key)] == row.key]:
                    del table[key]
            else:
                table[row.key] = row.body

"""Ops between a machine and the thread that runs them: which of them count, which are not run at all."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, ClassVar

import pytest
from msgspec import field

from fog_agent.worker.opqueue import OpQueue
from fog_common.runtime.effects import Compute, Persist, Withdraw
from fog_common.runtime.host import Host
from fog_common.runtime.machine import Blob, Cancel, Command, Delivered, Event, Failed, Machine, Peer, Ran, Run, Send, Started
from fog_common.runtime.refs import BlobTable, Refs
from fog_common.runtime.saves import Program
from fog_common.runtime.shelf import Shelf
from fog_common.transfer.endpoint import Address, Endpoint
from fog_common.wire.messages import DesiredJob, Placement
from fog_learning.methods.fedavg.messages import NoUpdate, Plan, RoundCall, Update
from fog_learning.methods.fedavg.trainer import Trainer

WEIGHTS = Blob("0" * 64, 8)


class Puppet(Machine):
    """Does what the test says and remembers what it heard."""

    heard: list[Any] = field(default_factory=list)
    orders: ClassVar[deque[list[Command]]] = deque()

    def step(self, event: Event, now: float) -> list[Command]:
        if not isinstance(event, Started):
            self.heard.append(event)
        return self.orders.popleft() if self.orders else []


class NoCodec:
    def encode(self, value: Any) -> bytes:
        return str(value).encode()

    def decode(self, content: Any) -> Any:
        return bytes(content)


class Shell:
    """Ops wait in a real queue until the test lets one run."""

    def __init__(self, *orders: list[Command], trainer: Machine | None = None) -> None:
        Puppet.orders = deque(orders)
        self.puppet = Puppet()
        machines: dict[str, Machine] = {"server": self.puppet, **({"trainer": trainer} if trainer else {})}
        me = Address("n", "s", "edge", "bulk~j")
        blobs = BlobTable()
        self.host = Host(
            me,
            job="j",
            incarnation=1,
            program=Program({"server": Puppet, "trainer": Trainer}, (RoundCall, Update, NoUpdate)),
            build=lambda peer: machines[peer.role],
            refs=Refs(NoCodec(), blobs, "n-1"),
            endpoint=Endpoint(me, "main", "j", 1, blobs),
            shelf=Shelf(),
        )
        self.ops = OpQueue()
        self.peers = tuple(Peer(role, role, slot, "n", "s", "edge", incarnation=1, since=1) for slot, role in enumerate(machines))
        self.place(1)

    def place(self, view: int, rewind: int | None = None) -> None:
        table = Placement("j", view, "server", self.peers, rewind=rewind, rewind_view=view if rewind is not None else 0)
        self.host.on_placement(0.0, DesiredJob("j", {}, table))
        self.perform()

    def perform(self) -> None:
        for effect in self.host.take():
            match effect:
                case Compute():
                    self.ops.put(effect)
                case Withdraw(serial):
                    if (compute := self.ops.withdraw(serial)) is not None:
                        self.host.on_withdrawn(compute)
                case Persist(record, replica):
                    self.host.on_persisted(0.0, record, replica)

    def begin(self) -> Compute:
        compute = self.ops.get()
        assert compute is not None
        return compute

    def ran(self, compute: Compute, **numbers: float) -> None:
        self.host.on_ran(0.0, compute, {"weights": compute.serial}, numbers)
        self.perform()


def test_an_op_that_is_cancelled_before_it_begins_is_not_run():
    shell = Shell([Run("long", {}, ("a", 1)), Run("short", {}, ("b", 1)), Cancel(("a", 1))])
    assert shell.begin().op == "short"
    assert len(shell.ops) == 0


def test_an_op_that_is_cancelled_while_it_runs_ends_without_its_event():
    shell = Shell([Run("first", {}, ("a", 1)), Run("second", {}, ("b", 1))], [Cancel(("c", 1)), Cancel(("b", 1))])
    first, second = shell.begin(), shell.begin()
    shell.ran(first)
    shell.ran(second)
    assert [event.tag for event in shell.puppet.heard] == [("a", 1)]


@pytest.mark.parametrize("begun", [False, True], ids=["it waited", "it ran"])
def test_the_same_tag_counts_again_after_a_cancel(begun: bool):
    """The result of the second Run is heard, that of the first is not."""
    shell = Shell([Run("blocker", {}, ("x",)), Run("train", {}, ("a", 1), {"try": 1})], [Cancel(("a", 1)), Run("train", {}, ("a", 1), {"try": 2})])
    blocker = shell.begin()
    old = shell.begin() if begun else None
    shell.ran(blocker)
    if old is not None:
        shell.ran(old)
    new = shell.begin()
    assert new.numbers == {"try": 2}
    shell.ran(new, loss=0.5)
    assert [(event.tag, event.numbers) for event in shell.puppet.heard if isinstance(event, Ran)] == [(("x",), {}), (("a", 1), {"loss": 0.5})]
    assert len(shell.ops) == 0


def test_a_task_that_falls_back_takes_its_waiting_ops_with_it():
    shell = Shell([Run("old", {}, ("a", 1)), Run("old", {}, ("a", 2))], [Run("new", {}, ("a", 1))])
    shell.place(2, rewind=-1)
    assert [shell.begin().op, len(shell.ops)] == ["new", 0]


def test_a_trainer_whose_evaluation_failed_trains_when_it_is_asked_again():
    """It cancels its training, and the server's next try of the same round has the same tag."""
    ask: list[Command] = [Send("trainer", RoundCall(1, WEIGHTS, rate=True))]
    shell = Shell(ask, ask, trainer=Trainer(plan=Plan(), slot=0))
    evaluation = shell.begin()
    shell.host.on_failed(0.0, evaluation, "no memory")
    shell.perform()
    assert [event.message.why for event in shell.puppet.heard if isinstance(event, Delivered)] == ["evaluation failed: no memory"]
    again, training = shell.begin(), shell.begin()
    assert (again.op, training.op, len(shell.ops)) == ("evaluate_local", "train", 0)
    shell.ran(again, accuracy=0.5, loss=1.0, examples=4.0)
    shell.ran(training, examples=8.0, loss=0.25)
    updates = [event.message for event in shell.puppet.heard if isinstance(event, Delivered) and isinstance(event.message, Update)]
    assert [(update.round, update.examples) for update in updates] == [(1, 8)]


def test_the_queue_of_ops_wakes_its_thread_and_ends_it():
    queue, seen = OpQueue(), []

    def run() -> None:
        while (compute := queue.get()) is not None:
            seen.append(compute.serial)
            if compute.serial == 2:
                queue.close()

    thread = threading.Thread(target=run)
    thread.start()
    for serial in (1, 2):
        queue.put(Compute(serial, "t", 1, ("a",), "op", {}, {}, {}))
    thread.join(10.0)
    assert (thread.is_alive(), seen, queue.withdraw(2)) == (False, [1, 2], None)


def test_a_failed_op_that_was_cancelled_is_no_event():
    shell = Shell([Run("a", {}, ("a",)), Run("b", {}, ("b",))], [Cancel(("b",))])
    first, second = shell.begin(), shell.begin()
    shell.ran(first)
    shell.host.on_failed(0.0, second, "too late")
    assert not any(isinstance(event, Failed) for event in shell.puppet.heard)

"""State that the parts of a host share: its tasks and tables, waiting events, effects for the shell."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from fog_common.runtime.closed import ClosedRounds
from fog_common.runtime.copies import Copies
from fog_common.runtime.effects import Changed, Effect, Withdraw
from fog_common.runtime.fetches import Fetches
from fog_common.runtime.machine import Delivered, Event, Machine, Peer
from fog_common.runtime.mail import Mail
from fog_common.runtime.refs import Refs
from fog_common.runtime.saves import Codebook, Program, Record
from fog_common.runtime.shelf import Shelf
from fog_common.runtime.stimuli import Stimuli
from fog_common.runtime.table import Table
from fog_common.runtime.task import Task
from fog_common.runtime.unheard import Unheard
from fog_common.transfer.endpoint import Address, Endpoint, Letter


class Hosted:
    """The shared state of a host, made by `Host`."""

    def __init__(
        self,
        me: Address,
        job: str,
        incarnation: int,
        program: Program,
        build: Callable[[Peer], Machine],
        refs: Refs,
        endpoint: Endpoint,
        shelf: Shelf,
    ) -> None:
        self.me = me
        self.job = job
        self.incarnation = incarnation
        self.refs = refs
        self.endpoint = endpoint
        self.shelf = shelf
        self.build = build
        self.codebook = Codebook(program)
        self.mail = Mail(endpoint, self.codebook)
        self.copies = Copies(self.mail, refs.blobs)
        self.fetches = Fetches(self.mail)
        self.unheard = Unheard()
        self.table = Table(me, incarnation)
        self.tasks: dict[str, Task] = {}
        self.ingress: dict[str, Address] = {}
        """Ingress peer -> where its last question came from."""
        self.root_saved = -1
        """Newest safe label of the root: its copy is on another disk, or no copy is kept."""
        self.history_seen = 0
        """Rounds of this instance of the root that the coordinator has acknowledged."""
        self.age = (0.0, 0.0)
        """(host time, job time at that host time)."""
        self.persisting: dict[tuple[str, int], Record] = {}
        """(task, label) -> record on its way to the disk."""
        self.replica_letters: dict[tuple[str, int], Letter] = {}
        """(task, label) -> letter with a copy that is on its way to the disk."""
        self.queue: deque[tuple[str, int, Event]] = deque()
        """(task, its epoch, event) in order."""
        self.early: dict[str, list[Event]] = {}
        """Events for tasks of this node that are not open yet."""
        self.parked: list[Letter] = []
        """Letters of a newer view, or to tasks that are not open yet."""
        self.counters: dict[str, float] = {}
        self.measured: dict[str, float] = {}
        self.stimuli = Stimuli()
        self._effects: list[Effect] = []
        self._urgent: bool | None = None
        self._epochs = 0
        self._computes = 0

    # -- events ----------------------------------------------------------------------------

    def post(self, name: str, event: Event) -> None:
        """Queue an event for a task of this node. A message from another task of this host waits until the task is open."""
        task = self.tasks.get(name)
        if task is not None:
            self.queue.append((name, task.epoch, event))
        elif isinstance(event, Delivered) and self.table.mine(name):
            self.early.setdefault(name, []).append(event)

    def welcome(self, name: str) -> None:
        """Queue the messages that other tasks of this host sent before the task was open."""
        for event in self.early.pop(name, []):
            self.post(name, event)

    # -- tasks -----------------------------------------------------------------------------

    def acknowledge(self, seen: int) -> None:
        """The coordinator has the root's rounds up to `seen`.

        The number counts only for the root's instance in the table (0 if the root is elsewhere): after a fall-back, an older number
        would drop rounds that are closed again.
        """
        self.history_seen = seen if self.table.mine(self.table.root) else 0
        if (root := self.tasks.get(self.table.root)) is not None:
            root.closed.acknowledge(self.history_seen)

    def closed(self, task: str, record: Record | None) -> ClosedRounds:
        """Closed rounds of a task that begins from this Save; None: from the beginning."""
        closed = ClosedRounds(self.refs.blobs, b"" if record is None else record.rounds)
        if task == self.table.root:
            closed.acknowledge(self.history_seen)
        return closed

    def next_epoch(self) -> int:
        self._epochs += 1
        return self._epochs

    def next_compute(self) -> int:
        self._computes += 1
        return self._computes

    def drop(self, name: str) -> None:
        """Stop a task that left this host; its Saves stay on the disk."""
        task = self.tasks.pop(name)
        for serial in task.computing:
            if serial not in task.cancelled:
                self.emit(Withdraw(serial))
        self.refs.forget_task(name)
        self.mail.cancel_task(name)
        self.copies.drop(name)
        self.queue = deque(item for item in self.queue if item[0] != name)

    def ingress_address(self, name: str) -> Address | None:
        """Where the table's ingress peer of that name hears answers; None if it is none, or has not asked and is not said to be anywhere."""
        return (self.ingress.get(name) or self.table.address_of(name)) if self.table.is_ingress(name) else None

    # -- effects ---------------------------------------------------------------------------

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def change(self, urgent: bool) -> None:
        """The worker's report changed; several changes make one effect."""
        self._urgent = urgent or bool(self._urgent)

    def take(self) -> list[Effect]:
        if self._urgent is not None:
            self._effects.append(Changed(self._urgent))
            self._urgent = None
        effects, self._effects = self._effects, []
        return effects

    def count(self, name: str, by: float = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + by

    def refuse(self, letter: Letter, reason: str) -> None:
        self.count(f"rejected_{reason}_total")
        self.endpoint.refuse(letter, reason)

    # -- for debugging ---------------------------------------------------------------------

    def validate(self) -> list[str]:
        """Invariants of the shared state that do not hold, one line each."""
        wrong = []
        for name, task in self.tasks.items():
            saving = task.saves_begun - task.saves_done
            if name != task.peer.task:
                wrong.append(f"{name}: its peer is {task.peer.task}")
            if not self.table.mine(name) and not self.table.is_silent(task.peer):
                wrong.append(f"{name}: runs here, the table has it elsewhere")
            if len(task.saving) != saving:
                wrong.append(f"{name}: {len(task.saving)} labels on their way to the disk, {saving} Saves not done")
            if task.held and min(number for number, _ in task.held) <= task.saves_done:
                wrong.append(f"{name}: a message is held back by a Save that is done")
            if [number for number, _ in task.held] != sorted(number for number, _ in task.held):
                wrong.append(f"{name}: held messages are out of order")
            if not task.cancelled <= task.computing.keys():
                wrong.append(f"{name}: a cancelled op is not among its ops")
            if name in self.early:
                wrong.append(f"{name}: is open, and events for it wait as if it were not")
            held = [command for _, command in task.held]
            if any(send.keep is None or (send.keep <= self.root_saved and send not in held) for send in task.kept):
                wrong.append(f"{name}: its spool holds what the root has saved (up to {self.root_saved})")
            if task.result is not None and not task.finished:
                wrong.append(f"{name}: has a result and is not finished")
        newest = max((task.epoch for task in self.tasks.values()), default=0)
        if newest > self._epochs or len({task.epoch for task in self.tasks.values()}) != len(self.tasks):
            wrong.append("epochs of tasks are not unique")
        return wrong

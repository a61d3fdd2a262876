"""Effect of a table of the coordinator on a host: tasks stop, go back or begin, and learn of other tasks.

`Placer.place` takes these steps, in this order:

1. compare: instances that are gone, instances that have come, whether the root fell back (`root_saved` is then unknown);
2. give up letters to instances that are gone, and answers to ingress peers that are; messages to a silent one wait for it;
3. drop tasks that are not this node's any more, then tasks that go back: before step 4, or their letters would be offered under the new view;
4. stamp letters with the new view;
5. reopen tasks that go back, from their Save;
6. give running tasks `Left` for all that are gone, then `Joined` for all that have come: before step 8, so that a message of a new
   instance never comes before its `Joined`;
7. open tasks that are new here, from a Save of this disk, of another node, or from the beginning;
8. send again: kept messages to new instances, refused letters, messages that silent tasks missed;
9. copy the newest Saves again whose copies are not confirmed, or whose buddy changed;
10. listen to the casts of this node's roles; end the job with its present model if the table says stop.

The host then takes letters that waited for this view (fog_common.runtime.inbound).
"""

from __future__ import annotations

from fog_common.runtime import rewind
from fog_common.runtime.barrier import Barrier
from fog_common.runtime.effects import Listen
from fog_common.runtime.hosted import Hosted
from fog_common.runtime.machine import Finish, Joined, Left, Peer, Rewound, Started
from fog_common.runtime.outbound import Outbound
from fog_common.runtime.saves import Record
from fog_common.runtime.table import Table
from fog_common.runtime.task import Task
from fog_common.wire.messages import DesiredJob


class Placer:
    def __init__(self, hosted: Hosted, outbound: Outbound, barrier: Barrier) -> None:
        self._hosted = hosted
        self._outbound = outbound
        self._barrier = barrier
        self._listening: tuple[str, ...] = ()

    def place(self, now: float, desired: DesiredJob) -> None:
        """Take over a table with a newer view, by the steps of the module text."""
        hosted, new = self._hosted, desired.placement
        old, hosted.table = hosted.table, Table(hosted.me, hosted.incarnation, new)
        peers = hosted.table.peers
        hosted.age = (now, desired.age_s)
        hosted.acknowledge(desired.history_seen)
        gone = [peer for peer in old.peers.values() if peer.live and not _same(peer, peers.get(peer.task))]
        come = [peer for peer in new.tasks if peer.live and not _same(peer, old.peers.get(peer.task))]
        fell_back = any(peer.task == new.root for peer in come) or rewind.falls_back(old.placement, new)
        if fell_back:
            hosted.root_saved = -1  # unknown until the root announces a safe Save again
        self._give_up(gone)
        self._shut(old)
        for name, task in list(hosted.tasks.items()):
            if not hosted.table.mine(name) and not hosted.table.is_silent(task.peer):
                hosted.drop(name)
        hosted.fetches.forget_others(hosted.table)
        back = rewind.due(hosted.tasks, new)
        for name in back:
            hosted.drop(name)
        hosted.endpoint.stamp(now, new.view, hosted.root_saved)
        running = sorted(hosted.tasks)
        for name in running:
            hosted.tasks[name].peer = peers[name]
        for name in back:
            self._reopen(now, peers[name], hosted.shelf.newest(name, new.rewind))
        self._tell(running, gone, come)
        for peer in new.tasks:
            if hosted.table.mine(peer.task) and peer.task not in hosted.tasks:
                self._open(now, peer)
        for name in running:
            back_again = any(peer.task == name for peer in come)  # its letters were refused while the table counted it as gone
            self._outbound.resend_kept(now, name, {peer.task for peer in (new.tasks if back_again else come)})
        self._outbound.retry_refused(now)
        for peer in come:
            self._outbound.send_unheard(now, peer)
        self._copy_anew(now, old, fell_back)
        self._listen()
        self.stop(now)

    # -- steps of a placement --------------------------------------------------------------

    def _give_up(self, gone: list[Peer]) -> None:
        """Forget letters to instances that are gone; their messages wait for the silent ones among them."""
        hosted, peers = self._hosted, self._hosted.table.peers
        for was in gone:
            hosted.unheard.silent(was, peers.get(was.task), hosted.mail.give_up(was.node, was.task, was.role))
        hosted.unheard.forget_moved(peers)
        live = {(peer.node, peer.incarnation) for peer in peers.values() if peer.live}
        for node in sorted({peer.node for peer in gone if (peer.node, peer.incarnation) not in live and peer.node != hosted.me.node}):
            hosted.endpoint.forget_peer(node)

    def _shut(self, old: Table) -> None:
        """Answers to ingress peers that the table no longer names are forgotten."""
        hosted = self._hosted
        for name in [name for name in old.placement.ingress if not hosted.table.is_ingress(name)]:
            hosted.mail.give_up(name, name, "")
            hosted.ingress.pop(name, None)
            if not hosted.table.incarnation(name):
                hosted.endpoint.forget_peer(name)

    def _tell(self, running: list[str], gone: list[Peer], come: list[Peer]) -> None:
        hosted, table = self._hosted, self._hosted.table
        for name in running:
            for peer in gone:
                if peer.task != name:
                    hosted.post(name, Left(peer, peer.task in table.peers and table.peers[peer.task].live, table.view))
            for peer in come:
                if peer.task != name:
                    hosted.post(name, Joined(peer, table.view))

    def _copy_anew(self, now: float, old: Table, fell_back: bool) -> None:
        hosted = self._hosted
        for name in hosted.tasks:
            unconfirmed = hosted.copies.unconfirmed(name) or (fell_back and name == hosted.table.root)
            moved = old.view > 0 and old.buddy(name) != hosted.table.buddy(name)
            if (unconfirmed or moved) and (newest := hosted.shelf.newest(name)) is not None:
                self._barrier.replicate(now, newest, anew=True)

    def _listen(self) -> None:
        hosted = self._hosted
        roles = tuple(sorted({task.peer.role for task in hosted.tasks.values()} | hosted.table.roles()))
        if roles != self._listening:
            self._listening = roles
            hosted.emit(Listen(roles))

    def stop(self, now: float) -> None:
        """End the job with its present model, if the table says so: the root goes back to its newest Save, whose blobs stay, and stops by it."""
        hosted = self._hosted
        root, why = hosted.table.root, hosted.table.placement.stop
        task = hosted.tasks.get(root) if why else None
        if task is None or task.stopping or task.finished:
            return
        record = hosted.shelf.newest(root)
        hosted.drop(root)
        machine = hosted.codebook.machine(record) if record is not None else task.machine
        zero = task.zero if record is None else now - record.job_now
        closed = task.closed if record is None else hosted.closed(root, record)
        task = hosted.tasks[root] = Task(task.peer, machine, zero, hosted.next_epoch(), closed)
        task.stopping = True
        if record is not None:
            task.saved = record.label
            self._barrier.replicate(now, record)
        none = Finish(why=f"{why}; there was no model yet")
        self._barrier.perform(now, task, [none] if record is None else machine.stop(why, hosted.table.live(), task.job_now(now)))

    # -- a task begins ---------------------------------------------------------------------

    def _open(self, now: float, peer: Peer) -> None:
        """Begin a task here: with a Save from another node if one is to be fetched, otherwise with one of this disk, or from the beginning."""
        hosted = self._hosted
        if source := hosted.fetches.source(hosted.table, peer):
            hosted.fetches.ask(now, hosted.table, peer.task, source)
        else:
            self._reopen(now, peer, hosted.shelf.newest(peer.task, hosted.table.limit))

    def missing(self, now: float, name: str) -> bool:
        """The source has no Save of the task: ask its buddy. Returns whether the task begins now."""
        hosted = self._hosted
        buddy = hosted.table.buddy(name)
        unknown = hosted.table.mine(name) and hosted.shelf.newest(name, hosted.table.limit) is None
        if buddy and buddy not in hosted.fetches.tried(name) and unknown:
            hosted.fetches.ask(now, hosted.table, name, buddy)
            return False
        return self.obtained(now, name)

    def obtained(self, now: float, name: str) -> bool:
        """The Save of a Fetch is on this disk, or does not exist. Returns whether the task begins now."""
        hosted = self._hosted
        if not (hosted.fetches.end(name) and hosted.table.mine(name) and name not in hosted.tasks):
            return False
        peer = hosted.table.peers[name]
        hosted.fetches.done(peer)
        self._open(now, peer)
        if (record := hosted.copies.waiting(name)) is not None:
            self._barrier.replicate(now, record, anew=True)
        self.stop(now)
        return True

    def _reopen(self, now: float, peer: Peer, record: Record | None) -> None:
        hosted, epoch = self._hosted, self._hosted.next_epoch()
        hosted.shelf.cut(peer.task, -1 if record is None else record.label)
        if record is None:
            host_then, job_then = hosted.age
            task = Task(peer, hosted.build(peer), host_then - job_then, epoch, hosted.closed(peer.task, None))
            task.rewound_view = hosted.table.placement.rewind_view
            hosted.tasks[peer.task] = task
            hosted.post(peer.task, Started(hosted.table.live()))
            hosted.welcome(peer.task)
            return
        task = Task(peer, hosted.codebook.machine(record), now - record.job_now, epoch, hosted.closed(peer.task, record))
        task.wake_at = record.wake_at
        task.rewound_view = hosted.table.placement.rewind_view
        hosted.tasks[peer.task] = task
        hosted.shelf.add(record, replica=False)
        task.saved = record.label
        hosted.copies.wait(record)
        for send in hosted.codebook.kept(record):
            self._outbound.perform(now, task, send)
        self._barrier.perform(now, task, hosted.codebook.rest(record))
        hosted.post(peer.task, Rewound(record.label, hosted.table.live()))
        hosted.count("restored_total")
        hosted.welcome(peer.task)


def _same(old: Peer, new: Peer | None) -> bool:
    """Whether both entries are the same instance of the task."""
    return new is not None and (new.node, new.incarnation, new.since) == (old.node, old.incarnation, old.since) and new.live == old.live

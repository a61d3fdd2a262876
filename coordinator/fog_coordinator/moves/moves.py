"""What a job's table should be now: who is live, what moves where, what the job goes back to. Pure.

Two steps for each change: `move` decides places, `raise_view` makes a new view of what is live at them, if anything changed.
A task whose place is given by data waits for its node. Another one moves: in order (its node drains; the successor's worker is
prepared first), or to a copy of its newest Save when its node is gone for `move_after_s`. Without any copy it waits for its node;
if none was ever made, it starts anew elsewhere after `orphan_after_s`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from msgspec import Struct

from fog_common.wire.messages import TaskState, WorkerState
from fog_coordinator.lifecycle.alike import misfit
from fog_coordinator.placement import tree
from fog_coordinator.placement.places import admitted_by
from fog_coordinator.placement.simple import best, buddies
from fog_coordinator.state.jobs import PREPARING, RUNNING, Job, Seat
from fog_coordinator.state.nodes import OFFLINE, Node, Registry

READY: Final = "ready"
REFUSED: Final = "refused"
NOTHING: Final = -1
"""Rewind to before the first Save: all tasks start anew."""


class Rules(Struct, frozen=True):
    """How long the coordinator waits for what. All in seconds."""

    heartbeat_s: float = 5.0
    """How often agents say how they are."""
    grace_s: float = 5.0
    """A node is offline after three heartbeats and this long without a word."""
    coalesce_s: float = 0.15
    """Changes within this time share one view."""
    resend_s: float = 1.0
    """The same Desired goes to a node at most this often."""
    sweep_s: float = 1.0
    """Silence and overdue moves are looked for this often."""
    move_after_s: float = 5.0
    """A task that can move does so when its node is gone for this long."""
    orphan_after_s: float = 60.0
    """... and this long, if there is no copy of its state, and none was ever made."""
    return_s: float = 10.0
    """A task with data counts as live until its node, or its worker, has been gone for this long: then rounds go on without it."""
    finish_s: float = 15.0
    """A task with data on a node that drains may finish its round, if that takes no longer (an agent waits drain_s, 20 s, after SIGTERM)."""
    close_s: float = 2.0
    """A finished job waits at most this long for the last figures of its workers."""
    jobs_per_node: int = 1
    """Workers that a node is given at a time; further jobs wait in the queue."""
    keep_jobs: int = 200
    """Ended jobs that are remembered."""

    @property
    def silent_s(self) -> float:
        return 3 * self.heartbeat_s + self.grace_s


def worker_of(job: Job, node: Node | None) -> WorkerState | None:
    return node.workers.get(job.id) if node is not None else None


def _live_incarnation(job: Job, seat: Seat, node: Node | None) -> int:
    """Incarnation of the worker that runs this task now; 0 if none does."""
    if node is None or node.state == OFFLINE:
        return 0
    if node.held:  # not heard of yet: what ran there is taken to run on
        return seat.incarnation
    worker = node.workers.get(job.id)
    return worker.incarnation if worker is not None and worker.phase == READY and not misfit(job, worker) else 0


def _still_live(now: float, job: Job, seat: Seat, node: Node | None, rules: Rules) -> int:
    """As _live_incarnation, but a task with data whose node or worker is only just gone keeps its place: it may have trained what only it has.

    A new instance counts at once. A node that leaves in order keeps its task until the round is finished. What was silent before it was given
    up has had its time.
    """
    found = _live_incarnation(job, seat, node)
    if node is not None and node.leaving and not seat.movable:
        seat.gone_since = None
        return found if _finishes(now, job, seat, node, rules) else 0
    if seat.movable or not seat.incarnation or node is None or (found and not node.held):
        seat.gone_since = None
        return found
    if found and seat.gone_since is None:
        return found  # taken to run on
    if seat.gone_since is None:
        seat.gone_since = min(now, node.gone_at) if node.state == OFFLINE else now
    if now - seat.gone_since < rules.return_s:
        return seat.incarnation
    seat.gone_since = None
    return 0


def _finishes(now: float, job: Job, seat: Seat, node: Node | None, rules: Rules) -> bool:
    """A live task with data, on a node that drains, is still at the round that it was in then: what it trained would be lost.

    It has finished once a later report says that it is in another round, or that nothing of it is computed, saved or sent.
    """
    state = _state_on_leaving(job, seat, node)
    if node is None or state is None or now >= node.leaving_since + rules.finish_s:
        return False
    return seat.leaves_in is None or (state.busy and state.round == seat.leaves_in)


def _leaves_in(job: Job, seat: Seat, node: Node | None) -> int | None:
    """The round that such a task was in when its node began to drain. None: it does not leave, or has not said yet what it was at."""
    worker, state = worker_of(job, node), _state_on_leaving(job, seat, node)
    if node is None or worker is None or state is None:
        return None
    if seat.leaves_in is None and node.reported_at - worker.age_s >= node.leaving_since:
        return state.round
    return seat.leaves_in


def _state_on_leaving(job: Job, seat: Seat, node: Node | None) -> TaskState | None:
    """What a live task with data last said, if its node drains."""
    worker = worker_of(job, node)
    if node is None or not node.online or not node.leaving or seat.movable or not seat.incarnation:
        return None
    if worker is None or worker.incarnation != seat.incarnation:
        return None
    return next((state for state in worker.tasks if state.task == seat.task and state.since == seat.since), None)


# -- places --------------------------------------------------------------------------------


def move(now: float, job: Job, registry: Registry, rules: Rules, busy: Collection[str]) -> list[str]:
    """Give tasks new places where they need some. Returns what was done, for the log. busy: nodes that other jobs have."""
    done: list[str] = []
    for seat in job.seats:
        node = registry.get(seat.node)
        if node is None or node.state == OFFLINE:
            seat.away_since = seat.away_since if seat.away_since is not None else (node.since if node else now)
        else:
            seat.away_since = None
            if (seat.site, seat.tier) != (node.profile.site, node.profile.tier):
                moved = seat.site != node.profile.site
                seat.site, seat.tier = node.profile.site, node.profile.tier
                if moved and seat.slot >= 0:
                    done += _rehome(job, seat)
                    if node.held or seat.gone_since is not None:
                        seat.incarnation = 0  # who is somewhere else now does not come back as it was
        if not seat.movable:
            if seat.heir:
                done += _hand_over(now, job, seat, registry, rules)
            if seat.heir and seat.fetch and not seat.fetched:
                done += _other_source(now, job, seat, registry, rules)
            continue
        for place in (node, registry.get(seat.successor)):
            if place is not None and job.state == RUNNING and place.node not in job.unfit and _refuses(job, place):
                job.unfit = [*job.unfit, place.node]
        if seat.away_since is not None:
            seat.successor = ""
            if now - seat.away_since >= rules.move_after_s:
                done += _recover(now, job, seat, registry, rules, busy)
        elif node is not None and job.state == RUNNING and not node.held and _refuses(job, node):
            done += _recover(now, job, seat, registry, rules, busy)
        elif node is not None and (node.leaving or _is_wanted(job, seat, registry, busy)):
            done += _drain(job, seat, registry, busy)
        else:
            seat.successor = ""
        if seat.fetch and not seat.fetched:
            done += _other_source(now, job, seat, registry, rules)
    return done


def _rehome(job: Job, seat: Seat) -> list[str]:
    """A node with data is at another site: it belongs to a cluster there, unless the job names its parent."""
    if not any(other.home[0] for other in job.seats) or (job.spec.get("topology") or {}).get("parents"):
        return []
    before, seat.parent = seat.parent, ""
    seat.parent = tree.cluster_of(job, seat.site, seat.tier, job.root)
    return [f"{seat.node} is at {seat.site} now: {seat.task} belongs to {seat.parent}"] if seat.parent != before else []


def _hand_over(now: float, job: Job, seat: Seat, registry: Registry, rules: Rules) -> list[str]:
    """A node with data goes in order, or is gone for good: a peer of its site goes on with its slot, from its newest Save where that can be had."""
    node = registry.get(seat.node)
    leaves = node is not None and node.online and node.leaving
    if leaves and _finishes(now, job, seat, node, rules):
        return []
    if not leaves and (seat.away_since is None or now - seat.away_since < rules.orphan_after_s):
        return []
    load: dict[str, int] = {}
    for other in job.seats:
        if other.role == seat.role and other.site == seat.site and other.node != seat.node and other.incarnation:
            load[other.node] = load.get(other.node, 0) + 1
    peers = [peer for name in sorted(load) if (peer := registry.get(name)) and peer.online and not peer.leaving]
    if not peers:
        return []
    target = min(peers, key=lambda peer: (load[peer.node], tree.connected(peer)))
    copies = holders(job, seat.task, registry, but=seat.node)
    source = seat.node if leaves else max(copies, key=lambda name: (copies[name], name), default="")
    text = f"{seat.task} moves from {seat.node}, which {'leaves' if leaves else 'is gone'}, to its neighbour {target.node}, with its samples"
    job.roster[seat.slot] = target.node
    _place(seat, target, source if source != target.node else "")
    return [text]


def _candidates(job: Job, seat: Seat, registry: Registry, busy: Collection[str]) -> list[Node]:
    free = [node for node in registry if node.online and not node.leaving and node.node != seat.node and node.node not in busy]
    return [node for node in free if node.node not in job.unfit and not _refuses(job, node)]


def _refuses(job: Job, node: Node) -> bool:
    """Its worker has found that the job cannot run there as it is."""
    worker = worker_of(job, node)
    return worker is not None and (worker.phase == REFUSED or bool(misfit(job, worker)))


def _is_wanted(job: Job, seat: Seat, registry: Registry, busy: Collection[str]) -> bool:
    """Placement has found a better node for the task, which can still take it."""
    node = registry.get(seat.wanted) if seat.wanted else None
    if node is None or not node.online or node.leaving or node.node in busy or node.node == seat.node or node.node in job.unfit:
        seat.wanted = ""
    return bool(seat.wanted)


def _target(job: Job, seat: Seat, registry: Registry, busy: Collection[str], holder: str) -> Node | None:
    """Where a task goes that must leave its node. holder: has a copy of its Saves."""
    candidates = _candidates(job, seat, registry, busy)
    if not seat.home[0] and seat.slot < 0:
        candidates = admitted_by(job.spec.get("placement"), candidates)
    if wanted := [node for node in candidates if node.node == seat.wanted]:
        return wanted[0]
    return tree.successor(job, seat, candidates, holder) if seat.home[0] else best(candidates, _data_nodes(job), holder, seat.site)


def _data_nodes(job: Job) -> set[str]:
    return {seat.node for seat in job.seats if seat.slot >= 0}


def holders(job: Job, task: str, registry: Registry, but: str = "") -> dict[str, int]:
    """Online nodes with a copy of the task's Saves -> newest label."""
    found = {}
    for name, labels in sorted(job.saves.get(task, {}).items()):
        node = registry.get(name)
        if labels and name != but and node is not None and node.online:
            found[name] = labels[-1]
    return found


def _recover(now: float, job: Job, seat: Seat, registry: Registry, rules: Rules, busy: Collection[str]) -> list[str]:
    """The task's node is gone, or cannot run it."""
    source = ""
    if seat.ran and any(job.saves.get(seat.task, {}).values()):
        copies = holders(job, seat.task, registry, but=seat.node)
        if copies:
            source = max(copies, key=lambda name: (copies[name], name))
        elif not seat.home[0]:
            return []
    elif seat.ran and not seat.home[0] and seat.away_since is not None and now - seat.away_since < rules.orphan_after_s:
        return []  # the head of a cluster may begin anew at once: its members still have what they gave it
    target = _target(job, seat, registry, busy, source)
    if target is None:
        return []
    text = f"{seat.task} moves from {seat.node}, which {'is gone' if seat.away_since is not None else 'refuses it'}, to {target.node}"
    _place(seat, target, source if source != target.node else "")
    return [text + (f", from Save {copies[source]} on {source}" if source else ", from the beginning" if seat.ran else "")]


def _drain(job: Job, seat: Seat, registry: Registry, busy: Collection[str]) -> list[str]:
    """The task's node wants to go: prepare a successor, and switch when that is ready."""
    why = f"{seat.wanted} is better placed" if seat.wanted else f"{seat.node} drains"
    successor = registry.get(seat.successor) if seat.successor else None
    if successor is None or not successor.online or successor.leaving or _refuses(job, successor):
        seat.successor = ""
        target = _target(job, seat, registry, busy, job.buddies.get(seat.task, ""))
        if target is None:
            return []
        if not seat.ran:
            text = f"{seat.task} is placed on {target.node}: {why}"
            _place(seat, target, "")
            return [text]
        seat.successor = target.node
        successor = target
        done = [f"{why}: {target.node} is prepared to take {seat.task}"]
    else:
        done = []
    worker = worker_of(job, successor)
    if worker is not None and worker.phase == READY and not misfit(job, worker) and not successor.held:
        done.append(f"{seat.task} moves from {seat.node} to {successor.node}: {why}")
        _place(seat, successor, seat.node)
    return done


def _other_source(now: float, job: Job, seat: Seat, registry: Registry, rules: Rules) -> list[str]:
    """The node that was asked for the Save is gone: ask another one."""
    source = registry.get(seat.fetch)
    if source is not None and (source.state != OFFLINE or now - source.since < rules.move_after_s):
        return []
    copies = holders(job, seat.task, registry, but=seat.fetch)
    if not copies and not seat.home[0] and not seat.heir:
        return []
    name = max(copies, key=lambda copy: (copies[copy], copy), default="")
    seat.fetch = name if name != seat.node else ""
    seat.last = ("", seat.last[1])  # a new instance: the host asks again
    how = f"is restored from {name}" if name else "begins anew"
    return [f"{seat.task} {how}: the node with its newest Save is gone"]


def _place(seat: Seat, node: Node, fetch: str) -> None:
    seat.node, seat.site, seat.tier = node.node, node.profile.site, node.profile.tier
    seat.incarnation, seat.successor, seat.wanted, seat.away_since, seat.gone_since = 0, "", "", None, None
    seat.fetch, seat.fetched = fetch, False


def take_over(job: Job, seat: Seat, node: Node, registry: Registry) -> None:
    """A node takes the place of one that is gone for good, from a copy of the newest Save if there is one."""
    copies = holders(job, seat.task, registry, but=seat.node)
    source = max(copies, key=lambda name: (copies[name], name), default="")
    _place(seat, node, source if source != node.node else "")


# -- the view ------------------------------------------------------------------------------


def settle(now: float, job: Job, registry: Registry, rules: Rules, busy: Collection[str] = ()) -> tuple[bool, list[str]]:
    """Bring the job's table up to date: (whether its view was raised, what happened, for the log)."""
    before = {seat.task: seat.peer() for seat in job.seats}, job.buddies
    for seat in job.seats:
        seat.leaves_in = _leaves_in(job, seat, registry.get(seat.node))
    done = move(now, job, registry, rules, busy)
    for seat in job.seats:
        seat.incarnation = 0 if job.state == PREPARING else _still_live(now, job, seat, registry.get(seat.node), rules)
    live = {seat.node for seat in job.seats if seat.incarnation and (seat.gone_since is None or now - seat.gone_since < rules.move_after_s)}
    if live:
        near = {name for name in job.buddies.values() if (node := registry.get(name)) and now - node.since < rules.move_after_s}
        job.buddies = buddies(job, live | near)
    if job.view and before == ({seat.task: seat.peer() for seat in job.seats}, job.buddies):
        return False, done
    job.view += 1
    returning: list[Seat] = []
    for seat in job.seats:
        if seat.fetched:
            seat.fetch, seat.fetched = "", False
        old = before[0].get(seat.task)
        if seat.incarnation and (seat.node, seat.incarnation) != seat.last:
            if seat.ran:
                returning.append(seat)
            seat.since, seat.last, seat.live_at = job.view, (seat.node, seat.incarnation), now
            seat.link = _link(registry.get(seat.node))
            done.append(f"view {job.view}: {seat.task} is live on {seat.node}, incarnation {seat.incarnation}")
        elif seat.incarnation and old is not None and not old.live:
            done.append(f"view {job.view}: {seat.task} is back on {seat.node}")
        elif not seat.incarnation and old is not None and old.live:
            done.append(f"view {job.view}: {seat.task} left {old.node}")
    if job.lockstep and returning:
        done += _rewind(job, returning)
    return True, done


def _link(node: Node | None) -> tuple[float, float, float]:
    if node is None:
        return 0.0, 0.0, 0.0
    return node.profile.bandwidth_bytes_s or 0.0, node.profile.rtt_s or 0.0, node.profile.byte_j or 0.0


def _rewind(job: Job, returning: list[Seat]) -> list[str]:
    """All tasks of a lockstep method go back to the newest label that all of them have."""
    labels = {seat.task: _labels(job, seat) for seat in job.seats if seat.incarnation}
    common = set.intersection(*labels.values())
    label = max(common, default=NOTHING)
    names = ", ".join(seat.task for seat in returning)
    if not common and any(labels.values()) and not any(seat.movable for seat in returning):
        had = {task: sorted(found) for task, found in labels.items()}
        return [f"view {job.view}: no Save that all tasks have ({had}); {names} must catch up"]
    job.rewind, job.rewind_view = label, job.view
    return [f"view {job.view}: back to {'the beginning' if label == NOTHING else f'label {label}'}, for {names}"]


def _labels(job: Job, seat: Seat) -> set[int]:
    """Labels at which the task can continue where it is placed."""
    saves = job.saves.get(seat.task, {})
    return {*saves.get(seat.node, ()), *(saves.get(seat.fetch, ()) if seat.fetch else ())}

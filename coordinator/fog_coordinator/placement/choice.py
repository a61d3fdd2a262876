"""Where a job's free tasks go and what placement fixes of its method, given the nodes that are there. Pure.

`choose` decides before the start, `again` when the workers have measured their nodes (nothing has been learnt yet, so the cut may
change too), `elsewhere` while the job runs (only a task can move then, in order, as in a drain).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from fog_coordinator.placement import planner
from fog_coordinator.placement.free import FreeTask
from fog_coordinator.placement.places import described, place_of
from fog_coordinator.placement.planner import Plan
from fog_coordinator.placement.spread import spread
from fog_coordinator.state.jobs import Job
from fog_coordinator.state.nodes import Node
from fog_learning.costs.place import Place
from fog_learning.job.sections import JobFile, Placing
from fog_learning.methods.base import Method

Open = Mapping[str, Sequence[Node]]
"""Task id -> nodes that may take the task now."""


class Choice(Struct, frozen=True):
    """nodes: of every free task; {}: `why` says what is missing."""

    nodes: dict[str, Node] = {}
    plan: Plan | None = None
    """None: the costs of this method or model are not known."""
    runner_up: Plan | None = None
    why: str = ""


def choose(
    file: JobFile,
    method: Method,
    tasks: Sequence[FreeTask],
    roster: Sequence[str],
    known: Mapping[str, Node],
    open_to: Open,
    needs: Mapping[str, int],
    last_resort: Node | None = None,
) -> Choice:
    """tasks: the free ones. needs: role -> bytes. last_resort: takes a task that no node is open to, unless the job asks for a choice."""
    if not tasks:
        return Choice()
    if file.placement is not None:
        open_to = {task.task: open_to[task.task] for task in tasks}
        if shut := next((task for task in tasks if not open_to[task.task]), None):
            return Choice(why=f"no node is free that is {described(file.placement.of(shut.role.name))} (placement)")
    elif last_resort is not None:
        open_to = {task.task: open_to[task.task] or [last_resort] for task in tasks}
    data_need = max((needs.get(role.name, 0) for role in method.roles if role.bound == "slot"), default=0)
    usual, lack = spread(tasks, open_to, roster, needs, data_need)
    if not planner.can_plan(file):
        return Choice(usual, why=lack)
    if lack:  # a plan counts memory itself, and says which way needs least
        usual, lack = spread(tasks, open_to, roster, {}, 0)
    if lack:
        return Choice(why=lack)
    if file.placement is None:  # nothing is asked for: the usual nodes, with their price
        open_to = {task: [node] for task, node in usual.items()}
    found = planner.plans(file, method, places(roster, known), _all(open_to), only=_names(open_to))
    if not found.plans:
        if planner.is_automatic(file) or " needs " in found.why:
            return Choice(why=found.why)
        return Choice(usual)
    best = found.plans[0]
    return Choice({task: known[node] for task, node in best.places.items()}, best, found.plans[1] if len(found.plans) > 1 else None)


def places(roster: Sequence[str], known: Mapping[str, Node]) -> list[Place]:
    """A node that was never seen is a guess."""
    return [place_of(known[name]) if name in known else Place(name, guessed=("everything",)) for name in roster]


def _all(open_to: Open) -> list[Place]:
    nodes = {node.node: node for nodes in open_to.values() for node in nodes}
    return [place_of(node) for node in nodes.values()]


def _names(open_to: Open) -> dict[str, frozenset[str]]:
    return {task: frozenset(node.node for node in nodes) for task, nodes in open_to.items()}


def _roomy(places: Iterable[Place], own: set[str]) -> list[Place]:
    """The job's workers have the memory of their nodes already."""
    return [replace(place, memory_bytes=None) if place.node in own else place for place in places]


def priced(file: JobFile, method: Method, job: Job, known: Mapping[str, Node]) -> Plan | None:
    """The plan that stands, with what is known now."""
    if job.plan is None and not job.blocks:
        return None
    where = {seat.task: [known[seat.node]] for seat in job.seats if seat.bound == "free" and seat.node in known}
    if not where or len(where) < sum(seat.bound == "free" for seat in job.seats):
        return None
    fixed = replace(file, method={**file.method, **job.settled})
    roster = [replace(place, memory_bytes=None) for place in places(job.roster, known)]
    everything = [replace(place, memory_bytes=None) for place in _all(where)]
    found = planner.plans(fixed, method, roster, everything, keep=1, told=job.blocks, only=_names(where))
    return found.plans[0] if found.plans else None


def again(file: JobFile, method: Method, job: Job, known: Mapping[str, Node], open_to: Open) -> tuple[Plan | None, Plan | None]:
    """(the plan that stands with the figures of now, a plan that is clearly better or None). open_to: its own nodes among them."""
    standing = priced(file, method, job, known)
    if standing is None or not planner.is_automatic(file):
        return standing, None
    if file.placement is None:
        open_to = {seat.task: [known[seat.node]] for seat in job.seats if seat.bound == "free"}
    best = _best(file, method, job, known, open_to, keep=2)
    if best is None or (best.settings, best.places) == (standing.settings, standing.places):
        return standing, None
    margin = (file.placement or Placing()).margin
    return standing, best if best.value < standing.value * (1.0 - margin) else None


def elsewhere(now: float, file: JobFile, method: Method, job: Job, known: Mapping[str, Node], open_to: Open) -> dict[str, str]:
    """Task -> the node to which it should move now; {} = all stay."""
    if file.placement is None or job.plan is None:
        return {}
    fixed = replace(file, method={**file.method, **job.settled})
    standing = priced(fixed, method, job, known)
    best = _best(fixed, method, job, known, open_to, keep=1)
    if standing is None or best is None:
        return {}
    moving = {task: node for task, node in best.places.items() if standing.places.get(task) != node}
    name = ", ".join(f"{task} on {node}" for task, node in sorted(best.places.items()))
    ready = job.steady.ready(now, standing.value, best.value, name, margin=file.placement.margin, hold_s=file.placement.hold_s)
    return moving if ready else {}


def _best(file: JobFile, method: Method, job: Job, known: Mapping[str, Node], open_to: Open, keep: int) -> Plan | None:
    roster = [replace(place, memory_bytes=None) for place in places(job.roster, known)]
    candidates = _roomy(_all(open_to), job.participants())
    found = planner.plans(file, method, roster, candidates, keep=keep, told=job.blocks, only=_names(open_to))
    return found.plans[0] if found.plans else None

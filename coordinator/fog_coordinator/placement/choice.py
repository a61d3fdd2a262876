"""Where a job's unbound tasks go and what placement fixes of its method, given the nodes that are there. Pure.

`choose` decides before the start, `again` when the workers have measured their nodes (nothing has been learnt yet, so the cut may
change too), `elsewhere` while the job runs (only a task can move then, in order, as in a drain).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from fog_common.errors import ConfigError
from fog_coordinator.placement import planner, simple
from fog_coordinator.placement.cost import Place
from fog_coordinator.placement.places import admitted, described, place_of
from fog_coordinator.placement.planner import Plan
from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node
from fog_learning.job.sections import Job as JobFile
from fog_learning.job.sections import Placing
from fog_learning.methods.base import Method


class Choice(Struct, frozen=True):
    """node: of the tasks that are bound to no data; None: `why` says what is missing."""

    node: Node | None = None
    plan: Plan | None = None
    """None: the costs of this method or model are not known."""
    runner_up: Plan | None = None
    why: str = ""


def choose(file: JobFile, method: Method, roster: Sequence[str], known: Mapping[str, Node], free: Sequence[Node], default: Node | None) -> Choice:
    """free: nodes that a task may be given now. default: where it goes if the job does not ask for a choice."""
    candidates = [default] if default is not None else []
    if file.placement is not None:
        candidates = admitted(file.placement, free)
        if not candidates:
            return Choice(why=f"no node is free that is {described(file.placement)} (placement)")
        if not planner.can_plan(file):
            return Choice(simple.best(candidates, roster))
    if not candidates or not planner.can_plan(file):
        need, place = data_need(file, method), None if default is None else place_of(default)
        if place is not None and place.memory_bytes is not None and place.memory_bytes < need:
            return Choice(why=planner.short_of_memory("a worker", need, [place]))
        return Choice(default)
    found = planner.plans(file, method, places(roster, known), [place_of(node) for node in candidates])
    if not found.plans:
        if planner.is_automatic(file) or " needs " in found.why:
            return Choice(why=found.why)
        return Choice(default)
    best = found.plans[0]
    node = next(iter(best.places.values()), "")
    return Choice(known[node], best, found.plans[1] if len(found.plans) > 1 else None)


def places(roster: Sequence[str], known: Mapping[str, Node]) -> list[Place]:
    """A node that was never seen is a guess."""
    return [place_of(known[name]) if name in known else Place(name, guessed=("everything",)) for name in roster]


def _unbound(job: Job) -> Seat | None:
    """The task that placement places: bound to no data, and no head of a cluster."""
    return next((seat for seat in job.seats if seat.movable and not seat.home[0]), None)


def priced(file: JobFile, method: Method, job: Job, known: Mapping[str, Node]) -> Plan | None:
    """The plan that stands, with what is known now."""
    if job.plan is None and not job.blocks:
        return None
    seat = _unbound(job)
    node = known.get(seat.node) if seat is not None else None
    if node is None:
        return None
    fixed = replace(file, method={**file.method, **job.settled})
    roomy = replace(place_of(node), memory_bytes=None)  # its own worker has the memory already
    roster = [replace(place, memory_bytes=None) for place in places(job.roster, known)]
    found = planner.plans(fixed, method, roster, [roomy], keep=1, told=job.blocks)
    return found.plans[0] if found.plans else None


def again(file: JobFile, method: Method, job: Job, known: Mapping[str, Node], free: Sequence[Node]) -> tuple[Plan | None, Plan | None]:
    """(the plan that stands with the figures of now, a plan that is clearly better or None). free: its own nodes among them."""
    standing = priced(file, method, job, known)
    if standing is None or not planner.is_automatic(file):
        return standing, None
    rules = file.placement or Placing()
    seat = _unbound(job)
    candidates = admitted(file.placement, free) if file.placement is not None else [known[seat.node]] if seat is not None else []
    own = job.participants()
    roomy = [replace(place, memory_bytes=None) if place.node in own else place for place in (place_of(node) for node in candidates)]
    found = planner.plans(file, method, [replace(place, memory_bytes=None) for place in places(job.roster, known)], roomy, told=job.blocks)
    best = found.plans[0] if found.plans else None
    if best is None or (best.settings, best.places) == (standing.settings, standing.places):
        return standing, None
    return standing, best if best.value < standing.value * (1.0 - rules.margin) else None


def elsewhere(now: float, file: JobFile, method: Method, job: Job, known: Mapping[str, Node], free: Sequence[Node]) -> str:
    """The node to which the job's unbound task should move now; '' = it stays."""
    if file.placement is None or job.plan is None:
        return ""
    fixed = replace(file, method={**file.method, **job.settled})
    standing, _ = again(fixed, method, job, known, ())
    candidates = [
        replace(place_of(node), memory_bytes=None) if node.node in job.participants() else place_of(node) for node in admitted(file.placement, free)
    ]
    found = planner.plans(
        fixed, method, [replace(place, memory_bytes=None) for place in places(job.roster, known)], candidates, keep=1, told=job.blocks
    )
    if standing is None or not found.plans:
        return ""
    best = found.plans[0]
    node = next(iter(best.places.values()))
    ready = job.steady.ready(now, standing.value, best.value, node, margin=file.placement.margin, hold_s=file.placement.hold_s)
    return node if ready and node not in standing.places.values() else ""


def short_of_memory(file: JobFile, method: Method, known: Mapping[str, Node], names: Collection[str]) -> str:
    """Why none of these nodes can hold a data task, with the numbers; '' if one can, or nothing is known."""
    need = data_need(file, method)
    found = [place_of(known[name]) for name in sorted(names) if name in known]
    tight = [place for place in found if place.memory_bytes is not None and place.memory_bytes < need]
    if not need or not tight or len(tight) < len(found):
        return ""
    return planner.short_of_memory(next(role.name for role in method.roles if role.bound == "slot"), need, tight)


def data_need(file: JobFile, method: Method) -> int:
    """Bytes of a worker for a data task; 0 = not known."""
    if file.resources.memory_mb is not None:
        return file.resources.memory_mb * 1_000_000
    if not planner.can_plan(file):
        return 0
    try:
        options = planner.ways(file, max(1, len(file.nodes.select.names)))
    except ConfigError:
        return 0
    roles = [role.name for role in method.roles if role.bound == "slot"]
    return min(max((option.memory.get(role, 0) for role in roles), default=0) for option in options)


Fits = Callable[[Node], bool]


def fits(file: JobFile, method: Method) -> Fits:
    """Whether a node has room for a data task of the job; unknown is taken for yes."""
    need = data_need(file, method)

    def fit(node: Node) -> bool:
        free = place_of(node).memory_bytes
        return not need or free is None or free >= need

    return fit

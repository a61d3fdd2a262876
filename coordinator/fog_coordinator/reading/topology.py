"""The tree as a person sees it: of a job, of a job file that was not submitted yet, or of the fleet. Pure; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from fog_common.wire.api.fleet import TreeEntry
from fog_common.wire.api.states import UNKNOWN
from fog_coordinator.core import Core
from fog_coordinator.lifecycle.admission import place
from fog_coordinator.placement import simple, tree
from fog_coordinator.placement.eligible import is_there
from fog_coordinator.reading import status
from fog_coordinator.state.jobs import Job, Seat
from fog_coordinator.state.nodes import Node
from fog_learning.job.sections import JobFile, Nodes, Topology, job_spec
from fog_learning.methods import rounds_of
from fog_learning.methods.base import Method


def of_job(core: Core, job: Job) -> list[TreeEntry]:
    """One entry per task, parents before children; before the job is placed as it would be placed now."""
    if job.seats:
        notes = status.notes(core, job)
        return [replace(entry, note=notes[entry.id]) for entry in _entries(core, job.seats)]
    entry = core.book[job.id]
    return of_file(core, entry.file, entry.method, job.roster)


def of_file(core: Core, file: JobFile, method: Method, roster: list[str] | None = None) -> list[TreeEntry]:
    """As it would be placed now, if no other job were there; [] if no node matches."""
    found = roster or [node.node for node in simple.matching(file.nodes, core.registry) if is_there(node)][: file.nodes.count]
    return _entries(core, seats) if (seats := _seats(core, found, file, method)) else []


def of_fleet(core: Core) -> list[TreeEntry]:
    """Every node that is known: as the tree of a job over all things and edges, nodes that have no part in that under the root."""
    known = {node.node: node for node in core.registry}
    data = [node.node for node in simple.matching(Nodes(), core.registry)]
    lowest = min((tree.rank(known[name].profile.tier) for name in data), default=0)
    data = [name for name in data if tree.rank(known[name].profile.tier) == lowest]
    root = simple.best(known.values(), data)
    if root is None:
        return []
    plan = tree.plan(Topology(), data, known, known.keys(), root.node)
    entries = [_entry("root", None, "root", root.node, known)]
    names = [f"cluster-{number}" for number in range(1, len(plan.heads) + 1)]
    for name, head in zip(names, plan.heads, strict=True):
        entries.append(_entry(name, names[head.parent] if head.parent != tree.ROOT else "root", "aggregator", head.node, known))
    for name, index in zip(data, plan.parents, strict=True):
        entries.append(_entry(name, names[index] if index != tree.ROOT else "root", "data", name, known))
    shown = {entry.node for entry in entries}
    entries += [_entry(name, "root", "", name, known) for name in sorted(known.keys() - shown)]
    return _ordered(entries)


def _seats(core: Core, roster: list[str], file: JobFile, method: Method) -> list[Seat]:
    if not roster and any(role.bound == "slot" for role in method.roles):
        return []
    job = Job("plan", file.name, "", "", job_spec(file), method.name, method.root, method.lockstep, rounds_of(file), 0.0, 0, roster=list(roster))
    place(job, file, method, core.registry, {})
    return job.seats


def _entries(core: Core, seats: list[Seat]) -> list[TreeEntry]:
    known = {node.node: node for node in core.registry}
    tasks = {seat.task for seat in seats}
    entries = []
    for seat in seats:
        entry = _entry(seat.task, seat.parent if seat.parent in tasks else None, seat.role, seat.node, known)
        entries.append(replace(entry, site=seat.site, tier=seat.tier, slot=seat.slot, live=seat.incarnation > 0))
    return _ordered(entries)


def _entry(id: str, parent: str | None, role: str, node: str, known: Mapping[str, Node]) -> TreeEntry:
    entry = known.get(node)
    site, tier = (entry.profile.site, entry.profile.tier) if entry else ("", "")
    return TreeEntry(id=id, parent=parent, role=role, node=node, site=site, tier=tier, state=entry.state if entry else UNKNOWN)


def _ordered(entries: list[TreeEntry]) -> list[TreeEntry]:
    """Depth first; children by site, heads before others, then by slot and name."""
    below: dict[str | None, list[TreeEntry]] = {}
    for entry in entries:
        below.setdefault(entry.parent, []).append(entry)
    for children in below.values():
        children.sort(key=lambda entry: (entry.site, entry.id not in below, entry.slot, entry.id))
    found: list[TreeEntry] = []
    open_ = below.get(None, [])[::-1]
    while open_:
        entry = open_.pop()
        found.append(entry)
        open_ += below.get(entry.id, [])[::-1]
    return found

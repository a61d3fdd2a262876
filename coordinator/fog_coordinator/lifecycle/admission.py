"""From submit to the first training step: roster, queue, placement, preflight. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from fog_coordinator.lifecycle.alike import unequal
from fog_coordinator.moves.moves import READY, REFUSED, Rules, take_over, worker_of
from fog_coordinator.placement import choice, planner, simple, tree
from fog_coordinator.state.book import Book
from fog_coordinator.state.jobs import PLACED, PREPARING, QUEUED, WAITING, Job
from fog_coordinator.state.nodes import OFFLINE, Node, Registry
from fog_learning.job.sections import Job as JobFile
from fog_learning.methods.base import Method
from fog_learning.rounds.closing import needed


class Pending(Struct, frozen=True):
    """What a job waits for at one node. online: it is there and will answer by itself."""

    node: str
    what: str
    since: float
    online: bool = True


def occupied(jobs: Iterable[Job], rules: Rules, but: str = "") -> dict[str, str]:
    """Nodes that have as many workers as they may -> a job that has one there."""
    count: dict[str, int] = {}
    by: dict[str, str] = {}
    for job in jobs:
        if job.state in PLACED and job.id != but:
            for node in sorted(job.participants()):
                count[node] = count.get(node, 0) + 1
                by[node] = job.id
    return {node: by[node] for node in sorted(count) if count[node] >= rules.jobs_per_node}


def admit(now: float, book: Book, registry: Registry, rules: Rules) -> Iterator[tuple[Job, str]]:
    """Start what can start, in the order of submission; who waits keeps its claim on the nodes that it needs.

    Yields the jobs that changed their state or their reason, with the line for the log.
    """
    taken = occupied(book.jobs, rules)
    for entry in sorted((entry for entry in book if entry.job.state in {WAITING, QUEUED}), key=lambda entry: entry.job.order):
        job = entry.job
        state, why = job.state, job.why
        if not job.roster:
            job.roster, job.why = roster(entry.file, entry.method, registry, taken)
        if job.roster:
            job.state, job.why = place(job, entry.file, entry.method, registry, taken)
        for node in [*job.roster, *(seat.node for seat in job.seats)]:
            taken.setdefault(node, job.id)
        if (job.state, job.why) != (state, why):
            job.since = now if job.state != state else job.since
            yield job, placed(job) if job.state == PREPARING else f"{job.state.replace('_', ' ')}: {job.why}"


def roster(file: JobFile, method: Method, registry: Registry, taken: Mapping[str, str]) -> tuple[list[str], str]:
    """As simple.roster, of nodes with memory enough; a node that the job names is not passed over."""
    fit = choice.fits(file, method)
    found, why = simple.roster(file.nodes, [node for node in registry if file.nodes.select.names or fit(node)], taken)
    if found:
        return found, why
    known = {node.node: node for node in registry}
    full = [node.node for node in simple.matching(file.nodes, registry) if node.online and not node.leaving and not fit(node)]
    return found, choice.short_of_memory(file, method, known, full) or why


def placed(job: Job) -> str:
    """'preparing: server on cloud-1; data on pi-1, pi-2'."""
    cloud = [f"{seat.task} on {seat.node}" for seat in job.seats if seat.movable]
    cut = [job.plan.title.split(",")[0]] if job.plan is not None and job.settled else []
    return "preparing: " + "; ".join([*cut, *cloud, "data on " + ", ".join(job.roster)])


def place(job: Job, file: JobFile, method: Method, registry: Registry, taken: Mapping[str, str]) -> tuple[str, str]:
    """Seats for all tasks, if their nodes are free: (the job's new state, what it waits for). taken: node -> job that has it."""
    blocked = [node for node in job.roster if node in taken]
    known = {node.node: node for node in registry}
    cloud: Node | None = None
    named = ""
    if any(role.bound != "slot" for role in method.roles):
        usable = [node for node in registry if node.online and not node.leaving]
        named = tree.named_root(file.topology, known)
        wanted = known[named] if named else simple.best(usable, job.roster)
        cloud = simple.best([node for node in usable if node.node not in taken and named in ("", node.node)], job.roster)
        if file.placement is None and wanted is not None and wanted.profile.tier == "cloud" and (cloud is None or cloud.profile.tier != "cloud"):
            blocked.append(wanted.node)  # worth waiting for: it is only busy
        cloud = cloud or next((known[name] for name in (named, *job.roster) if name in known), None)
    if blocked:
        by = sorted({taken[node] for node in blocked})
        return QUEUED, f"{', '.join(dict.fromkeys(blocked))} busy with {', '.join(by)}"
    if cloud is None and any(role.bound != "slot" for role in method.roles):
        return WAITING, f"no node is online that could run {next(role.name for role in method.roles if role.bound != 'slot')}"
    free = [node for node in registry if node.online and not node.leaving and node.node not in taken and named in ("", node.node)]
    chosen = choice.choose(file, method, job.roster, known, free, cloud) if cloud is not None else choice.Choice()
    if chosen.why:
        return QUEUED, chosen.why
    has_room = choice.fits(file, method)
    full = [name for name in job.roster if name in known and not has_room(known[name])]
    if lack := choice.short_of_memory(file, method, known, full):
        return QUEUED, lack
    cloud = chosen.node
    job.plan, job.runner_up = chosen.plan, chosen.runner_up
    job.settled = dict(chosen.plan.settings) if chosen.plan is not None and planner.is_automatic(file) else {}
    seats = simple.seats(method, job.roster, known, cloud)
    layers = [role for role in method.roles if role.bound == "tree"]
    if layers:
        fit = [node.node for node in registry if node.online and not node.leaving and node.node not in taken]
        branches = tree.plan(file.topology, job.roster, known, fit, cloud.node if cloud is not None else "")
        busy = [head.node for head in branches.heads if head.node in taken]
        if busy:
            return QUEUED, f"{', '.join(dict.fromkeys(busy))} busy with {', '.join(sorted({taken[node] for node in busy}))}"
        root = next(seat.task for seat in seats if seat.role == method.root)
        seats = tree.grow(seats, layers, branches, known, root)
    if file.privacy.share_samples and not file.data.local:  # every node can read every slot's part of the data set
        heritable = {role.name for role in method.roles if role.heritable}
        for seat in seats:
            seat.heir = seat.role in heritable
    job.seats = seats
    return PREPARING, ""


def preflight(job: Job, registry: Registry) -> tuple[list[Pending], list[str]]:
    """(nodes whose worker has not answered yet, problems that workers found)."""
    pending: list[Pending] = []
    problems: list[str] = []
    for name in sorted(job.participants()):
        node = registry.get(name)
        if node is None:
            pending.append(Pending(name, "never seen", job.since, online=False))
        elif node.state == OFFLINE:
            pending.append(Pending(name, f"offline: {node.why}", node.since, online=False))
        elif node.leaving:
            pending.append(Pending(name, "draining", node.since, online=False))
        elif node.held:
            pending.append(Pending(name, "not heard of yet", node.since))
        else:
            worker = worker_of(job, node)
            if worker is None:
                pending.append(Pending(name, "its worker is not started yet", job.since))
            elif worker.incarnation <= job.stale.get(name, -1):
                pending.append(Pending(name, "its worker starts anew, with another cut", job.since))
            elif worker.phase == REFUSED:
                problems += [f"{name}: {text}" for text in worker.problems or ("refused without a reason",)]
            elif worker.phase != READY:
                why = f": {'; '.join(worker.problems)}" if worker.problems else ""
                pending.append(Pending(name, f"worker {worker.phase}{why}", job.since))
    if not pending and not problems and (clash := unequal(job, registry)):
        problems.append(clash)
    return pending, problems


def missing(job: Job, file: JobFile, pending: Iterable[Pending]) -> tuple[str, ...] | None:
    """Nodes without which the job begins: with a quorum below 1, absent ones that only own data. None: it waits."""
    absent = list(pending)
    names = {item.node for item in absent}
    if not names:
        return ()
    needs_all = file.stragglers.quorum >= 1.0 or any(item.online for item in absent) or any(seat.movable and seat.node in names for seat in job.seats)
    passed = sum(name not in names for name in job.roster)
    if needs_all or not names <= {*job.roster} or passed < needed(file.stragglers.quorum, len(job.roster)):
        return None
    return tuple(sorted(names))


def replan(job: Job, file: JobFile, method: Method, registry: Registry, taken: Mapping[str, str]) -> str:
    """The workers have measured their nodes: is another plan clearly better? What changed, for the log; '' = the plan stands.

    Of a user's own module it is the first plan: a worker has described its blocks by now.
    """
    if not job.blocks and "import" in file.model:
        workers = (worker_of(job, registry.get(name)) for name in sorted(job.participants()))
        job.blocks = next((worker.blocks for worker in workers if worker is not None and worker.blocks), ())
    if job.replanned or (job.plan is None and not planner.can_plan(file, job.blocks)):
        return ""
    job.replanned = True
    known = {node.node: node for node in registry}
    free = [node for node in registry if node.online and not node.leaving and node.node not in taken]
    standing, better = choice.again(file, method, job, known, free)
    job.plan = standing or job.plan
    if standing is None or better is None:
        return ""
    job.runner_up, job.plan = standing, better
    if job.settled and better.settings != job.settled:  # what the file fixes itself is not settled here
        job.settled = dict(better.settings)
        job.stale = {name: worker.incarnation for name in sorted(job.participants()) if (worker := worker_of(job, registry.get(name))) is not None}
    for seat in job.seats:
        node = known.get(better.places.get(seat.role, ""))
        if seat.movable and node is not None:
            seat.node, seat.site, seat.tier = node.node, node.profile.site, node.profile.tier
    return f"measured: a step takes {standing.seconds * 1000:.1f} ms with {standing.title}; better: {better.title}, {better.seconds * 1000:.1f} ms"


def relocate(now: float, job: Job, file: JobFile, method: Method, registry: Registry, taken: Mapping[str, str]) -> str:
    """What is to move because a better place has held for long enough; '' = nothing."""
    seat = next((seat for seat in job.seats if seat.movable and not seat.home[0]), None)
    if seat is None or file.placement is None or not seat.incarnation or seat.successor or seat.wanted or not planner.can_plan(file, job.blocks):
        return ""
    known = {node.node: node for node in registry}
    free = [node for node in registry if node.online and not node.leaving and node.node not in taken and node.node not in job.unfit]
    if job.plan is not None and seat.node not in job.plan.places.values():  # it was moved: the prediction follows
        job.plan = choice.priced(file, method, job, known) or job.plan
    seat.wanted = choice.elsewhere(now, file, method, job, known, free)
    return f"{seat.task} would be better off on {seat.wanted}: it moves there" if seat.wanted else ""


def free_slot(job: Job, file: JobFile, registry: Registry, rules: Rules, now: float) -> int | None:
    """A slot that a node which came later may take: its node never came, or has been gone for long. Data that nodes own go with them."""
    if file.nodes.select.names:
        return None
    for slot, name in enumerate(job.roster):
        node = registry.get(name)
        gone = node is None or (node.state == OFFLINE and now - node.since >= rules.orphan_after_s)
        if gone and not (file.data.local and any(seat.ran for seat in job.seats if seat.slot == slot)):
            return slot
    return None


def newcomers(job: Job, file: JobFile, method: Method, registry: Registry, taken: Mapping[str, str]) -> list[Node]:
    """Nodes that the job would use, and that have no slot of it. taken: node -> job that has it."""
    fit = choice.fits(file, method)
    return [
        node
        for node in simple.matching(file.nodes, registry)
        if node.online and not node.leaving and node.node not in job.roster and node.node not in taken and fit(node)
    ]


def join(now: float, job: Job, file: JobFile, method: Method, newcomer: Node, registry: Registry, rules: Rules) -> str:
    """A node without a slot takes a free one, or a new one where nodes own their data. What happened; '' if nothing. The view must be raised."""
    slot = free_slot(job, file, registry, rules, now)
    if slot is not None:
        came = any(seat.ran for seat in job.seats if seat.slot == slot)
        text = f"{newcomer.node} takes slot {slot} of {job.roster[slot]}, which {'is gone for good' if came else 'never came'}"
        job.roster[slot] = newcomer.node
    elif file.data.local and file.nodes.count is None and not file.nodes.select.names:
        slot = len(job.roster)
        text = f"{newcomer.node} joins with its own data, slot {slot}"
        job.roster.append(newcomer.node)
        job.seats += [simple.data_seat(role.name, slot, newcomer.node, newcomer, role.stateful, "") for role in method.roles if role.bound == "slot"]
        job.seats.sort(key=lambda seat: (seat.slot, seat.role))
    else:
        return ""
    job.watching = [name for name in job.watching if name != newcomer.node]
    above = file.topology.parents.get(newcomer.node, "")
    head = next((seat.task for seat in job.seats if seat.home[0] and seat.node == above), "")
    for seat in [seat for seat in job.seats if seat.slot == slot]:
        take_over(job, seat, newcomer, registry)
        if seat.task != job.root:
            seat.parent = head or tree.cluster_of(job, newcomer.profile.site, newcomer.profile.tier, job.root)
    return text

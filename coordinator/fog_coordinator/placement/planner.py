"""From a job and the nodes that are there to plans, the best first. Pure; every figure in a plan is modelled.

Blocks that are cut into a segment for the data nodes (all the same one) and a segment for one free task are a chain: exact by
placement.chain. Several free tasks: every assignment where there are few, else placement.greedy and single moves that make it better; then
the choice is good but not proven best, and a memory that only one of many assignments respects may be missed.
A method without demands is placed by tier alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from math import prod
from typing import Any, Final

from msgspec import Struct

from fog_common import config
from fog_common.errors import ConfigError
from fog_common.wire.messages import BlockReport
from fog_coordinator.placement.chain import Segment, best_chains
from fog_coordinator.placement.cost import links_of, step_cost, value
from fog_coordinator.placement.free import MOST_ASSIGNMENTS, FreeTask, free_tasks, worker_bytes
from fog_coordinator.placement.greedy import greedy, room_for_all
from fog_coordinator.placement.shortlist import shortlist
from fog_learning.costs.demands import WORKER_BYTES, Demands
from fog_learning.costs.objectives import DEFAULT_OBJECTIVE, Cost
from fog_learning.costs.place import Place
from fog_learning.job.sections import JobFile, Placing
from fog_learning.methods import method_of, resolve_method
from fog_learning.methods.base import Method
from fog_learning.models import BlockFacts, ModelSpec, resolve_model

Told = Sequence[BlockReport]

FRONTS: Final = Place("the data nodes")


class Plan(Struct, frozen=True):
    """One way to run a job. Seconds, joules and bytes are of one training step, and modelled."""

    title: str
    """'cut after c1, trunk on cloud-1'."""
    settings: dict[str, Any] = {}
    """Keys of the job's `method` section that the plan fixes."""
    places: dict[str, str] = {}
    """Task id -> node, of the free tasks."""
    memory: dict[str, int] = {}
    """role -> bytes of its worker."""
    seconds: float = 0.0
    joules: float = 0.0
    bytes: float = 0.0
    value: float = 0.0
    """Cost under the job's objective; smaller is better."""
    parts: tuple[tuple[str, float], ...] = ()
    """Seconds by phase."""
    round_steps: int = 1
    guessed: tuple[str, ...] = ()
    """Figures that were not measured: 'pi-1: flops'."""
    assumed: tuple[str, ...] = ()
    """Watts and joules that nobody has configured: '3 W at rest: pi-1, pi-2'."""


class Planned(Struct, frozen=True):
    plans: tuple[Plan, ...] = ()
    """The best first."""
    why: str = ""
    """Why there is none."""


def can_plan(file: JobFile, told: Told = ()) -> bool:
    """told: what a worker has found out about a user's own module, whose costs nobody knows before."""
    return method_of(file).demands is not None and ("import" not in file.model or bool(told))


def is_automatic(file: JobFile) -> bool:
    """Whether placement has something to choose."""
    return file.placement is not None or _cut_is_open(file)


def _cut_is_open(file: JobFile) -> bool:
    """Whether the job leaves to placement where the model is cut."""
    segments = method_of(file).segments
    return segments is not None and segments.is_open(file)


def check(file: JobFile, method: Method) -> None:
    """ConfigError if the job asks for a choice that cannot be made."""
    if not is_automatic(file):
        return
    movable = [role.name for role in method.roles if role.bound != "slot"]
    if unknown := sorted(set(file.placement.roles if file.placement is not None else ()) - set(movable)):
        raise ConfigError(f"placement.roles.{unknown[0]}: {config.suggest(unknown[0], movable, 'role')}")
    if _cut_is_open(file):
        ways(file, 1)
    elif file.placement is not None and file.placement.objective != DEFAULT_OBJECTIVE and method.demands is None:
        raise ConfigError(f"placement.objective: the costs of method {method.name} are not known; only tier, site, names and labels choose its nodes")


def ways(file: JobFile, slots: int, told: Told = ()) -> tuple[Demands, ...]:
    """ConfigError if the shape of the data is not known here, or the model cannot be cut."""
    method, plan = resolve_method(file)
    if method.demands is None:
        raise ConfigError(f"the costs of method {method.name} are not known")
    return method.demands(file, plan, model_of(file, told), slots, test_examples(file))


def model_of(file: JobFile, told: Told = ()) -> ModelSpec:
    from fog_learning.data.known import known_shape

    shape, classes = known_shape(file.data.name) or (None, None)
    if "import" not in file.model or not told:
        return resolve_model(file.model, shape, classes)
    outputs = file.model.get("classes") or classes or prod(told[-1].output_shape)
    size = 8 if file.train.dtype == "float64" else 4
    facts = tuple(
        BlockFacts(
            each.name, each.input_shape, each.output_shape, each.parameters, each.parameters * size, each.flops, prod(each.output_shape) * size
        )
        for each in told
    )
    return ModelSpec(str(file.model["import"]), told[0].input_shape, outputs, factory=str(file.model["import"]), told=facts)


def test_examples(file: JobFile) -> int:
    from fog_learning.data.known import known_test_examples

    count = known_test_examples(file.data.name)
    return min(count, file.data.test_limit) if file.data.test_limit is not None else count


def plans(
    file: JobFile,
    method: Method,
    roster: Sequence[Place],
    candidates: Sequence[Place],
    keep: int = 2,
    told: Told = (),
    only: Mapping[str, Collection[str]] | None = None,
) -> Planned:
    """roster: places of the data slots. candidates: where free tasks may be, any number of them. only: task -> names of those it may be on;
    a task that is not named there may be on any."""
    try:
        options = ways(file, len(roster), told)
    except ConfigError as error:
        return Planned(why=str(error))
    tasks = free_tasks(file, method)
    data = tuple(role.name for role in method.roles if role.bound == "slot")
    if not tasks or not candidates or (data and not roster):
        return Planned(why=f"no node could run {tasks[0].task}" if tasks else "nothing is to be placed")
    table = _Table(file.placement or Placing(), options, data, tasks, tuple(roster), tuple(candidates), only or {})
    found = table.several(keep) if len(tasks) > 1 else table.chains(keep) if options[0].blocks is not None else table.single(keep)
    return Planned(tuple(found), "" if found else table.memory_sentence())


class _Table:
    """The prices of one job."""

    def __init__(
        self,
        rules: Placing,
        options: Sequence[Demands],
        data: tuple[str, ...],
        tasks: tuple[FreeTask, ...],
        roster: tuple[Place, ...],
        everywhere: tuple[Place, ...],
        only: Mapping[str, Collection[str]],
    ) -> None:
        """everywhere: all candidates, also those without room."""
        self.rules, self.options, self.data, self.tasks = rules, options, data, tasks
        self.roster, self.everywhere = roster, everywhere
        self.links = links_of((*roster, *everywhere))
        self.owners = {place.node for place in roster}
        self.open: dict[str, list[Place]] = {}
        for task in tasks:
            allowed = [place for place in everywhere if task.task not in only or place.node in only[task.task]]
            roomy = [place for place in allowed if any(self._has_room(option, {task.task: place}) for option in options)]
            self.open[task.task] = shortlist(roomy, self.owners, rules.objective, len(roster))

    def chains(self, keep: int) -> list[Plan]:
        task = self.tasks[0].task
        cuts = {option.blocks: option for option in self.options}
        blocks = 1 + max(cut for cut in cuts if cut is not None)

        def price(segment: Segment[Place], before: Segment[Place] | None) -> float | None:
            if before is None:  # what the fronts do is priced with the trunk: both are in one maximum
                option = cuts.get(segment.last)
                return 0.0 if option is not None and self._fronts_fit(option) else None
            option = cuts.get(before.last)
            return None if option is None or segment.last != blocks else self._price(option, {task: segment.place})

        found = best_chains(blocks, [[FRONTS], self.open[task]], price, required=(0, 1), keep=keep)
        return [self._plan(cuts[way.segments[0].last], {task: way.segments[1].place}) for way in found]

    def single(self, keep: int) -> list[Plan]:
        task, option = self.tasks[0].task, self.options[0]
        found: list[Plan] = []
        left = list(self.open[task])
        while left and len(found) < keep and self._fronts_fit(option):
            chosen = greedy([(task, 1.0)], {task: left}, lambda places: self._price(option, places))
            if chosen is None:
                break
            found.append(self._plan(option, chosen))
            left.remove(chosen[task])
        return found

    def several(self, keep: int) -> list[Plan]:
        """Of each way to run the method: every assignment of few, else the greedy one and those that differ from it in one task at a time."""
        priced: list[tuple[float, int, tuple[str, ...], dict[str, Place]]] = []
        for number, option in enumerate(self.options):
            if not self._fronts_fit(option):
                continue
            seen: dict[tuple[str, ...], tuple[float, dict[str, Place]]] = {}
            for places in self._assignments(option, seen):
                self._see(option, places, seen)
            priced += [(price, number, names, places) for names, (price, places) in seen.items()]
        priced.sort(key=lambda item: item[:3])
        return [self._plan(self.options[number], places) for _, number, _, places in priced[:keep]]

    def _assignments(self, option: Demands, seen: Mapping[tuple[str, ...], tuple[float, dict[str, Place]]]) -> Iterator[dict[str, Place]]:
        """Assignments worth a price. seen: assignments that have one; the search goes on from the best of them."""
        names = [task.task for task in self.tasks]
        if prod(len(self.open[name]) for name in names) <= MOST_ASSIGNMENTS:
            yield from (dict(zip(names, places, strict=True)) for places in product(*(self.open[name] for name in names)))
            return
        demanding = [(task.task, self._work(option, task.role.name)) for task in self.tasks]
        standing = greedy(demanding, self.open, lambda places: self._price(option, places))
        if standing is None:
            largest = sorted(self.tasks, key=lambda task: -option.memory.get(task.role.name, 0))
            fits = partial(self._has_room, option)
            standing = room_for_all([task.task for task in largest], self.open, fits, 2 * MOST_ASSIGNMENTS)
        value: float | None = None
        while standing is not None:
            standing = {name: standing[name] for name in names}
            yield standing
            for name in names:
                yield from ({**standing, name: place} for place in self.open[name])
            best = min(seen.values(), key=lambda item: item[0], default=None)
            if best is None or (value is not None and best[0] >= value):
                return
            value, standing = best

    def _see(self, option: Demands, places: dict[str, Place], seen: dict[tuple[str, ...], tuple[float, dict[str, Place]]]) -> None:
        key = tuple(place.node for place in places.values())
        if key not in seen and (price := self._price(option, places)) is not None:
            seen[key] = price, places

    def _work(self, option: Demands, role: str) -> float:
        return sum(phase.flops * phase.often for phase in (*option.cycle, *option.round) if phase.role == role)

    def _cost(self, option: Demands, places: Mapping[str, Place]) -> Cost:
        """places: of all free tasks, or of some, while others are not placed yet."""
        where: dict[str, Sequence[Place]] = dict.fromkeys(self.data, self.roster)
        for role in dict.fromkeys(task.role.name for task in self.tasks):
            where[role] = [places[task.task] for task in self.tasks if task.role.name == role and task.task in places]
        return step_cost(option, where, self.links)

    def _price(self, option: Demands, places: Mapping[str, Place]) -> float | None:
        return value(self._cost(option, places), self.rules) if self._has_room(option, places) else None

    def _has_room(self, option: Demands, places: Mapping[str, Place]) -> bool:
        nodes = {place.node: place for place in places.values()}
        return all(place.memory_bytes is None or self._need(option, places, place) <= place.memory_bytes for place in nodes.values())

    def _need(self, option: Demands, places: Mapping[str, Place], place: Place) -> int:
        """Bytes of the worker on a place with the free tasks that are to be there."""
        needs = [option.memory.get(task.role.name, 0) for task in self.tasks if task.task in places and places[task.task].node == place.node]
        if place.node in self.owners:  # one worker for all tasks
            needs.append(max((option.memory.get(role, 0) for role in self.data), default=WORKER_BYTES))
        return worker_bytes(needs)

    def _fronts_fit(self, option: Demands) -> bool:
        _, need = self._front(option)
        return all(place.memory_bytes is None or need <= place.memory_bytes for place in self.roster)

    def _front(self, option: Demands) -> tuple[str, int]:
        """(role, bytes) of the data task that needs most."""
        return max(((role, option.memory.get(role, 0)) for role in self.data), key=lambda item: item[1], default=("", 0))

    def _plan(self, option: Demands, places: Mapping[str, Place]) -> Plan:
        cost = self._cost(option, places)
        where = {item.node: item for item in (*places.values(), *self.roster)}
        return Plan(
            title=", ".join(filter(None, (option.title, *(f"{task} on {place.node}" for task, place in places.items())))),
            settings=dict(option.settings),
            places={task: place.node for task, place in places.items()},
            memory=dict(option.memory),
            seconds=cost.seconds,
            joules=cost.joules,
            bytes=cost.bytes,
            value=value(cost, self.rules),
            parts=cost.parts,
            round_steps=option.round_steps,
            guessed=tuple(f"{name}: {', '.join(item.guessed)}" for name, item in sorted(where.items()) if item.guessed),
            assumed=_assumed([item for _, item in sorted(where.items())]),
        )

    def memory_sentence(self) -> str:
        """Why nothing fits, with the numbers: '{task} needs 900 MB, largest free is 512 MB on pi-1'."""
        options = [option for option in self.options if self._fronts_fit(option)]
        if not options:
            role, need = min(((self._front(option)) for option in self.options), key=lambda item: item[1])
            return short_of_memory(role, need, [place for place in self.roster if place.memory_bytes is not None and place.memory_bytes < need])
        tight = [task for task in self.tasks if not self.open[task.task]]
        task = (tight or self.tasks)[0]
        option = min(options, key=lambda option: option.memory.get(task.role.name, 0))
        largest = max(self.everywhere, key=_free)
        if not tight and len(self.tasks) > 1:
            need = worker_bytes(option.memory.get(each.role.name, 0) for each in self.tasks)
            return short_of_memory(", ".join(each.task for each in self.tasks) + " together", need, [largest])
        return short_of_memory(task.task, self._need(option, {task.task: largest}, largest), [largest])


def short_of_memory(what: str, need: int, places: Sequence[Place]) -> str:
    largest = max(places, key=_free)
    return f"{what} needs {need / 1e6:.0f} MB, largest free is {(largest.memory_bytes or 0) / 1e6:.0f} MB on {largest.node}"


UNITS: Final = {"idle_w": "W at rest", "core_w": "W more while computing", "byte_j": "J a byte"}


def _assumed(places: Sequence[Place]) -> tuple[str, ...]:
    """Nodes with the same figure together."""
    nodes: dict[str, list[str]] = {}
    for name, unit in UNITS.items():
        for place in places:
            if name in place.assumed:
                nodes.setdefault(f"{getattr(place, name):g} {unit}", []).append(place.node)
    return tuple(f"{figure}: {', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}" for figure, names in nodes.items())


def _free(place: Place) -> tuple[int, str]:
    return place.memory_bytes or 0, place.node

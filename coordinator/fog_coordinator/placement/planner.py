"""From a job and the nodes that are there to plans, the best first. Pure; every figure in a plan is modelled.

fcddt is a chain: its blocks are cut into a segment for the nodes that own data (all the same one) and a segment for the trunk, exact
by placement.chain. Other methods have single tasks to place: placement.greedy. A method without demands is placed by tier alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

from msgspec import Struct

from fog_common.errors import ConfigError
from fog_common.wire.messages import BlockReport
from fog_coordinator.placement.chain import Segment, best_chains
from fog_coordinator.placement.cost import Cost, Place, step_cost, value
from fog_coordinator.placement.greedy import greedy
from fog_coordinator.placement.shortlist import shortlist
from fog_learning.costs.demands import WORKER_BYTES, Demands
from fog_learning.costs.needs import NEEDS
from fog_learning.job.sections import Job, Placing
from fog_learning.methods import resolve_method
from fog_learning.methods.base import Method
from fog_learning.methods.fcddt.messages import AUTO
from fog_learning.models import BlockFacts, ModelSpec, resolve_model

Told = Sequence[BlockReport]

FRONTS: Final = Place("the data nodes")


class Plan(Struct, frozen=True):
    """One way to run a job. Seconds, joules and bytes are of one training step, and modelled."""

    title: str
    """'cut after c1, trunk on cloud-1'."""
    settings: dict[str, Any] = {}
    """What it fixes of the job's `method` section."""
    places: dict[str, str] = {}
    """role -> node, of the tasks that are bound to no data."""
    seconds: float = 0.0
    joules: float = 0.0
    bytes: float = 0.0
    value: float = 0.0
    """What the objective makes small."""
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


def can_plan(file: Job, told: Told = ()) -> bool:
    """told: what a worker has found out about a user's own module, whose costs nobody knows before."""
    return file.method["name"] in NEEDS and ("import" not in file.model or bool(told))


def is_automatic(file: Job) -> bool:
    """Whether placement has something to choose."""
    return file.placement is not None or file.method.get("cut") == AUTO


def check(file: Job) -> None:
    """ConfigError if the job asks for a choice that cannot be made."""
    if not is_automatic(file):
        return
    name = file.method["name"]
    if file.method.get("cut") == AUTO:
        ways(file, 1)
    elif file.placement is not None and file.placement.objective != "latency" and name not in NEEDS:
        raise ConfigError(f"placement.objective: the costs of method {name} are not known; only tier, site, names and labels choose its nodes")


def ways(file: Job, slots: int, told: Told = ()) -> tuple[Demands, ...]:
    """ConfigError if the shape of the data is not known here, or the model cannot be cut."""
    _, plan = resolve_method(file)
    return NEEDS[file.method["name"]](file, plan, model_of(file, told), slots, test_examples(file))


def model_of(file: Job, told: Told = ()) -> ModelSpec:
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


def test_examples(file: Job) -> int:
    from fog_learning.data.known import known_test_examples

    count = known_test_examples(file.data.name)
    return min(count, file.data.test_limit) if file.data.test_limit is not None else count


def plans(file: Job, method: Method, roster: Sequence[Place], candidates: Sequence[Place], keep: int = 2, told: Told = ()) -> Planned:
    """roster: places of the data slots. candidates: where the other tasks may be, any number of them."""
    try:
        options = ways(file, len(roster), told)
    except ConfigError as error:
        return Planned(why=str(error))
    task = next((role.name for role in method.roles if role.bound == "free"), "")
    data = tuple(role.name for role in method.roles if role.bound == "slot")
    if not task or not candidates or not roster:
        return Planned(why=f"no node could run {task}" if task else "nothing is to be placed")
    table = _Table(file.placement or Placing(), options, data, task, tuple(roster), tuple(candidates))
    found = table.chains(keep) if options[0].blocks is not None else table.single(keep)
    return Planned(tuple(found), "" if found else table.memory_sentence())


class _Table:
    """The prices of one job."""

    def __init__(
        self, rules: Placing, options: Sequence[Demands], data: tuple[str, ...], task: str, roster: tuple[Place, ...], everywhere: tuple[Place, ...]
    ) -> None:
        """everywhere: all candidates, also those without room."""
        self.rules, self.options, self.data, self.task = rules, options, data, task
        self.roster, self.everywhere = roster, everywhere
        self.owners = {place.node for place in roster}
        roomy = [place for place in everywhere if any(self._has_room(option, place) for option in options)]
        self.candidates = shortlist(roomy, self.owners, rules.objective, len(roster))

    def chains(self, keep: int) -> list[Plan]:
        cuts = {option.blocks: option for option in self.options}
        blocks = 1 + max(cut for cut in cuts if cut is not None)

        def price(segment: Segment[Place], before: Segment[Place] | None) -> float | None:
            if before is None:  # what the fronts do is priced with the trunk: both are in one maximum
                option = cuts.get(segment.last)
                return 0.0 if option is not None and self._fronts_fit(option) else None
            option = cuts.get(before.last)
            return None if option is None or segment.last != blocks else self._price(option, segment.place)

        found = best_chains(blocks, [[FRONTS], self.candidates], price, required=(0, 1), keep=keep)
        return [self._plan(cuts[way.segments[0].last], way.segments[1].place) for way in found]

    def single(self, keep: int) -> list[Plan]:
        found: list[Plan] = []
        left, option = list(self.candidates), self.options[0]
        while left and len(found) < keep and self._fronts_fit(option):
            chosen = greedy([(self.task, 1.0)], {self.task: left}, lambda places: self._price(option, places[self.task]))
            if chosen is None:
                break
            found.append(self._plan(option, chosen[self.task]))
            left.remove(chosen[self.task])
        return found

    def _cost(self, option: Demands, place: Place) -> Cost:
        return step_cost(option, {**dict.fromkeys(self.data, self.roster), self.task: [place]})

    def _price(self, option: Demands, place: Place) -> float | None:
        return value(self._cost(option, place), self.rules) if self._has_room(option, place) else None

    def _has_room(self, option: Demands, place: Place) -> bool:
        return place.memory_bytes is None or self._need(option, place) <= place.memory_bytes

    def _need(self, option: Demands, place: Place) -> int:
        need = option.memory.get(self.task, 0)
        if place.node in self.owners:  # one worker for both tasks
            need += max((option.memory.get(role, 0) for role in self.data), default=WORKER_BYTES) - WORKER_BYTES
        return max(need, 0)

    def _fronts_fit(self, option: Demands) -> bool:
        _, need = self._front(option)
        return all(place.memory_bytes is None or need <= place.memory_bytes for place in self.roster)

    def _front(self, option: Demands) -> tuple[str, int]:
        """(role, bytes) of the data task that needs most."""
        return max(((role, option.memory.get(role, 0)) for role in self.data), key=lambda item: item[1], default=("", 0))

    def _plan(self, option: Demands, place: Place) -> Plan:
        cost = self._cost(option, place)
        where = {item.node: item for item in (place, *self.roster)}
        return Plan(
            title=", ".join(filter(None, (option.title, f"{self.task} on {place.node}"))),
            settings=dict(option.settings),
            places={self.task: place.node},
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
        option = min(options, key=lambda option: option.memory.get(self.task, 0))
        largest = max(self.everywhere, key=_free)
        return short_of_memory(self.task, self._need(option, largest), [largest])


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

"""Places of several free tasks with memory and constraints of their own, against trying every assignment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from fog_common.wire.api.states import ONLINE
from fog_common.wire.messages import Profile
from fog_coordinator.placement.cost import step_cost, value
from fog_coordinator.placement.free import MOST_ASSIGNMENTS, FreeTask, free_tasks
from fog_coordinator.placement.greedy import greedy, room_for_all
from fog_coordinator.placement.planner import Plan, Planned, plans, ways
from fog_coordinator.placement.simple import rank
from fog_coordinator.placement.spread import spread
from fog_coordinator.state.nodes import Node
from fog_learning.costs.demands import WORKER_BYTES, Demands, Phase
from fog_learning.costs.place import Place
from fog_learning.job.reading import job_from
from fog_learning.job.sections import JobFile, Placing
from fog_learning.methods import METHODS
from fog_learning.methods.base import Method, Role
from fog_learning.models import ModelSpec
from support.extension import offer

MB = 1_000_000


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    junctions: int = 2
    memory: dict[str, int] = {}
    """role -> MB of its worker."""
    way: str = "quick"


def demands(job: JobFile, plan: Struct, spec: ModelSpec, slots: int, test_examples: int) -> tuple[Demands, ...]:
    """A quick way, and a slow one whose junctions need less memory."""
    assert isinstance(plan, Section)

    def one(way: str, flops: float, less: int) -> Demands:
        cycle = (
            Phase("source", 1e8, to="junction", bytes=1e5),
            Phase("junction", flops, to="server", bytes=1e4),
            Phase("server", 1e7, to="source", bytes=1e4, cast=True),
        )
        memory = {role: size * MB for role, size in plan.memory.items()}
        return Demands(title=way, settings={"way": way}, cycle=cycle, memory={**memory, "junction": memory["junction"] - less})

    return one("quick", 1e8, 0), one("slow", 1e9, 40 * MB)


MACHINE = METHODS["fedavg"].roles[0].machine


def junctions(job: JobFile, plan: Struct) -> int:
    assert isinstance(plan, Section)
    return plan.junctions


MANY = Method(
    name="many",
    title="Sources, junctions, a server",
    source="a test",
    plan=Section,
    roles=(
        Role("source", MACHINE, "slot"),
        Role("junction", MACHINE, "free", count=junctions),
        Role("server", MACHINE, "free", stateful=True),
    ),
    messages=METHODS["fedavg"].messages,
    ops=METHODS["fedavg"].ops,
    root="server",
    build=METHODS["fedavg"].build,
    sections=METHODS["fedavg"].sections,
    demands=demands,
)


@pytest.fixture(scope="module", autouse=True)
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        offer(tmp_path_factory.mktemp("many"), patch, "many", Path(__file__), "MANY")
        with METHODS.allowed(["many"]):
            METHODS.load()
            yield


def job(count: int, memory: Mapping[str, int], objective: str = "latency") -> JobFile:
    return job_from(
        {
            "name": "m",
            "method": {"name": "many", "junctions": count, "memory": dict(memory)},
            "model": {"name": "mlp"},
            "data": {"name": "mnist"},
            "placement": {"objective": objective},
        }
    )


def planned(file: JobFile, roster: Sequence[Place], candidates: Sequence[Place], only: Mapping[str, frozenset[str]]) -> Planned:
    return plans(file, METHODS["many"], roster, candidates, only=only)


# -- with prices ---------------------------------------------------------------------------

ROOMS = st.none() | st.sampled_from([200, 300, 350, 400, 450, 500, 600, 800]).map(lambda size: size * MB)
MEMORY = st.fixed_dictionaries({"source": st.sampled_from([260, 300]), "junction": st.integers(290, 420), "server": st.integers(260, 420)})
figures = st.fixed_dictionaries({"flops": st.floats(1e8, 1e11), "rtt_s": st.floats(1e-4, 0.1), "bytes_s": st.floats(1e5, 1e9)})


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[Place], list[Place], int, dict[str, frozenset[str]]]:
    """(places of the data slots, candidates, junctions, task -> names of nodes that it may be on)."""
    owners = [Place(f"d{i}", **draw(figures), memory_bytes=draw(ROOMS)) for i in range(draw(st.integers(1, 2)))]
    others = [Place(f"c{i}", **draw(figures), memory_bytes=draw(ROOMS)) for i in range(draw(st.integers(0, 3)))]
    count = draw(st.integers(1, 3))
    candidates = [*others, *owners]
    names = ["server", *(["junction"] if count == 1 else [f"junction-{i}" for i in range(count)])]
    nodes = [place.node for place in candidates]
    only = draw(st.dictionaries(st.sampled_from(names), st.frozensets(st.sampled_from(nodes), min_size=1), max_size=2))
    return owners, candidates, count, only


def within_memory(where: Mapping[str, str], needs: Mapping[str, int], owned: Mapping[str, int], free: Mapping[str, int | None]) -> bool:
    """Whether no node has more tasks than its memory allows; a worker's interpreter counts once. where: task -> node; needs: task -> bytes."""
    for node, room in free.items():
        there = [needs[task] for task, place in where.items() if place == node]
        each = [*there, *([owned[node]] if node in owned else [])]
        if there and room is not None and sum(each) - WORKER_BYTES * (len(each) - 1) > room:
            return False
    return True


def fits(option: Demands, where: Mapping[str, str], owners: Sequence[Place], candidates: Sequence[Place]) -> bool:
    """Also every data task alone."""
    needs = {task: option.memory[task.partition("-")[0]] for task in where}
    source = option.memory["source"]
    alone = all(place.memory_bytes is None or source <= place.memory_bytes for place in owners)
    free = {place.node: place.memory_bytes for place in candidates}
    return alone and within_memory(where, needs, {place.node: source for place in owners}, free)


def everything(
    file: JobFile, tasks: Sequence[FreeTask], owners: Sequence[Place], candidates: Sequence[Place], only: Mapping[str, frozenset[str]]
) -> list[float]:
    """What every possible assignment costs, the least first."""
    names = [task.task for task in tasks]
    found = []
    for option in ways(file, len(owners)):
        for chosen in product(*([place for place in candidates if place.node in only.get(name, {place.node})] for name in names)):
            places = dict(zip(names, chosen, strict=True))
            if fits(option, {name: place.node for name, place in places.items()}, owners, candidates):
                where: dict[str, Sequence[Place]] = {"source": owners, "server": [places["server"]]}
                where["junction"] = [place for name, place in places.items() if name != "server"]
                found.append(value(step_cost(option, where), file.placement or Placing()))
    return sorted(found)


def check_allowed(file: JobFile, plan: Plan, owners: Sequence[Place], candidates: Sequence[Place], only: Mapping[str, frozenset[str]]) -> None:
    """A plan respects memory and the nodes that each task may be on."""
    option = next(option for option in ways(file, len(owners)) if option.settings == plan.settings)
    assert fits(option, plan.places, owners, candidates)
    assert all(plan.places[task] in nodes for task, nodes in only.items())


@pytest.mark.thorough
@settings(max_examples=150, deadline=None)
@given(fleet=fleets(), memory=MEMORY, objective=st.sampled_from(["latency", "energy", "bytes"]))
def test_the_choice_of_few_assignments_is_the_best_of_all(
    fleet: tuple[list[Place], list[Place], int, dict[str, frozenset[str]]], memory: dict[str, int], objective: str
) -> None:
    owners, candidates, count, only = fleet
    file = job(count, memory, objective)
    tasks = free_tasks(file, METHODS["many"])
    assert prod(len(only.get(task.task, candidates)) for task in tasks) <= MOST_ASSIGNMENTS
    possible = everything(file, tasks, owners, candidates, only)
    found = planned(file, owners, candidates, only)
    assert bool(found.plans) == bool(possible), found.why
    assert [plan.value for plan in found.plans] == pytest.approx(possible[: len(found.plans)], rel=1e-12)
    for plan in found.plans:
        check_allowed(file, plan, owners, candidates, only)
    assert found.plans or " needs " in found.why


ROOMY = Place("d0", memory_bytes=None)


def test_of_many_assignments_a_plan_respects_memory_even_where_the_greedy_one_finds_no_room():
    """Six tasks on six nodes that take one each: the fast node is the only one that the server may use, and the junctions are placed first."""
    nodes = [Place(f"c{i}", flops=1e9, memory_bytes=400 * MB) for i in range(5)] + [Place("fast", flops=1e11, memory_bytes=400 * MB)]
    file = job(5, {"source": 260, "junction": 400, "server": 400})
    only = {"server": frozenset({"fast"})}
    tight = [replace(place, memory_bytes=390 * MB) for place in nodes]
    assert planned(file, [ROOMY], tight, only).plans == ()
    (best, *_) = planned(file, [ROOMY], nodes, only).plans
    assert best.places["server"] == "fast" and len(set(best.places.values())) == 6
    check_allowed(file, best, [ROOMY], nodes, only)


@pytest.mark.thorough
@settings(max_examples=25, deadline=None)
@given(kinds=st.lists(st.tuples(figures, ROOMS), min_size=6, max_size=7), memory=MEMORY)
def test_the_choice_of_many_assignments_is_possible_and_no_worse_than_the_greedy_one(
    kinds: list[tuple[dict[str, float], int | None]], memory: dict[str, int]
) -> None:
    candidates = [Place(f"c{i}", **measured, memory_bytes=room) for i, (measured, room) in enumerate(kinds)]
    file = job(3, memory)
    option, _ = ways(file, 1)

    def price(places: Mapping[str, Place]) -> float | None:
        if not fits(option, {task: place.node for task, place in places.items()}, [ROOMY], candidates):
            return None
        where: dict[str, Sequence[Place]] = {"source": [ROOMY], "server": [place for task, place in places.items() if task == "server"]}
        where["junction"] = [place for task, place in places.items() if task != "server"]
        return value(step_cost(option, where), Placing())

    names = [task.task for task in free_tasks(file, METHODS["many"])]
    assert len(candidates) ** len(names) > MOST_ASSIGNMENTS
    possible = everything(file, free_tasks(file, METHODS["many"]), [ROOMY], candidates, {})
    one = greedy([(name, 10.0 if name != "server" else 1.0) for name in names], dict.fromkeys(names, candidates), price)
    found = planned(file, [ROOMY], candidates, {})
    assert bool(found.plans) == bool(possible), "few enough partial assignments to look at all of them"
    if found.plans:
        check_allowed(file, found.plans[0], [ROOMY], candidates, {})
        assert found.plans[0].value >= possible[0] * (1 - 1e-12)
        assert one is None or found.plans[0].value <= price(one) * (1 + 1e-12)  # type: ignore[operator]


# -- without prices ------------------------------------------------------------------------


def node(name: str, free: int, tier: str = "cloud") -> Node:
    return Node(name, Profile(tier=tier, site="s", memory_free_bytes=free * MB), state=ONLINE)


def tasks_of(**counts: int) -> list[FreeTask]:
    roles = [Role(name, MACHINE, "free", count=count) for name, count in counts.items()]
    return list(free_tasks(job(1, {"junction": 300}), replace(MANY, roles=tuple(roles))))


@settings(max_examples=150, deadline=None)
@given(
    rooms=st.lists(st.tuples(st.sampled_from([0, 240, 300, 350, 400, 450, 500]), st.sampled_from(["edge", "cloud"])), min_size=1, max_size=4),
    counts=st.fixed_dictionaries({"a": st.integers(1, 2), "b": st.integers(1, 2), "c": st.just(1)}),
    needs=st.fixed_dictionaries({"a": st.sampled_from([0, 260, 300]), "b": st.integers(260, 450), "c": st.integers(260, 450)}),
    data=st.sampled_from([0, 260, 300]),
    choices=st.data(),
)
def test_tasks_are_spread_wherever_an_assignment_has_room(
    rooms: list[tuple[int, str]], counts: dict[str, int], needs: dict[str, int], data: int, choices: st.DataObject
) -> None:
    nodes = [node(f"n{i}", free, tier) for i, (free, tier) in enumerate(rooms)]
    tasks = tasks_of(**counts)
    open_to = {task.task: choices.draw(st.lists(st.sampled_from(nodes), min_size=1, unique_by=lambda each: each.node)) for task in tasks}
    roster = [nodes[0].node] if choices.draw(st.booleans()) else []
    sizes = {role: size * MB for role, size in needs.items()}
    found, why = spread(tasks, open_to, roster, sizes, data * MB)

    def possible(where: Mapping[str, str]) -> bool:
        owned = dict.fromkeys(roster, data * MB) if data else {}
        counted = {task.task: sizes[task.role.name] for task in tasks if sizes[task.role.name]}
        free = {each.node: each.profile.memory_free_bytes or None for each in nodes}
        return within_memory({task: where[task] for task in counted}, counted, owned, free)

    names = [task.task for task in tasks]
    every = product(*([each.node for each in open_to[name]] for name in names))
    assert bool(found) == any(possible(dict(zip(names, where, strict=True))) for where in every)
    assert bool(found) != bool(why)
    if found:
        assert possible({task: each.node for task, each in found.items()})
        assert all(found[name] in open_to[name] for name in names)


def test_a_task_without_room_makes_the_others_move():
    small, large = node("small", 300), node("large", 400)
    open_to = {"a": [small, large], "b": [small, large]}
    needs = {"a": 300 * MB, "b": 400 * MB}
    assert min(open_to["a"], key=lambda each: rank(each, ())) is large, "what is placed first takes the larger one"
    found, why = spread(tasks_of(a=1, b=1), open_to, (), needs, 0)
    assert not why and {name: each.node for name, each in found.items()} == {"a": "small", "b": "large"}


def test_a_task_without_room_anywhere_is_named_with_what_it_needs_there():
    nodes = [node("n0", 300), node("n1", 390)]
    found, why = spread(tasks_of(a=1, b=1, c=1), dict.fromkeys("abc", nodes), (), dict.fromkeys("abc", 300 * MB), 0)
    assert (found, why) != ({}, ""), "300 MB on n0, 350 MB on n1"
    found, why = spread(tasks_of(a=1, b=1, c=1), dict.fromkeys("abc", nodes), ["n1"], dict.fromkeys("abc", 300 * MB), 300 * MB)
    assert found == {} and why == "c needs 400 MB, largest free is 390 MB on n1"


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5), rooms=st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_the_search_for_room_is_exact_where_there_are_few_assignments(sizes: list[int], rooms: list[int]) -> None:
    def fit(chosen: Mapping[int, int]) -> bool:
        return all(sum(sizes[task] for task, place in chosen.items() if place == at) <= room for at, room in enumerate(rooms))

    tasks = range(len(sizes))
    found = room_for_all(tasks, dict.fromkeys(tasks, range(len(rooms))), fit, 2 * MOST_ASSIGNMENTS)
    every = (dict(enumerate(places)) for places in product(range(len(rooms)), repeat=len(sizes)))
    assert (found is not None) == any(fit(chosen) for chosen in every)
    assert found is None or (fit(found) and found.keys() == set(tasks))


def test_the_search_for_room_ends_where_there_are_many_assignments():
    seen = 0

    def fit(chosen: Mapping[int, int]) -> bool:
        nonlocal seen
        seen += 1
        return len(chosen) < 12

    assert room_for_all(range(12), dict.fromkeys(range(12), range(3)), fit, 100) is None
    assert seen <= 112

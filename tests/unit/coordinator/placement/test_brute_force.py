"""The planner's choice against pricing every cut on every node with the real cost function, and what is left out of large fleets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fog_coordinator.placement import planner, shortlist
from fog_coordinator.placement.cost import step_cost, value
from fog_coordinator.placement.planner import plans
from fog_learning.costs.demands import WORKER_BYTES, Demands
from fog_learning.costs.objectives import OBJECTIVES
from fog_learning.costs.place import Place
from fog_learning.job.reading import job_from
from fog_learning.job.sections import Placing
from fog_learning.methods import METHODS

pytestmark = pytest.mark.thorough


def job(method: dict[str, Any], model: dict[str, Any], objective: str, **more: Any) -> Any:
    placement: dict[str, Any] = {"objective": objective}
    if OBJECTIVES[objective].weighs:
        placement["weights"] = {"latency": 1.0, "energy": 0.3, "bytes": 0.1}
    privacy = {"privacy": {"share_samples": True}} if method["name"] == "centralized" else {}
    return job_from({"name": "p", "method": method, "model": model, "data": {"name": "mnist"}, "placement": placement, **privacy, **more})


figures = st.fixed_dictionaries(
    {
        "flops": st.floats(1e8, 1e11),
        "op_s": st.floats(1e-5, 1e-2),
        "rtt_s": st.floats(1e-4, 0.1),
        "bytes_s": st.floats(1e5, 1e9),
        "idle_w": st.floats(0.1, 100.0),
        "core_w": st.floats(0.1, 50.0),
        "byte_j": st.floats(1e-10, 1e-5),
        "memory_bytes": st.none() | st.integers(200_000_000, 400_000_000) | st.just(1 << 33),
    }
)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[Place], list[Place]]:
    """(data nodes, candidates): up to 60 candidates, data nodes among them or not."""
    owners = [Place(f"d{i}", **{**draw(figures), "memory_bytes": draw(st.none() | st.just(1 << 33))}) for i in range(draw(st.integers(1, 6)))]
    kinds = draw(st.lists(figures, min_size=1, max_size=8))
    count = draw(st.integers(0, 60))
    others = [Place(f"c{i}", **kinds[i % len(kinds)]) for i in range(count)]
    others = [replace(place, flops=place.flops * (1 + i / 97), bytes_s=place.bytes_s * (1 + i % 7)) for i, place in enumerate(others)]
    return owners, draw(st.permutations([*others, *(owners if draw(st.booleans()) or not others else [])]))


def everything(file: Any, owners: list[Place], candidates: list[Place]) -> list[tuple[float, dict[str, Any], str]]:
    """All that is possible, the best first."""
    data, task = (next(role.name for role in METHODS[file.method["name"]].roles if role.bound == bound) for bound in ("slot", "free"))
    names = {place.node for place in owners}

    def fits(option: Demands, place: Place) -> bool:
        room = place.memory_bytes if place.memory_bytes is not None else float("inf")
        both = option.memory.get(data, WORKER_BYTES) - WORKER_BYTES if place.node in names else 0
        return option.memory[task] + both <= room and all(
            own.memory_bytes is None or option.memory.get(data, 0) <= own.memory_bytes for own in owners
        )

    found = [
        (value(step_cost(option, {data: owners, task: [place]}), file.placement or Placing()), dict(option.settings), place.node)
        for option in planner.ways(file, len(owners))
        for place in candidates
        if fits(option, place)
    ]
    return sorted(found, key=lambda way: way[0])


@settings(max_examples=100, deadline=None)
@given(
    fleet=fleets(),
    objective=st.sampled_from(list(OBJECTIVES)),
    method=st.sampled_from(
        [
            {"name": "fcddt", "cut": "auto"},
            {"name": "fcddt", "cut": "auto", "u_shaped": True},
            {"name": "fcddt", "cut": "auto", "sync_every": 5},
            {"name": "fedavg"},
            {"name": "centralized"},
        ]
    ),
    model=st.sampled_from([{"name": "cnn"}, {"name": "mlp", "hidden": [64, 32]}, {"name": "lenet5"}]),
)
def test_the_choice_is_what_trying_everything_finds(
    fleet: tuple[list[Place], list[Place]], objective: str, method: dict[str, Any], model: dict[str, Any]
) -> None:
    owners, candidates = fleet
    file = job(method, model, objective)
    possible = everything(file, owners, candidates)
    found = plans(file, METHODS[method["name"]], owners, candidates)
    if not possible:
        assert not found.plans
        assert " needs " in found.why
        return
    assert found.plans, found.why
    best = found.plans[0]
    assert best.value == pytest.approx(possible[0][0], rel=1e-12)
    (node,) = best.places.values()
    assert next(price for price, settings, where in possible if (settings, where) == (best.settings, node)) == pytest.approx(best.value, rel=1e-12)
    if len(found.plans) > 1 and method["name"] == "fcddt":
        assert found.plans[1].value == pytest.approx(possible[1][0], rel=1e-12)


# -- what pruning by speed alone did not see -------------------------------------------------

FAST = Place("fast", flops=1e11, op_s=1e-4, rtt_s=1e-3, bytes_s=1e8, idle_w=50.0, core_w=40.0, byte_j=1e-8, memory_bytes=100_000_000)
OWNER = Place("pi", flops=1e9, op_s=1e-3, rtt_s=1e-2, bytes_s=1e6, idle_w=2.0, core_w=1.0, byte_j=1e-8, memory_bytes=1 << 33)


def many(count: int, **changes: Any) -> list[Place]:
    return [replace(FAST, node=f"fast-{i}", flops=FAST.flops * (1 + i / 100), **changes) for i in range(count)]


@pytest.mark.parametrize("count", [40, 2000])
def test_of_many_fast_nodes_bytes_still_choose_the_data_node(count: int):
    file = job({"name": "fcddt", "cut": "auto"}, {"name": "cnn"}, "bytes")
    best = plans(file, METHODS["fcddt"], [OWNER], [*many(count, memory_bytes=None), OWNER]).plans[0]
    assert best.places == {"trunk": "pi"} and best.bytes == 0


@pytest.mark.parametrize("count", [40, 2000])
def test_of_many_fast_nodes_energy_still_chooses_the_frugal_one(count: int):
    frugal = replace(FAST, node="frugal", flops=5e10, idle_w=0.5, core_w=0.5, memory_bytes=None)
    file = job({"name": "fcddt", "cut": "auto"}, {"name": "cnn"}, "energy")
    assert plans(file, METHODS["fcddt"], [OWNER], [*many(count, memory_bytes=None), frugal]).plans[0].places == {"trunk": "frugal"}


@pytest.mark.parametrize("count", [40, 2000])
def test_of_many_fast_nodes_the_one_with_room_is_found(count: int):
    roomy = replace(FAST, node="roomy", flops=1e9, memory_bytes=10_000_000_000)
    file = job({"name": "fcddt", "cut": "auto"}, {"name": "cnn"}, "latency")
    assert plans(file, METHODS["fcddt"], [OWNER], [*many(count), roomy]).plans[0].places == {"trunk": "roomy"}


def test_a_refusal_names_the_largest_of_all_nodes():
    file = job({"name": "fcddt", "cut": "auto"}, {"name": "cnn"}, "latency", resources={"memory_mb": 900})
    larger = replace(FAST, node="slow-but-larger", flops=1e6, memory_bytes=800_000_000)
    why = plans(file, METHODS["fcddt"], [OWNER], [*many(50), larger]).why
    assert why == "trunk needs 900 MB, largest free is 800 MB on slow-but-larger"


def test_a_refusal_never_contradicts_itself():
    """The trunk alone would fit on the data node, beside its front it does not."""
    file = job({"name": "fcddt", "cut": 1}, {"name": "mlp", "hidden": [4096, 4096]}, "latency")
    (option,) = planner.ways(file, 1)
    both = option.memory["trunk"] + option.memory["front"] - WORKER_BYTES
    tight = replace(OWNER, memory_bytes=max(option.memory.values()) + 1_000_000)
    why = plans(file, METHODS["fcddt"], [tight], [tight]).why
    assert why == f"trunk needs {both / 1e6:.0f} MB, largest free is {(tight.memory_bytes or 0) / 1e6:.0f} MB on pi"


def test_a_shortlist_has_the_leaders_of_each_order_and_of_both_kinds():
    candidates = [*many(500), *(replace(OWNER, node=f"pi-{i}", flops=1e9 + i) for i in range(500))]
    owners = {place.node for place in candidates if place.node.startswith("pi")}
    for objective in OBJECTIVES:
        kept = shortlist.shortlist(candidates, owners, objective, 500)
        assert len(kept) == max(shortlist.FEWEST, shortlist.MOST_PRICED // 510)
        assert {"fast-499", "pi-499"} <= {place.node for place in kept}

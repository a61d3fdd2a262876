"""An objective is one row of the table: the job, the choice, the shortlist and the help read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fog_common.errors import ConfigError
from fog_coordinator.placement.cost import value
from fog_coordinator.placement.planner import Plan, plans
from fog_coordinator.placement.shortlist import shortlist
from fog_learning.costs.objectives import OBJECTIVES, Cost, Objective, Prices
from fog_learning.costs.place import Place
from fog_learning.job.reading import job_from, load_job
from fog_learning.job.sections import Placing
from fog_learning.methods import METHODS

PI = Place("pi-1", flops=1e9, op_s=0.001, rtt_s=0.01, bytes_s=1e6)
FAST = Place("fast", flops=1e11, op_s=0.001, rtt_s=0.002, bytes_s=1e8)
SLOW = replace(FAST, node="slow", flops=1e8)
CALM = Objective("calm", "steps a second", lambda cost, _: 1.0 / cost.seconds, leaders=(lambda place: place.flops,))


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "calm", CALM)


def job(**placement: Any) -> dict[str, Any]:
    return {"name": "p", "method": {"name": "fedavg"}, "model": {"name": "mlp"}, "data": {"name": "digits"}, "placement": placement}


def chosen(**placement: Any) -> Plan:
    return plans(job_from(job(**placement)), METHODS["fedavg"], [PI], [FAST, SLOW], 1).plans[0]


@pytest.mark.usefixtures("calm")
def test_a_row_is_all_that_a_new_objective_needs() -> None:
    assert chosen(objective="latency").places == {"server": "fast"}
    best = chosen(objective="calm")
    assert best.places == {"server": "slow"} and best.value == pytest.approx(1.0 / best.seconds)
    many = [replace(FAST, node=f"n-{number:03}", flops=1e9 + number) for number in range(600)]
    kept = shortlist(many, (), "calm", 1000)
    assert len(kept) < 10 and {place.node for place in kept} == {place.node for place in many[: len(kept)]}


@pytest.mark.usefixtures("calm")
def test_an_objective_that_does_not_weigh_refuses_weights() -> None:
    with pytest.raises(ConfigError, match=r"placement\.weights: objective calm does not weigh; say objective: weighted, or remove the weights"):
        job_from(job(objective="calm", weights={"energy": 1.0}))


def test_an_unknown_objective_is_refused_with_file_line_key_and_what_is_allowed(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("name: p\nmethod: {name: fedavg}\nmodel: {name: mlp}\nplacement:\n  margin: 0.1\n  objective: calm\n")
    with pytest.raises(ConfigError) as refused:
        load_job(file)
    assert str(refused.value) == f"{file}:6: placement.objective: expected one of {', '.join(OBJECTIVES)}, got 'calm'"
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(("objective", "price"), [("latency", 2.0), ("energy", 30.0), ("bytes", 5.0), ("weighted", 2.0 + 0.5 * 30.0 + 0.1 * 5.0)])
def test_the_price_of_each_objective_is_in_its_own_unit(objective: str, price: float) -> None:
    rules = Placing(objective=objective, weights=Prices(1.0, 0.5, 0.1)) if OBJECTIVES[objective].weighs else Placing(objective=objective)
    assert value(Cost(seconds=2.0, joules=30.0, bytes=5e6), rules) == pytest.approx(price)


@pytest.mark.parametrize("objective", ["energy", "bytes"])
def test_the_seconds_tell_plans_of_equal_price_apart(objective: str) -> None:
    quick, slow = (value(Cost(seconds, 30.0, 5e6), Placing(objective=objective)) for seconds in (1.0, 2.0))
    assert quick < slow

"""A fleet in virtual time with one node slowed four times: the plan by measurement against the naive one, in measured step time."""

from __future__ import annotations

from typing import Any

import pytest

from fog_sim.costs import torch_backend
from fog_sim.links import Fleet, Link, NodeModel
from fog_sim.world import Simulation
from support.few import few

pytestmark = pytest.mark.thorough


NEAR = Link(up_bytes_s=20e6, down_bytes_s=20e6, latency_s=0.001, joules_per_byte=5e-9)
EVEN = Fleet(link=NEAR, cloud_link=NEAR, node=NodeModel(flops=4e9), cloud=NodeModel(flops=4e9))
"""A cloud node that is no faster than the others, so that slowing it by 4 counts."""


def trained(slowed: str, method: dict[str, Any], placement: dict[str, Any] | None) -> dict[str, Any]:
    world = Simulation(4, EVEN, torch_backend, seed=3)
    world.nodes[slowed].slowness *= 4
    spec = {
        "name": "p",
        "model": {"name": "cnn"},
        "data": {"name": "digits"},
        "train": {"rounds": 2, "batch_size": 32},
        "evaluation": {"where": "none"},
    }
    status = world.run(world.submit({**spec, "method": {"name": "fcddt", "round_steps": 8, **method}, "placement": placement}), 600.0)
    assert status["state"] == "finished", status["why"]
    return status["plan"]


@pytest.mark.parametrize("slowed", few(["cloud-1", "node-2"], 1))
def test_the_chosen_plan_beats_the_naive_one_in_measured_step_time(slowed: str):
    naive, chosen = trained(slowed, {"cut": 1}, None), trained(slowed, {"cut": "auto"}, {"objective": "latency"})
    if slowed == "cloud-1":
        assert chosen["predicted"]["places"]["trunk"] != slowed
        assert chosen["measured"]["step_s"] < 0.7 * naive["measured"]["step_s"]
    else:  # the front that everybody waits for is slow: it is given the least to do
        assert chosen["measured"]["step_s"] <= 1.01 * naive["measured"]["step_s"]
    for plan in (naive, chosen):
        assert abs(plan["error"]) < 0.25
        assert plan["measured"]["step_bytes"] == pytest.approx(plan["predicted"]["step_bytes"], rel=0.2)


@pytest.mark.thorough
def test_every_cut_and_trunk_ran_slower_than_the_chosen_one():
    """The model's order is the measured order, where it matters: at the top."""
    chosen = trained("cloud-1", {"cut": "auto"}, {"objective": "latency"})["measured"]["step_s"]
    others = [
        trained("cloud-1", {"cut": cut}, {"objective": "latency", "names": [node]})["measured"]["step_s"]
        for cut in (1, 2, 3)
        for node in ("cloud-1", "node-1")
    ]
    assert chosen <= 1.05 * min(others)

"""`layers:` of fedavg with real training: the blocks that stay on the nodes, when the server falls back or moves."""

from __future__ import annotations

import pytest

from fog_sim.campaign import chaos
from fog_sim.costs import torch_backend
from fog_sim.faults import Fault, Schedule
from fog_sim.world import Simulation
from support.few import few


@pytest.mark.parametrize("kind", ["kill_worker", "drain"])
@pytest.mark.parametrize("at", few([3.2, 4.8], 1))
def test_blocks_that_stay_on_the_nodes_take_every_round_once_whatever_happens_to_the_server(kind: str, at: float) -> None:
    def result(*faults: Fault) -> bytes:
        world = Simulation(3, chaos.SLOW, torch_backend, seed=1)
        spec = {**chaos.JOB, "method": {"name": "fedavg", "local_steps": 5, "layers": ["fc1"]}, "model": {"name": "mlp", "hidden": [8]}}
        name = world.submit({**spec, "train": {"rounds": 6}, "evaluation": {"where": "federated"}})
        world.inject(Schedule(list(faults)))
        assert world.run(name, 400.0)["state"] == "finished"
        return world.coordinator.results[name]

    assert result(Fault(at, kind, "cloud-1", 3.0)) == result() != b""

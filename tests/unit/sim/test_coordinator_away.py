"""The coordinator is away for about 1 000 rounds of a fast job. A root's state stays small meanwhile, and every round is delivered once.

No task moves while the coordinator is away, for only the coordinator moves tasks: a root whose node is lost then goes on at another node
once the coordinator is back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest

from fog_common.runtime.saves import Record
from fog_coordinator.state.history import ClosedRound
from fog_sim.costs import standin_backend
from fog_sim.faults import Fault, Kind, Schedule
from fog_sim.links import Fleet, Link, NodeModel
from fog_sim.shape import NodePlace, uniform
from fog_sim.world import Simulation

pytestmark = pytest.mark.thorough

LINK: Final = Link(up_bytes_s=1e8, down_bytes_s=1e8, latency_s=0.01)
QUICK: Final = Fleet(
    link=LINK,
    cloud_link=LINK,
    node=NodeModel(save_s=0.002, op_overhead_s=1e-4, flops=1e12),
    cloud=NodeModel(save_s=0.008, op_overhead_s=1e-4, flops=1e12),
)
"""About 20 rounds in a second."""
AWAY: Final = 1000
"""Rounds."""
MORE: Final = 40
"""Rounds before the coordinator goes, and about as many after it is back."""
GROWTH_BYTES: Final = 100
"""Of the root's state without blobs, per round that the coordinator does not know."""
STATE_BYTES: Final = 16 * 1024
LONG_S: Final = 600.0
"""A node that is lost for so long comes back after the job's end."""


class Watched:
    """A simulated job, the Saves of its root, and the history that the coordinator shows; both are looked at after every event."""

    def __init__(self, rounds: int) -> None:
        self.world = Simulation((*uniform(1), NodePlace("cloud-2", "cloud", "cloud")), QUICK, standin_backend, seed=1)
        self.job = self.world.submit(
            {"name": "away", "method": {"name": "fedavg", "local_steps": 1}, "model": {"name": "mlp", "hidden": [8]}, "train": {"rounds": rounds}}
        )
        self.rounds = rounds
        self.saved = 0
        """Newest round of which the root has a Save."""
        self.copies: list[float] = []
        """When another node first had a copy of round 1, 2, … or of a later one."""
        self.sizes: dict[int, int] = {}
        """Bytes of the root's state without blobs: round -> of its first Save."""
        self.delivered: dict[int, bytes] = {}
        """Rows of the coordinator's history, in the order in which they came."""
        self.world.on_saved = self._on_saved

    def _on_saved(self, node: str, record: Record, replica: bool) -> None:
        if record.role != "server":
            return
        if replica:
            self.copies += [self.world.kernel.now] * (record.label - len(self.copies))
        else:
            self.saved = max(self.saved, record.label)
            self.sizes.setdefault(record.label, len(msgspec.msgpack.encode(record)))

    def until(self, done: Callable[[], bool], limit_s: float = 200.0) -> None:
        kernel = self.world.kernel
        end = kernel.now + limit_s
        while not done():
            assert kernel.now < end, self.world.status(self.job)["line"]
            kernel.run(kernel.now + 0.02)
            self._look()

    def _look(self) -> None:
        rows = self.world.coordinator.rows.get("rounds", {})
        assert [body for _, body in zip(self.delivered, rows.values(), strict=False)] == list(self.delivered.values()), "a round was written again"
        for _, body in list(rows.items())[len(self.delivered) :]:
            closed = msgspec.msgpack.decode(body, type=ClosedRound)
            number = closed.record.round
            assert number == len(self.delivered) + 1, f"round {number} came after round {len(self.delivered)}"
            assert number <= len(self.copies) and self.copies[number - 1] <= closed.at, f"round {number} is shown before its copy"
            self.delivered[number] = body

    @property
    def shown(self) -> int:
        return len(self.delivered)

    @property
    def home(self) -> str:
        """Node of the root."""
        return next(str(task["node"]) for task in self.status["tasks"] if task["role"] == "server")

    @property
    def status(self) -> dict[str, Any]:
        return self.world.status(self.job)

    def ended(self) -> bool:
        """Whether the coordinator has the result and the last figures of the workers."""
        core = self.world.coordinator.core
        return core is not None and core.book[self.job].job.state == "finished" and bool(self.status["state"] == "finished")

    def fault(self, kind: Kind, node: str) -> None:
        self.world.inject(Schedule([Fault(0.0, kind, node, LONG_S)]))

    # -- the parts of a test -------------------------------------------------------------------

    def without_coordinator(self) -> int:
        """Kill it after MORE rounds, and wait for AWAY rounds. The newest round that it knows."""
        self.until(lambda: self.shown >= MORE)
        self.world.coordinator.kill()
        known = self.shown
        self.until(lambda: self.saved >= known + AWAY)
        assert self.shown == known
        return known

    def judge(self, known: int) -> None:
        """known: the newest round that the coordinator knew when it was killed."""
        unknown = {number: size for number, size in self.sizes.items() if known < number <= known + AWAY}
        begin = self.sizes[known]
        assert len(unknown) >= 0.99 * AWAY
        assert max(size - begin - GROWTH_BYTES * (number - known) for number, size in unknown.items()) <= GROWTH_BYTES, "more than that for a round"
        assert max(self.sizes.values()) <= STATE_BYTES
        status = self.status
        assert (status["state"], status["round"]) == ("finished", self.rounds), status["line"]
        assert [record["round"] for record in status["history"]] == list(range(1, self.rounds + 1)) == list(self.delivered)
        assert all(record["updates"] == 1 for record in status["history"])


def test_a_coordinator_that_was_away_is_told_every_round_once_and_in_order():
    watched = Watched(AWAY + 2 * MORE)
    known = watched.without_coordinator()
    watched.world.coordinator.boot()
    watched.until(watched.ended)
    watched.judge(known)
    assert watched.sizes[watched.rounds] <= watched.sizes[known] + 2048, "what is acknowledged leaves the state"


def test_a_coordinator_that_is_back_after_the_jobs_end_is_told_every_round_with_the_result():
    watched = Watched(AWAY + MORE)
    known = watched.without_coordinator()
    watched.until(lambda: len(watched.copies) == watched.rounds)
    watched.world.kernel.run(watched.world.kernel.now + 5.0)
    watched.world.coordinator.boot()
    watched.until(watched.ended)
    watched.judge(known)


def test_a_root_whose_node_is_lost_while_the_coordinator_is_away_takes_its_rounds_to_another_node():
    watched = Watched(AWAY + 2 * MORE)
    home = watched.home
    known = watched.without_coordinator()
    watched.fault("power_loss", home)
    watched.world.kernel.run(watched.world.kernel.now + 30.0)
    assert watched.saved < watched.rounds
    watched.world.coordinator.boot()
    watched.until(watched.ended)
    watched.judge(known)
    assert watched.home != home


@pytest.mark.parametrize("kind", ["power_loss", "drain"])
def test_a_root_that_moves_while_it_tells_its_rounds_tells_the_rest_from_its_new_place(kind: Kind):
    watched = Watched(AWAY + 2 * MORE)
    home = watched.home
    known = watched.without_coordinator()
    watched.world.coordinator.boot()
    watched.until(lambda: watched.shown > known)
    assert watched.shown < watched.saved - AWAY // 2, "most rounds are still to be told"
    watched.fault(kind, home)
    watched.until(watched.ended)
    watched.judge(known)
    assert watched.home != home

"""fog: layer-wise periods. A model of two blocks, each as in fog_learning.backend.plain_ops; "deep" is averaged less often than "shallow"."""

from __future__ import annotations

from typing import Any

import pytest

from fog_common.errors import ConfigError, OpError
from fog_common.runtime.machine import Command, Event, Finish, Peer, Run, Save, Send
from fog_learning.backend import plain_ops
from fog_learning.backend.plain_ops import SLOTS, examples, gain, shares
from fog_learning.clusters.messages import Call, Contribution
from fog_learning.job.sections import JobFile, Stragglers, Topology, Train
from fog_learning.methods import resolve_method
from fog_sim.costs import torch_backend
from fog_sim.links import Fleet, LinkModel
from fog_sim.shape import Group, places
from fog_sim.world import Simulation
from support.schedules import Faults, Schedule, Seat
from support.trees import star, tree

pytestmark = pytest.mark.thorough

EVERY, ROUNDS = 3, 8
WHOLE = (3, 6, 8)
"""Rounds that average all blocks."""


def job(rounds: int = ROUNDS, deep_every: int = EVERY, stragglers: Stragglers = Stragglers(), **method: Any) -> JobFile:
    named = {"name": "fog", "deep": ["fc1"], "deep_every": deep_every, **method}
    return JobFile("test", named, {"name": "mlp", "hidden": [8]}, train=Train(rounds=rounds), stragglers=stragglers)


# -- the ops: {block: [parameter, share of slot 0, …]}, deep with the whole round that it goes back to at its end ------------------


def each(op: str) -> Any:
    """A plain op, block by block."""

    def run(task: str, inputs: Any, numbers: Any) -> Any:
        first = inputs.get("add") or inputs.get("value") or inputs.get("sum") or inputs.get("sketch0") or inputs.get("weights")
        outputs: dict[str, Any] = {}
        gives: dict[str, float] = {}
        for block in sorted(first):
            for name, value in inputs.items():
                if value is not None and name != "base" and sorted(value) != sorted(first):
                    raise OpError(f"{op} of different blocks: {sorted(value)}, {sorted(first)}")
            part = {name: value[block] for name, value in inputs.items() if value is not None and name != "base"}
            some, given = plain_ops.OPS[op](task, part, numbers)
            for name, value in some.items():
                outputs.setdefault(name, {})[block] = value
            gives = {name: max(gives.get(name, 0.0), value) for name, value in given.items()}
        for block, value in (inputs.get("base") or {}).items():
            outputs["weights"].setdefault(block, value)
        return outputs, gives

    return run


def settle(task: str, inputs: Any, numbers: Any) -> Any:
    """A slice is one of whole blocks' values, put end to end."""
    outputs, _ = each("settle")(task, inputs, {**numbers, "part": 0, "of": 1})
    if numbers["of"] == 1:
        return outputs, {}
    flat = [value for block in sorted(outputs["weights"]) for value in outputs["weights"][block]]
    part, of = numbers["part"], numbers["of"]
    return {"weights": flat[part * len(flat) // of : (part + 1) * len(flat) // of]}, {}


def join(task: str, inputs: Any, numbers: Any) -> Any:
    flat = [value for i in range(len(inputs) - 1) for value in inputs[f"slice{i}"]]
    like = {block: value for block, value in sorted(inputs["like"].items()) if block != numbers["without"]}
    assert len(flat) == sum(len(value) for value in like.values())
    return {"weights": {block: [flat.pop(0) for _ in value] for block, value in like.items()}}, {}


def step(slot: int, shallow: float, deep: float) -> tuple[float, float]:
    return 0.5 * shallow + 0.25 * deep + gain(slot), 0.5 * deep - 0.125 * shallow + 0.5 * gain(slot + 3)


def train(task: str, inputs: Any, numbers: Any, period: int = 1) -> Any:
    root = (numbers["round"] - 1) // period + 1
    slot, model = int(numbers["slot"]), {**(inputs.get("own") or {}), **inputs["weights"]}
    assert sorted(model) == ["fc1", "shallow"], "trained without its deep blocks"
    newest = (root - 1) // EVERY * EVERY
    if numbers["without"] or "own" in inputs:
        assert model["fc1"][-1] == pytest.approx(newest), f"{task} trains blocks of another whole round in round {root}"
    shallow, deep = step(slot, model["shallow"][0], model["fc1"][0])
    mine = [1.0 if slot == other else 0.0 for other in range(SLOTS)]
    mark = newest if numbers["without"] else root
    after = {"shallow": [shallow, *mine], "fc1": [deep, *mine, float(mark)]}
    outputs = {"weights": {"shallow": after["shallow"]}, "own": {"fc1": after["fc1"]}} if numbers["without"] else {"weights": after}
    return outputs, {"examples": examples(slot), "loss": 1.0}


def evaluate(task: str, inputs: Any, numbers: Any) -> Any:
    assert sorted({**(inputs.get("own") or {}), **inputs["weights"]}) == ["fc1", "shallow"]
    return {}, {"accuracy": 0.5, "loss": 0.5}


OPS: dict[str, Any] = {
    **{op: each(op) for op in ("accumulate", "mean", "pair", "mix", "spread")},
    "init": lambda task, inputs, numbers: ({"weights": {"shallow": [0.0] * (1 + SLOTS), "fc1": [0.0] * (2 + SLOTS)}}, {}),
    "sketch": lambda task, inputs, numbers: ({"sketch": inputs["value"]}, {"exact": 1.0}),
    "train": train,
    "settle": settle,
    "join": join,
    "evaluate": evaluate,
}


# -- by hand -------------------------------------------------------------------------------------------------------------------


def by_hand(slots: int, whole: tuple[int, ...] = WHOLE, rounds: int = ROUNDS) -> tuple[float, float]:
    """(shallow, deep) after so many rounds over slots 0, 1, …: federated averaging of each block in its own rounds."""
    n = [examples(slot) for slot in range(slots)]
    shallow, deep = 0.0, [0.0] * slots
    for number in range(1, rounds + 1):
        trained = [step(slot, shallow, deep[slot]) for slot in range(slots)]
        shallow = sum(count * new for count, (new, _) in zip(n, trained, strict=True)) / sum(n)
        deep = [new for _, new in trained]
        if number in whole:
            deep = [sum(count * own for count, own in zip(n, deep, strict=True)) / sum(n)] * slots
    return shallow, deep[0]


class Watch:
    """Each round that the root saves holds every slot once, in proportion; a whole one in its deep blocks, too."""

    def __init__(self, tolerance: float = 1e-9) -> None:
        self.tolerance = tolerance
        self.rounds: dict[int, dict[str, list[float]]] = {}
        self.sizes: list[tuple[str, int, int]] = []
        """(kind of message, root's round, blocks in it)."""

    def __call__(self, schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Send) and isinstance(command.message, Call | Contribution):
                message = command.message
                root = message.root if isinstance(message, Call) else message.number
                ref = schedule._blob(seat, message.weights)
                whole = schedule.contents[ref.digest]
                self.sizes.append((type(message).__name__, root, len(whole) if isinstance(whole, dict) else 0))
                if isinstance(message, Call) and message.base is not None:
                    self.sizes.append(("base", root, 2))
            if isinstance(command, Save) and seat.peer.task == "root" and command.label:
                self.check(command.label, schedule.contents[schedule._blob(seat, seat.machine.weights).digest], seat.machine)  # type: ignore[union-attr]

    def check(self, number: int, weights: dict[str, list[float]], root: Any) -> None:
        self.rounds[number] = weights
        slots = [slot for slot in range(SLOTS) if abs(weights["shallow"][1 + slot]) > 1e-4]
        assert weights["shallow"][1:] == pytest.approx(shares(slots), abs=self.tolerance)
        assert ("fc1" in weights) == (number in WHOLE)
        if number in WHOLE:
            assert weights["fc1"][1:-1] == pytest.approx(shares(slots), abs=self.tolerance)
            assert weights["fc1"][-1] == pytest.approx(number)
        record = root.ledger.record(number)
        assert record is not None
        assert record.examples == sum(examples(slot) for slot in slots)


def run(peers: tuple[Peer, ...], spec: JobFile, seed: int = 0, faults: Faults = Faults(), tolerance: float = 1e-9) -> tuple[Schedule, Finish, Watch]:
    watch = Watch(tolerance)
    schedule = Schedule(spec, 0, OPS, seed, faults, watch, peers)
    return schedule, schedule.run(), watch


def model_of(schedule: Schedule, finish: Finish) -> dict[str, list[float]]:
    assert not finish.why, finish.why
    found: dict[str, list[float]] = schedule.contents[finish.refs["weights"].digest]  # type: ignore[union-attr]
    return found


TREES = pytest.mark.parametrize("peers", [star(5), tree(2, 3), tree(2, 1, 2, between=2)], ids=["star", "two layers", "three layers"])


@TREES
@pytest.mark.parametrize("seed", range(4))
def test_each_block_is_averaged_in_its_own_rounds(peers: tuple[Peer, ...], seed: int):
    schedule, finish, _ = run(peers, job(mode="vertical"), seed)
    model, (shallow, deep) = model_of(schedule, finish), by_hand(5)
    assert model["shallow"][0] == pytest.approx(shallow, rel=1e-9)
    assert model["fc1"][0] == pytest.approx(deep, rel=1e-9)
    assert schedule.sent.get("Lacking", 0) == 0


@TREES
@pytest.mark.parametrize("uplink", ["sample", "diversity"])
def test_sideways_too(peers: tuple[Peer, ...], uplink: str):
    spec = job(mode="d2d", uplink=uplink, consensus={"graph": "ring", "shrink": 1e-12})
    schedule, finish, _ = run(peers, spec, 1, tolerance=1e-6)
    model, (shallow, deep) = model_of(schedule, finish), by_hand(5)
    assert model["shallow"][0] == pytest.approx(shallow, abs=1e-6)
    assert model["fc1"][0] == pytest.approx(deep, abs=1e-6)


def test_only_whole_rounds_carry_the_deep_blocks():
    _, _, watch = run(tree(2, 3), job(mode="vertical"), 0, Faults(duplicate=0.0))
    for number in range(1, ROUNDS + 1):
        up = {blocks for kind, root, blocks in watch.sizes if kind == "Contribution" and root == number}
        down = {blocks for kind, root, blocks in watch.sizes if kind == "Call" and root == number}
        assert up == {2 if number in WHOLE else 1}
        assert down == {2 if number == 1 or number - 1 in WHOLE else 1}
    assert not [kind for kind, _, _ in watch.sizes if kind == "base"]


def test_with_a_period_of_one_nothing_is_left_out():
    def trained(task: str, inputs: Any, numbers: Any) -> Any:
        assert numbers["without"] == ""
        assert "own" not in inputs
        return train(task, inputs, numbers)

    schedule = Schedule(job(deep_every=1, mode="vertical"), 0, {**OPS, "train": trained}, 0, Faults(), peers=tree(2, 3))
    model = model_of(schedule, schedule.run())
    shallow, deep = by_hand(5, tuple(range(1, ROUNDS + 1)))
    assert (model["shallow"][0], model["fc1"][0]) == pytest.approx((shallow, deep), rel=1e-9)


@pytest.mark.parametrize("seed", range(60))
def test_no_trainer_goes_on_with_blocks_that_are_too_old_whatever_crashes(seed: int):
    """The ops refuse deep blocks of another whole round; the watch looks for every slot."""
    peers = [tree(2, 1, 2, between=2), tree(3, 2), star(4)][seed % 3]
    mode, uplink = ["vertical", "d2d"][seed % 2], ["sample", "diversity"][seed // 2 % 2]
    spec = job(mode=mode, uplink=uplink, consensus={"graph": "ring", "shrink": 1e-12, "stall_s": 500.0})
    faults = Faults(duplicate=0.2, lost_wake=0.1, crashes=8)
    schedule, finish, watch = run(peers, spec, seed, faults, tolerance=1e-9 if mode == "vertical" else 1e-6)
    assert model_of(schedule, finish) == watch.rounds[ROUNDS]


def in_blocks_of_two(task: str, inputs: Any, numbers: Any) -> Any:
    return train(task, inputs, numbers, period=2)


@pytest.mark.parametrize("seed", range(4))
def test_in_block_rounds_average_what_the_round_of_the_root_does(seed: int):
    groups = [[0, 1], [2, 3, 4]]
    shallow, deep = 0.0, [0.0] * 5
    for number in range(1, ROUNDS + 1):
        ends = []
        for group in groups:
            n, own = [examples(slot) for slot in group], shallow
            for _ in range(2):
                trained = {slot: step(slot, own, deep[slot]) for slot in group}
                own = sum(count * trained[slot][0] for count, slot in zip(n, group, strict=True)) / sum(n)
                for slot in group:
                    deep[slot] = trained[slot][1]
                if number in WHOLE:
                    mean = sum(count * deep[slot] for count, slot in zip(n, group, strict=True)) / sum(n)
                    for slot in group:
                        deep[slot] = mean
            ends.append((own, sum(n)))
        shallow = sum(n * own for own, n in ends) / sum(n for _, n in ends)
        if number in WHOLE:
            deep = [sum(examples(slot) * deep[slot] for slot in range(5)) / sum(n for _, n in ends)] * 5
    schedule = Schedule(job(mode="vertical", period=2), 0, {**OPS, "train": in_blocks_of_two}, seed, Faults(duplicate=0.2), Watch(), tree(2, 3))
    model = model_of(schedule, schedule.run())
    assert (model["shallow"][0], model["fc1"][0]) == pytest.approx((shallow, deep[0]), rel=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_in_block_rounds_with_deep_blocks_survive_crashes(seed: int):
    faults = Faults(duplicate=0.2, lost_wake=0.1, crashes=8)
    mode = ["vertical", "d2d"][seed % 2]
    spec = job(mode=mode, period=[2], uplink="diversity", consensus={"graph": "ring", "shrink": 1e-12, "stall_s": 500.0})
    schedule = Schedule(spec, 0, {**OPS, "train": in_blocks_of_two}, seed, faults, peers=[tree(3, 2), tree(1, 2, 2)][seed // 2 % 2])
    model = model_of(schedule, schedule.run())
    assert sum(model["shallow"][1:]) == pytest.approx(1.0, abs=1e-6)
    assert sum(model["fc1"][1:-1]) == pytest.approx(1.0, abs=1e-6)
    assert model["fc1"][-1] == pytest.approx(ROUNDS)


def test_a_newcomer_in_the_middle_gets_a_whole_model_once():
    asked = 0
    for seed in range(12):
        schedule, finish, watch = run(tree(2, 2), job(mode="vertical"), seed, Faults(duplicate=0.0, absent=("t3",)))
        assert model_of(schedule, finish) == watch.rounds[ROUNDS]
        asked += schedule.sent.get("Lacking", 0)
        assert [kind for kind, _, _ in watch.sizes].count("base") <= schedule.sent.get("Lacking", 0)
    assert asked, "it never came in the middle: the test shows nothing"


@pytest.mark.parametrize("seed", range(20))
def test_clusters_that_were_not_chosen_get_what_they_missed(seed: int):
    schedule, finish, watch = run(tree(2, 2, 2), job(mode="vertical", clusters=0.5), seed, Faults(duplicate=0.2, crashes=seed % 4))
    assert model_of(schedule, finish) == watch.rounds[ROUNDS]
    assert schedule.sent["Lacking"] > 0


def test_a_job_that_is_stopped_between_whole_rounds_hands_out_a_whole_model():
    spec = job(mode="vertical")

    def watch(schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Save) and seat.peer.task == "root" and command.label == 5:
                stopped = seat.machine.stop("no time left", (), 1.0)  # type: ignore[union-attr]
                assert [each.op for each in stopped if isinstance(each, Run)] == ["accumulate", "mean"]
                values: dict[str, Any] = {}
                for each in stopped:
                    assert isinstance(each, Run)
                    inputs = {
                        name: schedule.contents[schedule._blob(seat, ref).digest] if name in ("add", "base") else values.get("whole")
                        for name, ref in each.refs.items()
                    }
                    outputs, _ = OPS[each.op](seat.peer.task, inputs, each.numbers)
                    values["whole"] = next(iter(outputs.values()))
                found.append(values["whole"])
                raise StopIteration

    found: list[dict[str, list[float]]] = []
    schedule = Schedule(spec, 0, OPS, 0, Faults(), watch, tree(2, 3))
    with pytest.raises(StopIteration):
        schedule.run()
    assert found[0]["shallow"][0] == pytest.approx(by_hand(5, rounds=5)[0])
    assert found[0]["fc1"][0] == pytest.approx(by_hand(5, rounds=3)[1])


# -- with torch, on links -----------------------------------------------------------------------------------------------------


def simulated(**method: Any) -> tuple[float, dict[str, int], bytes]:
    """(accuracy, bytes by plane, the model) of 12 rounds on digits: 6 things at 2 sites, an edge node each, the cloud."""
    shape = places([Group("thing", 2, 3), Group("edge", 2)])
    world = Simulation(shape, Fleet(link=LinkModel(up_bytes_s=1e5, down_bytes_s=1e5, latency_s=0.1)), torch_backend, seed=2)
    spec = {
        "name": "deep",
        "method": {"name": "fog", "mode": "vertical", "local_steps": 20, **method},
        "model": {"name": "mlp", "hidden": [64]},
        "data": {"name": "digits", "partition": {"kind": "dirichlet", "alpha": 0.5}},
        "train": {"rounds": 12, "lr": 0.1},
        "nodes": {"select": {"tier": ["thing"]}},
        "evaluation": {"every": 4},
        "seed": 7,
    }
    name = world.submit(spec)
    status = world.run(name, 3000.0)
    assert status["state"] == "finished", status["line"]
    return status["history"][-1]["accuracy"], status["bytes"], world.coordinator.results[name]


def test_with_torch_a_large_block_that_is_averaged_every_fourth_round_saves_its_bytes():
    """fc1 has 4160 of 4810 parameters: per 4 rounds 1 + 3·650/4810 models instead of 4, which is 35 %, and some for the protocol."""
    ordinary, bytes_, model = simulated()
    same, _, model_of_one = simulated(deep=["fc1"], deep_every=1)
    assert (same, model_of_one) == (ordinary, model)
    seldom, fewer, _ = simulated(deep=["fc1"], deep_every=4)
    share = (1 + 3 * 650 / 4810) / 4
    assert fewer["ideal"] / bytes_["ideal"] == pytest.approx(share, rel=0.03)
    assert fewer["d2d"] < 0.5 * bytes_["d2d"]
    assert fewer["up"] < 0.5 * bytes_["up"]
    assert seldom > ordinary - 0.03


# -- what is refused ------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"method\.deep: model mlp has no block fc9; its blocks are fc1"):
        resolve_method(job(deep=["fc9"]))
    with pytest.raises(ConfigError, match=r"method\.deep_every: say which blocks"):
        resolve_method(job(deep=[]))
    with pytest.raises(ConfigError, match="nothing would be averaged in between"):
        resolve_method(job(deep=["fc1", "head"]))
    with pytest.raises(ConfigError, match=r"method\.clusters: a star"):
        resolve_method(JobFile("x", {"name": "fog", "clusters": 0.5}, {"name": "mlp"}, topology=Topology(layers=[])))

"""fcddt: single steps as sentences, then random schedules of all its machines with ops that check what meets what."""

from __future__ import annotations

from typing import Any

import pytest

from fog_common.errors import ConfigError, OpError
from fog_common.runtime.machine import (
    Blob,
    Cancel,
    Cast,
    Command,
    Delivered,
    Event,
    Failed,
    Finish,
    Handle,
    Left,
    Peer,
    Ran,
    Rewound,
    Run,
    Save,
    Send,
    Started,
)
from fog_learning.job.sections import Evaluation, JobFile, Stragglers, Train
from fog_learning.methods import resolve_method
from fog_learning.methods.fcddt.front import Front
from fog_learning.methods.fcddt.messages import Cut, Features, FrontRows, Go, Heads, Local, NoStep, Plan, Step, cut_at
from fog_learning.methods.fcddt.trunk import Trunk
from support.few import few
from support.schedules import Faults, Op, Schedule, Seat, Stuck

Value = dict[str, Any]


def job(rounds: int = 3, evaluation: Evaluation = Evaluation(), model: dict[str, Any] | None = None, **method: Any) -> JobFile:
    return JobFile("test", {"name": "fcddt", "round_steps": 4, **method}, model or {"name": "cnn"}, train=Train(rounds=rounds), evaluation=evaluation)


# -- symbolic ops: the trunk's weights hold a log [step, slots]; nothing of another step may meet ---------------------------------


def ops(own: bool = False, frozen: bool = False) -> dict[str, Op]:
    def forward(task: str, inputs: Value, numbers: Value) -> tuple[Value, dict[str, float]]:
        rows = {"slot": numbers["slot"], "step": numbers["step"], "local": inputs["local"]["at"]}
        graph = {} if frozen else {"graph": {**rows, "used": False}}
        return {"rows": rows, **graph}, {"examples": 10 + numbers["slot"]}

    def meet(inputs: Value) -> tuple[int, list[int]]:
        rows = [inputs[name] for name in sorted(inputs) if name.startswith("rows")]
        steps, slots = {row["step"] for row in rows}, [row["slot"] for row in rows]
        assert len(steps) == 1, "rows of different steps met"
        assert len(slots) == len(set(slots))
        step = steps.pop()
        if not own and not frozen:
            assert all(row["local"] == step - 1 for row in rows), "rows were made with other weights than the trunk has"
        assert inputs["trunk"]["log"][-1:] in ([], [[step - 1, inputs["trunk"]["log"][-1][1] if inputs["trunk"]["log"] else 0]])
        return step, slots

    def trunk_step(task: str, inputs: Value, numbers: Value) -> tuple[Value, dict[str, float]]:
        step, slots = meet(inputs)
        cuts = {} if frozen else {f"cut{slot}": {"slot": slot, "step": step} for slot in slots}
        return {**cuts, "grads": [step, sorted(slots)]}, {"loss": 1.0 / step}

    def trunk_forward(task: str, inputs: Value, numbers: Value) -> tuple[Value, dict[str, float]]:
        step, slots = meet(inputs)
        return {**{f"features{slot}": {"slot": slot, "step": step} for slot in slots}, "graph": [step, sorted(slots)]}, {}

    def front_head(task: str, inputs: Value, numbers: Value) -> tuple[Value, dict[str, float]]:
        assert inputs["features"] == {"slot": numbers["slot"], "step": numbers["step"]}
        return {"heads": inputs["features"], "tail": [numbers["slot"], numbers["step"]]}, {"loss": 0.1}

    def trunk_backward(task: str, inputs: Value, numbers: Value) -> tuple[Value, dict[str, float]]:
        step, slots = inputs["graph"]
        heads = [inputs[name] for name in sorted(inputs) if name.startswith("heads")]
        assert sorted(head["slot"] for head in heads) == slots
        assert all(head["step"] == step for head in heads)
        return {**{f"cut{slot}": {"slot": slot, "step": step} for slot in slots}, "grads": [step, slots]}, {}

    def check_cut(inputs: Value, slot: int) -> tuple[int, int]:
        graph, cut = inputs["graph"], inputs["cut"]
        assert (graph["slot"], graph["step"]) == (cut["slot"], cut["step"]), "the gradient belongs to another forward pass"
        assert inputs.get("tail", [cut["slot"], cut["step"]]) == [cut["slot"], cut["step"]]
        return cut["slot"], cut["step"]

    def front_backward(task: str, inputs: Value, numbers: Value) -> tuple[Value, dict[str, float]]:
        slot, step = check_cut(inputs, numbers["slot"])
        return {"gradient": [slot, step]}, {}

    def front_step(task: str, inputs: Value, numbers: Value) -> tuple[Value, dict[str, float]]:
        slot, step = check_cut(inputs, numbers["slot"])
        taken = inputs["local"].get("taken", [])
        assert all(earlier < step for earlier in taken), "a step was taken twice"
        assert inputs.get("opt", 0) == len(taken), "the optimiser is not the one of these weights"
        return {"local": {"at": inputs["local"]["at"], "taken": [*taken, step], "slot": slot}, "opt": len(taken) + 1}, {}

    def split_apply(task: str, inputs: Value, numbers: Value) -> tuple[Value, dict[str, float]]:
        step, slots = inputs["grads"]
        log = inputs["trunk"]["log"]
        assert step == len(log) + 1, f"step {step} was applied after {log}"
        assert inputs.get("opt", 0) == len(log)
        gradients = sorted(inputs[name] for name in inputs if name.startswith("gradient"))
        if not own and not frozen:
            assert gradients == [[slot, step] for slot in slots], "a gradient is missing, or of another step"
            assert inputs["local"]["at"] == len(log)
        return {"trunk": {"log": [*log, [step, slots]]}, "opt": step, "local": {"at": step}}, {}

    def split_mean(task: str, inputs: Value, numbers: Value) -> tuple[Value, dict[str, float]]:
        parts = [inputs[name] for name in sorted(inputs)]
        assert len({part["at"] for part in parts}) == 1, "weights of different intervals were averaged"
        assert len({part["slot"] for part in parts}) == len(parts)
        for part in parts:
            assert numbers[f"examples{part['slot']}"] == len(part["taken"]) * (10 + part["slot"])
        return {"local": {"at": max(part["taken"][-1] for part in parts)}}, {}

    table: dict[str, Op] = {
        "split_init": lambda task, inputs, numbers: ({"local": {"at": 0}, "trunk": {"log": []}}, {}),
        "front_forward": forward,
        "trunk_step": trunk_step,
        "trunk_forward": trunk_forward,
        "front_head": front_head,
        "trunk_backward": trunk_backward,
        "front_backward": front_backward,
        "front_step": front_step,
        "split_apply": split_apply,
        "split_mean": split_mean,
        "split_join": lambda task, inputs, numbers: ({"weights": {**inputs["trunk"], **inputs["local"]}}, {}),
        "evaluate": lambda task, inputs, numbers: ({}, {"accuracy": len(inputs["weights"]["log"]) / 100, "loss": 0.5}),
    }
    if own or frozen:
        apply = table["split_apply"]

        def without_local(task: str, inputs: Value, numbers: Value) -> tuple[Value, dict[str, float]]:
            outputs, result = apply(task, inputs, numbers)
            return {name: outputs[name] for name in ("trunk", "opt")}, result

        table["split_apply"] = without_local
    return table


# -- the trunk, step by step -------------------------------------------------------------------


def peer(task: str, slot: int = -1) -> Peer:
    return Peer(task, "trunk" if slot < 0 else "front", slot, f"n-{task}", "site", "edge", incarnation=1, since=1)


TRUNK, ADA, BOB = peer("trunk"), peer("ada", 0), peer("bob", 1)
LIFE = "n-trunk.1.1"


def begun(*fronts: Peer, **method: Any) -> Trunk:
    the_job = job(**method)
    found, plan = resolve_method(the_job)
    trunk = found.build(the_job, plan, TRUNK)
    assert isinstance(trunk, Trunk)
    trunk.step(Started((TRUNK, *fronts)), 0.0)
    trunk.step(Ran(("init",), {"local": Handle("l0"), "trunk": Handle("t0")}), 0.0)
    return trunk


def rows(slot: int, number: int = 1, attempt: int = 1) -> FrontRows:
    return FrontRows(LIFE, number, attempt, slot, Blob(f"~{slot}", 4), 10)


def kinds(commands: list[Command]) -> list[str]:
    return [command.op if isinstance(command, Run) else type(command).__name__ for command in commands]


def test_a_step_is_four_messages_per_front() -> None:
    trunk = begun(ADA, BOB)
    assert trunk.step(Delivered("ada", rows(0)), 1.0) == []
    (run,) = trunk.step(Delivered("bob", rows(1)), 2.0)
    assert isinstance(run, Run)
    assert (run.op, sorted(run.refs)) == ("trunk_step", ["rows0", "rows1", "trunk"])
    cuts = trunk.step(Ran(run.tag, {"cut0": Handle("c0"), "cut1": Handle("c1"), "grads": Handle("grads")}, {"loss": 0.5}), 3.0)
    assert cuts == [Send("ada", Cut(LIFE, 1, 1, Handle("c0")), once=True), Send("bob", Cut(LIFE, 1, 1, Handle("c1")), once=True)]
    trunk.step(Delivered("bob", Local(LIFE, 1, 1, 1, Blob("~g1", 4), 10)), 4.0)
    (run,) = trunk.step(Delivered("ada", Local(LIFE, 1, 1, 0, Blob("~g0", 4), 10)), 4.0)
    assert isinstance(run, Run)
    assert (run.op, sorted(run.refs)) == ("split_apply", ["gradient0", "gradient1", "grads", "local", "trunk"])
    commands = trunk.step(Ran(run.tag, {"trunk": Handle("trunk"), "opt": Handle("opt"), "local": Handle("local")}), 5.0)
    assert commands[1] == Cast("front", Step(LIFE, 2, 2, Handle("local"), 2), latest=True)


def test_waiting_names_the_step_and_who_is_missing() -> None:
    trunk = begun(ADA, BOB)
    trunk.step(Delivered("ada", rows(0)), 1.0)
    waiting = trunk.waiting(2.0)
    assert waiting is not None
    assert (waiting.what, waiting.have, waiting.need, waiting.who) == ("activations of step 1", 1, 2, ("bob",))
    waiting = begun().waiting(0.0)
    assert waiting is not None
    assert waiting.what == "fronts"


def test_a_straggler_rate_goes_on_with_the_first_and_drops_the_others() -> None:
    trunk = begun(ADA, BOB, peer("cyd", 2), peer("dan", 3), straggler_rate=0.5)
    trunk.step(Delivered("dan", rows(3)), 1.0)
    (run,) = trunk.step(Delivered("bob", rows(1)), 1.0)
    assert isinstance(run, Run)
    assert sorted(run.refs) == ["rows1", "rows3", "trunk"]
    assert kinds(trunk.step(Delivered("ada", rows(0)), 1.0)) == ["Measure"]


@pytest.mark.parametrize(("alpha", "live", "chosen"), [(0.0, 4, 4), (0.8, 20, 4), (0.5, 5, 3), (0.99, 3, 1), (0.1, 10, 9), (0.2, 1, 1)])
def test_how_many_a_step_goes_on_with(alpha: float, live: int, chosen: int) -> None:
    assert Plan(straggler_rate=alpha).chosen(live) == chosen


def test_a_front_that_leaves_with_its_gradient_makes_the_step_begin_again_without_it() -> None:
    trunk = begun(ADA, BOB)
    trunk.step(Delivered("ada", rows(0)), 1.0)
    (run,) = trunk.step(Delivered("bob", rows(1)), 2.0)
    assert isinstance(run, Run)
    trunk.step(Ran(run.tag, {"cut0": Handle("c0"), "cut1": Handle("c1"), "grads": Handle("grads")}, {"loss": 0.5}), 3.0)
    commands = trunk.step(Left(BOB), 4.0)
    assert Cast("front", Step(LIFE, 1, 2, Handle("l0"), 1), latest=True) in commands
    assert trunk.step(Delivered("ada", Local(LIFE, 1, 1, 0, Blob("~g", 4), 10)), 5.0) == [], "a gradient of the first attempt"
    assert kinds(trunk.step(Delivered("ada", rows(0, 1, 2)), 6.0)) == ["trunk_step"]


def test_when_no_front_can_go_on_the_job_fails_with_the_reason() -> None:
    trunk = begun(ADA)
    commands = trunk.step(Delivered("ada", NoStep(LIFE, 1, 1, 0, "forward failed: no data set mnist")), 1.0)
    (finish,) = [command for command in commands if isinstance(command, Finish)]
    assert "slot 0: forward failed: no data set mnist" in finish.why


def test_a_restored_trunk_is_another_life_and_begins_its_step_again() -> None:
    trunk = begun(ADA)
    old = trunk.step(Rewound(2, (peer("trunk"), ADA)), 1.0)
    assert isinstance(old[0], Cast)
    assert trunk.life == LIFE
    (cast,) = trunk.step(Rewound(2, (Peer("trunk", "trunk", -1, "other", "site", "cloud", 7, 9), ADA)), 1.0)
    assert isinstance(cast, Cast)
    assert cast.message.life == "other.7.9"
    assert kinds(trunk.step(Delivered("ada", rows(0)), 2.0)) == ["Measure"], "rows for the life before"


# -- the front, step by step -------------------------------------------------------------------


def front(**method: Any) -> Front:
    the_job = job(**method)
    found, plan = resolve_method(the_job)
    machine = found.build(the_job, plan, ADA)
    assert isinstance(machine, Front)
    machine.step(Started((TRUNK, ADA)), 0.0)
    return machine


def forwarded(machine: Front, number: int = 1, attempt: int = 1) -> list[Command]:
    refs = {"rows": Handle("r"), "graph": Handle("graph")}
    return machine.step(Ran(("forward", LIFE, number, attempt), refs, {"examples": 10}), 1.0)


def test_a_front_forwards_its_batch_and_finishes_the_backward_with_the_gradient_of_the_cut() -> None:
    machine = front()
    (run,) = machine.step(Delivered("trunk", Step(LIFE, 1, 1, Blob("w", 4), 1)), 1.0)
    assert isinstance(run, Run)
    assert run.numbers == {"slot": 0, "step": 1}
    assert forwarded(machine) == [Send("trunk", FrontRows(LIFE, 1, 1, 0, Handle("r"), 10), once=True)]
    cut = Delivered("trunk", Cut(LIFE, 1, 1, Blob("~c", 4)))
    assert kinds(machine.step(cut, 2.0)) == ["front_backward"]
    assert machine.step(cut, 2.0) == [], "the same gradient twice"
    (send,) = machine.step(Ran(("backward", LIFE, 1, 1), {"gradient": Handle("g")}), 3.0)
    assert send == Send("trunk", Local(LIFE, 1, 1, 0, Handle("g"), 10), once=True)


def test_a_newer_step_makes_the_front_drop_the_old_one() -> None:
    machine = front()
    machine.step(Delivered("trunk", Step(LIFE, 1, 1, Blob("w", 4), 1)), 1.0)
    machine.step(Delivered("trunk", Step(LIFE, 1, 2, Blob("w", 4), 1)), 1.0)
    assert forwarded(machine) == [], "the forward of the first attempt"
    assert kinds(forwarded(machine, 1, 2)) == ["Send"]
    assert machine.step(Delivered("trunk", Step(LIFE, 1, 1, Blob("w", 4), 1)), 1.0) == [], "an old letter"


def test_between_two_syncs_a_front_steps_by_itself_and_goes_on_at_once() -> None:
    machine = front(sync_every=2)
    machine.step(Delivered("trunk", Step(LIFE, 1, 1, Blob("w", 4), 1)), 1.0)
    forwarded(machine)
    commands = machine.step(Delivered("trunk", Cut(LIFE, 1, 1, Blob("~c", 4), next=2)), 2.0)
    assert [kind for kind in kinds(commands) if kind != "Cancel"] == ["front_step", "front_forward"]
    assert machine.step(Ran(("step", LIFE, 1, 1), {"local": Handle("local"), "opt": Handle("opt")}), 2.0) == []
    forwarded(machine, 2)
    machine.step(Delivered("trunk", Cut(LIFE, 2, 1, Blob("~c", 4), next=0)), 2.0)
    (send,) = machine.step(Ran(("step", LIFE, 2, 1), {"local": Handle("local"), "opt": Handle("opt")}), 2.0)
    assert send == Send("trunk", Local(LIFE, 2, 1, 0, Handle("local"), 20), once=True)


def test_a_go_that_overtakes_its_step_is_remembered() -> None:
    machine = front(backward="frozen_front")
    assert machine.step(Delivered("trunk", Go(LIFE, 2, 1, 3)), 1.0) != [Send]
    commands = machine.step(Delivered("trunk", Step(LIFE, 1, 1, Blob("w", 4), 2)), 1.0)
    assert [command.numbers["step"] for command in commands if isinstance(command, Run)] == [2, 3]


def test_in_the_u_shape_the_loss_is_the_fronts() -> None:
    machine = front(u_shaped=True)
    machine.step(Delivered("trunk", Step(LIFE, 1, 1, Blob("w", 4), 1)), 1.0)
    forwarded(machine)
    (run,) = machine.step(Delivered("trunk", Features(LIFE, 1, 1, Blob("~f", 4), 25)), 2.0)
    assert isinstance(run, Run)
    assert (run.op, run.numbers["total"]) == ("front_head", 25)
    (send,) = machine.step(Ran(("head", LIFE, 1, 1), {"heads": Handle("h"), "tail": Handle("tail")}, {"loss": 0.25}), 3.0)
    assert send == Send("trunk", Heads(LIFE, 1, 1, 0, Handle("h"), 0.25), once=True)
    (run,) = machine.step(Delivered("trunk", Cut(LIFE, 1, 1, Blob("~c", 4))), 4.0)
    assert isinstance(run, Run)
    assert sorted(run.refs) == ["cut", "graph", "tail"]


def test_trouble_is_reported() -> None:
    machine = front()
    machine.step(Delivered("trunk", Step(LIFE, 1, 1, Blob("w", 4), 1)), 1.0)
    assert machine.step(Failed(("forward", LIFE, 1, 1), "no data"), 2.0) == [Send("trunk", NoStep(LIFE, 1, 1, 0, "forward failed: no data"))]


# -- the plan ----------------------------------------------------------------------------------

CNN = ("c1", "c2", "f1", "head")


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"cut": 0}, "method.cut: 0 puts every block on the trunk"),
        ({"cut": 4}, "method.cut: 4 puts every block on the nodes"),
        ({"cut": -1}, "method.cut"),
        ({"cut": "head"}, "method.cut: 'head' puts every block on the nodes"),
        ({"cut": "conv9"}, "no block 'conv9'; it has c1, c2, f1, head"),
        ({"cut": 3, "u_shaped": True}, "method.tail: 1 blocks behind the cut at 3 leave the trunk none"),
        ({"straggler_rate": 1.0}, "method.straggler_rate"),
        ({"sync_every": 3}, "method.sync_every must divide method.round_steps"),
        ({"sync_every": 2, "backward": "frozen_front"}, "method.sync_every"),
        ({"u_shaped": True, "backward": "frozen_front"}, "method.u_shaped"),
        ({"wire": "int4"}, "method.wire"),
        ({"evaluation": Evaluation(where="federated")}, "evaluation.where"),
    ],
)
def test_a_bad_plan_is_named(section: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        resolve_method(job(**section))


def test_stragglers_are_the_methods_own_matter() -> None:
    with pytest.raises(ConfigError, match="stragglers: method fcddt does not read this section"):
        resolve_method(JobFile("x", {"name": "fcddt"}, {"name": "cnn"}, stragglers=Stragglers(quorum=0.5)))


def test_a_cut_is_a_number_of_blocks_or_the_last_block_on_the_nodes() -> None:
    assert cut_at(Plan(cut=2), CNN) == cut_at(Plan(cut="c2"), CNN) == (2, 4)
    assert cut_at(Plan(cut="c1", u_shaped=True, tail=2), CNN) == (1, 2)


# -- random schedules --------------------------------------------------------------------------


class Watch:
    """Checked after every step of the trunk."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def __call__(self, schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        trunk = seat.machine
        if isinstance(trunk, Front):
            assert not any(isinstance(command, Save) for command in commands)
        if not isinstance(trunk, Trunk):
            return
        if trunk.phase in ("idle", "rows", "heads", "locals"):
            assert trunk.waiting(0.0) is not None, f"in phase {trunk.phase} it waits and does not say for what"
        assert len(trunk.rows) <= 2
        if any(isinstance(command, Save) for command in commands):
            assert trunk.phase in ("rows", "idle", "ending")
            assert not any(trunk.rows.values()), "activations in a Save: they are sent once and never stored"


KINDS: dict[str, dict[str, Any]] = {
    "exact": {},
    "sync2": {"sync_every": 2},
    "sync4": {"sync_every": 4},
    "frozen": {"backward": "frozen_front"},
    "u-shaped": {"u_shaped": True},
    "u-shaped-sync2": {"u_shaped": True, "sync_every": 2},
    "stragglers": {"straggler_rate": 0.5},
    "stragglers-sync4": {"straggler_rate": 0.5, "sync_every": 4},
    "stragglers-frozen": {"straggler_rate": 0.5, "backward": "frozen_front"},
    "stragglers-u": {"straggler_rate": 0.5, "u_shaped": True, "sync_every": 2},
    "unrated": {"evaluation": Evaluation(where="none")},
}
FAULTS = {
    "calm": Faults(duplicate=0.0, early_wake=0.0),
    "noisy": Faults(duplicate=0.3, early_wake=0.1),
    "crashing": Faults(crashes=8),
    "shrinking": Faults(crashes=3, leaves=2, absent=("front-1", "front-3")),
    "all-leave-but-one": Faults(leaves=3),
}


@pytest.mark.parametrize("faults", few(FAULTS, 3))
@pytest.mark.parametrize("kind", few(KINDS, 2))
def test_any_schedule_takes_every_step_once(kind: str, faults: str) -> None:
    method = KINDS[kind]
    table = ops(own=method.get("sync_every", 1) > 1, frozen="backward" in method)
    for seed in range(8):
        schedule = Schedule(job(**method), 4, table, seed, FAULTS[faults], Watch())
        finish = schedule.run()
        assert finish.why == "", f"seed {seed}: {finish.why}"
        result = finish.refs["weights"]
        assert isinstance(result, Blob)
        log = schedule.contents[result.digest]["log"]
        assert [step for step, _ in log] == list(range(1, 13)), f"seed {seed}"
        if faults in ("calm", "noisy"):
            least = 2 if "stragglers" in kind else 4
            assert all(len(slots) >= least for _, slots in log), f"seed {seed}: somebody was not waited for"
        trunk = schedule.seats["trunk"].machine
        assert isinstance(trunk, Trunk)
        assert [record.round for record in schedule.seats["trunk"].history] == [1, 2, 3]
        assert all(record.numbers["loss"] > 0 for record in schedule.seats["trunk"].history)
        assert ("accuracy" in finish.numbers) == (kind != "unrated")


@pytest.mark.thorough
def test_ops_that_fail_now_and_then_cost_a_fronts_part_but_not_the_job() -> None:
    calls = {"n": 0}
    table = ops()

    def flaky(task: str, inputs: Value, numbers: Value) -> tuple[Value, dict[str, float]]:
        calls["n"] += 1
        if calls["n"] % 7 == 0:
            raise OpError("out of memory")
        return table["front_backward"](task, inputs, numbers)

    for seed in range(10):
        schedule = Schedule(job(), 4, {**table, "front_backward": flaky}, seed, watch=Watch())
        assert schedule.run().why == ""
        assert schedule.measured["troubled_steps"] > 0


def test_a_job_whose_fronts_are_all_gone_says_what_it_waits_for() -> None:
    schedule = Schedule(job(rounds=50), 1, ops(), seed=1)
    for _ in range(60):
        schedule.act()
    schedule._kill("front-0", publish=True)
    with pytest.raises(Stuck, match="what='fronts', have=0, need=1"):
        schedule.run()


def test_messages_per_step_are_four_and_two_between_syncs() -> None:
    def per_step(**method: Any) -> float:
        schedule = Schedule(
            job(rounds=10, **method), 4, ops(own="sync_every" in method, frozen="backward" in method), 3, Faults(duplicate=0, early_wake=0)
        )
        schedule.run()
        return sum(schedule.sent.values()) / 4 / 40

    assert per_step() == pytest.approx(4)
    assert per_step(sync_every=4) == pytest.approx(2.5)
    assert per_step(backward="frozen_front") == pytest.approx(2)
    assert per_step(u_shaped=True) == pytest.approx(6)


def test_a_frozen_front_gives_up_the_steps_that_closed_without_it() -> None:
    machine = front(backward="frozen_front")
    machine.step(Delivered("trunk", Step(LIFE, 1, 1, Blob("w", 4), 2)), 1.0)
    waiting = {1, 2}
    for number in range(2, 50):
        for command in machine.step(Delivered("trunk", Go(LIFE, number, 1, number + 1)), float(number)):
            if isinstance(command, Run):
                waiting.add(int(command.numbers["step"]))
            elif isinstance(command, Cancel):
                waiting.discard(int(command.tag[2]))
        assert waiting == {number, number + 1}

"""Placement: what a step costs, which plan is chosen, what the coordinator does with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from fog_common.errors import ConfigError
from fog_common.wire.messages import Announce, BlockReport, Control, Desired, Profile, WorkerState
from fog_coordinator.placement import planner
from fog_coordinator.placement.cost import HANDLING_S, step_cost, value
from fog_coordinator.placement.planner import plans
from fog_learning.costs.demands import Demands, Phase
from fog_learning.costs.objectives import OBJECTIVES
from fog_learning.costs.place import Place
from fog_learning.job.reading import job_from
from fog_learning.job.sections import Placing
from fog_learning.methods import METHODS
from support.stand_ins import StandIn, World

SLOW = Place("slow", flops=1e9, op_s=0.001, rtt_s=0.01, bytes_s=1e6, idle_w=2.0, core_w=1.0, byte_j=1e-6)
FAST = Place("fast", flops=1e10, op_s=0.001, rtt_s=0.002, bytes_s=1e8, idle_w=10.0, core_w=5.0, byte_j=1e-9)


def job(**changes: Any) -> Any:
    spec = {"name": "p", "method": {"name": "fcddt", "cut": "auto"}, "model": {"name": "cnn"}, "data": {"name": "mnist"}, **changes}
    return job_from(spec)


def planned(file: Any, roster: list[Place], candidates: list[Place], keep: int = 2) -> list[planner.Plan]:
    found = plans(file, METHODS[file.method["name"]], roster, candidates, keep)
    assert found.plans, found.why
    return list(found.plans)


# -- the cost of a step --------------------------------------------------------------------


def test_a_step_is_the_sum_of_its_phases_and_a_phase_its_slowest_task():
    demands = Demands(title="", cycle=(Phase("front", 1e9, to="trunk", bytes=1e5), Phase("trunk", 1e10)))
    cost = step_cost(demands, {"front": [SLOW, replace(SLOW, node="slower", flops=0.5e9)], "trunk": [FAST]})
    transfer = HANDLING_S + (0.01 + 0.002) / 2 + 1e5 / 1e6 + 1e5 / 1e8
    assert cost.seconds == pytest.approx(0.001 + 2.0 + transfer + 0.001 + 1.0)
    assert cost.bytes == 2e5
    busy = 1.0 * (0.001 + 1.0) + 1.0 * (0.001 + 2.0) + 5.0 * (0.001 + 1.0)
    radio = 2 * 1e5 * 1e-6 + 2e5 * 1e-9
    assert cost.joules == pytest.approx((2.0 + 2.0 + 10.0) * cost.seconds + busy + radio)
    assert sum(part for _, part in cost.parts) == pytest.approx(cost.seconds)


def test_tasks_on_one_node_send_nothing_over_the_network():
    demands = Demands(title="", cycle=(Phase("front", 1e6, to="trunk", bytes=1e6),))
    assert step_cost(demands, {"front": [FAST], "trunk": [FAST]}).bytes == 0
    assert step_cost(demands, {"front": [FAST], "trunk": [SLOW]}).bytes == 1e6


def test_a_cast_is_sent_once_and_unicasts_as_often_as_there_are_receivers():
    once, each = (
        step_cost(
            Demands(title="", cycle=(Phase("trunk", 0, to="front", bytes=100, cast=cast),)),
            {"trunk": [FAST], "front": [SLOW, replace(SLOW, node="b")]},
        )
        for cast in (True, False)
    )
    assert (once.bytes, each.bytes) == (100, 200)


def test_stragglers_that_are_not_waited_for_cost_nothing():
    slow = [FAST, replace(FAST, node="b"), SLOW]
    cycle = (Phase("front", 1e9),)
    assert step_cost(Demands(title="", cycle=cycle, waits_for=0.66), {"front": slow}).seconds == pytest.approx(0.101)
    assert step_cost(Demands(title="", cycle=cycle), {"front": slow}).seconds == pytest.approx(1.001)


def test_cycles_that_overlap_run_at_the_pace_of_the_slowest_phase():
    cycle = (Phase("front", 1e10), Phase("trunk", 1e10))
    where = {"front": [SLOW], "trunk": [FAST]}
    assert step_cost(Demands(title="", cycle=cycle, overlaps=True), where).seconds == pytest.approx(10.001)
    assert step_cost(Demands(title="", cycle=cycle), where).seconds == pytest.approx(11.002)


def test_a_rounds_own_costs_are_shared_by_its_steps():
    demands = Demands(title="", cycle=(Phase("trunk", 0, 0),), cycles=10, round=(Phase("trunk", 1e11, 0),))
    assert step_cost(demands, {"trunk": [FAST]}).seconds == pytest.approx(1.0)


# -- which plan ----------------------------------------------------------------------------


def test_the_choice_is_the_cheapest_of_all_cuts_and_nodes():
    roster = [replace(SLOW, node=f"pi-{n}", flops=(2 + n) * 1e9, bytes_s=1e6 * (1 + n)) for n in range(3)]
    candidates = [FAST, replace(FAST, node="near", flops=3e9, rtt_s=0.0005, bytes_s=5e7), *roster]
    for objective in OBJECTIVES:
        weights = {"weights": {"latency": 1.0, "energy": 0.3, "bytes": 0.1}} if OBJECTIVES[objective].weighs else {}
        file = job(placement={"objective": objective, **weights})
        everything = sorted(
            (value(step_cost(option, {"front": roster, "trunk": [place]}), file.placement), option.settings["cut"], place.node)
            for option in planner.ways(file, 3)
            for place in candidates
        )
        found = planned(file, roster, candidates, keep=3)
        assert [plan.value for plan in found] == pytest.approx([price for price, _, _ in everything[:3]])
        assert (found[0].settings["cut"], found[0].places["trunk"]) == everything[0][1:]


def test_a_slow_link_is_cut_where_few_bytes_cross_and_a_fast_one_where_the_nodes_do_little():
    roster = [replace(SLOW, node=f"pi-{n}") for n in range(2)]
    narrow = planned(job(placement={}), [replace(place, bytes_s=1e5) for place in roster], [FAST])[0]
    wide = planned(job(placement={}), [replace(place, bytes_s=1e9, rtt_s=0.0) for place in roster], [FAST])[0]
    assert wide.settings["cut"] == 1 < narrow.settings["cut"]


def test_a_fixed_cut_is_kept():
    file = job(method={"name": "fcddt", "cut": "f1"}, placement={})
    assert {plan.settings["cut"] for plan in planned(file, [SLOW], [FAST, replace(SLOW, node="x")])} == {3}


def test_of_u_shaped_models_the_tail_stays_on_the_nodes():
    found = planned(job(method={"name": "fcddt", "cut": "auto", "u_shaped": True}, placement={}), [SLOW], [FAST], keep=9)
    assert sorted(plan.settings["cut"] for plan in found) == [1, 2]


def test_memory_is_a_constraint_and_named_with_its_numbers():
    file = job(placement={}, resources={"memory_mb": 900})
    tight = replace(FAST, node="pi-1", memory_bytes=512_000_000)
    assert plans(file, METHODS["fcddt"], [SLOW], [tight, replace(tight, node="pi-2", memory_bytes=300_000_000)]).why == (
        "trunk needs 900 MB, largest free is 512 MB on pi-1"
    )
    assert planned(file, [SLOW], [tight, replace(SLOW, node="roomy", memory_bytes=1_000_000_000)])[0].places == {"trunk": "roomy"}
    assert plans(file, METHODS["fcddt"], [replace(SLOW, memory_bytes=1)], [FAST]).why.startswith("front needs 900 MB")


def test_one_worker_holds_both_tasks_of_a_node():
    """The trunk on a node that owns data needs no second interpreter."""
    file = job(placement={}, model={"name": "mlp"})
    only = replace(SLOW, memory_bytes=300_000_000)  # two workers of 250 MB would not fit
    assert planned(file, [only], [only])[0].places == {"trunk": "slow"}


def test_fedavg_has_a_prediction_too():
    file = job(method={"name": "fedavg", "local_steps": 5}, placement={})
    best = planned(file, [SLOW, replace(SLOW, node="other")], [replace(SLOW, node="third"), FAST])[0]
    assert best.places == {"server": "fast"} and best.round_steps == 5 and best.seconds > 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"placement": {"objective": "speed"}}, "objective"),
        ({"placement": {"weights": {"latency": 2}}}, "does not weigh"),
        ({"method": {"name": "fcddt", "cut": "auto"}, "model": {"import": "m:F"}, "placement": {}}, "method.cut: auto needs a model of ours"),
        ({"method": {"name": "fcddt", "cut": "auto"}, "model": {"name": "mlp", "hidden": []}}, "method.cut"),
    ],
)
def test_what_cannot_be_chosen_is_refused(changes: dict[str, Any], text: str):
    from fog_common.errors import ConfigError

    with pytest.raises(ConfigError, match=text):
        job(**changes)


def test_an_unknown_shape_cannot_be_cut_automatically():
    from fog_common.errors import ConfigError

    with pytest.raises(ConfigError, match=r"say model\.input_shape and model\.classes"):
        planner.check(job(data={"name": "machines"}), METHODS["fcddt"])
    planner.check(job(data={"name": "machines"}, model={"name": "cnn", "input_shape": [1, 8, 8], "classes": 3}), METHODS["fcddt"])


# -- the coordinator -----------------------------------------------------------------------


@dataclass
class Measured(StandIn):
    """A node whose agent knows what it can do; its worker starts anew when its job file changes."""

    flops: float | None = None
    worker_flops: float | None = None
    """What a worker measures here; None: what the agent announced."""
    memory_free: int = 1 << 32
    bytes_s: float = 1e7
    labels: dict[str, str] = field(default_factory=dict)
    watts: dict[str, float] = field(default_factory=dict)
    blocks: tuple[BlockReport, ...] = ()
    """What its worker says of a user's own module."""

    @property
    def profile(self) -> Profile:
        known = {"flops": self.flops, "op_s": 1e-3, "rtt_s": 1e-3, "bandwidth_bytes_s": self.bytes_s, "labels": self.labels, **self.watts}
        return replace(super().profile, memory_bytes=1 << 32, memory_free_bytes=self.memory_free, **known)

    def hear(self, now: float, message: Control) -> list[Control]:
        before = {name: desired.spec for name, desired in self.jobs.items()}
        answer = super().hear(now, message)
        if isinstance(message, Desired):
            for name in [name for name in self.jobs if name in before and before[name] != self.jobs[name].spec]:
                self.restart_worker(now, name)
            return [self.heartbeat(now)] if answer else []
        return answer

    def _worker(self, name: str, incarnation: int) -> WorkerState:
        state, flops = super()._worker(name, incarnation), self.worker_flops or self.flops
        state = replace(state, blocks=self.blocks)
        return replace(state, gauges={"flops_per_second": flops}) if flops else state


CUT_JOB: dict[str, Any] = {"method": {"name": "fcddt", "cut": "auto"}, "model": {"name": "cnn"}, "data": {"name": "mnist"}}


def fleet(*nodes: Measured) -> World:
    world = World(*nodes)
    world.run(1.0)
    return world


def edge(number: int, **options: Any) -> Measured:
    return Measured(f"pi-{number}", flops=4e9, **options)


def test_cut_and_trunk_are_chosen_and_workers_are_told_a_whole_job_file():
    world = fleet(Measured("cloud-1", "cloud", "cloud", flops=1e8), Measured("fog-1", "fog", flops=5e10), edge(1), edge(2))
    world.submit(**CUT_JOB, placement={})
    world.run(2.0)
    assert world.live()["trunk"] == "fog-1"
    plan = world.status()["plan"]
    told = world.nodes["pi-1"].jobs["digits"].spec["method"]
    assert told["cut"] == plan["predicted"]["settings"]["cut"] and isinstance(told["cut"], int)
    assert plan["runner_up"]["step_s"] >= plan["predicted"]["step_s"] > 0
    assert plan["measured"] is None and plan["error"] is None


def test_without_a_placement_section_the_trunk_is_in_the_cloud_and_only_the_cut_is_chosen():
    world = fleet(Measured("cloud-1", "cloud", "cloud", flops=1e8), Measured("fog-1", "fog", flops=5e10), edge(1))
    world.submit(**CUT_JOB)
    world.run(2.0)
    assert world.live()["trunk"] == "cloud-1"
    assert world.status()["plan"]["predicted"]["settings"]["cut"] > 1  # the cloud is slow here


@pytest.mark.parametrize(
    ("rules", "node"),
    [({"tier": ["cloud"]}, "cloud-1"), ({"names": ["pi-2"]}, "pi-2"), ({"labels": {"gpu": "yes"}}, "cloud-1"), ({"site": ["home"]}, "fog-1")],
)
def test_constraints_are_kept(rules: dict[str, Any], node: str):
    cloud = Measured("cloud-1", "cloud", "cloud", flops=1e8, labels={"gpu": "yes"})
    world = fleet(cloud, Measured("fog-1", "fog", flops=5e10), edge(1), edge(2))
    world.submit(**CUT_JOB, placement=rules)
    world.run(2.0)
    assert world.live()["trunk"] == node


def test_constraints_hold_for_a_task_that_has_to_move():
    world = fleet(
        Measured("cloud-1", "cloud", "cloud", flops=1e8), Measured("fog-1", "fog", flops=5e10), Measured("fog-2", "fog", flops=1e9), edge(1)
    )
    world.submit(**CUT_JOB, placement={"tier": ["fog"]})
    world.run(2.0)
    world.body("node.drain", node="fog-1")
    world.run(4.0)
    assert world.live()["trunk"] == "fog-2"


def test_a_constraint_that_nobody_meets_is_said():
    world = fleet(edge(1), Measured("cloud-1", "cloud", "cloud", flops=1e10))
    world.submit(**CUT_JOB, placement={"labels": {"gpu": "yes"}})
    world.run(1.0)
    assert world.status()["line"] == "queued: no node is free that is with label gpu=yes (placement)"


def test_too_little_memory_is_said_with_its_numbers_and_waited_for():
    world = fleet(edge(1, memory_free=512_000_000), edge(2, memory_free=300_000_000), Measured("cloud-1", "cloud", "cloud", flops=1e10))
    world.submit(model={"name": "mlp"}, resources={"memory_mb": 900})
    world.run(1.0)
    assert world.status()["line"] == "waiting for nodes: trainer needs 900 MB, largest free is 512 MB on pi-1"
    world.nodes["pi-1"].memory_free = 1 << 31
    world.deliver("", Announce("pi-1", world.nodes["pi-1"].nonce, world.nodes["pi-1"].profile))
    world.run(3.0)
    assert world.status()["state"] == "running"
    assert world.live() == {"server": "cloud-1", "trainer-0": "pi-1"}


def test_what_the_workers_measure_changes_the_plan_before_training_begins():
    """Nobody had ever measured the cloud node: it was guessed to be fast, and is not."""
    cloud = Measured("cloud-1", "cloud", "cloud", worker_flops=1e8, bytes_s=1e9)
    world = fleet(cloud, edge(1, bytes_s=1e9), edge(2, bytes_s=1e9))
    world.submit(**CUT_JOB, placement={})
    assert world.status()["plan"]["predicted"]["guessed"] == ["cloud-1: flops"]
    before = world.status()["plan"]["predicted"]["settings"]
    world.run(4.0)
    status = world.status()
    assert status["state"] == "running"
    assert world.live()["trunk"] != "cloud-1"
    assert status["plan"]["predicted"]["settings"] != before
    settings = status["plan"]["predicted"]["settings"]
    assert {world.nodes[f"pi-{n}"].jobs["digits"].spec["method"]["cut"] for n in (1, 2)} == {settings["cut"]}
    assert all(world.nodes[name].incarnations["digits"] == 2 for name in ("pi-1", "pi-2"))  # the first workers had the old cut
    assert not world.nodes["cloud-1"].jobs
    texts = [event["text"] for event in world.body("job.logs", job="digits")["events"]]
    assert any(text.startswith("measured: a step takes") for text in texts)


def test_watts_that_nobody_has_configured_are_said_to_be_assumed():
    """An agent without an `energy:` section announces the defaults of the energy model; an old one announces nothing."""
    own = {"idle_w": 7.0, "core_w": 4.0, "byte_j": 3e-7}
    world = fleet(
        Measured("cloud-1", "cloud", "cloud", flops=1e10, watts=own), edge(1, watts={"idle_w": 3.0, "core_w": 2.0, "byte_j": 1e-8}), edge(2)
    )
    world.submit(**CUT_JOB, placement={"objective": "energy", "names": ["cloud-1"]})
    assert world.status()["plan"]["predicted"]["assumed"] == [
        "3 W at rest: pi-1, pi-2",
        "1.5 W more while computing: pi-2",
        "1e-08 J a byte: pi-1, pi-2",
    ]


CUT_OWN: dict[str, Any] = {
    "method": {"name": "fcddt", "cut": "stem"},
    "model": {"import": "support.modules:Residual", "input_shape": [1, 28, 28], "classes": 10},
    "data": {"name": "mnist"},
}
OWN_BLOCKS = (
    BlockReport("stem", (1, 28, 28), (8, 14, 14), 80, 500_000),
    BlockReport("body", (8, 14, 14), (), 4_000, 9_000_000),
    BlockReport("head", (8, 14, 14), (10,), 15_690, 31_000),
)


@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_a_module_of_ones_own_is_planned_when_a_worker_has_described_it(objective: str):
    cloud = Measured("cloud-1", "cloud", "cloud", flops=1e8, watts={"idle_w": 90.0, "core_w": 60.0, "byte_j": 1e-8}, blocks=OWN_BLOCKS)
    world = fleet(cloud, Measured("fog-1", "fog", flops=5e10, blocks=OWN_BLOCKS), edge(1), edge(2))
    world.submit(**CUT_OWN, placement={"objective": objective, "tier": ["cloud", "fog"]})
    assert world.status()["plan"] is None
    world.run(4.0)
    status = world.status()
    assert status["state"] == "running"
    assert world.live()["trunk"] == "fog-1"
    assert status["plan"]["predicted"]["title"] == "cut after stem, trunk on fog-1"
    assert status["plan"]["runner_up"]["title"] == "cut after stem, trunk on cloud-1"
    assert status["plan"]["runner_up"]["step_s"] > status["plan"]["predicted"]["step_s"] > 0
    assert {world.nodes[f"pi-{n}"].incarnations["digits"] for n in (1, 2)} == {1}  # the cut is the job's own: nobody starts anew


def test_without_a_description_a_module_of_ones_own_is_placed_by_tier():
    world = fleet(Measured("cloud-1", "cloud", "cloud", flops=1e8), Measured("fog-1", "fog", flops=5e10), edge(1))
    world.submit(**CUT_OWN, placement={})
    world.run(4.0)
    assert world.status()["state"] == "running"
    assert world.live()["trunk"] == "cloud-1"
    assert world.status()["plan"] is None


def test_the_plan_of_a_module_of_ones_own_counts_its_blocks():
    file = job(method={"name": "fcddt", "cut": "stem", "round_steps": 10}, model=CUT_OWN["model"], evaluation={"where": "none"})
    (way,) = planner.ways(file, 2, OWN_BLOCKS)
    forward, trunk = way.cycle[:2]
    assert forward.flops == 500_000 * file.train.batch_size
    assert forward.bytes == file.train.batch_size * (4 * 8 * 14 * 14 + 1)
    assert trunk.flops == 3 * 9_031_000 * 2 * file.train.batch_size


def test_a_better_node_that_holds_takes_the_trunk_over_in_order():
    world = fleet(Measured("cloud-1", "cloud", "cloud", flops=2e9), edge(1), edge(2))
    world.submit(**CUT_JOB, placement={"hold_s": 20.0, "tier": ["cloud"]})
    world.run(2.0)
    assert world.live()["trunk"] == "cloud-1"
    cut = world.status()["plan"]["predicted"]["settings"]["cut"]
    world.train()
    world.nodes["cloud-2"] = Measured("cloud-2", "cloud", "cloud", flops=1e11)
    world.boot("cloud-2")
    world.run(15.0)
    assert world.live()["trunk"] == "cloud-1"
    world.run(40.0)
    assert world.live()["trunk"] == "cloud-2"
    assert world.nodes["cloud-2"].jobs["digits"].spec["method"]["cut"] == cut
    world.run(12.0)
    assert world.status()["plan"]["predicted"]["places"] == {"trunk": "cloud-2"}
    assert world.status()["state"] == "running"


def test_a_better_node_that_refuses_takes_nothing_over():
    """Nor does a worse one in its place."""
    world = fleet(Measured("cloud-1", "cloud", "cloud", flops=2e9), Measured("cloud-3", "cloud", "cloud", flops=1e8), edge(1), edge(2))
    world.submit(**CUT_JOB, placement={"hold_s": 20.0, "tier": ["cloud"]})
    world.run(2.0)
    world.train()
    world.nodes["cloud-2"] = Measured("cloud-2", "cloud", "cloud", flops=1e11, problems={"digits": ("memory_mb: too little",)})
    world.boot("cloud-2")
    world.run(120.0)
    assert world.live()["trunk"] == "cloud-1"
    moves = [event["text"] for event in world.body("job.logs", job="digits")["events"] if "better off" in event["text"]]
    assert len(moves) == 1, "it was asked once"


def test_a_plan_survives_the_coordinator():
    world = fleet(Measured("cloud-1", "cloud", "cloud", flops=1e8), Measured("fog-1", "fog", flops=5e10), edge(1), edge(2))
    world.submit(**CUT_JOB, placement={})
    world.run(2.0)
    before = world.status()["plan"], world.live()
    world.kill_core()
    world.start_core()
    world.run(3.0)
    assert (world.status()["plan"], world.live()) == before


def test_job_plan_changes_nothing_and_names_the_runner_up():
    world = fleet(Measured("cloud-1", "cloud", "cloud", flops=1e8), Measured("fog-1", "fog", flops=5e10), edge(1), edge(2))
    spec = {"name": "digits", **CUT_JOB, "placement": {}}
    body = world.body("job.plan", spec=spec)
    assert world.body("job.list")["jobs"] == []
    assert body["choice"]["places"] == {"trunk": "fog-1"} and body["automatic"]
    assert {task["node"] for task in body["tasks"]} == {"fog-1", "pi-1", "pi-2"}
    assert body["runner_up"]["value"] >= body["choice"]["value"]
    naive = world.body("job.plan", spec={**spec, "method": {"name": "fcddt", "cut": 1}, "placement": None})
    assert naive["choice"]["places"] == {"trunk": "cloud-1"} and not naive["automatic"]
    assert naive["runner_up"]["step_s"] < naive["choice"]["step_s"]  # what a placement section would gain


def test_job_plan_names_nodes_that_nobody_has_heard_of():
    world = fleet(Measured("cloud-1", "cloud", "cloud", flops=1e10), edge(1), edge(2))
    body = world.body("job.plan", spec={"name": "digits", **CUT_JOB, "nodes": {"select": {"names": ["pi-1", "pi-99"]}}})
    assert body["unknown"] == ["pi-99"]


def test_job_plan_of_what_nobody_could_run_is_refused():
    world = fleet(Measured("cloud-1", "cloud", "cloud", flops=1e8))
    reply = world.ask("job.plan", spec={"name": "digits", **CUT_JOB})
    assert (reply.exit_code, reply.error) == (4, "nobody could run it now: no node online that is of tier thing or edge")
    assert world.ask("job.plan", spec={"name": "digits", **CUT_JOB, "placement": {"objective": "speed"}}).exit_code == 2


def test_weights_make_the_objective():
    cost = step_cost(Demands(title="", cycle=(Phase("trunk", 1e10),)), {"trunk": [FAST]})
    assert value(cost, Placing()) == pytest.approx(cost.seconds)
    assert value(cost, Placing(objective="energy")) == pytest.approx(cost.joules)


def test_a_busy_cloud_is_not_waited_for_by_a_job_that_may_run_elsewhere():
    world = fleet(Measured("cloud-1", "cloud", "cloud", flops=1e10), Measured("fog-1", "fog", flops=5e9), edge(1), edge(2))
    world.submit(nodes={"select": {"names": ["pi-1"]}})
    world.run(2.0)
    world.submit(name="second", **CUT_JOB, nodes={"select": {"names": ["pi-2"]}}, placement={})
    world.run(2.0)
    assert world.status("second")["state"] == "running"
    assert world.live("second")["trunk"] != "cloud-1"


def test_constraints_of_a_role_that_the_method_does_not_have_are_refused():
    file = job(placement={"roles": {"trunc": {"tier": ["cloud"]}}})
    with pytest.raises(ConfigError, match=r"placement\.roles\.trunc: .*trunk"):
        planner.check(file, METHODS["fcddt"])

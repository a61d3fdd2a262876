"""What the coordinator exports: every metric, sums that only grow, nodes that leave, and how long a thousand nodes take."""

from __future__ import annotations

import gc
import time
import tracemalloc
from typing import Any

import pytest
from msgspec.structs import replace

from fog_common.telemetry.exposition import render
from fog_common.telemetry.metrics import BY_NAME, METRICS, Samples
from fog_common.wire import messages
from fog_common.wire.messages import Announce, Heartbeat, Presence
from fog_coordinator.core import Core
from fog_coordinator.reading.exporter import LINGER_S, Exporter
from fog_coordinator.state.rules import Rules
from fog_learning.methods.base import ACCURACY, LOSS, Headline
from support.reports import GAUGES, MeasuringNode, beat, profile
from support.stand_ins import World

NODE_METRICS = [metric.name for metric in METRICS if metric.labels[:2] == ("node", "site")]


def collected(exporter: Exporter, now: float, **options: Any) -> dict[str, dict[tuple[str, ...], float]]:
    samples = exporter.collect(now, **{"connected": True, "rejected": {}, **options})
    render(samples)
    return {name: dict(series) for name, series in samples.items()}


def alone(now: float = 1000.0, nodes: int = 1, tables: Any = None) -> Core:
    """A core that has heard of nodes, and no jobs."""
    core = Core("c1", tables, Rules(heartbeat_s=5.0), version="1.2.3")
    core.on_connected(now)
    for number in range(nodes):
        core.on_announce(now, Announce(f"n{number}", "n1", profile()))
        core.on_heartbeat(now, beat(f"n{number}", 10.0, energy_j={"measured": 1.0, "modelled": 0.5} if nodes > 1 else {"measured": 33.75}))
    core.take()
    return core


def measured_world() -> World:
    """A job that runs; every node and every worker measures everything."""
    world = World(MeasuringNode("cloud-1", "cloud", "cloud"), MeasuringNode("pi-1"), MeasuringNode("pi-2"))
    world.run(1.0)
    world.submit(budgets={"time_s": 1000, "bytes": 10**12, "joules": 1e9, "node_joules": 1e9})
    world.run(2.0)
    return world


def judged(world: World, *numbers: Headline) -> None:
    """The job's method names these numbers beside its own; the last round has each of them as 12.5."""
    assert world.core is not None
    entry = world.core.book["digits"]
    entry._read = entry.file, replace(entry.method, headline=(*MEASURED, *numbers))
    item = entry.history.rounds[entry.history.newest]
    record = replace(item.record, numbers={**item.record.numbers, **{number.name: 12.5 for number in numbers}})
    entry.history.rounds[record.round] = replace(item, record=record)


MEASURED = (ACCURACY, LOSS)

# -- all of the list -----------------------------------------------------------------------


def test_every_metric_of_the_table_is_exported():
    world = measured_world()
    for _ in range(3):
        world.train()
        world.run(1.0)
    assert world.core is not None
    judged(world, Headline("examples_s", "examples a second"))
    samples = collected(Exporter(world.core), world.now, rejected={"malformed": 3}, traffic={"sent": 5, "received": 7})
    assert samples["fog_job_headline"] == {("digits", "accuracy"): 0.03, ("digits", "loss"): 1 / 3, ("digits", "examples_s"): 12.5}
    assert {name for metric in METRICS for name in samples if name.startswith(metric.name)} == samples.keys()
    missing = [metric.name for metric in METRICS if not samples.get(metric.name) and not samples.get(f"{metric.name}_bucket")]
    assert not missing
    assert samples["fog_job_stragglers"] == {("digits",): 1.0}
    assert samples["fog_job_staleness_rounds"] == {("digits",): 1.0}  # as the root measured it
    awaited = samples["fog_worker_awaited"]
    assert sorted(awaited.values()) == [0.0, 1.0] and {node for _, node in awaited} == {"pi-1", "pi-2"}
    assert samples["fog_job_state"] == {("digits", "running"): 1.0}
    assert samples["fog_job_accuracy"] == {("digits",): 0.03}
    assert samples["fog_link_bandwidth_bytes_per_second"]["pi-1", "home"] == 2.5e6
    assert samples["fog_job_op_seconds_total"].keys() == {("digits", op) for op in ("train", "average", "evaluate", "other")}
    rounds = samples["fog_round_duration_seconds_bucket"]
    assert rounds["+Inf",] == samples["fog_round_duration_seconds_count"][()] == 3 and rounds["1",] == 3 and rounds["0.5",] == 0


def test_an_idle_agent_has_at_most_twenty_series():
    samples = collected(Exporter(alone()), 1001.0)
    assert sum(len(samples.get(name, {})) for name in NODE_METRICS) <= 20
    assert set(samples) & set(NODE_METRICS) == set(NODE_METRICS)


def test_a_report_of_an_idle_agent_is_at_most_one_kilobyte():
    idle = beat("n" * 32, 1_234_567.891)
    assert len(messages.encode(idle)) <= 1000


def test_what_a_node_does_not_know_is_absent():
    core = alone()
    core.on_heartbeat(1001.0, Heartbeat("n0", "n1", uptime_s=11.0, gauges={"cpu_ratio": 0.0}))
    samples = collected(Exporter(core), 1001.0)
    assert samples["fog_node_cpu_ratio"] == {("n0", "home"): 0.0}
    for name in ("fog_node_battery_ratio", "fog_node_temperature_celsius", "fog_node_power_watts"):
        assert name not in samples


# -- who left ------------------------------------------------------------------------------


def test_a_node_that_left_stays_as_down_and_loses_its_other_series_after_three_reports():
    core = alone()
    exporter = Exporter(core)
    core.on_presence(1001.0, Presence("n0", "n1", False))
    at_once = collected(exporter, 1002.0)
    assert at_once["fog_node_up"] == {("n0", "home"): 0.0}
    assert at_once["fog_node_cpu_ratio"]
    later = collected(exporter, 1015.1)
    assert {name for name in NODE_METRICS if later.get(name)} == {"fog_node_up", "fog_node_last_seen_timestamp_seconds"}
    assert later["fog_node_up"] == {("n0", "home"): 0.0}
    assert later["fog_node_last_seen_timestamp_seconds"] == {("n0", "home"): 1000.0}


def test_a_node_that_is_silent_is_down_after_three_reports():
    core = alone()
    exporter = Exporter(core)
    assert collected(exporter, 1015.0)["fog_node_up"] == {("n0", "home"): 1.0}
    assert collected(exporter, 1015.1)["fog_node_up"] == {("n0", "home"): 0.0}


# -- sums only grow ------------------------------------------------------------------------


def values(samples: dict[str, dict[tuple[str, ...], float]]) -> dict[tuple[str, ...], float]:
    grows = {metric.name for metric in METRICS if metric.kind == "counter"} | {
        "fog_ack_round_trip_seconds_count",
        "fog_ack_round_trip_seconds_bucket",
    }
    return {(name, *labels): value for name in grows for labels, value in samples.get(name, {}).items()}


def assert_grew(before: dict[tuple[str, ...], float], after: dict[tuple[str, ...], float]) -> None:
    assert before
    assert not {key: (value, after.get(key)) for key, value in before.items() if after.get(key, -1.0) < value}


def test_an_agents_restart_takes_nothing_from_its_sums():
    core = alone()
    exporter = Exporter(core)
    core.on_heartbeat(1100.0, beat("n0", 100.0))
    before = values(collected(exporter, 1100.0))
    core.on_announce(1101.0, Announce("n0", "n2", profile()))
    core.on_heartbeat(1101.0, beat("n0", 1.0, nonce="n2"))
    after = values(collected(exporter, 1101.0))
    assert_grew(before, after)
    assert after["fog_node_energy_joules_total", "n0", "home", "measured", "compute"] == pytest.approx(101 * 2.0)
    assert after["fog_site_carbon_grams_total", "home"] == pytest.approx(1.5)


def test_a_coordinators_restart_takes_nothing_from_a_nodes_sums():
    core = alone()
    core.on_announce(1100.0, Announce("n0", "n2", profile()))
    core.on_heartbeat(1100.0, beat("n0", 50.0, nonce="n2"))
    before = values(collected(Exporter(core), 1100.0))
    again = alone(1200.0, 0, {"nodes": [((node.node,), node.row().body or b"") for node in core.registry]})
    again.on_announce(1200.0, Announce("n0", "n2", profile()))
    again.on_heartbeat(1200.0, beat("n0", 150.0, nonce="n2"))
    assert_grew(before, values(collected(Exporter(again), 1200.0)))


def test_what_did_not_count_is_summed_by_its_reason():
    """Updates of one method and rows of another are both late; each series stands on the page once."""
    world = measured_world()
    world.run(20.0)
    assert world.core is not None
    late = collected(Exporter(world.core), world.now)["fog_job_refused_updates_total"]["digits", "late"]
    assert late >= 1e6 and 0 < late % 1e6 < 1e3


def test_a_workers_restart_takes_nothing_from_its_jobs_sums():
    world = measured_world()
    world.run(20.0)
    assert world.core is not None
    exporter = Exporter(world.core)
    before = values(collected(exporter, world.now))
    pi = world.nodes["pi-1"]
    assert isinstance(pi, MeasuringNode)
    pi.restart_worker(world.now, "digits")
    pi.counted_from = world.now
    world.run(3.0)
    after = values(collected(exporter, world.now))
    assert_grew({key: value for key, value in before.items() if key[0].startswith(("fog_job", "fog_ack"))}, after)


def shown(world: World) -> dict[str, dict[tuple[str, ...], float]]:
    """As the service shows them: what is shown is written down before."""
    assert world.core is not None
    world.core.keep()
    world.perform()
    return collected(Exporter(world.core), world.now)


def test_a_kill_of_the_coordinator_takes_nothing_from_what_was_shown():
    """Not in the first moment, not while its nodes report again, not what an agent or a worker counted that ended meanwhile."""
    world = measured_world()
    world.train()
    pi = world.nodes["pi-1"]
    assert isinstance(pi, MeasuringNode)
    pi.restart_worker(world.now, "digits")
    pi.counted_from = world.now
    world.run(7.0)
    before = values(shown(world))
    assert {"fog_job_energy_joules_total", "fog_job_bytes_total", "fog_job_op_seconds_total", "fog_site_carbon_grams_total"} <= {
        key[0] for key in before
    }
    world.kill_core()
    world.nodes["pi-2"].restart_worker(world.now, "digits")  # and its last report was heard by nobody
    world.run(10.0)
    world.start_core()
    for _ in range(20):
        after = values(shown(world))
        there = {key: value for key, value in before.items() if not key[0].startswith("fog_node") or key in after}
        assert_grew(there, after)
        before |= after
        world.run(0.25)
    assert {key for key in before if key[0].startswith("fog_node")} <= after.keys()


def test_the_joules_of_the_time_without_a_coordinator_are_the_jobs():
    world = measured_world()
    world.run(5.0)

    def joules() -> float:
        return sum(value for key, value in values(shown(world)).items() if key[0] == "fog_job_energy_joules_total")

    before, began = joules(), world.now
    world.kill_core()
    world.run(30.0)
    world.start_core()
    world.run(6.0)
    nodes, watts, beat_s = 3, 3.375, 5.5
    assert joules() - before == pytest.approx(nodes * watts * (world.now - began), abs=nodes * watts * beat_s)


def test_when_a_node_was_last_seen_outlives_the_coordinator_and_is_not_the_moment_of_its_start():
    world = measured_world()
    world.run(5.0)
    world.kill("pi-1")
    world.run(2.0)
    spoke = shown(world)["fog_node_last_seen_timestamp_seconds"]["pi-1", "home"]
    assert spoke < world.now - 1.0
    world.run(60.0)
    world.kill_core()
    world.run(100.0)
    world.start_core()
    for _ in range(5):
        assert world.core is not None
        world.core.on_disconnected(world.now)
        world.core.on_connected(world.now)
        world.run(5.0)
        assert shown(world)["fog_node_last_seen_timestamp_seconds"]["pi-1", "home"] == spoke


def test_a_finished_job_is_shown_for_a_while_and_its_acknowledgements_for_ever():
    world = measured_world()
    assert world.core is not None
    exporter = Exporter(world.core)
    while world.status()["state"] == "running":
        world.train()
        world.run(1.0)
    ended = collected(exporter, world.now)
    assert ended["fog_job_state"] == {("digits", "finished"): 1.0}
    later = collected(exporter, world.now + LINGER_S)
    assert not [name for name in later if name.startswith(("fog_job_", "fog_task", "fog_worker"))]
    assert later["fog_ack_round_trip_seconds_count"] == ended["fog_ack_round_trip_seconds_count"]
    world.core.book.prune(keep=0)
    assert collected(exporter, world.now)["fog_ack_round_trip_seconds_count"] == ended["fog_ack_round_trip_seconds_count"]


def test_nonsense_of_a_peer_does_not_break_the_page():
    core = alone()
    silly = {"joules/measured/idle": -5.0, "ctl_sent_bytes": float("nan"), "ctl_received_bytes": float("inf"), **{f"c{n}": 1.0 for n in range(1000)}}
    silly["joules/magic/idle"] = 3.0
    core.on_heartbeat(1001.0, beat("n0", 11.0, counters=silly, gauges={"cpu_ratio": float("nan"), "mood": 1.0}, energy_j={"magic": 3.0}))
    samples = collected(Exporter(core), 1001.0)
    assert samples["fog_node_bytes_total"]["n0", "home", "ctl", "sent"] == 1000.0
    node = core.registry.get("n0")
    assert node is not None and len(node.totals.last) < 250


# -- a thousand nodes ----------------------------------------------------------------------


class Scrapes:
    """Scrapes of a core with `nodes` nodes, timed in CPU seconds of this thread."""

    def __init__(self, nodes: int) -> None:
        self.nodes, self.now = nodes, 1000.5
        self.exporter = Exporter(alone(nodes=nodes))
        self.text, self.samples = b"", Samples()

    def once(self) -> float:
        self.now += 0.1  # no node is silent for so long that it counts as offline
        began = time.thread_time()
        self.samples = self.exporter.collect(self.now, connected=True, rejected={})
        self.text = render(self.samples)
        return time.thread_time() - began


def formatted(lines: int) -> float:
    """CPU seconds to format so many lines of a page: the reference, measured on the same machine in the same minute."""
    began = time.thread_time()
    "".join(f'fog_node_gauge{{node="n{line % 1000}",site="home"}} {float(line)!r}\n' for line in range(lines))
    return time.thread_time() - began


@pytest.mark.thorough
def test_a_scrape_of_a_thousand_nodes_costs_what_its_lines_cost():
    few, many = Scrapes(125), Scrapes(1000)
    turns = [(few.once(), many.once(), formatted(many.text.count(b"\n"))) for _ in range(6)]
    few_s, many_s, lines_s = (min(turn[column] for turn in turns) for column in range(3))
    assert sum(len(series) for name, series in many.samples.items() if name in BY_NAME) >= 20 * 1000
    assert many_s <= 40 * lines_s, f"{many_s:.3f} s for a page whose lines alone take {lines_s:.4f} s"
    assert many_s <= 2.5 * 8 * few_s, f"{many_s:.3f} s for 1000 nodes, {few_s:.3f} s for 125: the cost of a node grows with the fleet"
    assert len(many.text) < 3_000_000


@pytest.mark.thorough
def test_no_memory_of_a_scrape_stays():
    scrapes = Scrapes(125)

    def held() -> int:
        scrapes.once()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    sizes = [held() for _ in range(8)]
    tracemalloc.stop()
    assert sizes[-1] - sizes[2] < 5 * 125, "less than a byte of each node and scrape"


def test_gauges_are_those_that_agents_have():
    from fog_common.telemetry.metrics import NODE_GAUGES

    assert set(NODE_GAUGES) - set(GAUGES) == {"bandwidth_bytes_per_second"}

"""fog: whether a cluster averages upwards or sideways, and what the plan refuses."""

from __future__ import annotations

from typing import Any

import pytest

from fog_common.errors import ConfigError
from fog_common.runtime.machine import (
    Command,
    Event,
    Handle,
    Peer,
    Ran,
    Save,
    Send,
    Started,
)
from fog_learning.backend.plain_ops import OPS, flat
from fog_learning.clusters.graphs import full, ring
from fog_learning.clusters.messages import Call
from fog_learning.clusters.tradeoff import LinkCosts, choose
from fog_learning.job.sections import Evaluation, JobFile, Stragglers
from fog_learning.methods import resolve_method
from support.fog_runs import job, linked, run, weights_of
from support.schedules import Faults, Schedule, Seat
from support.trees import star, tree


def test_auto_goes_sideways_where_that_is_cheaper_and_says_why():
    costs = LinkCosts(up_j_per_byte=1e-5, d2d_j_per_byte=1e-7)
    cheap = choose(full(10), 1, 4_000_000, costs, "energy")
    assert cheap.d2d
    assert cheap.why.startswith("energy: d2d ")
    dear = choose(ring(10), 200, 4_000_000, costs, "energy")
    assert not dear.d2d
    assert dear.d2d_j == pytest.approx(2 * 4e6 * 1e-5 + (200 * 20 * 4e6 + 9 * 4e6) * 1e-7)
    assert choose(ring(10), 200, 4_000_000, costs, "uplink").d2d
    assert not choose(ring(10), 200, 4_000_000, costs, "latency").d2d


def test_the_weights_go_down_to_one_member_or_to_all_and_that_is_counted():
    relayed = choose(full(10), 1, 4_000_000, LinkCosts(), "uplink")
    direct = choose(full(10), 1, 4_000_000, LinkCosts(), "uplink", relay=False)
    assert (relayed.d2d_up_bytes, direct.d2d_up_bytes, relayed.vertical_up_bytes) == (2 * 4_000_000, 11 * 4_000_000, 20 * 4_000_000)
    costs = LinkCosts(up_j_per_byte=1e-6, d2d_j_per_byte=0.0)
    assert choose(full(10), 1, 4_000_000, costs, "energy", relay=False).d2d_j == pytest.approx(11 * 4e6 * 1e-6)


@pytest.mark.parametrize(
    ("peers", "method", "d2d"),
    [
        (linked(1e6, 2e-6), {}, True),  # an uplink of 2 uJ/B against 0.36 among neighbours
        (linked(1e6, 1e-8), {}, False),  # a wired one: nothing to save
        (linked(1e4, 1e-8), {"objective": "latency"}, False),  # one copy down and one up either way, and turns besides
        (linked(1e6, 1e-8), {"objective": "uplink"}, True),
        (linked(1e6, 2e-6), {"consensus": {"graph": "ring", "turns": 50}}, False),  # too many turns
        (star(4), {}, True),  # nothing is known of the links: the job's costs, LTE and WiFi
        (star(4), {"costs": {"up_j_per_byte": 1e-8}}, False),
    ],
)
def test_auto_decides_by_the_links_of_the_members_and_says_why(peers: tuple[Peer, ...], method: dict[str, Any], d2d: bool):
    notes: set[str] = set()
    calls: set[bool] = set()

    def watch(schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        calls.update(command.message.d2d for command in commands if isinstance(command, Send) and isinstance(command.message, Call))
        if seat.peer.role == "server" and seat.machine.note():  # type: ignore[union-attr]
            notes.add(seat.machine.note())  # type: ignore[union-attr]

    finish = Schedule(job(mode="auto", **method), 0, OPS, 0, Faults(), watch, peers).run()
    assert not finish.why
    assert calls == {d2d}
    objective = method.get("objective", "energy")
    assert all(note.startswith(f"{'d2d' if d2d else 'vertical'}: {objective}: d2d ") for note in notes)
    assert notes


def test_auto_weighs_the_slowest_and_dearest_link_of_those_called():
    head = resolve_method(job(mode="auto"))[0].build(job(mode="auto"), resolve_method(job(mode="auto"))[1], star(4)[0]).head  # type: ignore[attr-defined]
    peers = linked(2e6, 3e-6, 0.08)
    head.meet(peers, ("t0", "t1", "t2", "t3"))
    head.called = ("t0", "t1", "t2", "t3")
    links = head._links()
    assert (links.up_bytes_s, links.up_j_per_byte, links.up_latency_s) == (2e6, 3e-6, 0.04)
    assert (links.d2d_bytes_s, links.d2d_j_per_byte) == (LinkCosts().d2d_bytes_s, LinkCosts().d2d_j_per_byte)
    head.called = ("t0", "t1")
    assert head._links().up_bytes_s == 2e7


def test_auto_knows_the_size_of_the_first_weights():
    """They are a handle at the root; the op that made them says how large they are."""
    spec = job(mode="auto")
    method, plan = resolve_method(spec)
    server = method.build(spec, plan, star(4)[0])
    server.step(Started(star(4)), 0.0)
    server.step(Ran(("init",), {"weights": Handle("w")}, {"bytes": 4e6}), 0.0)
    assert server.head.choice().vertical_up_bytes == 2 * 4 * 4_000_000  # type: ignore[attr-defined]


def test_members_of_several_sites_average_upwards():
    peers = (*star(2)[:2], Peer("t1", "trainer", 1, "n1", "elsewhere", "thing", parent="root"))
    schedule, finish, watch = run(peers, job(mode="d2d"))
    assert watch.errors == []
    assert weights_of(schedule, finish)[0] == pytest.approx(flat(3, 2), rel=1e-12)


def test_what_fog_cannot_do_is_refused():
    with pytest.raises(ConfigError, match=r"evaluation\.where"):
        resolve_method(JobFile("x", {"name": "fog"}, {"name": "mlp"}, evaluation=Evaluation(where="federated")))
    with pytest.raises(ConfigError, match=r"stragglers\.late"):
        resolve_method(JobFile("x", {"name": "fog"}, {"name": "mlp"}, stragglers=Stragglers(late="accept")))
    with pytest.raises(ConfigError, match=r"method\.consensus\.shrink"):
        resolve_method(JobFile("x", {"name": "fog", "consensus": {"shrink": 2.0}}, {"name": "mlp"}))


def test_saves_carry_no_half_done_consensus():
    saved: list[str] = []

    def watch(schedule: Schedule, seat: Seat, event: Event, commands: list[Command]) -> None:
        if any(isinstance(command, Save) for command in commands) and seat.peer.role != "server":
            saved.append(seat.machine.member.mixing.phase)  # type: ignore[union-attr]

    Schedule(job(mode="d2d"), 0, OPS, 0, Faults(), watch, tree(2, 3)).run()
    assert saved
    assert set(saved) == {"idle"}

"""Peers from outside a job in its table: a change is a new view, and the table says where they are."""

from __future__ import annotations

from fog_coordinator.moves.view import settle
from fog_coordinator.state.rules import Rules
from support.running_jobs import running


def test_a_declared_peer_is_in_the_table_from_the_next_view_on():
    world = running(clouds=2)
    core = world.core
    assert core is not None
    (job,) = core.book.jobs
    places = {node.node: (node.profile.site, node.profile.tier) for node in core.registry}

    def settled() -> bool:
        return settle(world.now, job, core.registry, Rules())[0]

    assert not settled()
    view = job.view
    job.ingress = {"cloud-2": ("server",), "portal": ("server", "trainer")}
    assert job.placement(places).ingress == {}, "the table of a view does not change"
    assert settled() and not settled()
    table = job.placement(places)
    assert (table.view, table.ingress) == (view + 1, {"cloud-2": ("server",), "portal": ("server", "trainer")})
    assert table.places == {"cloud-2": ("cloud", "cloud")}, "a node of the fleet; where the other one is, its questions say"
    job.ingress = {}
    assert settled()
    assert job.placement(places).ingress == {} and job.placement(places).places == {}

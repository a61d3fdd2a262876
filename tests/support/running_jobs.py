"""Fleets of stand-ins with a job that runs, or has trained some rounds."""

from __future__ import annotations

from support.stand_ins import StandIn, World


def fleet(edges: int = 3, clouds: int = 1, **options) -> World:
    nodes = [StandIn(f"cloud-{n + 1}", "cloud", "cloud") for n in range(clouds)] + [StandIn(f"pi-{n + 1}") for n in range(edges)]
    world = World(*nodes, **options)
    world.run(1.0)
    return world


def running(edges: int = 3, clouds: int = 1, **options) -> World:
    world = fleet(edges, clouds, **options)
    world.submit()
    world.run(2.0)
    assert world.status()["state"] == "running"
    return world


def trained(edges: int = 3, clouds: int = 1, rounds: int = 3, **options) -> World:
    world = running(edges, clouds, **options)
    for _ in range(rounds):
        world.train()
        world.run(0.3)
    world.run(1.0)
    assert world.status()["round"] >= min(rounds, 6)
    return world

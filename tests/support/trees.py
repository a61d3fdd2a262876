"""Fleets of fog as trees of tasks, for schedules."""

from __future__ import annotations

from fog_common.runtime.machine import Peer


def star(trainers: int) -> tuple[Peer, ...]:
    return (
        Peer("root", "server", -1, "c", "cloud", "cloud"),
        *(Peer(f"t{i}", "trainer", i, f"n{i}", "s0", "thing", parent="root") for i in range(trainers)),
    )


def tree(*clusters: int, between: int = 0) -> tuple[Peer, ...]:
    """A server over aggregators of so many trainers; between > 0: groups of so many aggregators under one more layer."""
    peers, slot = [Peer("root", "server", -1, "c", "cloud", "cloud")], 0
    for index, size in enumerate(clusters):
        parent = f"g{index // between}" if between else "root"
        if between and index % between == 0:
            peers.append(Peer(parent, "aggregator", -1, f"f{parent}", "fog", "fog", parent="root", layer=2))
        peers.append(Peer(f"a{index}", "aggregator", -1, f"e{index}", f"s{index}", "edge", parent=parent, layer=1))
        for _ in range(size):
            peers.append(Peer(f"t{slot}", "trainer", slot, f"n{slot}", f"s{index}", "thing", parent=f"a{index}"))
            slot += 1
    return tuple(peers)

"""Nodes of a simulated fleet, from a file (`fogctl sim --topology FILE`) or from a job's own `topology`. Pure.

groups:                                   # names: thing-001 …, edge-01 …, fog-1 …
  - {tier: thing, sites: 50, per_site: 9}     # site-1 … site-50
  - {tier: edge, sites: 50}                   # one at each of the same sites
  - {tier: fog, sites: [hub-1, hub-2]}
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from fog_common.config import load
from fog_common.errors import ConfigError
from fog_common.ids import TIERS, Id
from fog_learning.job.sections import JobFile, Layer

Count = Annotated[int, Meta(ge=1, le=100_000)]
CLUSTER = 10
"""Members of a cluster if the job's topology gives no size."""


class NodePlace(Struct, frozen=True):
    """One node other than cloud-1, which always exists."""

    name: str
    tier: str
    site: str


class Group(Struct, frozen=True, forbid_unknown_fields=True):
    """Nodes of one tier, with the same number at every site."""

    tier: Literal["thing", "edge", "fog", "cloud"]
    sites: Count | list[Id] = 1
    """Number of sites (site-1, site-2 …), or their names."""
    per_site: Count = 1


class Shape(Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a `--topology` file."""

    groups: list[Group]


def load_shape(path: Path) -> list[NodePlace]:
    """The nodes of a `--topology` file. ConfigError names file, line and key."""
    return places(load(path, Shape).groups)


def places(groups: Iterable[Group]) -> list[NodePlace]:
    """The nodes of these groups, lowest tier first."""
    sites: dict[str, list[str]] = {}
    for group in groups:
        names = [f"site-{number}" for number in range(1, group.sites + 1)] if isinstance(group.sites, int) else group.sites
        sites.setdefault(group.tier, []).extend(site for site in names for _ in range(group.per_site))
    return [place for tier in TIERS if tier in sites for place in _named(tier, sites[tier])]


def uniform(nodes: int, tier: str = "edge", site: str = "home") -> list[NodePlace]:
    """A flat fleet: node-1, node-2 …"""
    return [NodePlace(f"node-{index:0{len(str(nodes))}d}", tier, site) for index in range(1, nodes + 1)]


def shape_for(job: JobFile, nodes: int) -> list[NodePlace]:
    """`nodes` nodes with data, and the inner nodes of the job's topology; without a topology a flat fleet. ConfigError for `parents` that name
    only cloud-1."""
    topology = job.topology
    if topology.parents:
        return _from_parents(topology.parents, _leaf_tier(job))
    if topology.layers:
        return _from_layers(topology.layers, _leaf_tier(job), nodes)
    return uniform(nodes)


def _leaf_tier(job: JobFile) -> str:
    return min(job.nodes.select.tier, key=TIERS.index, default="edge")


def _named(tier: str, sites: list[str]) -> list[NodePlace]:
    first = 2 if tier == "cloud" else 1  # cloud-1 always exists
    return [NodePlace(f"{tier}-{index:0{len(str(len(sites)))}d}", tier, site) for index, site in enumerate(sites, first)]


def _from_layers(layers: list[Layer], leaf: str, nodes: int) -> list[NodePlace]:
    size = layers[0].size or CLUSTER
    many = -(-nodes // size)
    sites: dict[str, list[str]] = {leaf: [f"site-{1 + index * many // nodes}" for index in range(nodes)]}
    for number, layer in enumerate(layers):
        if number:
            many = -(-many // (layer.size or CLUSTER))
        if layer.on != "member":
            where = [f"site-{k}" if not number else f"{layer.on}-site-{k}" for k in range(1, many + 1)]
            sites.setdefault(layer.on, []).extend(where)
    return [place for tier in TIERS if tier in sites for place in _named(tier, sites[tier])]


def _from_parents(parents: dict[str, str], leaf: str) -> list[NodePlace]:
    """Nodes that are no parent have data; the tier of each parent follows its height. A lowest cluster is a site."""
    inner = set(parents.values())
    height = dict.fromkeys(parents.keys() - inner, 0)
    while left := (parents.keys() | inner) - height.keys():
        for name in sorted(left):
            below = [child for child, parent in parents.items() if parent == name]
            if all(child in height for child in below):
                height[name] = 1 + max(height[child] for child in below)
    above = TIERS[TIERS.index(leaf) + 1 : -1] or ("fog",)
    nodes = []
    for name in sorted(height, key=lambda name: (height[name], name)):
        if name == "cloud-1":
            continue
        tall = height[name]
        site = parents[name] if not tall and parents[name] != "cloud-1" else f"{name}-site"[-32:].lstrip("-") if tall > 1 else name
        nodes.append(NodePlace(name, above[min(tall, len(above)) - 1] if tall else leaf, site))
    if not nodes:
        raise ConfigError("topology.parents names no node beside cloud-1; there is nothing to simulate")
    return nodes

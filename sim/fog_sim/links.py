"""Models of links and nodes. Figures are defaults that measured ones may replace (`--links FILE`); every result is labelled simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from fog_common.config import load
from fog_common.energy.model import JoulesPerByte
from fog_common.errors import ConfigError
from fog_common.facts import NodeLink

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]


class LinkModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Link between a node and its broker, full duplex."""

    up_bytes_s: Positive
    down_bytes_s: Positive
    latency_s: NotNegative
    """Latency of one way."""
    loss: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Fraction of QoS 0 frames that are lost, e.g. by overload and reconnects (TCP hides single losses)."""
    joules_per_byte: NotNegative = 0.0
    """Energy of the node's radio or NIC per sent or received byte."""

    def facts(self) -> NodeLink:
        """The link as an agent measures and configures it."""
        return NodeLink(rtt_s=2 * self.latency_s, bandwidth_bytes_s=self.up_bytes_s, byte_j=self.joules_per_byte)


class NodeModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Speed and energy of a simulated node."""

    flops: Positive = 4e9
    """Sustained FLOP/s of training."""
    disk_bytes_s: Positive = 20e6
    save_s: NotNegative = 0.01
    """Fixed cost of a durable Save."""
    idle_w: NotNegative = 2.0
    joules_per_flop: NotNegative = 1e-9
    op_overhead_s: NotNegative = 1e-3


class Station(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Models of the nodes of one tier, which replace those of the fleet."""

    link: LinkModel | None = None
    d2d: LinkModel | None = None
    node: NodeModel | None = None


class Fleet(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a `--links` file."""

    link: LinkModel
    """Link of a node to the broker; with `d2d` only for messages that leave its site."""
    d2d: LinkModel | None = None
    """Link of a node to the broker of its site, for messages inside the site. None: one broker serves all sites."""
    bridge: LinkModel | None = None
    """Link between a site's broker and the cloud's, shared by the whole site: messages that leave the site take `d2d`, then this link. None:
    they take each node's own `link`. Needs `d2d`."""
    tiers: dict[Literal["thing", "edge", "fog", "cloud"], Station] = {}
    cloud_link: LinkModel | None = None
    node: NodeModel = NodeModel()
    cloud: NodeModel = NodeModel(flops=50e9, disk_bytes_s=200e6)
    spread: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Nodes' speed and rates are drawn from [1 - spread, 1 + spread] x the model, by the seed."""

    def __post_init__(self) -> None:
        if self.bridge is not None and self.d2d is None:
            raise ValueError("bridge: a bridge joins brokers of sites; say with `d2d` how nodes reach theirs")


_J = JoulesPerByte()
_WIFI = LinkModel(up_bytes_s=3e6, down_bytes_s=4e6, latency_s=0.004, joules_per_byte=_J.wifi)
_LTE = LinkModel(up_bytes_s=0.7e6, down_bytes_s=1.6e6, latency_s=0.04, joules_per_byte=_J.lte)
_LAN = LinkModel(up_bytes_s=100e6, down_bytes_s=100e6, latency_s=0.0003, joules_per_byte=_J.lan)
PRESETS: dict[str, Fleet] = {
    # sources of the figures: docs/simulation.md
    "lan": Fleet(link=_LAN),
    "wifi": Fleet(link=_WIFI, spread=0.3),
    "lte": Fleet(link=_LTE, spread=0.4),
    # every node has a mobile uplink of its own, and WiFi to its neighbours; fog nodes are wired
    "fog": Fleet(link=_LTE, d2d=_WIFI, tiers={"fog": Station(link=_LAN, d2d=_LAN, node=NodeModel(flops=2e10, disk_bytes_s=100e6))}, spread=0.3),
    # sites with a broker of their own that is bridged over one mobile uplink; WiFi inside
    "sites": Fleet(link=_WIFI, d2d=_WIFI, bridge=_LTE, spread=0.3),
}
WIRED = LinkModel(up_bytes_s=1e9, down_bytes_s=1e9, latency_s=0.0001)
"""Link of the cloud and the coordinator to the broker, unless a file gives another."""


def fleet(name: str) -> Fleet:
    """A preset by name, or the content of a YAML file. ConfigError for neither."""
    if name in PRESETS:
        return PRESETS[name]
    if Path(name).is_file():
        return load(Path(name), Fleet)
    raise ConfigError(f"links {name!r}: neither a preset ({', '.join(PRESETS)}) nor a file")

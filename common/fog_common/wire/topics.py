"""Every topic, once: template, payload, QoS, retain. At most 7 slashes; ids never hold '+', '#', '/' or dots.

The last level of an inbox is its kind: `ctl` (control messages, daemon and coordinator), `bulk~{job}` (frames of
fog_common.transfer for the job's worker on that node; for the coordinator, of any job), `reply~{session}` and
`bulk~{session}` (fogctl). {sender} is the connection's user: the broker's ACL enforces it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from fog_common.errors import WireError
from fog_common.ids import CLOUD_SITE, COORDINATOR

PREFIX: Final = "fog/v1"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic template with the name of what it carries."""

    template: str
    carries: str
    qos: int = 1
    retain: bool = False

    def at(self, **parts: str) -> str:
        """The topic with its levels filled in. ValueError for a part that is not a topic level."""
        if bad := [part for part in parts.values() if not part or set(part) & set("+#/")]:
            raise ValueError(f"not a topic level: {bad[0]!r}")
        return self.template.format(**parts)

    def filter(self, **parts: str) -> str:
        """The subscription filter with the named levels fixed and '+' for the others."""
        names = re.findall(r"{(\w+)}", self.template)
        return self.template.format(**{name: parts.get(name, "+") for name in names})


D2D = Topic(PREFIX + "/{fleet}/d2d/{site}/{node}/{sender}/{kind}", "frame | control", qos=0)
"""To a node of the sender's own site: never bridged."""
TO = Topic(PREFIX + "/{fleet}/to/{site}/{node}/{sender}/{kind}", "frame | control", qos=0)
"""To a node of another site, or the coordinator: bridged."""
CAST = Topic(PREFIX + "/{fleet}/cast/{scope}/{group}/{sender}/{kind}", "frame", qos=0)
"""One to a group ({job}~{role}), published once. scope: a site (never bridged) or `all` (bridged)."""
PRESENCE = Topic(PREFIX + "/{fleet}/node/{node}/presence", "Presence", qos=1, retain=True)
REQUEST = Topic(PREFIX + "/{fleet}/ctl/{sender}/{kind}", "Request", qos=1)
"""fogctl to the coordinator; the kind is `request~{session}`."""

BULK: Final = "bulk"
CONTROL: Final = "ctl"
ALL_SITES: Final = "all"


class Route(NamedTuple):
    """A received topic, taken apart."""

    plane: str  # d2d | to | cast | node | ctl
    scope: str  # site of the receiver, or scope of the cast; '' for node and ctl
    target: str  # node, or {job}~{role} of the cast
    sender: str  # node (user) that published it
    kind: str


def parse(topic: str) -> Route:
    """WireError for anything that is none of ours."""
    parts = topic.split("/")
    match parts:
        case ["fog", "v1", _, ("d2d" | "to" | "cast") as plane, scope, target, sender, kind]:
            return Route(plane, scope, target, sender, kind)
        case ["fog", "v1", _, "node", node, kind]:
            return Route("node", "", node, node, kind)
        case ["fog", "v1", _, "ctl", sender, kind]:
            return Route("ctl", "", COORDINATOR, sender, kind)
        case _:
            raise WireError(f"not one of our topics: {topic[:120]!r}", "unknown_topic")


def inbox(fleet: str, site: str, node: str, sender: str, sender_site: str, kind: str) -> str:
    """The topic on which `sender` reaches `node`: d2d inside a site (the cloud is a site too), else, and for the coordinator, `to`."""
    topic = D2D if site == sender_site and COORDINATOR not in (node, sender) else TO
    return topic.at(fleet=fleet, site=site, node=node, sender=sender, kind=kind)


def to_coordinator(fleet: str, sender: str, kind: str = CONTROL) -> str:
    return TO.at(fleet=fleet, site=CLOUD_SITE, node=COORDINATOR, sender=sender, kind=kind)


def from_coordinator(fleet: str, site: str, node: str, kind: str = CONTROL) -> str:
    return TO.at(fleet=fleet, site=site, node=node, sender=COORDINATOR, kind=kind)


def group(job: str, role: str) -> str:
    return f"{job}~{role}"


def inbox_filters(fleet: str, site: str, node: str, kind: str) -> list[str]:
    """Filters of a node's inbox of one kind."""
    return [topic.filter(fleet=fleet, site=site, node=node, kind=kind) for topic in (D2D, TO)]


def cast_filters(fleet: str, site: str, job: str, role: str, kind: str) -> list[str]:
    return [CAST.filter(fleet=fleet, scope=scope, group=group(job, role), kind=kind) for scope in (site, ALL_SITES)]

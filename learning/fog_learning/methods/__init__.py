"""The table of learning methods, and the strict reading of a job's `method` section."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from fog_common import config
from fog_common.errors import ConfigError
from fog_learning.job.sections import Job
from fog_learning.methods.base import Method
from fog_learning.methods.centralized.method import CENTRALIZED
from fog_learning.methods.fcddt.method import FCDDT
from fog_learning.methods.fedavg.server import FEDAVG
from fog_learning.methods.fog.tree import FOG
from fog_learning.methods.gossip.peer import GOSSIP

METHODS: Final[dict[str, Method]] = {method.name: method for method in (FEDAVG, FOG, GOSSIP, FCDDT, CENTRALIZED)}


def resolve_method(job: Job) -> tuple[Method, Struct]:
    """The job's method and its checked plan. ConfigError names the key, what was found and what is allowed."""
    name = job.method.get("name")
    if not isinstance(name, str):
        raise ConfigError(f"method.name: expected one of {', '.join(METHODS)}, got {'nothing' if name is None else repr(name)}")
    if name not in METHODS:
        raise ConfigError(f"method.name: {name!r}: {config.suggest(name, list(METHODS), 'method')}")
    method = METHODS[name]
    plan = config.convert({key: value for key, value in job.method.items() if key != "name"}, method.plan, key="method")
    method.check(job, plan)
    return method, plan

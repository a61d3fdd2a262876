"""The table of learning methods, and the strict reading of a job's `method` section."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from fog_common.errors import ConfigError
from fog_learning.job import Job
from fog_learning.methods.base import Method
from fog_learning.methods.fedavg import FEDAVG

METHODS: Final[dict[str, Method]] = {method.name: method for method in (FEDAVG,)}


def resolve_method(job: Job) -> tuple[Method, Struct]:
    """The job's method and its checked plan. ConfigError names the key, what was found and what is allowed."""
    name = job.method.get("name")
    if not isinstance(name, str) or name not in METHODS:
        found = "nothing" if name is None else repr(name)
        raise ConfigError(f"method.name: {found} is not a method; allowed: {', '.join(METHODS)}")
    method = METHODS[name]
    section = {key: value for key, value in job.method.items() if key != "name"}
    allowed = method.plan.__struct_fields__
    if unknown := sorted(str(key) for key in section if key not in allowed):
        raise ConfigError(f"method.{unknown[0]}: {name} has no such key; allowed: {', '.join(allowed)}")
    try:
        plan = msgspec.convert(section, method.plan)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        raise ConfigError(f"method{path.rstrip('`')}: {text[:1].lower()}{text[1:]}") from None
    method.check(job, plan)
    return method, plan

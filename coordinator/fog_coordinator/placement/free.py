"""The free tasks of a job: their ids, and how much memory several tasks need in the one worker that a node runs of a job. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from fog_common import config
from fog_learning.costs.demands import WORKER_BYTES
from fog_learning.job.sections import JobFile
from fog_learning.methods.base import Method, Role

MOST_ASSIGNMENTS: Final = 1024
"""So many assignments of several free tasks are all looked at."""


class FreeTask(Struct, frozen=True):
    """One task of a free role."""

    role: Role
    index: int
    task: str
    """Its id: the role's name, or name-0, name-1 … where the role has several."""


def free_tasks(file: JobFile, method: Method) -> tuple[FreeTask, ...]:
    """In the order of the method's roles."""
    found: list[FreeTask] = []
    for role in method.roles:
        if role.bound == "free":
            count = role.count if isinstance(role.count, int) else role.count(file, _plan(file, method))
            found += [FreeTask(role, index, role.name if count == 1 else f"{role.name}-{index}") for index in range(count)]
    return tuple(found)


def _plan(file: JobFile, method: Method) -> Struct:
    return config.convert({key: value for key, value in file.method.items() if key != "name"}, method.plan, key="method")


def worker_bytes(needs: Iterable[int]) -> int:
    """Bytes of one worker that runs several tasks, each with the need of a worker of its own: the interpreter counts once."""
    each = list(needs)
    return max(0, sum(each) - WORKER_BYTES * (len(each) - 1)) if each else 0

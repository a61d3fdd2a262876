"""A reply as the JSON of `fogctl --json`: the fields of its struct, with the numbers of rounds beside the other fields."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from fog_common.wire.api.fleet import Top
from fog_common.wire.api.jobs import JobResult, JobStatus, RoundShown


def shown(body: Struct) -> dict[str, Any]:
    """The body as builtins. A round's numbers, and a job's recent numbers in Top, stand beside the other keys: `{round, accuracy, …}`."""
    found: dict[str, Any] = _json(body)
    match body:
        case JobStatus():
            found["history"] = [shown_round(entry) for entry in body.history]
        case JobResult():
            found["status"] = shown(body.status)
        case Top():
            found["jobs"] = [_beside(job, "recent") for job in found["jobs"]]
        case _:
            pass
    return found


def shown_round(entry: RoundShown) -> dict[str, Any]:
    return _beside(_json(entry), "numbers")


def _json(body: Struct) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(body))
    return found


def _beside(entry: dict[str, Any], key: str) -> dict[str, Any]:
    """The entries of one key beside the others, which win."""
    return {**entry.pop(key), **entry}

"""Replies of the coordinator, made up."""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from fog_common.wire.api.jobs import Energy, Figure, JobStatus, RoundShown, SentBytes, WaitShown

FIGURES: Final = (Figure(name="accuracy", title="accuracy on held-out data"), Figure(name="loss", title="training loss", better="less"))


def status_of(state: str, rounds: int, **changes: Any) -> JobStatus:
    """Of a job of three rounds, `rounds` of them closed."""
    history = tuple(
        RoundShown(round=n, wall_s=n * 1.5, updates=4, examples=400, bytes=n * 2048, numbers={"accuracy": 0.9, "loss": 0.5})
        for n in range(1, rounds + 1)
    )
    status = JobStatus(
        job="digits-1",
        name="digits",
        method="fedavg",
        state=state,
        line=f"round {rounds}",
        round=rounds,
        rounds=3,
        nodes=4,
        submitted_at=0.0,
        started_at=1.0,
        ended_at=None,
        why="",
        headline=FIGURES,
        now=9.0,
        view=1,
        user="operator",
        wall_s=rounds * 1.5,
        refused=False,
        problems=(),
        waits=(),
        watching=(),
        tasks=(),
        history=history,
        metrics={"accuracy": 0.9, "loss": 0.5},
        bytes=SentBytes(up=1024, down=2048, cast=512, ctl=9, total=3584, ideal=3500),
        energy_j=Energy(value=12.0, source="modelled"),
        step_bytes=None,
        plan=None,
        budgets=(),
        buddies={},
        digest="",
    )
    return replace(status, **changes)


def wait_for(what: str, since_s: float, until_s: float | None = None) -> WaitShown:
    return WaitShown(what=what, who=("pi-3",), since=1.0, until=None if until_s is None else 9.0 + until_s, since_s=since_s, until_s=until_s)

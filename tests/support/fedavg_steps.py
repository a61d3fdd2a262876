"""Builders for single steps of fedavg, and symbolic ops: weights say whose updates they hold."""

from __future__ import annotations

from typing import Any

from fog_common.errors import OpError
from fog_common.runtime.machine import (
    Blob,
    Command,
    Handle,
    Peer,
    Ran,
    Run,
    Slots,
    Started,
)
from fog_learning.job.sections import Evaluation, JobFile, Stragglers, Train
from fog_learning.methods import resolve_method
from fog_learning.methods.fedavg.messages import Update
from fog_learning.methods.fedavg.server import Server


def train(task: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    assert inputs["weights"]["round"] == numbers["round"] - 1, "trained from weights of another round"
    return {"weights": {"update": [[numbers["slot"], numbers["round"]]]}}, {"examples": 10 + numbers["slot"], "loss": 1.0}


def accumulate(task: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    return {"sum": [*inputs.get("sum", []), [*inputs["add"]["update"][0], numbers["n"]]]}, {}


def mean(task: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    if "sum" not in inputs:
        raise OpError("nothing to average")
    return {"weights": {"round": max(round_ for _, round_, _ in inputs["sum"]), "parts": inputs["sum"]}}, {}


def server_opt(task: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    assert inputs["mean"]["round"] == numbers["round"]
    return {"weights": inputs["mean"], "m": inputs.get("m", 0) + 1, "v": 0}, {}


def rate(task: str, inputs: dict[str, Any], numbers: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    return {}, {"accuracy": inputs["weights"]["round"] / 10, "loss": 0.5, "examples": 5.0}


OPS = {
    "init": lambda task, inputs, numbers: ({"weights": {"round": 0, "parts": []}}, {}),
    "train": train,
    "accumulate": accumulate,
    "mean": mean,
    "server_opt": server_opt,
    "evaluate": rate,
    "evaluate_local": rate,
}


def job(rounds: int = 4, stragglers: Stragglers = Stragglers(), evaluation: Evaluation = Evaluation(), **method: Any) -> JobFile:
    return JobFile("test", {"name": "fedavg", **method}, {"name": "mlp"}, train=Train(rounds=rounds), stragglers=stragglers, evaluation=evaluation)


def peer(task: str, slot: int = -1) -> Peer:
    return Peer(task, "server" if slot < 0 else "trainer", slot, f"n-{task}", "site", "edge", incarnation=1)


SERVER, ADA, BOB, CYD = peer("server"), peer("ada", 0), peer("bob", 1), peer("cyd", 2)


BRANCH = ""
"""Of the first weights."""


def opened(*trainers: Peer, **options: Any) -> Server:
    """A server in round 1, opened at t=0."""
    the_job = job(**options)
    method, plan = resolve_method(the_job)
    server = method.build(the_job, plan, SERVER)
    assert isinstance(server, Server)
    server.step(Started((SERVER, *trainers)), 0.0)
    server.step(Ran(("init",), {"weights": Handle("w0")}), 0.0)
    return server


def update(slot: int, round_: int = 1, examples: int = 10, branch: str = BRANCH) -> Update:
    return Update(round_, Blob(f"{slot}-{round_}", 4), examples, Slots.of(slot), {"loss": 1.0 + slot}, branch)


def kinds(commands: list[Command]) -> list[str]:
    return [command.op if isinstance(command, Run) else type(command).__name__ for command in commands]

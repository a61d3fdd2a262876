"""The verbs of fog_coordinator.api, answered from the core. Pure. Every wrong argument is one line, exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from fog_common import config
from fog_common.errors import ConfigError, FogError, Refused
from fog_common.wire.messages import Reply, Request
from fog_coordinator.core import Core
from fog_coordinator.placement import planner
from fog_coordinator.reading import plans, status, topology
from fog_coordinator.reading.overview import overview
from fog_coordinator.state.jobs import ENDED, FINISHED, Job
from fog_coordinator.state.nodes import Node
from fog_learning.job.sections import job_spec

MAX_SPEC_BYTES: Final = 64 * 1024
MAX_WAITING: Final = 1000
"""Jobs that have not ended; more are refused."""
Answered = tuple[dict[str, Any], Job | None]
"""(body, the job whose weights are to be sent)"""

# -- arguments -----------------------------------------------------------------------------


class _Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _Submit(Struct, frozen=True, forbid_unknown_fields=True):
    spec: dict[str, Any]
    token: str = ""


class _Spec(Struct, frozen=True, forbid_unknown_fields=True):
    spec: dict[str, Any]


class _List(Struct, frozen=True, forbid_unknown_fields=True):
    active: bool = False


class _Status(Struct, frozen=True, forbid_unknown_fields=True):
    job: str
    after: int = 0


class _OfJob(Struct, frozen=True, forbid_unknown_fields=True):
    job: str


class _Logs(Struct, frozen=True, forbid_unknown_fields=True):
    job: str
    lines: int = 100


class _OfNode(Struct, frozen=True, forbid_unknown_fields=True):
    node: str


class _Drain(Struct, frozen=True, forbid_unknown_fields=True):
    node: str
    undo: bool = False


class _Topology(Struct, frozen=True, forbid_unknown_fields=True):
    job: str = ""
    spec: dict[str, Any] | None = None


# -- verbs ---------------------------------------------------------------------------------


def answer(core: Core, now: float, user: str, session: str, request: Request) -> None:
    """Do what a session of a user asks for; the core's effects hold the reply. Raises nothing for what a user sent."""
    core.begin(now)
    reply, result = _answered(core, now, user, request)
    core.answer(now, user, session, reply, result)


def _answered(core: Core, now: float, user: str, request: Request) -> tuple[Reply, Job | None]:
    """(the reply, the job whose weights follow it)."""
    try:
        if request.verb not in VERBS:
            raise ConfigError(f"unknown request {request.verb!r}; this coordinator knows {', '.join(VERBS)}")
        kind, verb = VERBS[request.verb]
        arguments = config.convert(request.arguments, kind)
        body, result = verb(core, now, user, request.id, arguments)
    except FogError as error:
        return Reply(request.id, exit_code=error.exit_code, error=str(error)), None
    return Reply(request.id, body), result


def _ping(core: Core, now: float, user: str, id: str, arguments: _Nothing) -> Answered:
    body = {
        "now": now,
        "nonce": core.nonce,
        "version": core.version,
        "started_at": core.started_at,
        "nodes": len(core.registry),
        "nodes_online": sum(node.online for node in core.registry),
        "jobs_active": sum(job.state not in ENDED for job in core.book.jobs),
        "denied": list(core.denied),
    }
    return body, None


def _submit(core: Core, now: float, user: str, id: str, arguments: _Submit) -> Answered:
    if len(arguments.token) > 64:
        raise ConfigError(f"token: {len(arguments.token)} characters, at most 64")
    token = f"{user}/{arguments.token}" if arguments.token else f"{user}/request/{id}"  # a request that came twice is one
    if len(msgspec.msgpack.encode(arguments.spec)) > MAX_SPEC_BYTES:
        raise ConfigError(f"spec: larger than {MAX_SPEC_BYTES // 1024} KiB, which is no job file")
    file, method = core.check(arguments.spec)
    planner.check(file, method)
    spec = job_spec(file)
    for job in core.book.jobs:
        if job.token == token:
            if job.spec != spec:
                raise ConfigError(f"token: it was used for another job ({job.id}); choose a new one")
            return {"job": job.id, "state": status.shown_state(core, job), "repeated": True}, None
    live = next((job for job in core.book.jobs if job.name == file.name and job.state not in ENDED), None)
    if live is not None:
        raise Refused(f"a job named {file.name!r} is {live.state.replace('_', ' ')}; cancel it, wait for its end, or choose another name")
    if sum(job.state not in ENDED for job in core.book.jobs) >= MAX_WAITING:
        raise Refused(f"{MAX_WAITING} jobs have not ended yet; cancel some first")
    job = Job(
        id=_free_id(core, file.name),
        name=file.name,
        user=user,
        token=token,
        spec=spec,
        method=method.name,
        root_role=method.root,
        lockstep=method.lockstep,
        rounds=file.train.rounds,
        submitted_at=now,
        order=0,
    )
    core.add_job(now, job)
    return {"job": job.id, "state": job.state, "repeated": False}, None


def _plan(core: Core, now: float, user: str, id: str, arguments: _Spec) -> Answered:
    return plans.dry_run(core, now, arguments.spec), None


def _free_id(core: Core, name: str) -> str:
    """The job's name, or with -2, -3 … where an ended job has it."""
    id, number = name, 1
    while id in core.book:
        number += 1
        suffix = f"-{number}"
        id = name[: 32 - len(suffix)] + suffix
    return id


def _list(core: Core, now: float, user: str, id: str, arguments: _List) -> Answered:
    jobs = sorted(core.book.jobs, key=lambda job: -job.order)
    shown = [status.summary(core, now, job) for job in jobs if not (arguments.active and job.state in ENDED)]
    return {"now": now, "jobs": shown}, None


def _status(core: Core, now: float, user: str, id: str, arguments: _Status) -> Answered:
    return status.status(core, now, _job(core, arguments.job), arguments.after), None


def _cancel(core: Core, now: float, user: str, id: str, arguments: _OfJob) -> Answered:
    job = _job(core, arguments.job)
    if job.state in {FINISHED, "failed"}:
        raise Refused(f"{job.id} is {job.state} already; nothing to cancel")
    if job.state not in ENDED:  # a repeated cancel is the same cancel
        core.cancel(now, job)
    return {"job": job.id, "state": job.state}, None


def _logs(core: Core, now: float, user: str, id: str, arguments: _Logs) -> Answered:
    job = _job(core, arguments.job)
    if not 1 <= arguments.lines <= 500:
        raise ConfigError(f"lines: expected 1 to 500, got {arguments.lines}")
    lines = list(core.book[job.id].log.lines)[-arguments.lines :]
    return {"now": now, "job": job.id, "events": [{"at": line.at, "text": line.text} for line in lines]}, None


def _result(core: Core, now: float, user: str, id: str, arguments: _OfJob) -> Answered:
    job = _job(core, arguments.job)
    if job.state != FINISHED:
        raise Refused(f"{job.id} is {job.state.replace('_', ' ')} and has no result{': ' + job.why if job.why else ''}")
    body = {
        "now": now,
        "job": job.id,
        "state": job.state,
        "numbers": dict(job.numbers),
        "rounds": core.book[job.id].history.newest,
        "digest": job.digest,
        "status": status.status(core, now, job),
    }
    return body, job if job.digest else None


def _nodes(core: Core, now: float, user: str, id: str, arguments: _Nothing) -> Answered:
    return {"now": now, "nodes": [status.node_summary(core, now, node) for node in core.registry]}, None


def _node(core: Core, now: float, user: str, id: str, arguments: _OfNode) -> Answered:
    node = _known(core, arguments.node)
    workers = [
        {
            "job": worker.job,
            "phase": worker.phase,
            "incarnation": worker.incarnation,
            "view": worker.view,
            "problems": list(worker.problems),
            "tasks": [state.task for state in worker.tasks if state.since],
            "gauges": worker.gauges,
            "counters": worker.counters,
        }
        for worker in node.workers.values()
    ]
    extra = {"now": now, "profile": msgspec.to_builtins(node.profile), "workers": workers, "gauges": node.gauges, "counters": node.counters}
    return {**status.node_summary(core, now, node), **extra, "energy_j": node.energy_j}, None


def _drain(core: Core, now: float, user: str, id: str, arguments: _Drain) -> Answered:
    node = _known(core, arguments.node)
    if node.drain == arguments.undo:
        core.drain(now, node, arguments.undo)
    return {"node": node.node, "state": node.state, "moving": [] if arguments.undo else status.tasks_on(core, node.node)}, None


def _topology(core: Core, now: float, user: str, id: str, arguments: _Topology) -> Answered:
    if arguments.job and arguments.spec is not None:
        raise ConfigError("spec: either a job or a job file, not both")
    if arguments.spec is not None:
        file, method = core.check(arguments.spec)
        name, entries = file.name, topology.of_file(core, file, method)
    elif arguments.job:
        job = _job(core, arguments.job)
        name, entries = job.id, topology.of_job(core, job) if job.seats or job.state not in ENDED else []
    else:
        name, entries = "", topology.of_fleet(core)
    return {"now": now, "job": name, "nodes": entries}, None


def _top(core: Core, now: float, user: str, id: str, arguments: _Nothing) -> Answered:
    return overview(core, now), None


Verb = Callable[[Core, float, str, str, Any], Answered]
VERBS: Final[dict[str, tuple[type[Struct], Verb]]] = {
    "ping": (_Nothing, _ping),
    "job.submit": (_Submit, _submit),
    "job.plan": (_Spec, _plan),
    "job.list": (_List, _list),
    "job.status": (_Status, _status),
    "job.cancel": (_OfJob, _cancel),
    "job.logs": (_Logs, _logs),
    "job.result": (_OfJob, _result),
    "node.list": (_Nothing, _nodes),
    "top": (_Nothing, _top),
    "node.show": (_OfNode, _node),
    "node.drain": (_Drain, _drain),
    "topology": (_Topology, _topology),
}


def _job(core: Core, name: str) -> Job:
    if name not in core.book:
        raise ConfigError(f"job {name!r}: {config.suggest(name, sorted(core.book.names), 'job') if len(core.book) else 'there are no jobs yet'}")
    return core.book[name].job


def _known(core: Core, name: str) -> Node:
    node = core.registry.get(name)
    if node is None:
        raise ConfigError(f"node {name!r}: {config.suggest(name, [node.node for node in core.registry], 'node')}")
    return node

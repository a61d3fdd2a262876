"""The verbs of fog_common.wire.api.verbs, answered from the core. Pure. Every wrong argument is one line, exit code 2."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from fog_common import config
from fog_common.errors import ConfigError, FogError, Refused
from fog_common.wire.api.fleet import Drained, NodeList, Pong, TreeEntry, TreeReply
from fog_common.wire.api.jobs import Cancelled, JobEvent, JobList, JobLog, JobResult, Submitted
from fog_common.wire.api.states import ENDED, FAILED, FINISHED
from fog_common.wire.api.verbs import (
    QUESTIONS,
    CancelJob,
    DrainNode,
    FetchResult,
    ListJobs,
    ListNodes,
    Ping,
    PlanJob,
    Question,
    ReadJob,
    ReadLog,
    ReadNode,
    ReadTop,
    ReadTree,
    SubmitJob,
)
from fog_common.wire.messages import Reply, Request
from fog_coordinator.core import Core
from fog_coordinator.placement import planner
from fog_coordinator.reading import plans, status, topology
from fog_coordinator.reading.nodes import node_details, node_summary, tasks_on
from fog_coordinator.reading.overview import overview
from fog_coordinator.state.history import LOG_LINES
from fog_coordinator.state.jobs import Job
from fog_coordinator.state.nodes import Node
from fog_learning.job.sections import job_spec
from fog_learning.methods import rounds_of

MAX_SPEC_BYTES: Final = 64 * 1024
MAX_WAITING: Final = 1000
"""Jobs that have not ended; more are refused."""

# -- verbs ---------------------------------------------------------------------------------


def answer(core: Core, now: float, user: str, session: str, request: Request) -> None:
    """Do what a session of a user asks for; the core's effects hold the reply. Raises nothing for what a user sent."""
    core.begin(now)
    reply, result = _answered(core, now, user, request)
    core.answer(now, user, session, reply, result)


def _answered(core: Core, now: float, user: str, request: Request) -> tuple[Reply, Job | None]:
    """(the reply, the job whose weights follow it)."""
    try:
        if request.verb not in QUESTIONS:
            raise ConfigError(f"unknown request {request.verb!r}; this coordinator knows {', '.join(QUESTIONS)}")
        question = config.convert(request.arguments, QUESTIONS[request.verb])
        body, result = _body(core, now, user, request.id, question)
    except FogError as error:
        return Reply(request.id, exit_code=error.exit_code, error=str(error)), None
    return Reply(request.id, body), result


def _body(core: Core, now: float, user: str, id: str, question: Question[Any]) -> tuple[Struct, Job | None]:
    """(the reply's body, the job whose weights follow it). id: of the request."""
    result: Job | None = None
    body: Struct
    match question:
        case Ping():
            body = _ping(core, now)
        case SubmitJob():
            body = _submit(core, now, user, id, question)
        case PlanJob():
            body = plans.dry_run(core, now, question.spec)
        case ListJobs():
            jobs = sorted(core.book.jobs, key=lambda job: -job.order)
            listed = tuple(status.summary(core, now, job) for job in jobs if not (question.active and job.state in ENDED))
            body = JobList(now=now, jobs=listed)
        case ReadJob():
            body = status.status(core, now, _job(core, question.job), question.after)
        case CancelJob():
            body = _cancel(core, now, _job(core, question.job))
        case ReadLog():
            body = _log(core, now, question)
        case FetchResult():
            job = _job(core, question.job)
            body, result = _result(core, now, job), job if job.digest else None
        case ListNodes():
            body = NodeList(now=now, nodes=tuple(node_summary(core, now, node) for node in core.registry))
        case ReadTop():
            body = overview(core, now)
        case ReadNode():
            body = node_details(core, now, _known(core, question.node))
        case DrainNode():
            body = _drain(core, now, question)
        case ReadTree():
            body = _tree(core, now, question)
        case _:
            raise ConfigError(f"unknown request {question.verb!r}")
    return body, result


def _ping(core: Core, now: float) -> Pong:
    return Pong(
        now=now,
        nonce=core.nonce,
        version=core.version,
        started_at=core.started_at,
        nodes=len(core.registry),
        nodes_online=sum(node.online for node in core.registry),
        jobs_active=len(core.book.live),
        denied=core.denied,
    )


def _submit(core: Core, now: float, user: str, id: str, question: SubmitJob) -> Submitted:
    if len(question.token) > 64:
        raise ConfigError(f"token: {len(question.token)} characters, at most 64")
    token = f"{user}/{question.token}" if question.token else f"{user}/request/{id}"  # a request that came twice is one
    if len(msgspec.msgpack.encode(question.spec)) > MAX_SPEC_BYTES:
        raise ConfigError(f"spec: larger than {MAX_SPEC_BYTES // 1024} KiB: too large for a job file")
    file, method = core.check(question.spec)
    planner.check(file, method)
    spec = job_spec(file)
    for job in core.book.jobs:
        if job.token == token:
            if job.spec != spec:
                raise ConfigError(f"token: it was used for another job ({job.id}); choose a new one")
            return Submitted(job=job.id, state=status.shown_state(core, job), repeated=True)
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
        rounds=rounds_of(file),
        submitted_at=now,
        order=0,
    )
    core.add_job(now, job)
    return Submitted(job=job.id, state=job.state, repeated=False)


def _free_id(core: Core, name: str) -> str:
    """The job's name, or with -2, -3 … where an ended job has it."""
    id, number = name, 1
    while id in core.book:
        number += 1
        suffix = f"-{number}"
        id = name[: 32 - len(suffix)] + suffix
    return id


def _cancel(core: Core, now: float, job: Job) -> Cancelled:
    if job.state in {FINISHED, FAILED}:
        raise Refused(f"{job.id} is {job.state} already; nothing to cancel")
    if job.state not in ENDED:  # a repeated cancel is the same cancel
        core.cancel(now, job)
    return Cancelled(job=job.id, state=job.state)


def _log(core: Core, now: float, question: ReadLog) -> JobLog:
    job = _job(core, question.job)
    if not 1 <= question.lines <= LOG_LINES:
        raise ConfigError(f"lines: expected 1 to {LOG_LINES}, got {question.lines}")
    lines = list(core.book[job.id].log.lines)[-question.lines :]
    return JobLog(now=now, job=job.id, events=tuple(JobEvent(at=line.at, text=line.text) for line in lines))


def _result(core: Core, now: float, job: Job) -> JobResult:
    if job.state != FINISHED:
        raise Refused(f"{job.id} is {job.state.replace('_', ' ')} and has no result{': ' + job.why if job.why else ''}")
    return JobResult(
        now=now,
        job=job.id,
        state=job.state,
        numbers=dict(job.numbers),
        rounds=core.book[job.id].history.newest,
        digest=job.digest,
        status=status.status(core, now, job),
    )


def _drain(core: Core, now: float, question: DrainNode) -> Drained:
    node = _known(core, question.node)
    if node.drain == question.undo:
        core.drain(now, node, question.undo)
    return Drained(node=node.node, state=node.state, moving=() if question.undo else tuple(tasks_on(core, node.node)))


def _tree(core: Core, now: float, question: ReadTree) -> TreeReply:
    if question.job and question.spec is not None:
        raise ConfigError("spec: either a job or a job file, not both")
    entries: list[TreeEntry] = []
    if question.spec is not None:
        file, method = core.check(question.spec)
        name, entries = file.name, topology.of_file(core, file, method)
    elif question.job:
        job = _job(core, question.job)
        name = job.id
        if job.seats or job.state not in ENDED:
            entries = topology.of_job(core, job)
    else:
        name, entries = "", topology.of_fleet(core)
    return TreeReply(now=now, job=name, nodes=tuple(entries))


def _job(core: Core, name: str) -> Job:
    if name not in core.book:
        raise ConfigError(f"job {name!r}: {config.suggest(name, sorted(core.book.names), 'job') if len(core.book) else 'there are no jobs yet'}")
    return core.book[name].job


def _known(core: Core, name: str) -> Node:
    node = core.registry.get(name)
    if node is None:
        raise ConfigError(f"node {name!r}: {config.suggest(name, [node.node for node in core.registry], 'node')}")
    return node

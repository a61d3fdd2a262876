"""The control API: what a person asks of the coordinator, and the type of each reply.

A request is `Request(verb, arguments)` on `ctl/{user}/request~{session}`; the reply goes to the user's inbox, kind `reply~{session}`, as
`Reply(body)` or `Reply(exit_code, error)` with the exit code of the CLI: 1 failed, 2 bad input or unknown name, 4 refused. Unknown
arguments are refused.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Generic, TypeVar

from msgspec import Struct

from fog_common.wire.api.fleet import Drained, NodeDetails, NodeList, Pong, Top, TreeReply
from fog_common.wire.api.jobs import Cancelled, JobList, JobLog, JobResult, JobStatus, Submitted
from fog_common.wire.api.plans import DryRun

Body = TypeVar("Body", bound=Struct)


class Question(Struct, Generic[Body], frozen=True, forbid_unknown_fields=True):
    """The arguments of a verb. Body: the type of its reply."""

    verb: ClassVar[str]
    body: ClassVar[type[Struct]]


class Ping(Question[Pong], frozen=True):
    verb, body = "ping", Pong


class SubmitJob(Question[Submitted], frozen=True):
    verb, body = "job.submit", Submitted
    spec: dict[str, Any]
    """The job file as builtins."""
    token: str = ""
    """The same token never submits twice; '' = the request's id."""


class PlanJob(Question[DryRun], frozen=True):
    """A dry run: nothing is done."""

    verb, body = "job.plan", DryRun
    spec: dict[str, Any]


class ListJobs(Question[JobList], frozen=True):
    verb, body = "job.list", JobList
    active: bool = False
    """Only jobs that have not ended."""


class ReadJob(Question[JobStatus], frozen=True):
    verb, body = "job.status", JobStatus
    job: str
    after: int = 0
    """History only of later rounds."""


class CancelJob(Question[Cancelled], frozen=True):
    """Refused for a job that finished or failed."""

    verb, body = "job.cancel", Cancelled
    job: str


class ReadLog(Question[JobLog], frozen=True):
    verb, body = "job.logs", JobLog
    job: str
    lines: int = 100
    """1 to 500."""


class FetchResult(Question[JobResult], frozen=True):
    verb, body = "job.result", JobResult
    job: str


class ListNodes(Question[NodeList], frozen=True):
    verb, body = "node.list", NodeList


class ReadTop(Question[Top], frozen=True):
    verb, body = "top", Top


class ReadNode(Question[NodeDetails], frozen=True):
    verb, body = "node.show", NodeDetails
    node: str


class DrainNode(Question[Drained], frozen=True):
    verb, body = "node.drain", Drained
    node: str
    undo: bool = False


class ReadTree(Question[TreeReply], frozen=True):
    """Of a job, of a job file (spec), or of the fleet."""

    verb, body = "topology", TreeReply
    job: str = ""
    spec: dict[str, Any] | None = None


QUESTIONS: Final[dict[str, type[Question[Any]]]] = {
    each.verb: each
    for each in (
        Ping,
        SubmitJob,
        PlanJob,
        ListJobs,
        ReadJob,
        CancelJob,
        ReadLog,
        FetchResult,
        ListNodes,
        ReadTop,
        ReadNode,
        DrainNode,
        ReadTree,
    )
}
"""verb -> its question."""

"""Invariants of the coordinator's state, which hold after every event; checked by tests and the fault campaigns. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from fog_common.wire.api.states import ENDED, PLACED, RUNNING
from fog_coordinator.state.book import Book, Entry


def violations(book: Book) -> Iterator[str]:
    """One sentence for each rule that a job breaks."""
    orders = [entry.job.order for entry in book]
    if len(orders) != len(set(orders)):
        yield f"two jobs have the same place in the order of submission: {sorted(orders)}"
    for entry in book:
        yield from (f"{entry.job.id} ({entry.job.state}, view {entry.job.view}): {text}" for text in _of_entry(entry))


def _of_entry(entry: Entry) -> Iterator[str]:
    job, history = entry.job, entry.history
    tasks = [seat.task for seat in job.seats]
    if len(tasks) != len(set(tasks)):
        yield f"a task has two seats: {sorted(tasks)}"
    if job.state in PLACED and entry.seats != {seat.task: seat for seat in job.seats}:
        yield f"the index of seats ({sorted(entry.seats)}) differs from the table ({sorted(tasks)})"
    if job.state in PLACED and not job.seats:
        yield "the job is placed, and has no seats"
    if job.state == RUNNING and job.started_at is None:
        yield "the job runs, and never started"
    if job.state in ENDED and (job.ended_at is None or job.readings):
        yield "the job has ended without an end, or still pays for energy"
    if history.newest != max(history.rounds, default=0) or history.seen > history.newest:
        yield f"history: newest {history.newest}, seen {history.seen}, of rounds {sorted(history.rounds)[-3:]}"
    for seat in job.seats:
        if seat.since > job.view:
            yield f"{seat.task} is live since view {seat.since}, which is still to come"
        if seat.incarnation and (seat.node, seat.incarnation) != seat.last:
            yield f"{seat.task} is live as incarnation {seat.incarnation} on {seat.node}, and was last seen as {seat.last}"
        if seat.slot >= len(job.roster):
            yield f"{seat.task} has slot {seat.slot} of {len(job.roster)}"
        elif seat.slot >= 0 and job.roster[seat.slot] != seat.node:
            yield f"{seat.task} sits on {seat.node}, slot {seat.slot} belongs to {job.roster[seat.slot]}"

"""Supervision of the workers of one node: starts, restarts and ends. Pure.

A job never has two workers: a new one is started only after the exit of the old one, with an incarnation that is on disk before the
start. Jobs wait in the order in which they came, for a free place and for memory; a worker that crashes is started again after a
growing pause.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from msgspec import Struct

from fog_agent.effects import AssignWorker, Effect, Exit, Forget, KillWorker, SaveIncarnation, Say, StartWorker, StopWorker
from fog_agent.supervised import Slot, exit_reason, memory_need_mb, worker_state
from fog_common.wire.messages import DesiredJob, WorkerState

BACKOFF_S: Final = 1.0
BACKOFF_MAX_S: Final = 60.0
PATIENCE: Final = 3
"""Failures in a row after which a waiting job may take the place."""
FORGET_S: Final = 3600.0
"""Seconds on one connection without a Desired that names a job, after which its remains on the disk are removed."""
HEALTHY_S: Final = 60.0
"""Life of a worker after which the count of failures begins anew."""


class AgentLimits(Struct, frozen=True):
    """The part of the agent's configuration that its core uses."""

    heartbeat_s: float = 5.0
    max_workers: int = 1
    memory_mb: int = 0
    drain_s: float = 20.0
    stop_s: float = 10.0
    probe_bytes: int = 0
    """Bytes that the node sends to itself to measure the link; 0 = never."""


class Supervisor:
    """See the module text. changed: called with the present time after a change that the next heartbeat should report soon."""

    def __init__(
        self, limits: AgentLimits, incarnations: dict[str, int], random: Random, effects: list[Effect], changed: Callable[[float], None]
    ) -> None:
        """incarnations: job -> highest incarnation ever started here. effects: list to which effects are appended."""
        self.limits = limits
        self.incarnations = incarnations
        self.slots: dict[str, Slot] = {}
        """Slots in the order in which the jobs came, which is the queue."""
        self.draining = False
        self.leaving = False
        self.exited = False
        self._random, self._effects, self._changed = random, effects, changed
        self._drain_by: float | None = None
        self._unwanted: dict[str, float] = {}
        """Job with remains on this disk -> time since which no Desired names it."""
        self._last_words: list[WorkerState] = []
        """Last states of workers that have ended in order; the next heartbeat carries their final counts."""

    # -- out ---------------------------------------------------------------------------------

    def next_timer(self, connected: bool) -> float | None:
        times = [self._drain_by]
        if connected:
            times += [since + FORGET_S for since in self._unwanted.values()]
        for slot in self.slots.values():
            times.append(slot.stop_by)
            if not slot.running and slot.retry_at and not self.draining:
                times.append(slot.retry_at)
        return min((time for time in times if time is not None), default=None)

    def states(self, now: float) -> tuple[WorkerState, ...]:
        """One state per job, for the heartbeat."""
        return tuple(worker_state(slot, now) for slot in self.slots.values())

    def take_last_words(self) -> tuple[WorkerState, ...]:
        """Last states of workers that have ended in order, each returned once."""
        last = tuple(state for state in self._last_words if state.job not in self.slots)
        self._last_words.clear()
        return last

    # -- in ----------------------------------------------------------------------------------

    def on_desired(self, wanted: dict[str, DesiredJob], now: float) -> bool:
        """Take over all jobs that should run here; returns whether there is a change."""
        news = False
        for name, slot in self.slots.items():
            if name not in wanted and slot.desired is not None:
                slot.desired = None
                news = True
        for name, job in wanted.items():
            slot = self.slots.setdefault(name, Slot(name, None, since=now))
            if slot.desired == job:
                continue
            news = True
            renewed = slot.desired is None or slot.desired.spec != job.spec  # a new view alone must not undo the backoff of a crash loop
            planned_anew = slot.desired is not None and slot.desired.spec != job.spec
            slot.desired = job
            if renewed and not slot.running:
                slot.retry_at, slot.failures, slot.refused = 0.0, 0, False
            if slot.running and slot.stop_by is None:
                if planned_anew:  # a worker serves one spec: a new worker takes its place
                    slot.stop_by = now + self.limits.stop_s
                    self._effects.append(StopWorker(name))
                else:
                    self._effects.append(AssignWorker(name, job))
        self._unwanted = {name: self._unwanted.get(name, now) for name in self.incarnations if name not in wanted}
        self._reconcile(now)
        return news

    def on_state(self, job: str, state: WorkerState, urgent: bool, now: float) -> bool:
        """Take a worker's report; returns False for a worker that is no longer the job's."""
        slot = self.slots.get(job)
        if slot is None or not slot.running or state.incarnation != slot.incarnation:
            return False
        phase = slot.state.phase if slot.state is not None else ""
        slot.state, slot.state_at = state, now
        slot.refused = state.phase == "refused"
        if urgent or state.phase != phase:
            self._changed(now)
        return True

    def on_exited(self, job: str, incarnation: int, code: int, now: float, hint: str = "") -> None:
        """code: exit status, or minus the signal. hint: more, for a person (last line of the log, out of memory)."""
        slot = self.slots.get(job)
        if slot is None or not slot.running or slot.incarnation != incarnation:
            return
        asked = slot.stop_by is not None
        slot.running, slot.stop_by, slot.since = False, None, now
        if slot.desired is None:
            del self.slots[job]
            if slot.state is not None:
                self._last_words.append(slot.state)
            self._effects.append(Say(f"worker ended job={job}"))
        elif asked and not slot.killed:  # the job was stopped, then wanted again
            slot.retry_at = 0.0
            slot.failures = 0
        else:
            if now - slot.started_at >= HEALTHY_S:
                slot.failures = 0
            slot.failures += 1
            wait = self._backoff(slot.failures)
            if slot.refused:
                wait = BACKOFF_MAX_S
            else:
                slot.reason = slot.reason if slot.killed else exit_reason(code, hint)
            slot.retry_at = now + wait
            text = f"worker gone job={job} incarnation={incarnation} reason={slot.reason or 'refused'!r} again_in_s={wait:.1f}"
            self._effects.append(Say(text, warning=True))
        slot.killed = False
        self._reconcile(now)
        self._changed(now)

    def on_memory(self, used_bytes: dict[str, int], now: float) -> None:
        """Take the resident memory of the workers by job; beyond the limit the largest worker is killed."""
        limit = self.limits.memory_mb * 1_000_000
        running = {job: size for job, size in used_bytes.items() if job in self.slots and self.slots[job].running}
        if not limit or sum(running.values()) <= limit or any(self.slots[job].killed for job in running):
            return
        job = max(running, key=lambda name: (running[name], name))
        slot = self.slots[job]
        slot.killed = True
        slot.reason = f"used {running[job] // 1_000_000} MB, all workers may use {self.limits.memory_mb} MB (memory_mb); stopped"
        slot.stop_by = slot.stop_by or now + self.limits.stop_s
        self._effects += [Say(f"worker over memory job={job} {slot.reason}", warning=True), KillWorker(job)]

    def on_disconnected(self) -> None:
        """Forget the times of unwanted jobs, because time without the coordinator does not count."""
        self._unwanted = {}

    def drain(self, now: float, known: bool) -> None:
        """Start no more workers; leave when the coordinator has moved the tasks, or after drain_s. known: the coordinator knows this node."""
        wanted = any(slot.desired is not None for slot in self.slots.values())
        if known and wanted and self.limits.drain_s > 0:
            self._drain_by = now + self.limits.drain_s
            self._effects.append(Say(f"draining jobs={len(self.slots)} limit_s={self.limits.drain_s:g}"))
        else:
            self.leave(now, "nothing to move" if not wanted else "no time to move anything")

    def leave(self, now: float, why: str) -> None:
        """Stop all workers, then exit."""
        if self.leaving:
            return
        self.leaving, self._drain_by = True, None
        self._effects.append(Say(f"leaving: {why}"))
        self._reconcile(now)

    def on_timer(self, now: float, connected: bool) -> None:
        if self._drain_by is not None and now >= self._drain_by:
            self.leave(now, f"not released within {self.limits.drain_s:g} s")
        for slot in self.slots.values():
            if slot.stop_by is not None and now >= slot.stop_by:
                slot.stop_by = now + self.limits.stop_s
                self._effects += [Say(f"worker does not end job={slot.job}; killing it", warning=True), KillWorker(slot.job)]
        self._reconcile(now)
        if connected:
            self._forget(now)

    # -- inside ------------------------------------------------------------------------------

    def _reconcile(self, now: float) -> None:
        for name in [name for name, slot in self.slots.items() if slot.desired is None and not slot.running]:
            del self.slots[name]
        for slot in self.slots.values():
            if slot.running and slot.stop_by is None and (slot.desired is None or self.leaving):
                slot.stop_by = now + self.limits.stop_s
                self._effects.append(StopWorker(slot.job))
        if self.leaving:
            if not self.exited and not any(slot.running for slot in self.slots.values()):
                self.exited = True
                self._effects.append(Exit())
            return
        if self.draining:
            return
        for slot in self.slots.values():
            if slot.running or slot.desired is None or slot.retry_at > now:
                continue
            blocked, final = self._blocked(slot, now)
            if blocked:
                if slot.reason != blocked or slot.refused != final:
                    slot.reason, slot.refused, slot.state = blocked, final, None
                    self._changed(now)
                slot.retry_at = now + BACKOFF_MAX_S if final else 0.0  # a job that waits is tried again when another worker ends
                continue
            self._start(slot, slot.desired, now)

    def _blocked(self, slot: Slot, now: float) -> tuple[str, bool]:
        """(reason for which this job cannot start now, or ''; True if waiting does not help)."""
        others = [other for other in self.slots.values() if other is not slot and (other.running or self._keeps_place(other, now))]
        need, limit = memory_need_mb(slot.desired), self.limits.memory_mb
        if limit and need > limit:
            return f"needs {need} MB, this node's workers may use {limit} MB (memory_mb in the agent's configuration)", True
        if len(others) >= self.limits.max_workers:
            names = ", ".join(other.job for other in others)
            return f"waits for {names}: this node runs {self.limits.max_workers} worker(s) at a time (max_workers)", False
        used = sum(memory_need_mb(other.desired) for other in others)
        if limit and used + need > limit:
            return f"waits for memory: needs {need} MB, {limit - used} of {limit} MB are free (memory_mb)", False
        return "", False

    def _keeps_place(self, slot: Slot, now: float) -> bool:
        """Whether a job whose worker has crashed keeps its place before the queue; after PATIENCE crashes it does not."""
        return 0 < slot.failures <= PATIENCE and not slot.refused and slot.desired is not None and slot.retry_at > now

    def _start(self, slot: Slot, desired: DesiredJob, now: float) -> None:
        slot.incarnation = max(self.incarnations.get(slot.job, 0), slot.incarnation, desired.floor) + 1
        self.incarnations[slot.job] = slot.incarnation
        slot.running, slot.started_at, slot.state = True, now, None
        slot.reason, slot.refused, slot.killed, slot.retry_at = "", False, False, 0.0
        self._effects += [
            SaveIncarnation(slot.job, slot.incarnation),
            Say(f"worker starts job={slot.job} incarnation={slot.incarnation}"),
            StartWorker(slot.job, slot.incarnation),
            AssignWorker(slot.job, desired),
        ]
        self._changed(now)

    def _backoff(self, failures: int) -> float:
        """Seconds until the next start: 1, 2, 4 … 60, each ±50 % within 1 to 60."""
        grown = min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(failures - 1, 16))
        return min(BACKOFF_MAX_S, max(BACKOFF_S, grown * self._random.uniform(0.5, 1.5)))

    def _forget(self, now: float) -> None:
        """Remove the remains of jobs that no Desired names. A Desired names a drained node until its successor has its Saves."""
        for name in [name for name, since in self._unwanted.items() if now >= since + FORGET_S]:
            del self._unwanted[name]
            if name not in self.slots:
                del self.incarnations[name]
                self._effects += [Forget(name), Say(f"forgotten job={name}: not wanted here for {FORGET_S:.0f} s")]

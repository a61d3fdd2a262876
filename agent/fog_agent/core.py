"""The agent as a pure state machine: what it heard goes in, what is to be done comes out. The daemon and the simulator run it.

Level-triggered: the coordinator's `Desired` says which jobs run here, the core converges. One worker per job, never two:
a new one is started only after the old one's exit was seen, with an incarnation that is on disk before the start.
Only what the user `coordinator` published is obeyed. Workers go on while the broker is away.
"""

from __future__ import annotations

from collections import deque
from random import Random

from msgspec import Struct
from msgspec.structs import replace

from fog_agent.effects import (
    AssignWorker,
    Effect,
    Exit,
    Forget,
    KillWorker,
    ProbeLink,
    Publish,
    SaveIncarnation,
    Say,
    ShowPresence,
    StartWorker,
    StopWorker,
)
from fog_agent.supervised import Slot, exit_reason, memory_need_mb, worker_state
from fog_common.ids import COORDINATOR, is_id
from fog_common.wire.messages import (
    Announce,
    Control,
    Desired,
    DesiredJob,
    Goodbye,
    Heartbeat,
    Identify,
    Presence,
    Probe,
    Profile,
    WorkerState,
)

COALESCE_S = 0.05
"""Urgent changes within this time share a heartbeat."""
REFRESH_S = 60.0
"""Presence is published again this often; its echo also measures the round trip to the broker."""
PROBE_AGAIN_S = 3600.0
PROBE_FINE_S = 0.004
"""A probe that takes less is repeated with more bytes."""
PROBE_MOST = 256 * 1024
PROBE_LEAST_S = 0.0005
PROBE_EMPTY = 64
MOST_TRIPS = 8
"""Round trips that are remembered."""
BACKOFF_S = 1.0
BACKOFF_MAX_S = 60.0
PATIENCE = 3
"""Failures in a row after which a waiting job may go first."""
FORGET_S = 3600.0
"""What a job left on the disk goes after the coordinator has not named it for so long, on one connection."""
HEALTHY_S = 60.0
"""A worker that lived this long begins a new count of failures."""


class Limits(Struct, frozen=True):
    """The part of the configuration that decides."""

    heartbeat_s: float = 5.0
    max_workers: int = 1
    memory_mb: int = 0
    drain_s: float = 20.0
    stop_s: float = 10.0
    probe_bytes: int = 0
    """Sent to ourselves to measure the link; 0 = never."""


class Sample(Struct, frozen=True):
    """What the shell measured last; passed on with every heartbeat. Unknown is absent."""

    gauges: dict[str, float] = {}
    counters: dict[str, float] = {}
    energy_j: dict[str, float] = {}


class AgentCore:
    """See the module text. All times are `now` as given, in seconds of one monotonic clock."""

    def __init__(
        self,
        node: str,
        nonce: str,
        profile: Profile,
        limits: Limits = Limits(),
        incarnations: dict[str, int] | None = None,
        seed: int = 0,
        now: float = 0.0,
    ) -> None:
        self.node, self.nonce, self.profile, self.limits = node, nonce, profile, limits
        self.incarnations = dict(incarnations or {})
        self.slots: dict[str, Slot] = {}
        """In the order in which the jobs came: the queue."""
        self.connected = False
        self.draining = False
        self.exited = False
        self.rejected = 0
        """Messages that were not the coordinator's to send."""
        self.sample = Sample()
        self.rtt_s: float | None = None
        self._random = Random(seed)
        self._born = now
        self._desired = 0
        self._coordinator = ""
        self._superseded: tuple[str, ...] = ()
        self._met = False
        self._announce_at: float | None = None
        self._beat_at: float | None = None
        self._refresh_at: float | None = None
        self._asked_at: float | None = None
        self._trips: deque[float] = deque(maxlen=MOST_TRIPS)
        self._probed_at: float | None = None
        self._probe_sent = (0, 0.0)
        """(number, when) of the last probe of the link."""
        self._drain_by: float | None = None
        self._leaving = False
        self._unwanted: dict[str, float] = {}  # job that left something on this disk -> since when the coordinator does not name it
        self._last_words: list[WorkerState] = []
        """Of workers that have ended in order: what they counted since the last heartbeat is told once more."""
        self._effects: list[Effect] = []

    # -- out ---------------------------------------------------------------------------------

    def take(self) -> list[Effect]:
        """What is to be done now, in order; asked once."""
        effects, self._effects = self._effects, []
        return effects

    def next_timer(self) -> float | None:
        """When on_timer wants to be called; None: only another event can change anything."""
        times = [self._drain_by]
        if self.connected:
            times += [self._announce_at, self._beat_at, self._refresh_at, *(since + FORGET_S for since in self._unwanted.values())]
        for slot in self.slots.values():
            times.append(slot.stop_by)
            if not slot.running and slot.retry_at and not self.draining:
                times.append(slot.retry_at)
        known = [time for time in times if time is not None]
        return None if self.exited or not known else min(known)

    # -- in ----------------------------------------------------------------------------------

    def on_connected(self, now: float) -> None:
        """Announce soon: at once after the start, jittered after a loss, so that a fleet does not come back in step."""
        self.connected = True
        spread = min(2.0, self.limits.heartbeat_s / 2) if self._met else 0.05
        self._met = True
        self._announce_by(now + self._random.uniform(0.0, spread))

    def on_disconnected(self, now: float, why: str = "") -> None:
        """Workers go on; a drain goes on waiting for the broker, up to its limit."""
        self.connected = False
        self._announce_at = self._beat_at = self._refresh_at = self._asked_at = None
        self._unwanted = {}

    def on_message(self, message: Control, sender: str, now: float) -> None:
        """sender: the topic's, which the broker's ACL vouches for."""
        if isinstance(message, Presence):
            if sender == self.node and message.node == self.node:
                self._own_presence(message, now)
            return
        if isinstance(message, Probe) and sender == self.node:
            self._probed(message, now)
            return
        if sender != COORDINATOR:
            self.rejected += 1
            return
        if isinstance(message, Desired):
            self._apply(message, now)
        elif isinstance(message, Identify) and self.connected:
            self._announce_by(now + self._random.uniform(0.0, COALESCE_S))

    def on_worker_state(self, job: str, state: WorkerState, urgent: bool, now: float) -> None:
        slot = self.slots.get(job)
        if slot is None or not slot.running or state.incarnation != slot.incarnation:
            return
        phase = slot.state.phase if slot.state is not None else ""
        slot.state, slot.state_at = state, now
        slot.refused = state.phase == "refused"
        self._learn(now, flops=state.gauges.get("flops_per_second"), op_s=state.gauges.get("op_overhead_seconds"))
        if urgent or state.phase != phase:
            self._beat_by(now + COALESCE_S)

    def on_worker_exited(self, job: str, incarnation: int, code: int, now: float, hint: str = "") -> None:
        """code: exit status, or minus the signal that killed it. hint: what else is known (last line of its log, out of memory)."""
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
        elif asked and not slot.killed:  # stopped, then wanted again
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
        self._beat_by(now + COALESCE_S)

    def on_memory(self, used_bytes: dict[str, int], now: float) -> None:
        """Resident memory of the workers by job; beyond the limit the largest is killed, and says why."""
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

    def on_measured(self, sample: Sample) -> None:
        self.sample = sample

    def on_profile(self, profile: Profile) -> None:
        """Measured anew; goes out with the next announcement."""
        old = self.profile
        self.profile = replace(
            profile,
            flops=profile.flops or old.flops,
            op_s=profile.op_s or old.op_s,
            bandwidth_bytes_s=profile.bandwidth_bytes_s or old.bandwidth_bytes_s,
        )

    def _learn(self, now: float, **figures: float | None) -> None:
        """Figures of the profile; announced if they are new or differ by a tenth."""
        news = {}
        for name, figure in figures.items():
            known = getattr(self.profile, name)
            if figure and (not known or abs(figure - known) > 0.1 * known):
                news[name] = figure
        if news:
            self.profile = replace(self.profile, **news)
            if self.connected:
                self._announce_by(now + COALESCE_S)

    def on_stop(self, now: float) -> None:
        """SIGTERM: say goodbye, let the coordinator move the tasks, then end. A second one ends at once.

        While the broker is away, it may come back within the limit; the goodbye goes out with the announcement.
        """
        if self.draining:
            self._leave(now, "asked twice")
            return
        self.draining = True
        wanted = any(slot.desired is not None for slot in self.slots.values())
        if self.connected:
            self._effects.append(Publish(Goodbye(self.node, self.nonce)))
            self._beat(now)
        if self._met and wanted and self.limits.drain_s > 0:
            self._drain_by = now + self.limits.drain_s
            self._effects.append(Say(f"draining jobs={len(self.slots)} limit_s={self.limits.drain_s:g}"))
        else:
            self._leave(now, "nothing to move" if not wanted else "no time to move anything")

    def on_timer(self, now: float) -> None:
        if self.exited:
            return
        if self._drain_by is not None and now >= self._drain_by:
            self._leave(now, f"not released within {self.limits.drain_s:g} s")
        for slot in self.slots.values():
            if slot.stop_by is not None and now >= slot.stop_by:
                slot.stop_by = now + self.limits.stop_s
                self._effects += [Say(f"worker does not end job={slot.job}; killing it", warning=True), KillWorker(slot.job)]
        self._reconcile(now)
        if not self.connected:
            return
        self._forget(now)
        if self._announce_at is not None and now >= self._announce_at:
            self._announce(now)
        if self._refresh_at is not None and now >= self._refresh_at:
            self._show_presence(now)
        if self._beat_at is not None and now >= self._beat_at:
            self._beat(now)

    # -- reconcile ---------------------------------------------------------------------------

    def _apply(self, desired: Desired, now: float) -> None:
        if desired.nonce in self._superseded or (desired.nonce == self._coordinator and desired.number < self._desired):
            return  # of a former coordinator process, or overtaken
        if desired.nonce != self._coordinator:
            if self._coordinator:
                self._superseded = (*self._superseded[-7:], self._coordinator)
            self._coordinator = desired.nonce
        news = desired.number != self._desired
        self._desired = desired.number
        wanted = {job.job: job for job in desired.jobs if is_id(job.job)}  # an id becomes a file name here
        if self.draining and (desired.release or not wanted):
            self._leave(now, "released")
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
                if planned_anew:  # a worker is built for one spec: another one takes its place
                    slot.stop_by = now + self.limits.stop_s
                    self._effects.append(StopWorker(name))
                else:
                    self._effects.append(AssignWorker(name, job))
        self._unwanted = {name: self._unwanted.get(name, now) for name in self.incarnations if name not in wanted}
        self._reconcile(now)
        if news or self.draining:
            self._beat_by(now + COALESCE_S)

    def _reconcile(self, now: float) -> None:
        for name in [name for name, slot in self.slots.items() if slot.desired is None and not slot.running]:
            del self.slots[name]
        for slot in self.slots.values():
            if slot.running and slot.stop_by is None and (slot.desired is None or self._leaving):
                slot.stop_by = now + self.limits.stop_s
                self._effects.append(StopWorker(slot.job))
        if self._leaving:
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
                    self._beat_by(now + COALESCE_S)
                slot.retry_at = now + BACKOFF_MAX_S if final else 0.0  # tried again when another one ends
                continue
            self._start(slot, slot.desired, now)

    def _blocked(self, slot: Slot, now: float) -> tuple[str, bool]:
        """(why this job cannot start now, or ''; True if waiting will not help)."""
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
        """A job whose worker has just crashed is not overtaken by the queue; one that crashes again and again is."""
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
        self._beat_by(now + COALESCE_S)

    def _backoff(self, failures: int) -> float:
        """1, 2, 4 … 60 s, each ±50 % within 1..60."""
        grown = min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(failures - 1, 16))
        return min(BACKOFF_MAX_S, max(BACKOFF_S, grown * self._random.uniform(0.5, 1.5)))

    def _leave(self, now: float, why: str) -> None:
        if self._leaving:
            return
        self._leaving, self._drain_by = True, None
        self._effects.append(Say(f"leaving: {why}"))
        self._reconcile(now)

    def _forget(self, now: float) -> None:
        """Remove what ended jobs left here. A drained node's Saves are wanted until its successor has them: then it is still named."""
        for name in [name for name, since in self._unwanted.items() if now >= since + FORGET_S]:
            del self._unwanted[name]
            if name not in self.slots:
                del self.incarnations[name]
                self._effects += [Forget(name), Say(f"forgotten job={name}: not wanted here for {FORGET_S:.0f} s")]

    # -- what it says ------------------------------------------------------------------------

    def _announce_by(self, when: float) -> None:
        self._announce_at = when if self._announce_at is None else min(self._announce_at, when)

    def _beat_by(self, when: float) -> None:
        if self.connected and self._announce_at is None:  # an announcement brings a heartbeat with it
            self._beat_at = when if self._beat_at is None else min(self._beat_at, when)

    def _announce(self, now: float) -> None:
        self._announce_at = None
        if self.draining:
            self._effects.append(Publish(Goodbye(self.node, self.nonce)))
        self._effects.append(Publish(Announce(self.node, self.nonce, replace(self.profile, rtt_s=min(self._trips, default=None)))))
        self._show_presence(now)
        self._beat(now)

    def _show_presence(self, now: float) -> None:
        self._effects.append(ShowPresence(Presence(self.node, self.nonce, online=True, site=self.profile.site)))
        self._asked_at = now
        self._refresh_at = now + REFRESH_S * self._random.uniform(0.9, 1.1)

    def _own_presence(self, presence: Presence, now: float) -> None:
        if not presence.online:  # a stale will, ours or of the process before: we are here
            if self.connected and not self._leaving:
                self._announce_by(now + self._random.uniform(0.2, 1.0))
        elif presence.nonce == self.nonce and self._asked_at is not None:
            self._trip(now - self._asked_at)
            self._asked_at = None
            if self._may_probe(now):
                self._probe(PROBE_EMPTY, now)
        elif presence.nonce != self.nonce:
            self._effects.append(Say(f"another agent calls itself {self.node}: give each node a name of its own", warning=True))

    def _may_probe(self, now: float) -> bool:
        """Until the link's rate is known, at every chance; then hourly, while nothing else is sent."""
        if not self.limits.probe_bytes:
            return False
        if self._probed_at is None or self.profile.bandwidth_bytes_s is None:
            return True
        return now - self._probed_at >= PROBE_AGAIN_S and not any(slot.running for slot in self.slots.values())

    def _probe(self, size: int, now: float) -> None:
        self._probed_at, self._probe_sent = now, (self._probe_sent[0] + 1, now)
        self._effects.append(ProbeLink(Probe(self._probe_sent[0], bytes(size))))

    def _probed(self, probe: Probe, now: float) -> None:
        """A few empty ones, for the round trip, then many bytes, which go up and come down: what they take beyond it is their time
        on the link, twice."""
        number, sent_at = self._probe_sent
        if probe.number != number:
            return
        size = len(probe.filler)
        if size == PROBE_EMPTY:
            self._trip(now - sent_at)
            self._probe(PROBE_EMPTY if len(self._trips) < MOST_TRIPS // 2 else self.limits.probe_bytes, now)
            return
        took = now - sent_at - min(self._trips)
        if took < PROBE_FINE_S and size < PROBE_MOST:
            self._probe(PROBE_MOST, now)  # too short to be told from the round trip
            return
        self._learn(now, bandwidth_bytes_s=2 * size / max(took, PROBE_LEAST_S))

    def _trip(self, seconds: float) -> None:
        """A round trip. The link's own is the shortest of the last few: the others waited for a processor, ours or the broker's."""
        self.rtt_s = seconds
        self._trips.append(seconds)

    def _beat(self, now: float) -> None:
        last = tuple(state for state in self._last_words if state.job not in self.slots)
        self._last_words.clear()
        self._beat_at = now + (COALESCE_S if last else self.limits.heartbeat_s * self._random.uniform(0.9, 1.1))  # and then: they are gone
        gauges = dict(self.sample.gauges)
        if self.rtt_s is not None:
            gauges["rtt_seconds"] = self.rtt_s
        counters = dict(self.sample.counters)
        if self.rejected:
            counters["rejected_sender"] = float(self.rejected)
        self._effects.append(
            Publish(
                Heartbeat(
                    node=self.node,
                    nonce=self.nonce,
                    desired=self._desired,
                    workers=(*(worker_state(slot, now) for slot in self.slots.values()), *last),
                    draining=self.draining,
                    uptime_s=now - self._born,
                    gauges=gauges,
                    counters=counters,
                    energy_j=dict(self.sample.energy_j),
                    site=self.profile.site,
                )
            )
        )

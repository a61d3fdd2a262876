"""The agent as a pure state machine: events in, effects out. The daemon and the simulator run it.

Level-triggered: the coordinator's `Desired` names the jobs of this node, the `Supervisor` converges; the `Herald` times the messages.
Only messages that the user `coordinator` published are obeyed. Workers go on while the broker is away.
"""

from __future__ import annotations

from random import Random

from msgspec import Struct
from msgspec.structs import replace

from fog_agent.effects import Effect, Speak
from fog_agent.presence import COALESCE_S, Herald, LinkProbe
from fog_agent.supervised import Slot
from fog_agent.supervisor import AgentLimits, Supervisor
from fog_common.ids import COORDINATOR, is_id
from fog_common.wire.messages import Announce, Control, Desired, Goodbye, Heartbeat, Identify, Presence, Probe, Profile, WorkerState


class Sample(Struct, frozen=True):
    """The shell's last measurements, sent with every heartbeat. An unknown figure is absent."""

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
        limits: AgentLimits = AgentLimits(),
        incarnations: dict[str, int] | None = None,
        seed: int = 0,
        now: float = 0.0,
    ) -> None:
        self.node, self.nonce, self.profile = node, nonce, profile
        self.rejected = 0
        """Number of messages whose sender was not the coordinator."""
        self.sample = Sample()
        self._effects: list[Effect] = []
        random = Random(seed)
        self._herald = Herald(node, nonce, profile.site, limits.heartbeat_s, random, self._effects)
        self._probe = LinkProbe(limits.probe_bytes, self._effects)
        self._supervisor = Supervisor(limits, dict(incarnations or {}), random, self._effects, self._herald.changed)
        self._born = now
        self._desired = 0
        self._coordinator = ""
        self._superseded: tuple[str, ...] = ()

    # -- out ---------------------------------------------------------------------------------

    def take(self) -> list[Effect]:
        """Effects to perform now, in order; each is returned once."""
        effects = list(self._effects)
        self._effects.clear()
        return effects

    def next_timer(self) -> float | None:
        """Time at which on_timer() is due; None without a timer."""
        if self.exited:
            return None
        times = (self._supervisor.next_timer(self.connected), self._herald.next_timer())
        return min((time for time in times if time is not None), default=None)

    @property
    def slots(self) -> dict[str, Slot]:
        """job -> its slot, in the order in which the jobs came."""
        return self._supervisor.slots

    @property
    def incarnations(self) -> dict[str, int]:
        """job -> highest incarnation ever started here."""
        return self._supervisor.incarnations

    @property
    def connected(self) -> bool:
        return self._herald.connected

    @property
    def draining(self) -> bool:
        return self._supervisor.draining

    @property
    def exited(self) -> bool:
        return self._supervisor.exited

    @property
    def rtt_s(self) -> float | None:
        """Seconds of the last measured round trip to the broker; None before the first."""
        return self._probe.rtt_s

    # -- in ----------------------------------------------------------------------------------

    def on_connected(self, now: float) -> None:
        self._herald.on_connected(now)

    def on_disconnected(self, now: float, why: str = "") -> None:
        """The connection is lost: workers go on, and a drain waits for the broker, up to its limit."""
        self._herald.on_disconnected()
        self._supervisor.on_disconnected()

    def on_message(self, message: Control, sender: str, now: float) -> None:
        """sender: user in the topic, which the broker's access list guarantees."""
        if isinstance(message, Presence):
            if sender == self.node and message.node == self.node:
                self._own_presence(message, now)
        elif isinstance(message, Probe) and sender == self.node:
            if (rate := self._probe.on_probe(message, now)) is not None:
                self._learn(now, bandwidth_bytes_s=rate)
        elif sender != COORDINATOR:
            self.rejected += 1
        elif isinstance(message, Desired):
            self._apply(message, now)
        elif isinstance(message, Identify):
            self._herald.asked(now)

    def on_worker_state(self, job: str, state: WorkerState, urgent: bool, now: float) -> None:
        if self._supervisor.on_state(job, state, urgent, now):
            self._learn(now, flops=state.gauges.get("flops_per_second"), op_s=state.gauges.get("op_overhead_seconds"))

    def on_worker_exited(self, job: str, incarnation: int, code: int, now: float, hint: str = "") -> None:
        """code: exit status, or minus the signal. hint: more, for a person (last line of the log, out of memory)."""
        self._supervisor.on_exited(job, incarnation, code, now, hint)

    def on_memory(self, used_bytes: dict[str, int], now: float) -> None:
        """Resident memory of the workers by job."""
        self._supervisor.on_memory(used_bytes, now)

    def on_measured(self, sample: Sample) -> None:
        self.sample = sample

    def on_profile(self, profile: Profile) -> None:
        """Take a new profile, which goes out with the next announcement; figures that it lacks stay."""
        old = self.profile
        self.profile = replace(
            profile,
            flops=profile.flops or old.flops,
            op_s=profile.op_s or old.op_s,
            bandwidth_bytes_s=profile.bandwidth_bytes_s or old.bandwidth_bytes_s,
        )

    def _learn(self, now: float, **figures: float | None) -> None:
        """Take figures into the profile, and announce those that are new or differ by a tenth."""
        news = {}
        for name, figure in figures.items():
            known = getattr(self.profile, name)
            if figure and (not known or abs(figure - known) > 0.1 * known):
                news[name] = figure
        if news:
            self.profile = replace(self.profile, **news)
            if self.connected:
                self._herald.announce_by(now + COALESCE_S)

    def on_stop(self, now: float) -> None:
        """On SIGTERM send a Goodbye, let the coordinator move the tasks, then end. A second SIGTERM ends at once.

        A broker that is away may come back within the limit; the Goodbye then goes out with the announcement.
        """
        supervisor = self._supervisor
        if supervisor.draining:
            supervisor.leave(now, "asked twice")
            return
        supervisor.draining = True
        if self.connected:
            self._effects.append(Speak(Goodbye(self.node, self.nonce)))
            self._beat(now)
        supervisor.drain(now, self._herald.met)

    def on_timer(self, now: float) -> None:
        """Call when next_timer() is reached, or at any other time."""
        if self.exited:
            return
        self._supervisor.on_timer(now, self.connected)
        if self._herald.announces(now):
            self._announce(now)
        if self._herald.refreshes(now):
            self._herald.show(now)
        if self._herald.beats(now):
            self._beat(now)

    # -- inside ------------------------------------------------------------------------------

    def _apply(self, desired: Desired, now: float) -> None:
        if desired.nonce in self._superseded or (desired.nonce == self._coordinator and desired.number < self._desired):
            return  # from a former coordinator process, or older than the last one
        if desired.nonce != self._coordinator:
            if self._coordinator:
                self._superseded = (*self._superseded[-7:], self._coordinator)
            self._coordinator = desired.nonce
        news = desired.number != self._desired
        self._desired = desired.number
        wanted = {job.job: job for job in desired.jobs if is_id(job.job)}  # the id becomes a file name
        if self.draining and (desired.release or not wanted):
            self._supervisor.leave(now, "released")
        news |= self._supervisor.on_desired(wanted, now)
        if news or self.draining:
            self._herald.changed(now)

    def _own_presence(self, presence: Presence, now: float) -> None:
        trip = self._herald.on_presence(presence, now, self._supervisor.leaving)
        if trip is not None:
            self._probe.trip(trip)
            self._probe.start(now, self.profile.bandwidth_bytes_s is not None, any(slot.running for slot in self.slots.values()))

    def _announce(self, now: float) -> None:
        if self.draining:
            self._effects.append(Speak(Goodbye(self.node, self.nonce)))
        self._effects.append(Speak(Announce(self.node, self.nonce, replace(self.profile, rtt_s=self._probe.shortest_s))))
        self._herald.show(now)
        self._beat(now)

    def _beat(self, now: float) -> None:
        last = self._supervisor.take_last_words()
        self._herald.beaten(now, again=bool(last))  # the next heartbeat reports that these workers are gone
        gauges, counters = dict(self.sample.gauges), dict(self.sample.counters)
        if self.rtt_s is not None:
            gauges["rtt_seconds"] = self.rtt_s
        if self.rejected:
            counters["rejected_sender"] = float(self.rejected)
        heartbeat = Heartbeat(
            node=self.node,
            nonce=self.nonce,
            desired=self._desired,
            workers=(*self._supervisor.states(now), *last),
            draining=self.draining,
            uptime_s=now - self._born,
            gauges=gauges,
            counters=counters,
            energy_j=dict(self.sample.energy_j),
            site=self.profile.site,
        )
        self._effects.append(Speak(heartbeat))

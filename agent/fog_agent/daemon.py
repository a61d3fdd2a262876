"""The agent's live shell: one inbox, one thread that owns the core and performs what it wants. Imports neither numpy nor torch."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Final

from fog_agent import effects as do
from fog_agent.config import AgentConfig
from fog_agent.core import AgentCore
from fog_agent.node.gauges import Gauges
from fog_agent.node.state import StateDir
from fog_agent.process.workers import CANNOT_START, Ended, Reported, WorkerEvent, Workers
from fog_common.bus.base import Bus, BusEvent, Connected, Disconnected, Received, Will
from fog_common.errors import WireError
from fog_common.program.inbox import Inbox, StopAsked
from fog_common.program.notify import Pulse, notify
from fog_common.wire import messages, topics
from fog_common.wire.messages import Control, Heartbeat, Presence, Profile
from fog_common.wire.parts import ControlCodec

log = logging.getLogger(__name__)

LONGEST_SLEEP_S: Final = 60.0
FRESH_S: Final = 0.2
"""A heartbeat carries samples that are at most this old, even if many urgent ones follow each other."""


Item = BusEvent | WorkerEvent | StopAsked


class Daemon:
    """Built by fog_agent.app; run() is the whole life. profile: measures the node anew."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        core: AgentCore,
        inbox: Inbox[Item],
        bus: Bus,
        state: StateDir,
        workers: Workers,
        gauges: Gauges,
        profile: Callable[[], Profile],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._core, self._inbox, self._bus = config, core, inbox, bus
        self._state, self._workers, self._gauges, self._profile, self._clock = state, workers, gauges, profile, clock
        self._presence_topic = topics.PRESENCE.at(fleet=config.fleet, node=config.node)
        self._outbox_topic = topics.to_coordinator(config.fleet, config.node)
        self._own_topic = topics.inbox(config.fleet, config.site, config.node, config.node, config.site, topics.CONTROL)
        self._codec = ControlCodec(core.nonce)
        self._left = False
        self._sample_at = self._sampled_at = 0.0
        self._pulse = Pulse()
        self._status = ""

    def run(self) -> int:
        """Until SIGTERM and the end of the drain. 0."""
        config = self._config
        self._bus.subscribe(*topics.inbox_filters(config.fleet, config.site, config.node, topics.CONTROL), self._presence_topic, qos=1)
        self._bus.start()
        notify("READY=1", "STATUS=connecting")
        log.info("started node=%s tier=%s site=%s pid=%d", config.node, config.tier, config.site, os.getpid())
        try:
            while not self._left:
                item = self._inbox.next(self._wake_at() - self._clock())
                now = self._clock()
                if item is not None:
                    self._handle(item, now)
                at = self._core.next_timer()
                due = at is not None and at <= now
                self._keep_house(now, due)
                if due:
                    self._core.on_timer(now)
                self._perform(now)
        finally:
            self._workers.kill_all()
            farewell = messages.encode(Presence(config.node, self._core.nonce, online=False))
            self._bus.close(Will(topic=self._presence_topic, payload=farewell))
            self._state.close()
        log.info("stopped node=%s", config.node)
        return 0

    # -- in ----------------------------------------------------------------------------------

    def _handle(self, item: Item, now: float) -> None:
        match item:
            case Connected(max_payload, refused):
                self._codec.connected(max_payload)
                log.info("connected broker=%s:%d", self._config.broker.host, self._config.broker.port)
                if refused:
                    log.error("this node hears nothing of the coordinator: the broker refuses %s; correct its access list", ", ".join(refused))
                self._core.on_profile(self._profile())
                self._core.on_connected(now)
            case Disconnected(why):
                self._core.on_disconnected(now, why)
            case Received(topic, payload, retain):
                self._receive(topic, payload, retain, now)
            case Reported(job, state, urgent):
                if self._config.metrics:
                    self._gauges.on_worker(state)
                self._core.on_worker_state(job, state, urgent, now)
            case Ended(job, incarnation, code, hint):
                self._workers.ended(job)
                self._core.on_worker_exited(job, incarnation, code, now, hint)
            case StopAsked():
                notify("STOPPING=1")
                self._core.on_stop(now)

    def _receive(self, topic: str, payload: bytes, retain: bool, now: float) -> None:
        self._gauges.count("ctl_received_bytes", len(payload))
        try:
            route = topics.parse(topic)
            message = self._codec.message(route.sender, route.kind, payload) if payload else None
        except WireError as error:
            self._gauges.count(f"rejected_{error.reason}")
            log.warning("message rejected topic=%s reason=%s", topic[:120], error)
            return
        if message is None:  # part of a longer one, or an empty retained message: someone cleared the topic
            return
        if retain and isinstance(message, Presence) and message.online:
            return  # a retained presence of this node is old, unless it says offline
        self._core.on_message(message, route.sender, now)

    # -- time --------------------------------------------------------------------------------

    def _wake_at(self) -> float:
        times = (self._clock() + LONGEST_SLEEP_S, self._core.next_timer(), self._sample_at, self._pulse.next_at)
        return min(time for time in times if time is not None)

    def _keep_house(self, now: float, due: bool) -> None:
        """Measure, feed systemd's watchdog, say how we are. Being offline is healthy. due: a heartbeat may be next, it shall be fresh."""
        if now >= self._sample_at or (due and now >= self._sampled_at + FRESH_S):
            self._sampled_at = now
            measures, limited = self._config.metrics, self._config.memory_mb > 0
            resident = self._workers.resident_bytes() if measures or limited else {}
            if measures:
                self._core.on_measured(self._gauges.sample(now, resident))
            self._core.on_memory(resident, now)
            often = 1.0 if resident and limited else self._config.heartbeat_s
            self._sample_at = now + (min(often, self._gauges.period_s) if measures else often)
        self._pulse.beat(now)
        running = sum(slot.running for slot in self._core.slots.values())
        where = "connected" if self._core.connected else "offline"
        status = f"STATUS={'draining' if self._core.draining else where}, {running} worker(s), {len(self._core.slots)} job(s)"
        if status != self._status:
            self._status = status
            notify(status)

    # -- out ---------------------------------------------------------------------------------

    def _perform(self, now: float) -> None:
        unsaved: set[str] = set()
        while effects := self._core.take():
            for effect in effects:
                match effect:
                    case do.SaveIncarnation(job, incarnation):
                        if why := self._save_incarnations():
                            unsaved.add(job)
                            self._core.on_worker_exited(job, incarnation, CANNOT_START, now, why)
                    case do.StartWorker(job, incarnation):
                        if job not in unsaved:
                            self._workers.start(job, incarnation)
                    case do.AssignWorker(job, desired):
                        self._workers.assign(job, desired)
                    case do.StopWorker(job):
                        self._workers.stop(job)
                    case do.KillWorker(job):
                        self._workers.kill(job)
                    case do.Forget(job):
                        self._state.forget(job)
                        self._save_incarnations()
                    case do.Speak(message):
                        self._publish(self._outbox_topic, message, qos=0 if isinstance(message, Heartbeat) else 1)
                    case do.ShowPresence(presence):
                        self._publish(self._presence_topic, presence, qos=1, retain=True)
                    case do.ProbeLink(probe):
                        self._publish(self._own_topic, probe, qos=0)
                    case do.Say(text, warning):
                        log.log(logging.WARNING if warning else logging.INFO, "%s", text)
                    case do.Exit():
                        self._left = True

    def _save_incarnations(self) -> str:
        try:
            self._state.save_incarnations(self._core.incarnations)
        except OSError as error:
            return f"cannot save the incarnation: {error.strerror or error}"
        return ""

    def _publish(self, topic: str, message: Control, qos: int, retain: bool = False) -> None:
        try:
            for payload in self._codec.payloads(message):
                self._bus.publish(topic, payload, qos=qos, retain=retain)
                self._gauges.count("ctl_sent_bytes", len(payload))
        except WireError as error:
            log.error("message not sent kind=%s error=%s", type(message).__name__, error)

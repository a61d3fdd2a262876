"""Many agents in one process: real cores on real connections, no workers. One thread owns all cores."""

from __future__ import annotations

import heapq
import queue
import time
from collections.abc import Callable
from typing import Self

from fog_agent import effects as do
from fog_agent.core import AgentCore
from fog_agent.supervisor import AgentLimits
from fog_common.bus.base import BrokerConfig, BusEvent, Connected, Disconnected, Received, Will
from fog_common.bus.mqtt import MqttBus
from fog_common.wire import messages, topics
from fog_common.wire.messages import Announce, Presence, Profile


class Member:
    def __init__(self, node: str, broker: BrokerConfig, fleet: str, put: Callable[[Member, BusEvent], None], seed: int) -> None:
        self.node, self.fleet, self.number = node, fleet, seed
        self.timer: float | None = None
        """The newest of its timers in the heap."""
        profile = Profile(tier="edge", site="home", cores=1, memory_bytes=1 << 30, memory_free_bytes=1 << 30, torch=True)
        self.core = AgentCore(node, f"{node}-0", profile, AgentLimits(heartbeat_s=5.0), seed=seed, now=time.monotonic())
        self.topic = topics.PRESENCE.at(fleet=fleet, node=node)
        will = Will(topic=self.topic, payload=messages.encode(Presence(node, f"{node}-0", online=False)))
        self.bus = MqttBus(broker, f"{node}_agent", lambda event: put(self, event), will)
        self.bus.subscribe(*topics.inbox_filters(fleet, "home", node, topics.CONTROL), self.topic, qos=1)
        self.announced: list[float] = []
        """When it meant to announce itself, monotonic: what its core chose, however long this machine took to get there."""

    def perform(self, now: float) -> None:
        for effect in self.core.take():
            match effect:
                case do.Speak(message):
                    if isinstance(message, Announce):
                        self.announced.append(now)
                    self.bus.publish(topics.to_coordinator(self.fleet, self.node), messages.encode(message), qos=1)
                case do.ShowPresence(presence):
                    self.bus.publish(self.topic, messages.encode(presence), qos=1, retain=True)


class Crowd:
    """`with Crowd(broker, "main", 200) as crowd: crowd.run(until)`: they live only while `run` runs; the connections stay."""

    def __init__(self, broker: BrokerConfig, fleet: str, size: int) -> None:
        self._timers: list[tuple[float, int]] = []
        """A heap of (when, number of the member)."""
        self._inbox: queue.SimpleQueue[tuple[Member, BusEvent]] = queue.SimpleQueue()
        self.members = [Member(f"pi-{n:03d}", broker, fleet, lambda member, event: self._inbox.put((member, event)), n) for n in range(size)]

    def __enter__(self) -> Self:
        for member in self.members:
            member.bus.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for member in self.members:
            member.bus.closing.set()  # all at once; close() would wait for one after another
        for member in self.members:
            member.bus.close()

    def run(self, done: Callable[[], bool], patience_s: float) -> None:
        """Until done(); AssertionError after patience_s. Asking takes at most a fifth of the time: the members live on the same thread."""
        end = time.monotonic() + patience_s
        ask_at = 0.0
        while (now := time.monotonic()) < end:
            if now >= ask_at:
                if done():
                    return
                asked = time.monotonic()
                ask_at = asked + max(0.1, 4 * (asked - now))
            due_at = self._timers[0][0] if self._timers else ask_at
            try:
                member, event = self._inbox.get(timeout=max(0.0, min(ask_at, due_at) - time.monotonic()))
                while True:  # all that came before any timer: what is due may be due no more
                    self._handle(member, event, time.monotonic())
                    member, event = self._inbox.get_nowait()
            except queue.Empty:
                pass
            self._fire(time.monotonic())
        raise AssertionError(f"not within {patience_s:.0f} s")

    def _fire(self, now: float) -> None:
        """Timers that are due. An entry of the heap that its member does not want any more is left out."""
        while self._timers and self._timers[0][0] <= now:
            at, number = heapq.heappop(self._timers)
            member = self.members[number]
            if member.core.next_timer() == at:
                member.core.on_timer(now)
                member.perform(at)
                self._schedule(member)

    def _schedule(self, member: Member) -> None:
        if (at := member.core.next_timer()) is not None and at != member.timer:
            heapq.heappush(self._timers, (at, member.number))
        member.timer = at

    def _handle(self, member: Member, event: BusEvent, now: float) -> None:
        match event:
            case Connected():
                member.core.on_connected(now)
            case Disconnected(why):
                member.core.on_disconnected(now, why)
            case Received(topic, payload, retain):
                message = messages.decode(payload)
                if not (retain and isinstance(message, Presence) and message.online):
                    member.core.on_message(message, topics.parse(topic).sender, now)
        member.perform(now)
        self._schedule(member)

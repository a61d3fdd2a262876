"""A stand-in agent on a real broker: it speaks plain messages and runs nothing."""

from __future__ import annotations

import contextlib
import queue
import time
from typing import Any

from fog_common.bus.base import BrokerConfig, BusEvent, Connected, Received, Will
from fog_common.bus.mqtt import MqttBus
from fog_common.wire import messages, topics
from fog_common.wire.messages import Presence
from fog_common.wire.parts import ControlCodec
from support.stand_ins import StandIn

FLEET = "main"


class WireAgent:
    """A stand-in with a connection of its own. pump() does what has come; nothing happens in between."""

    def __init__(self, address: BrokerConfig, node: StandIn) -> None:
        self.node = node
        self._address = address
        self._beat_at = 0.0
        self.connect()

    def connect(self) -> None:
        self.codec = ControlCodec(f"{self.node.name}-{self.node.boots + 1}")
        self.events: queue.SimpleQueue[BusEvent] = queue.SimpleQueue()
        presence = topics.PRESENCE.at(fleet=FLEET, node=self.node.name)
        will = Will(topic=presence, payload=messages.encode(Presence(self.node.name, f"{self.node.name}-{self.node.boots + 1}", False)))
        self.bus = MqttBus(self._address, f"{self.node.name}_agent", self.events.put, will=will)
        self.bus.subscribe(*topics.inbox_filters(FLEET, self.node.site, self.node.name, topics.CONTROL), qos=1)
        self.bus.start()

    def say(self, *said: Any) -> None:
        for message in said:
            if isinstance(message, Presence):
                self.bus.publish(topics.PRESENCE.at(fleet=FLEET, node=self.node.name), messages.encode(message), qos=1, retain=True)
            else:
                for payload in self.codec.payloads(message):
                    self.bus.publish(topics.to_coordinator(FLEET, self.node.name), payload, qos=1)

    def pump(self) -> None:
        now = time.monotonic()
        with contextlib.suppress(queue.Empty):
            while True:
                match self.events.get_nowait():
                    case Connected(max_payload):
                        self.codec.connected(max_payload)
                        self.say(*self.node.boot(now))
                    case Received(topic, payload):
                        route = topics.parse(topic)
                        if (message := self.codec.message(route.sender, route.kind, payload)) is not None:
                            self.say(*self.node.hear(now, message))
        if self.node.up and now >= self._beat_at:
            self._beat_at = now + 0.3
            self.say(self.node.heartbeat(now))

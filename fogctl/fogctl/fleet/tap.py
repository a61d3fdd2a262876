"""A client that counts the bytes of a fleet through a broker, by plane. For the demo and for tests of sites."""

from __future__ import annotations

import secrets

from fog_common.bus.base import BrokerConfig, BusEvent, Connected, Received
from fog_common.bus.mqtt import MqttBus
from fog_common.errors import WireError
from fog_common.wire import topics

PLANES = ("d2d", "to", "cast", "node", "ctl")


class Tap:
    """Connects as soon as it is made, and counts from then on, on the connection's thread; any thread may read the counts."""

    def __init__(self, fleet: str, broker: BrokerConfig, site: str = "") -> None:
        """site: the broker's site."""
        self.bytes = dict.fromkeys(PLANES, 0)
        """Payload bytes by plane."""
        self.frames = dict.fromkeys(PLANES, 0)
        self.strays = 0
        """Payload bytes of other sites' own traffic, which should not reach this broker."""
        self.connected = False
        self._site = site
        self._bus = MqttBus(broker, f"tap-{secrets.token_hex(4)}", self._event)
        self._bus.subscribe(f"{topics.PREFIX}/{fleet}/#", qos=0)
        self._bus.start()

    def _event(self, event: BusEvent) -> None:
        match event:
            case Connected():
                self.connected = True
            case Received(topic, payload):
                try:
                    plane, scope, *_ = topics.parse(topic)
                except WireError:
                    return
                self.bytes[plane] += len(payload)
                self.frames[plane] += 1
                if (plane == "d2d" and scope != self._site) or (plane == "cast" and scope not in (self._site, topics.ALL_SITES)):
                    self.strays += len(payload)

    def close(self) -> None:
        self._bus.close()

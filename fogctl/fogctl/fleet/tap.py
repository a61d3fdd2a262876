"""Counts what passes a broker, by plane: a client that hears everything of a fleet. For the demo and for tests of sites."""

from __future__ import annotations

import secrets

from fog_common.bus.base import BrokerConfig, BusEvent, Connected, Received
from fog_common.bus.mqtt import MqttBus
from fog_common.errors import WireError
from fog_common.wire import topics

PLANES = ("d2d", "to", "cast", "node", "ctl")


class Tap:
    """Connected as soon as it is made; `bytes` and `frames` grow from then on. Counted on the connection's own thread, read from any."""

    def __init__(self, fleet: str, broker: BrokerConfig, site: str = "") -> None:
        """site: of the broker."""
        self.bytes = dict.fromkeys(PLANES, 0)
        """Payload bytes."""
        self.frames = dict.fromkeys(PLANES, 0)
        self.strays = 0
        """Payload bytes of what other sites say among themselves, which should not be here."""
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

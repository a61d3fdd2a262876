"""A bus in a process of its own, to be killed and frozen: python -m support.bus_process PORT CLIENT_ID FILTER [KEEPALIVE_S]

Prints one line per event; the will is `will/CLIENT_ID`, retained. What it reads from stdin it publishes on `said/CLIENT_ID`.
"""

from __future__ import annotations

import sys

from fog_common.bus.backoff import Backoff
from fog_common.bus.base import BrokerConfig, BusEvent, Connected, Disconnected, Received, Will
from fog_common.bus.mqtt import MqttBus


def show(event: BusEvent) -> None:
    match event:
        case Connected():
            line = "connected"
        case Disconnected(why):
            line = f"disconnected {why}"
        case Received(topic, payload):
            line = f"received {topic} {len(payload)} {bytes(payload[:20])!r}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    port, client_id, pattern, *rest = sys.argv[1:]
    config = BrokerConfig(port=int(port), keepalive_s=int(rest[0]) if rest else 15)
    bus = MqttBus(config, client_id, show, Will(topic=f"will/{client_id}", payload=b"offline"), backoff=Backoff(first_s=0.05, cap_s=0.2))
    bus.subscribe(pattern, qos=1)
    bus.start()
    for line in sys.stdin:
        bus.publish(f"said/{client_id}", line.strip().encode(), 1)
    bus.close()


if __name__ == "__main__":
    main()

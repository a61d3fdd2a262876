"""The broker of a demo without mosquitto: amqtt, pure Python, MQTT 3.1.1 on loopback, without users.

    python -m fogctl.fleet.embedded PORT

It ends with SIGTERM; fogctl.fleet.broker makes sure that it does not outlive its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from typing import Any

from amqtt import broker as amqtt_broker
from amqtt.mqtt.connect import ConnectPayload

MQTT_311 = 4


class EmbeddedBroker(amqtt_broker.Broker):  # type: ignore[misc]
    """amqtt with one change: the newer of two clients with one id wins (amqtt leaves the older one connected without messages)."""

    async def _delete_session(self, client_id: str) -> None:
        older = self._sessions.get(client_id)
        if older is not None:
            with contextlib.suppress(Exception):  # the older connection may be ending already
                await older[1].handle_connection_closed()
        await super()._delete_session(client_id)


_read_payload = ConnectPayload.from_stream.__func__


async def _payload(cls: Any, reader: Any, fixed: Any, head: Any) -> Any:
    """Refuse an MQTT 5 CONNECT at once; amqtt reads it as 3.1.1 and waits for bytes that never come."""
    if head is not None and head.proto_level != MQTT_311:
        return cls(client_id="refused")
    return await _read_payload(cls, reader, fixed, head)


async def serve(port: int) -> None:
    ConnectPayload.from_stream = classmethod(_payload)
    broker = EmbeddedBroker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: logging.getLogger(__name__).debug("%s", context.get("message")))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    await broker.start()
    gc.freeze()
    await done.wait()
    await broker.shutdown()


def main() -> None:
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit("usage: python -m fogctl.fleet.embedded PORT")
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    for name in ("transitions", "amqtt"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    asyncio.run(serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()

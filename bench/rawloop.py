"""The reference for a round: the same bytes over the same broker with bare paho, and nothing else.

Fixed form, so that figures stay comparable: 1 M float32 parameters, QoS 1, chunks of 256 KiB behind a header of 8 bytes, one cast
down and one reply up per node, one process per node. No hash, no fsync, no averaging, no repair.

    python -m bench.rawloop PORT NODE       (a node; the bench starts them)
"""

from __future__ import annotations

import queue
import statistics
import struct
import subprocess
import sys
import time
from typing import Any, Final

import paho.mqtt.client as mqtt

PARAMETERS: Final = 1_000_000
SIZE: Final = 4 * PARAMETERS
CHUNK: Final = 256 * 1024
HEADER: Final = struct.Struct("<II")  # round, chunk
CHUNKS: Final = -(-SIZE // CHUNK)


def _client(port: int, name: str, topic: str) -> tuple[mqtt.Client, queue.SimpleQueue[tuple[str, bytes]]]:
    """A connected client and its inbox, subscribed."""
    inbox: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    ready: queue.SimpleQueue[None] = queue.SimpleQueue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
    client.on_connect = lambda c, *_: c.subscribe(topic, qos=1)
    client.on_subscribe = lambda *_: ready.put(None)
    client.on_message = lambda _c, _u, message: inbox.put((message.topic, message.payload))
    client.connect("127.0.0.1", port)
    client.loop_start()
    ready.get(timeout=10)
    return client, inbox


def _publish(client: mqtt.Client, topic: str, number: int, vector: memoryview) -> None:
    for chunk in range(CHUNKS):
        client.publish(topic, HEADER.pack(number, chunk) + vector[chunk * CHUNK : (chunk + 1) * CHUNK], qos=1)


def _collect(buffer: bytearray, payload: bytes) -> int:
    """Put the chunk in its place; the round it belongs to."""
    number, chunk = HEADER.unpack_from(payload)
    buffer[chunk * CHUNK : chunk * CHUNK + len(payload) - HEADER.size] = memoryview(payload)[HEADER.size :]
    return int(number)


def node(port: int, name: str) -> None:
    client, inbox = _client(port, name, "raw/down")
    buffer, have = bytearray(SIZE), 0
    client.publish("raw/up/hello", name, qos=1)
    while True:
        _, payload = inbox.get()
        if not payload:
            break
        number = _collect(buffer, payload)
        have += 1
        if have == CHUNKS:
            have = 0
            _publish(client, f"raw/up/{name}", number, memoryview(buffer))
    client.disconnect()


def measure(port: int, nodes: int = 4, rounds: int = 20, warmup: int = 3) -> dict[str, Any]:
    """Seconds per round: {seconds (of each), median_s, min_s, max_s, rounds, nodes}."""
    client, inbox = _client(port, "raw-root", "raw/up/+")
    names = [f"raw-{index}" for index in range(nodes)]
    processes = [subprocess.Popen([sys.executable, "-m", "bench.rawloop", str(port), name]) for name in names]
    try:
        for _ in names:
            inbox.get(timeout=30)
        weights = memoryview(bytes(SIZE))
        buffers = {f"raw/up/{name}": bytearray(SIZE) for name in names}
        seconds = []
        for number in range(rounds + warmup):
            began = time.perf_counter()
            _publish(client, "raw/down", number, weights)
            for _ in range(nodes * CHUNKS):
                topic, payload = inbox.get(timeout=60)
                _collect(buffers[topic], payload)
            seconds.append(time.perf_counter() - began)
        client.publish("raw/down", b"", qos=1).wait_for_publish(10)
        for process in processes:
            process.wait(10)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        client.disconnect()
        client.loop_stop()
    timed = seconds[warmup:]
    return {"seconds": timed, "median_s": statistics.median(timed), "min_s": min(timed), "max_s": max(timed), "rounds": len(timed), "nodes": nodes}


if __name__ == "__main__":
    node(int(sys.argv[1]), sys.argv[2])

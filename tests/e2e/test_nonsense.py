"""Nonsense on every topic while a job runs: counted, dropped, and the job goes on to the same result."""

from __future__ import annotations

import random
import zlib

from e2e.conftest import Fleet
from fog_common.bus.base import Connected
from fog_common.bus.mqtt import MqttBus
from fog_common.runtime.machine import Peer
from fog_common.transfer import frames
from fog_common.wire import messages, topics
from fog_common.wire.messages import Desired, DesiredJob, Placement, Presence
from fogctl.client import Client
from support.broker import Inbox

ROUNDS = {"train": {"rounds": 60}}


def nonsense(dice: random.Random) -> list[bytes]:
    """Random, truncated, of an unknown tag, oversize, well-formed but out of place."""
    chunk = frames.encode_chunk(frames.Chunk(32, 7, 9, 1, 0, 1), memoryview(b"x" * 100), zlib.crc32(b"x" * 100))
    stray = messages.encode(Desired(99, "nobody", (DesiredJob("toy", {}, Placement("toy", 9999, "server", (Peer("a", "b", 0, "c", "d", "edge"),))),)))
    return [
        b"",
        dice.randbytes(1),
        dice.randbytes(3000),
        bytes([frames.MESSAGE_MAGIC]) + dice.randbytes(200),
        chunk,
        chunk[: len(chunk) // 2],
        chunk[:-1] + b"?",
        b"\x81\xa4type\xa7Unknown",
        b"\x91" * 5000,
        bytes(1_500_000),
        stray,
        messages.encode(Presence("agent-1", "of-somebody-else", online=False)),
    ]


def test_a_job_goes_on_through_nonsense_on_every_topic(fleet: Fleet, client: Client):
    undisturbed = fleet.finished(client, fleet.submit(client, **ROUNDS))["digest"]
    inbox = Inbox()
    stranger = MqttBus(fleet.broker_config, "stranger", inbox)
    stranger.start()
    inbox.next(Connected)
    job = fleet.submit(client, **ROUNDS)
    dice = random.Random(7)
    bulk = f"{topics.BULK}~{job}"
    places = [("cloud", "cloud-1"), ("cloud", "coordinator"), *(("home", node) for node in fleet.agents)]
    where = [
        topic.at(fleet="main", site=site, node=node, sender="agent-1", kind=kind)
        for topic in (topics.D2D, topics.TO)
        for site, node in places
        for kind in ("ctl", bulk)
    ]
    where += [
        topics.CAST.at(fleet="main", scope=scope, group=topics.group(job, role), sender="agent-2", kind=bulk)
        for scope in ("all", "home")
        for role in ("server", "trainer")
    ]
    where += [topics.PRESENCE.at(fleet="main", node=node) for _, node in places]
    where += [topics.REQUEST.at(fleet="main", sender="operator", kind="request~x")]
    before = fleet.in_round(client, job, 2)
    for topic in where:
        for payload in nonsense(dice):
            stranger.publish(topic, payload, qos=1)
    status = fleet.finished(client, job)
    stranger.close()
    assert [task["incarnation"] for task in status["tasks"]] == [task["incarnation"] for task in before["tasks"]], "no worker fell over it"
    assert [record["round"] for record in status["history"]] == list(range(1, 61))
    assert status["digest"] == undisturbed

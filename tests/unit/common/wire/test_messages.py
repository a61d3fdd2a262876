"""Control messages and topics: what is right goes through, everything else is refused with the reason that is counted."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fog_common.errors import TooLarge, WireError
from fog_common.wire import messages, topics
from fog_common.wire.messages import Announce, Desired, Goodbye, Heartbeat, Identify, Presence, Profile, Reply, Request


def packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def reason(payload: bytes, limit_bytes: int = messages.MAX_CONTROL_BYTES) -> str:
    with pytest.raises(WireError) as caught:
        messages.decode(payload, limit_bytes)
    return caught.value.reason


@pytest.mark.parametrize(
    "message",
    [
        Presence("pi-1", "n1", True),
        Announce("pi-1", "n1", Profile("edge", "hall", cores=4, labels={"room": "2"})),
        Heartbeat("pi-1", "n1", desired=3, gauges={"rss_bytes": 1.5}),
        Goodbye("pi-1", "n1"),
        Desired(4, "c1"),
        Identify(),
        Request("r1", "job.submit", {"spec": {"name": "digits", "deep": [1, {"a": None}]}}),
        Reply("r1", {"job": "digits-1"}),
    ],
)
def test_messages_go_through(message: Any) -> None:
    assert messages.decode(messages.encode(message)) == message


def test_fields_of_a_later_version_are_ignored_and_missing_ones_have_their_default() -> None:
    assert messages.decode(packed({"type": "Goodbye", "node": "pi-1", "nonce": "n", "mood": "sad"})) == Goodbye("pi-1", "n")
    assert messages.decode(packed({"type": "Heartbeat", "node": "pi-1", "nonce": "n"})) == Heartbeat("pi-1", "n")


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", "malformed"),
        (b"\xc1", "malformed"),
        (packed({"type": "Gossip", "node": "pi-1"}), "unknown_tag"),
        (packed({"type": 3}), "malformed"),
        (packed({"node": "pi-1", "nonce": "n"}), "malformed"),
        (packed({"type": "Goodbye", "nonce": "n"}), "malformed"),
        (packed({"type": "Goodbye", "node": 1, "nonce": "n"}), "malformed"),
        (packed({"type": "Presence", "node": "pi-1", "nonce": "n", "online": "yes"}), "malformed"),
        (packed([1, 2, 3]), "malformed"),
        (messages.encode(Goodbye("pi-1", "n"))[:-1], "malformed"),
        (messages.encode(Goodbye("pi-1", "n")) + b"\x00", "malformed"),
        (packed({"type": "Goodbye", "node": "pi-1", "nonce": b"\xff"}), "malformed"),
    ],
)
def test_what_is_no_message_is_refused_with_its_reason(payload: bytes, expected: str) -> None:
    assert reason(payload) == expected


def test_oversize_is_refused_before_it_is_read() -> None:
    assert reason(b"\xc1" * 101, limit_bytes=100) == "too_large"
    with pytest.raises(TooLarge, match="101 B, limit 100 B"):
        messages.decode(b"\xc1" * 101, 100)
    assert reason(bytes(messages.MAX_CONTROL_BYTES + 1)) == "too_large"


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a"])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    head = packed({"type": "Request", "id": "r", "verb": "v"})
    body = b"\x84" + head[1:] + packed("arguments") + b"\x81" + packed("x") + opening * 100_000 + b"\xc0"
    assert reason(body) == "malformed"


@settings(max_examples=500)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.integers(-5, 5) | st.text(max_size=5),
            lambda inner: st.dictionaries(st.sampled_from(["type", "node", "nonce", "arguments"]), inner | st.just("Request")),
            max_leaves=8,
        ).map(packed),
    )
)
@pytest.mark.thorough
def test_random_payloads_are_messages_or_refused(payload: bytes) -> None:
    with contextlib.suppress(WireError):
        assert isinstance(messages.decode(payload), msgspec.Struct)


# -- topics --------------------------------------------------------------------------------

ids = st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True)


@pytest.mark.thorough
@given(ids, ids, ids, ids, ids)
def test_an_inbox_is_read_as_it_was_written(fleet: str, site: str, node: str, sender: str, job: str) -> None:
    kind = f"{topics.BULK}~{job}"
    near = topics.inbox(fleet, site, node, sender, site, kind)
    assert topics.parse(near) == topics.Route("to" if node == topics.COORDINATOR else "d2d", site, node, sender, kind)
    far = topics.inbox(fleet, site, node, sender, site + "x", kind)
    assert topics.parse(far) == topics.Route("to", site, node, sender, kind)
    assert max(near.count("/"), far.count("/")) <= 7
    cast = topics.CAST.at(fleet=fleet, scope=topics.ALL_SITES, group=topics.group(job, "trainer"), sender=sender, kind=kind)
    assert topics.parse(cast) == topics.Route("cast", "all", f"{job}~trainer", sender, kind)


def test_the_coordinators_inbox_is_always_bridged() -> None:
    assert topics.inbox("main", "cloud", "coordinator", "cloud-1", "cloud", "ctl") == "fog/v1/main/to/cloud/coordinator/cloud-1/ctl"
    assert topics.to_coordinator("main", "pi-1") == "fog/v1/main/to/cloud/coordinator/pi-1/ctl"
    assert topics.parse(topics.from_coordinator("main", "hall", "pi-1")) == topics.Route("to", "hall", "pi-1", "coordinator", "ctl")


def test_other_topics_are_read_as_they_were_written() -> None:
    assert topics.parse(topics.PRESENCE.at(fleet="main", node="pi-1")) == topics.Route("node", "", "pi-1", "pi-1", "presence")
    assert topics.parse(topics.REQUEST.at(fleet="main", sender="ann", kind="request~s1")) == topics.Route(
        "ctl", "", "coordinator", "ann", "request~s1"
    )


@pytest.mark.parametrize("part", ["", "a/b", "+", "#", "a+", "x#y"])
def test_a_part_that_is_no_level_is_refused(part: str) -> None:
    with pytest.raises(ValueError, match="not a topic level"):
        topics.PRESENCE.at(fleet="main", node=part)


def test_filters_leave_open_what_is_not_named() -> None:
    assert topics.inbox_filters("main", "hall", "pi-1", "bulk~digits") == [
        "fog/v1/main/d2d/hall/pi-1/+/bulk~digits",
        "fog/v1/main/to/hall/pi-1/+/bulk~digits",
    ]
    assert topics.cast_filters("main", "hall", "digits", "trainer", "bulk~digits") == [
        "fog/v1/main/cast/hall/digits~trainer/+/bulk~digits",
        "fog/v1/main/cast/all/digits~trainer/+/bulk~digits",
    ]
    assert topics.PRESENCE.filter(fleet="main") == "fog/v1/main/node/+/presence"


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "fog",
        "fog/v1/main",
        "fog/v2/main/d2d/hall/pi-1/pi-2/ctl",
        "fog/v1/main/p2p/hall/pi-1/pi-2/ctl",
        "fog/v1/main/d2d/hall/pi-1/pi-2",
        "x" * 70_000,
        "fog/v1/main/d2d/hall/pi-1/pi-2/ctl/more",
        "$SYS/broker/uptime",
        "fog/v1/main/node/pi-1",
        "fog/v1/main/ctl/ann",
    ],
)
def test_topics_that_are_not_ours_are_refused(topic: str) -> None:
    with pytest.raises(WireError) as caught:
        topics.parse(topic)
    assert caught.value.reason == "unknown_topic"
    assert len(str(caught.value)) < 200


@given(st.text(max_size=60))
def test_random_topics_are_refused_or_have_eight_levels_at_most(topic: str) -> None:
    with contextlib.suppress(WireError):
        assert topics.parse(topic) is not None
        assert topic.count("/") <= 7

"""The tags of messages on the wire: they outlive the names of classes, so that nodes of two versions understand each other."""

from __future__ import annotations

import pytest

from fog_common.runtime import machine
from fog_common.wire import messages
from fog_learning.methods import METHODS

TAGS = {
    "fedavg": "Round Update Trouble",
    "fog": "Call Lacking Pass Ready Update Trouble Links Settled More Pull Stuck Share",
    "gossip": "Here Silent Model Share Report Trouble Ask Told",
    "fcddt": "Step Go Rows Features Heads Cut Local Trouble",
    "centralized": "Ask Samples Trouble",
}


@pytest.mark.parametrize("name", sorted(TAGS))
def test_the_messages_of_a_method_keep_their_tags(name: str) -> None:
    assert [kind.__struct_config__.tag for kind in METHODS[name].messages] == TAGS[name].split()


def test_control_messages_and_commands_keep_their_tags() -> None:
    control = "Presence Announce Heartbeat Goodbye Desired Identify Probe Request Reply"
    assert {kind.__struct_config__.tag for kind in messages.Control.__args__} >= set(control.split())
    saved = "Send Cast Run Cancel WakeAt Save Close Measure Finish"
    assert [kind.__struct_config__.tag for kind in machine.Command.__args__] == saved.split()

"""A link's model and the facts that placement gets of it say the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fog_common.bus.base import BusEvent, Received
from fog_common.facts import Links, NodeLink
from fog_learning.costs.place import USUAL_LINK
from fog_sim.kernel import Kernel
from fog_sim.links import PRESETS, LinkModel
from fog_sim.network import Connection, Port, SimBroker

TOPIC = "a/b"
FRAME_BYTES = len(TOPIC) + 8
"""What the simulated broker counts beside the payload."""
models = st.builds(
    lambda rate, latency_s: LinkModel(up_bytes_s=rate, down_bytes_s=rate, latency_s=latency_s), st.floats(1e3, 1e9), st.floats(0.0, 0.5)
)


def simulated_s(size: int, sender: LinkModel, receiver: LinkModel) -> float:
    """Seconds from the publish of one frame to its arrival, both nodes online."""
    kernel, arrived = Kernel(), []

    def hear(event: BusEvent) -> None:
        if isinstance(event, Received):
            arrived.append(kernel.now)

    broker = SimBroker(kernel, seed=0)
    from_, to = Connection(broker, Port(sender), lambda event: None), Connection(broker, Port(receiver), hear)
    to.subscribe(TOPIC)
    for connection in (from_, to):
        connection.start()
    kernel.run(5.0)
    began = kernel.now
    from_.publish(TOPIC, bytes(size - FRAME_BYTES))
    kernel.run(began + 3600.0)
    (at,) = arrived
    return at - began


@given(sender=models, receiver=models, size=st.integers(FRAME_BYTES, 256 * 1024))
def test_a_frame_takes_as_long_as_the_way_between_the_nodes_says(sender: LinkModel, receiver: LinkModel, size: int):
    way = Links({"a": sender.facts(), "b": receiver.facts()}, usual=USUAL_LINK).between("a", "b")
    assert way.relay_bytes_per_s is not None
    expected = way.latency_s + size / way.bytes_per_s + size / way.relay_bytes_per_s
    assert simulated_s(size, sender, receiver) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_the_facts_of_a_model_are_its_figures():
    lte = PRESETS["lte"].link
    assert lte.facts() == NodeLink(rtt_s=0.08, bandwidth_bytes_s=0.7e6, byte_j=lte.joules_per_byte)

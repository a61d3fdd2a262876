"""What a worker tells its daemon of its own troubles."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fog_agent.worker import pipe
from fog_agent.worker.frames import State, WorkerSetup
from fog_agent.worker.threads import Worker
from fog_common.bus.base import BrokerConfig, Denied


@pytest.fixture
def wires() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, its = socket.socketpair()
    with ours, its:
        yield ours, its


def test_a_subscription_that_the_broker_refuses_is_a_problem(wires: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    ours, its = wires
    worker = Worker(its, WorkerSetup("pi-1", "home", "edge", "main", BrokerConfig(username="pi-1"), str(tmp_path), "digits", 1))
    worker.handle(Denied(("fog/v1/main/cast/all/digits~trainer/+/+",)))
    frame = pipe.receive(ours)
    assert isinstance(frame, State)
    said = "the broker refuses user 'pi-1' the subscription fog/v1/main/cast/all/digits~trainer/+/+; correct its access list"
    assert frame.state.problems == (said,)
    assert frame.urgent

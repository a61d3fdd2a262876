"""Brokers as child processes: ready when they answer, gone when their parent is, clear when they cannot start."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

import fogctl.fleet.broker as broker_module
from fog_common.errors import Unreachable
from fogctl.fleet.broker import Broker, Kind, find_broker, find_mosquitto
from support.broker import PATIENCE_S, needs

KINDS: list[Kind] = ["mosquitto", "embedded"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "mosquitto":
        needs("mosquitto", find_mosquitto())
    else:
        pytest.importorskip("amqtt")
    return request.param


def test_it_ends_with_its_parent_however_that_dies(kind: Kind) -> None:
    program = f"from fogctl.fleet.broker import Broker; b = Broker.start({kind!r}); print(b.pid, flush=True); input()"
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.is_running()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs([child], timeout=PATIENCE_S)
    assert not alive


def test_it_outlives_the_thread_that_started_it(kind: Kind) -> None:
    started: list[Broker] = []
    thread = threading.Thread(target=lambda: started.append(Broker.start(kind)))
    thread.start()
    thread.join()
    with started[0] as broker, socket.create_connection((broker.host, broker.port)):
        assert broker.running
    assert not broker.running


def test_stop_may_be_called_often_and_ends_a_frozen_one(kind: Kind) -> None:
    broker = Broker.start(kind)
    psutil.Process(broker.pid).suspend()
    broker.stop()
    broker.stop()
    assert not broker.running


def test_a_port_that_was_taken_meanwhile_is_tried_elsewhere(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    free = broker_module._free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1]])
        monkeypatch.setattr(broker_module, "_free_port", lambda: next(ports, None) or free())
        with Broker.start(kind) as broker:
            assert broker.port != taken.getsockname()[1]


def test_a_port_in_use_is_an_error_that_quotes_the_log(tmp_path: Path) -> None:
    needs("mosquitto", find_mosquitto())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unreachable, match=rf"mosquitto on port {port} ended .* Address already in use"):
            Broker.start("mosquitto", port=port, log=tmp_path / "log")


def test_a_wrong_configuration_is_not_tried_for_ever(tmp_path: Path) -> None:
    needs("mosquitto", find_mosquitto())
    with pytest.raises(Unreachable, match="no_such_option"):
        Broker.start("mosquitto", config="no_such_option 1", log=tmp_path / "log")


def test_without_mosquitto_the_embedded_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("amqtt")
    monkeypatch.setattr(shutil, "which", lambda *args, **options: None)
    assert find_broker() == "embedded"
    with pytest.raises(Unreachable, match="apt-get install mosquitto"):
        Broker.start("mosquitto")
    monkeypatch.setattr(broker_module, "find_spec", lambda name: None)
    with pytest.raises(Unreachable, match="install mosquitto"):
        find_broker()

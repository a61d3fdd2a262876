"""How commands of daemons end with an error, and what wakes their loops."""

from __future__ import annotations

import json
import os
import signal

import pytest

from fog_common.errors import ConfigError
from fog_common.program import guard
from fog_common.program.inbox import Inbox, StopAsked, stop_on_signals
from fog_common.program.notify import Pulse


def test_an_error_is_one_line_or_one_object(capsys: pytest.CaptureFixture[str]):
    error = ConfigError("fleet: no such\nthing")
    assert guard.failed(error, ["check"], "fog-agent", "fog-agent") == 2
    assert capsys.readouterr() == ("", "fog-agent: fleet: no such thing\n")
    assert guard.failed(error, ["check", "--json"], "fog-agent", "fog-agent") == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == {"kind": "ConfigError", "message": "fleet: no such thing", "exit_code": 2}
    assert err == ""


def test_a_fault_of_the_program_says_where_and_shows_its_way_on_request(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ZeroDivisionError) as caught:
        raise ZeroDivisionError("a gauge of nothing")
    assert guard.failed(caught.value, ["run"], "fog-coordinator", "error") == 1
    short = capsys.readouterr().err
    assert guard.failed(caught.value, ["run", "--debug"], "fog-coordinator", "error") == 1
    long = capsys.readouterr().err
    assert short.startswith("error: ZeroDivisionError: a gauge of nothing (a fault of fog-coordinator in test_guard.py:")
    assert "Traceback" in long and "Traceback" not in short


def test_only_a_usage_error_is_explained():
    assert guard.usage(ValueError("x"), "fog-coordinator") is None
    import click

    found = guard.usage(click.UsageError("No such option: --nope."), "fog-coordinator")
    assert str(found) == "No such option: --nope; see `fog-coordinator --help`"


def test_an_inbox_gives_items_in_order_and_none_in_time():
    inbox: Inbox[int | StopAsked] = Inbox()
    assert inbox.next(-1.0) is None
    inbox.put(1)
    inbox.put(2)
    assert (inbox.next(0.0), inbox.next(0.0), inbox.next(0.0)) == (1, 2, None)


def test_a_signal_becomes_an_item():
    inbox: Inbox[StopAsked] = Inbox()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop_on_signals(inbox.put)
        os.kill(os.getpid(), signal.SIGTERM)
        assert inbox.next(5.0) == StopAsked()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_pulse_beats_a_third_of_the_limit_apart(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert Pulse().next_at is None
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    pulse = Pulse()
    pulse.beat(100.0)
    assert pulse.next_at == 110.0
    pulse.beat(105.0)
    assert pulse.next_at == 110.0

"""What surrounds the core: journal, results, configuration, clock, command line."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from fog_common.bus.base import Connected, Received
from fog_common.errors import ConfigError
from fog_common.program.inbox import Inbox
from fog_common.wire import messages, topics
from fog_common.wire.messages import Announce, Goodbye, Heartbeat, Profile, Reply, Request
from fog_coordinator.core import Core
from fog_coordinator.shell import app
from fog_coordinator.shell.config import CoordinatorConfig, load_config, state_dir
from fog_coordinator.shell.journal import Journal, JournalError
from fog_coordinator.shell.results import Results
from fog_coordinator.shell.scrape import Scrapes
from fog_coordinator.shell.service import Clock, Item, Service
from fog_coordinator.state.effects import JournalRecord, Row

# -- journal -------------------------------------------------------------------------------


def test_rows_are_there_after_a_restart(tmp_path: Path):
    journal = Journal.in_folder(tmp_path)
    journal.write((Row("jobs", ("a",), b"1"), Row("rounds", ("a", 1), b"x"), Row("rounds", ("a", 10), b"z"), Row("rounds", ("a", 2), b"y")), 5.0)
    journal.write((Row("jobs", ("a",), b"2"), Row("rounds", ("a", 2), b"Y")), 7.5)
    journal.close()
    again = Journal.in_folder(tmp_path)
    assert again.load()["jobs"] == [(("a",), b"2")]
    assert again.load()["rounds"] == [(("a", 1), b"x"), (("a", 2), b"Y"), (("a", 10), b"z")]
    assert (again.clock, again.boots, journal.boots) == (7.5, 2, 1)
    again.close()


def test_a_key_prefix_removes_all_rows_under_it(tmp_path: Path):
    journal = Journal.in_folder(tmp_path)
    journal.write((Row("log", ("a", 1), b"x"), Row("log", ("a", 2), b"x"), Row("log", ("ab", 1), b"x")), 1.0)
    journal.write((Row("log", ("a",), None),), 1.0)
    assert journal.load()["log"] == [(("ab", 1), b"x")]
    journal.close()


def test_a_transaction_is_all_or_nothing(tmp_path: Path):
    journal = Journal.in_folder(tmp_path)
    journal.write((Row("jobs", ("a",), b"1"),), 1.0)
    blocker = sqlite3.connect(tmp_path / "journal.sqlite")
    blocker.execute("CREATE TRIGGER full BEFORE INSERT ON rounds BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(JournalError, match="disk full"):
        journal.write((Row("jobs", ("a",), b"2"), Row("rounds", ("a", 1), b"x")), 9.0)
    assert journal.load()["jobs"] == [(("a",), b"1")]
    blocker.execute("DROP TRIGGER full")
    blocker.close()
    journal.write((Row("jobs", ("a",), b"2"), Row("rounds", ("a", 1), b"x")), 9.0)
    assert journal.load()["jobs"] == [(("a",), b"2")]
    journal.close()


def test_the_sqlite_file_is_synced_at_every_commit(tmp_path: Path):
    journal = Journal.in_folder(tmp_path)
    with journal._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    journal.close()


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////no/such/folder/x.sqlite", "nosuchdb://x"])
def test_a_journal_that_cannot_be_opened_says_where(url: str):
    with pytest.raises(ConfigError, match="journal"):
        Journal(url)


def test_a_journal_of_a_newer_version_is_refused(tmp_path: Path):
    Journal.in_folder(tmp_path).close()
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'format'")
    connection.close()
    with pytest.raises(ConfigError, match="format 99"):
        Journal.in_folder(tmp_path)


def test_the_clock_never_goes_back_over_restarts():
    ahead = time.time() + 600  # the machine's clock was wrong, and was set right
    assert Clock(ahead)() >= ahead
    assert abs(Clock(0.0)() - time.time()) < 5


# -- results -------------------------------------------------------------------------------


def test_results_are_files(tmp_path: Path):
    results = Results(tmp_path / "results")
    results.save("a", memoryview(b"weights"), {"numbers": {"accuracy": 0.5}})
    results.save("b", None, {})
    assert results.weights("a") == b"weights"
    assert results.weights("b") is None
    assert msgspec.json.decode((tmp_path / "results" / "a.json").read_bytes()) == {"numbers": {"accuracy": 0.5}}
    results.forget_all_but({"b"})
    assert sorted(path.name for path in results.folder.iterdir()) == ["b.json"]


# -- configuration and command line ----------------------------------------------------------


def test_configuration_is_strict(tmp_path: Path):
    file = tmp_path / "coordinator.yaml"
    file.write_text("fleet: main\nmove_after_s: 2\n")
    assert load_config(file).rules.move_after_s == 2.0
    file.write_text("fleet: main\nmove_afer_s: 2\n")
    with pytest.raises(ConfigError, match=r"coordinator\.yaml:2: move_afer_s: unknown key, did you mean 'move_after_s'"):
        load_config(file)
    file.write_text("jobs_per_node: 0\n")
    with pytest.raises(ConfigError, match="jobs_per_node"):
        load_config(file)


def test_where_the_state_is():
    assert state_dir(CoordinatorConfig(state_dir="/srv/x"), {}) == Path("/srv/x")
    assert state_dir(CoordinatorConfig(), {"STATE_DIRECTORY": "/var/lib/fog:/other"}) == Path("/var/lib/fog")
    assert state_dir(CoordinatorConfig(), {"HOME": "/home/ada"}) == Path("/home/ada/.local/state/foglearn/coordinator")


class Done(NamedTuple):
    exit_code: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`fog-coordinator ARGUMENTS`, in this process."""

    def call(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            app.main(arguments)
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capsys.readouterr())

    return call


def test_check_says_what_it_would_use(command: Callable[..., Done], tmp_path: Path):
    given = ("check", "--state-dir", str(tmp_path), "--fleet", "lab", "--broker", "10.0.0.5:1884")
    done = command(*given)
    assert (done.exit_code, done.err) == (0, "")
    assert "fleet lab, broker 10.0.0.5:1884" in done.out
    envelope = json.loads(command(*given, "--json").out)
    assert (envelope["schema_version"], envelope["status"], envelope["data"]["fleet"], envelope["data"]["jobs"]) == (1, "ok", "lab", 0)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--config", "/no/such/file.yaml"], 2, "/no/such/file.yaml"),
        (["--broker", "host:port"], 2, "--broker"),
        (["--fleet", "No Id"], 2, "--fleet"),
        (["--state-dir", "/proc/nothing"], 2, "state_dir"),
    ],
)
def test_wrong_options_are_one_line(command: Callable[..., Done], arguments: list[str], code: int, text: str):
    done = command("check", *arguments)
    assert (done.exit_code, done.out) == (code, "")
    assert text in done.err
    assert len(done.err.strip().splitlines()) == 1
    told = json.loads(command("check", *arguments, "--json").out)
    assert (told["status"], told["error"]["exit_code"]) == ("error", code)
    assert text in told["error"]["message"]


@pytest.mark.parametrize("arguments", [["run", "--nope"], ["walk"], ["run", "--config"]])
def test_a_wrong_command_line_is_one_line_and_exit_2(command: Callable[..., Done], arguments: list[str]):
    done = command(*arguments)
    assert (done.exit_code, len(done.err.strip().splitlines())) == (2, 1)
    assert "--help" in done.err


def test_a_fault_of_ours_is_one_line_without_debug(command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(app, "_journal", lambda *_: {}["nothing"])
    done = command("check", "--state-dir", str(tmp_path))
    assert (done.exit_code, len(done.err.strip().splitlines())) == (1, 1)
    assert "KeyError" in done.err
    assert "Traceback" in command("check", "--state-dir", str(tmp_path), "--debug").err


def test_two_coordinators_cannot_share_a_folder(command: Callable[..., Done], tmp_path: Path):
    with app._locked(tmp_path):
        done = command("check", "--state-dir", str(tmp_path))
    assert done.exit_code == 4
    assert "another coordinator" in done.err


# -- the service -----------------------------------------------------------------------------


class Wire:
    """A bus that keeps what is published."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, messages.Control]] = []

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> None:
        self.sent.append((topic, messages.decode(payload)))


class Desk:
    """A service whose loop is turned by hand."""

    def __init__(self, folder: Path) -> None:
        self.now, self.wire, self.journal = 1000.0, Wire(), Journal.in_folder(folder)
        self.core = Core("c1")
        results = Results(folder / "results")
        bus: Any = self.wire
        self.service = Service("main", core=self.core, journal=self.journal, results=results, bus=bus, inbox=Inbox(), clock=lambda: self.now)
        self.turn(Connected())
        for name, tier, site in (("cloud-1", "cloud", "cloud"), ("pi-1", "edge", "home")):
            self.hear(name, Announce(name, "n", Profile(tier, site)))
            self.hear(name, Heartbeat(name, "n"))

    def turn(self, *items: Item) -> None:
        for item in items:
            self.service._handle(item, self.now)
        self.service._keep_time(self.now)
        self.service._perform(self.now)

    def hear(self, sender: str, message: messages.Control) -> None:
        self.turn(Received(topics.to_coordinator("main", sender), messages.encode(message)))

    def ask(self, verb: str, **arguments: Any) -> None:
        topic = topics.REQUEST.at(fleet="main", sender="ada", kind="request~s1")
        self.turn(Received(topic, messages.encode(Request("r1", verb, arguments))))


def test_a_coordinator_that_may_not_listen_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    desk = Desk(tmp_path)
    desk.turn(Connected(0, ("fog/v1/main/ctl/+/+",)))
    assert "the coordinator is deaf: the broker refuses fog/v1/main/ctl/+/+" in caplog.text
    desk.ask("ping")
    reply = desk.wire.sent[-1][1]
    assert isinstance(reply, Reply)
    assert reply.body["denied"] == ["fog/v1/main/ctl/+/+"]
    desk.turn(Connected())
    assert desk.core.denied == ()
    desk.journal.close()


def test_a_full_disk_holds_back_what_depends_on_it_and_nothing_is_lost(tmp_path: Path):
    desk = Desk(tmp_path)
    blocker = sqlite3.connect(tmp_path / "journal.sqlite")
    blocker.execute("CREATE TRIGGER full BEFORE INSERT ON jobs BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    blocker.commit()
    desk.wire.sent.clear()
    desk.ask("job.submit", spec={"name": "digits", "method": {"name": "fedavg"}, "model": {"name": "mlp"}})
    assert desk.wire.sent == []  # neither the node nor the user hears of what may be forgotten
    desk.now += 1.0
    desk.turn()
    assert desk.wire.sent == []
    blocker.execute("DROP TRIGGER full")
    blocker.commit()
    blocker.close()
    desk.now += 2.0
    desk.turn()
    kinds = [type(message).__name__ for _, message in desk.wire.sent]
    assert kinds[:3] == ["Desired", "Desired", "Reply"]
    assert [key for key, _ in desk.journal.load()["jobs"]] == [("digits",)]
    desk.journal.close()


def test_messages_of_others_in_a_nodes_name_are_dropped(tmp_path: Path):
    desk = Desk(tmp_path)
    desk.hear("mallory", Announce("pi-1", "other", Profile("edge", "home")))
    desk.hear("mallory", Goodbye("cloud-1", "n"))
    desk.hear("pi-2", Announce("pi-2", "n", Profile("edge", "a/b")))
    desk.hear("coordinator", Announce("coordinator", "n", Profile("cloud", "cloud")))
    desk.turn(Received("fog/v1/main/to/cloud/coordinator/pi-1/ctl", b"\x93\x01\x02"), Received("elsewhere", b""))
    assert desk.service.rejected == {"wrong_sender": 2, "bad_id": 2, "malformed": 1, "unknown_topic": 1}
    assert [node.node for node in desk.core.registry] == ["cloud-1", "pi-1"]
    assert not any(node.leaving for node in desk.core.registry)
    desk.journal.close()


def test_who_looks_while_the_disk_is_full_is_answered_and_nothing_piles_up(tmp_path: Path):
    desk = Desk(tmp_path)
    blocker = sqlite3.connect(tmp_path / "journal.sqlite")
    blocker.execute("CREATE TRIGGER full BEFORE INSERT ON nodes BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    blocker.commit()
    for _ in range(50):
        desk.now += 0.1
        desk.hear("pi-1", Heartbeat("pi-1", "n", uptime_s=desk.now))
        assert Scrapes(desk.turn).metrics().status == 200
    assert sum(isinstance(effect, JournalRecord) for effect in desk.service._waiting) < 5
    blocker.execute("DROP TRIGGER full")
    blocker.commit()
    blocker.close()
    desk.now += 3.0
    desk.turn()
    desk.hear("pi-1", Heartbeat("pi-1", "n", uptime_s=desk.now))
    Scrapes(desk.turn).metrics()
    core = Core("c2", desk.journal.load())
    (pi,) = [node for node in core.registry if node.node == "pi-1"]
    assert pi.spoke_at == desk.now
    desk.journal.close()


def test_metrics_that_cannot_be_collected_are_an_answer_and_the_coordinator_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    desk = Desk(tmp_path)
    scrapes = Scrapes(desk.turn)
    assert scrapes.metrics().status == 200

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a gauge of nothing")

    monkeypatch.setattr(desk.service._exporter, "collect", broken)
    page = Scrapes(desk.turn).metrics()
    assert page.status == 500 and page.body == b"the metrics cannot be collected: ZeroDivisionError: a gauge of nothing\n"
    monkeypatch.setattr(desk.service._exporter, "collect", lambda *_, **__: {"fog_mood": [((), 1.0)]})
    page = Scrapes(desk.turn).metrics()
    assert page.status == 500 and b"fog_mood" in page.body
    assert Scrapes(desk.turn).readyz().status == 200
    desk.journal.close()

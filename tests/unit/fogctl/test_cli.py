"""fogctl as its users meet it: output, envelope, exit codes. What needs a coordinator is in tests/broker and tests/e2e."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fog_common.bus.base import BusEvent, Connected, Disconnected, OnEvent, Received
from fog_common.errors import ConfigError, JobFailed, Refused, TimedOut, Unreachable
from fog_common.wire import messages, topics
from fog_common.wire.messages import Reply, Request
from fog_learning.models import MODELS
from fogctl import app as fogctl
from fogctl.client import Client, Settings, address, settings
from fogctl.session import Session, command
from fogctl.show.output import Output, duration, size
from fogctl.show.watch import Watch, checked_end, details, follow, summary_lines

JOB = "name: digits\nmethod: {name: fedavg}\nmodel: {name: mlp}\n"


@pytest.fixture(autouse=True)
def nobody_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of whoever runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in [name for name in os.environ if name.startswith("FOGLEARN_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody answers: bound, not listening."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command in this process."""
    code = fogctl.run(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


def error_of(text: str) -> dict[str, Any]:
    envelope = json.loads(text)
    assert envelope["schema_version"] == 1
    assert envelope["status"] == "error"
    return dict(envelope["error"])


def data_of(text: str) -> dict[str, Any]:
    envelope = json.loads(text)
    assert set(envelope) == {"schema_version", "status", "data"}
    assert (envelope["schema_version"], envelope["status"]) == (1, "ok")
    return dict(envelope["data"])


# -- without a broker ----------------------------------------------------------------------


def test_validate_says_ok_or_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    code, out, err = run(capsys, "validate", str(path))
    assert (code, err) == (0, "")
    assert out == f"{path}: ok: digits, fedavg over mlp, iid partition of digits, 30 rounds\n"
    code, out, _ = run(capsys, "validate", str(path), "--json")
    assert data_of(out)["job"]["train"]["rounds"] == 30

    path.write_text(JOB + "train: {rounds: -3}\n")
    assert run(capsys, "validate", str(path)) == (2, "", f"error: {path}:4: train.rounds: expected an integer ≥ 1, got -3\n")
    code, out, err = run(capsys, "validate", str(path), "--json")
    assert (code, err) == (2, "")
    assert error_of(out) == {"kind": "ConfigError", "message": f"{path}:4: train.rounds: expected an integer ≥ 1, got -3", "exit_code": 2}


def test_a_bad_job_is_refused_before_anybody_is_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path, closed_port: int) -> None:
    code, out, err = run(capsys, "submit", str(tmp_path / "none.yaml"), "--broker", f"127.0.0.1:{closed_port}")
    assert (code, out) == (2, "")
    assert err == f"error: {tmp_path}/none.yaml: cannot read: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["jobs"], "No such command 'jobs'"),
        (["job", "stop", "x"], "No such command 'stop'; see `fogctl job --help`"),
        (["submit"], "Missing argument 'FILE'; see `fogctl submit --help`"),
        (["job", "status"], "Missing argument 'JOB'; see `fogctl job status --help`"),
        (["job", "list", "--frobnicate"], "No such option"),
        (["job", "logs", "x", "--lines", "0"], "Invalid value for '--lines'"),
        (["job", "list", "--broker", "host:port"], "--broker 'host:port' is no address"),
        (["job", "list", "--fleet", "My Fleet"], "--fleet 'My Fleet' is not allowed"),
        (["job", "list", "--config", "/nowhere/fogctl.yaml"], "/nowhere/fogctl.yaml: cannot read: No such file"),
        (["job", "list", "--password-file", "/nowhere/secret"], "password file /nowhere/secret: cannot read"),
        (["models", "show", "mpl"], "model.name"),
        (["models", "show", "mlp", "--input", "28by28"], "--input '28by28' is no shape"),
        (["models", "show", "lenet5", "--input", "1x2x2"], "model lenet5, block c"),
        (["models", "show", "mlp", "--set", "hidden=[0]"], "model.hidden"),
        (["methods", "show", "fedavgg"], "'fedavgg': unknown method, did you mean 'fedavg'?"),
        (["broker", "init", "--listen", "1.2.3", "--out", "/nowhere/x"], "'1.2.3' is no address to listen on"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: [^\n]*\n", err)
    assert said in err
    code, out, err = run(capsys, *arguments, "--json")
    assert (code, err) == (2, "")
    assert said in error_of(out)["message"]


def test_no_broker_is_exit_3(capsys: pytest.CaptureFixture[str], closed_port: int) -> None:
    code, out, err = run(capsys, "job", "list", "--broker", f"127.0.0.1:{closed_port}", "--timeout", "0.3")
    assert (code, out) == (3, "")
    assert re.fullmatch(rf"error: the broker 127\.0\.0\.1:{closed_port} cannot be reached \([^\n]*\); is it running, and is --broker right\?\n", err)


def test_methods_and_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for noun, one in (("methods", "fedavg"), ("models", "lenet5")):
        code, out, _ = run(capsys, noun)
        assert code == 0
        assert one in out
        _, out, _ = run(capsys, noun, "--json")
        assert one in [entry["name"] for entry in data_of(out)[noun]]


def test_a_method_shows_its_keys_with_ranges(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "methods", "show", "fedavg", "--json")
    keys = {key["key"]: key for key in data_of(out)["keys"]}
    assert code == 0
    assert keys["local_steps"]["type"] == "an integer ≥ 1"
    assert "FedSGD" in keys["local_steps"]["about"]


def test_a_model_shows_what_its_blocks_cost(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "models", "show", "mlp", "--input", "64", "--classes", "10", "--set", "hidden=[32]", "--json")
    data = data_of(out)
    assert data["parameters"] == 64 * 32 + 32 + 32 * 10 + 10
    assert [block["activation_bytes"] for block in data["blocks"]] == [32 * 4, 10 * 4]
    code, out, _ = run(capsys, "models", "show", "mlp", "--input", "1x28x28")
    assert code == 0
    assert "fc1" in out
    assert "total" in out


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ("{select: {names: [agent-1, pi-9]}}", "nodes.select.names: the demo has no pi-9; it has cloud-1 (cloud, cloud), agent-1 (edge, home)"),
        ("{select: {tier: [thing, fog]}}", "nodes.select: the demo has no such node; it has cloud-1"),
        ("{select: {site: [hall-2]}}", "nodes.select: the demo has no such node"),
        ("{select: {tier: [edge]}, count: 5}", "nodes.count: 5 nodes wanted, the demo has 2 that fit; say --agents 5"),
    ],
)
def test_a_demo_whose_nodes_can_never_be_there_is_refused_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path, nodes: str, said: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"name: a\nmethod: {{name: fedavg}}\nmodel: {{name: mlp}}\nnodes: {nodes}\n")
    code, out, err = run(capsys, "demo", "--job", str(path), "--agents", "2")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_is_shown_with_no_more_than_its_name(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = run(capsys, "models", "show", name, "--json")
    data = data_of(out)
    assert code == 0
    assert data["parameters"] == sum(block["parameters"] for block in data["blocks"]) > 0
    assert data["blocks"][-1]["output_shape"] == [10]
    assert tuple(data["input_shape"]) == MODELS[name].example


def test_vgg16_is_shown_for_the_images_it_was_made_for(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "models", "show", "vgg16", "--json")
    assert data_of(out)["input_shape"] == [3, 32, 32]
    code, _, err = run(capsys, "models", "show", "vgg16", "--input", "1x28x28")
    assert code == 2
    assert "vgg16" in err


def test_help_knows_the_exit_codes_and_every_command_has_json() -> None:
    runner = CliRunner()
    top = runner.invoke(fogctl.app, ["--help"])
    assert top.exit_code == 0
    assert "Exit codes" in top.output
    for arguments in (
        ["submit"],
        ["job", "list"],
        ["node", "drain"],
        ["models", "show"],
        ["methods", "list"],
        ["doctor"],
        ["broker", "init"],
        ["validate"],
    ):
        text = runner.invoke(fogctl.app, [*arguments, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).output
        assert "--json" in text, arguments


def test_no_word_of_the_help_is_taken_for_markup() -> None:
    from rich.text import Text

    def texts(command: Any) -> Iterator[str]:
        yield command.help or ""
        yield from (getattr(parameter, "help", None) or "" for parameter in command.params)
        for child in getattr(command, "commands", {}).values():
            yield from texts(child)

    found = list(texts(typer.main.get_command(fogctl.app)))
    assert len(found) > 100
    assert [text for text in found if Text.from_markup(text).plain != text] == []


def test_the_process_exits_with_the_code_and_imports_nothing_heavy(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB + "sead: 3\n")
    program = "import sys; from fogctl.app import run; code = run(sys.argv[1:]); print([m for m in ('torch', 'numpy', 'paho', 'sklearn') if m in sys.modules], file=sys.stderr); sys.exit(code)"
    ended = subprocess.run([sys.executable, "-c", program, "validate", str(path), "--json"], capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 2
    assert error_of(ended.stdout)["message"].startswith(f"{path}:4: sead: unknown key, did you mean 'seed'?")
    assert ended.stderr == "[]\n"
    ended = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "[]\n")


# -- settings ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("h", "h", 1883),
        ("h:1", "h", 1),
        ("10.0.0.5:1884", "10.0.0.5", 1884),
        ("[::1]:1884", "::1", 1884),
        ("[::1]", "::1", 1883),
        ("::1", "::1", 1883),
    ],
)
def test_broker_addresses(text: str, host: str, port: int) -> None:
    assert address(text) == (host, port)


def test_options_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    (tmp_path / "fogctl.yaml").write_text("fleet: lab\nuser: ada\nbroker: {host: b.local, port: 1884, username: ada, password_file: secret}\n")
    found = settings(str(tmp_path / "fogctl.yaml"))
    assert (found.fleet, found.user, found.broker.host, found.broker.port, found.broker.password) == ("lab", "ada", "b.local", 1884, "s3cret")
    found = settings(str(tmp_path / "fogctl.yaml"), broker="10.0.0.1", fleet="main")
    assert (found.fleet, found.broker.host, found.broker.port, found.broker.username) == ("main", "10.0.0.1", 1883, "ada")


def test_the_users_own_file_is_found_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], closed_port: int
) -> None:
    folder = tmp_path / "config" / "foglearn"
    folder.mkdir(parents=True)
    (folder / "fogctl.yaml").write_text("fleet: lab\nbroker: {host: nowhere.invalid}\n")
    assert settings().broker.host == "nowhere.invalid"
    monkeypatch.setenv("FOGLEARN_BROKER", f"127.0.0.1:{closed_port}")
    assert f"127.0.0.1:{closed_port}" in run(capsys, "job", "list", "--timeout", "0.2")[2]


def test_a_password_of_another_user_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "fogctl.yaml").write_text("user: ada\nbroker: {username: ada, password: hers}\n")
    found = settings(str(tmp_path / "fogctl.yaml"), user="bob")
    assert (found.user, found.broker.username, found.broker.password) == ("bob", "bob", "")


# -- the connection, against a coordinator in this process ----------------------------------


class Desk:
    """A bus with a coordinator behind it that answers as it is told: verb -> replies, one after the other."""

    def __init__(self, **replies: list[Reply | None]) -> None:
        self.replies = replies
        self.asked: list[Request] = []
        self.first: list[BusEvent] = [Connected()]
        self.closed = False

    def __call__(self, settings: Settings, client_id: str, on_event: OnEvent) -> Desk:
        self.on_event = on_event
        return self

    def start(self) -> None:
        for event in self.first:
            self.on_event(event)

    def subscribe(self, *filters: str, qos: int = 0) -> None: ...

    def unsubscribe(self, *filters: str) -> None: ...

    def publish(self, topic: str, payload: bytes | bytearray | memoryview, qos: int = 0, retain: bool = False) -> None:
        route, request = topics.parse(topic), messages.decode(payload)
        assert isinstance(request, Request)
        self.asked.append(request)
        waiting = self.replies[request.verb.replace(".", "_")]
        if (reply := waiting.pop(0)) is not None:
            kind = f"reply~{route.kind.partition('~')[2]}"
            answer = messages.encode(Reply(request.id, reply.body, reply.exit_code, reply.error))
            inbox = topics.from_coordinator("main", "cloud", route.sender, kind)
            self.on_event(Received(inbox.replace("/coordinator/", "/mallory/"), messages.encode(Reply(request.id, {"forged": True}))))
            self.on_event(Received(inbox, b"\xff\xff"))
            self.on_event(Received(inbox, messages.encode(Reply("another", {"forged": True}))))
            self.on_event(Received(inbox, answer))

    def close(self, farewell: object = None) -> None:
        self.closed = True


def test_an_answer_is_the_coordinators_own_and_to_this_question() -> None:
    desk = Desk(ping=[Reply("", {"nodes": 3})])
    with Client(Settings(), connect=desk) as client:
        assert client.request("ping") == {"nodes": 3}
    assert desk.closed


def test_an_unanswered_question_is_asked_again_under_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fogctl.client.RESEND_S", 0.01)
    desk = Desk(job_cancel=[None, None, Reply("", {"state": "cancelled"})])
    with Client(Settings(), connect=desk) as client:
        assert client.request("job.cancel", job="digits-1", lines=None) == {"state": "cancelled"}
    assert len(desk.asked) == 3
    assert len({request.id for request in desk.asked}) == 1
    assert desk.asked[0].arguments == {"job": "digits-1"}


@pytest.mark.parametrize(("code", "kind"), [(1, JobFailed), (2, ConfigError), (4, Refused), (5, TimedOut)])
def test_the_coordinators_refusal_keeps_its_exit_code(code: int, kind: type[Exception]) -> None:
    with Client(Settings(), connect=Desk(ping=[Reply("", {}, code, "because")])) as client, pytest.raises(kind, match="because"):
        client.request("ping")


def test_silence_is_unreachable_and_says_whose() -> None:
    silent = Client(Settings(), timeout_s=0.05, connect=Desk(ping=[None]))
    with silent, pytest.raises(Unreachable, match="the coordinator does not answer"):
        silent.request("ping")
    desk = Desk()
    desk.first = [Disconnected("cannot reach it: no route")]
    with pytest.raises(Unreachable, match=r"cannot be reached \(cannot reach it: no route\)"), Client(Settings(), timeout_s=0.05, connect=desk):
        pass
    assert desk.closed


def test_a_wrong_password_is_refused_not_unreachable() -> None:
    desk = Desk()
    desk.first = [Disconnected("b:1883 refuses 'x': Not authorized; check broker.username and broker.password")]
    with pytest.raises(Refused, match="refuses user"), Client(Settings(), connect=desk):
        pass


# -- progress ------------------------------------------------------------------------------


def status_of(state: str, rounds: int, **changes: Any) -> dict[str, Any]:
    history = [
        {"round": n, "wall_s": n * 1.5, "updates": 4, "examples": 400, "bytes": n * 2048, "accuracy": 0.9, "loss": 0.5} for n in range(1, rounds + 1)
    ]
    status = {
        "job": "digits-1",
        "name": "digits",
        "method": "fedavg",
        "state": state,
        "line": f"round {rounds}",
        "round": rounds,
        "rounds": 3,
        "nodes": 4,
    }
    status |= {"why": "", "started_at": 1.0, "ended_at": None, "submitted_at": 0.0, "now": 9.0, "wall_s": rounds * 1.5, "problems": [], "waits": []}
    status |= {"tasks": [], "history": history, "metrics": {"accuracy": 0.9, "loss": 0.5}, "energy_j": {"value": 12.0, "source": "modelled"}}
    status |= {"bytes": {"up": 1024, "down": 2048, "d2d": 0, "cast": 512, "ctl": 9, "total": 3584, "ideal": 3500}}
    return {**status, **changes}


class Coordinator:
    """Answers job.status with one status after the other, each with only the rounds asked for."""

    def __init__(self, *statuses: dict[str, Any] | Exception) -> None:
        self.statuses = list(statuses)

    def request(self, verb: str, **arguments: Any) -> dict[str, Any]:
        status = self.statuses.pop(0)
        if isinstance(status, Exception):
            raise status
        return {**status, "history": [entry for entry in status["history"] if entry["round"] > arguments["after"]]}


def watched(*statuses: dict[str, Any] | Exception, json: bool = False, **options: Any) -> dict[str, Any]:
    return follow(Coordinator(*statuses), "digits-1", Output(json=json), pause=lambda seconds: None, **options)


def wait_for(what: str, since_s: float, until_s: float | None = None) -> dict[str, Any]:
    return {"what": what, "who": ["pi-3"], "since": 1.0, "until": None if until_s is None else 9.0 + until_s, "since_s": since_s, "until_s": until_s}


def test_each_round_is_said_once_and_so_is_each_long_wait(capsys: pytest.CaptureFixture[str]) -> None:
    update = "3 of 4 updates, waiting for pi-3, closes in"
    end = watched(
        status_of("preparing", 0, waits=[wait_for("waiting for pi-3: its worker is not started yet", 0.0)]),
        status_of("preparing", 0, waits=[wait_for("waiting for pi-3: its worker is not started yet", 4.0)]),
        status_of("preparing", 0, waits=[wait_for("waiting for pi-3: its worker is not started yet", 5.0)]),
        status_of("running", 1, waits=[wait_for(update, 0.5, 20.0)]),
        status_of("running", 2, waits=[wait_for(update, 8.0, 12.0)]),
        status_of("running", 2, waits=[wait_for(update, 9.0, 11.0)]),
        status_of("finished", 3, line="finished after 3 of 3 rounds"),
    )
    assert [entry["round"] for entry in end["history"]] == [1, 2, 3]
    assert capsys.readouterr().out.splitlines() == [
        "workers start",
        "waiting for pi-3: its worker is not started yet for 4 s",
        "training begins",
        "round 1/3  accuracy 0.9000  loss 0.5000  4 updates  2.0 KiB  1.5 s",
        "round 2/3  accuracy 0.9000  loss 0.5000  4 updates  4.0 KiB  3.0 s",
        "3 of 4 updates, waiting for pi-3, closes in 12 s at the latest (for 8 s so far)",
        "round 3/3  accuracy 0.9000  loss 0.5000  4 updates  6.0 KiB  4.5 s",
        "finished after 3 of 3 rounds",
    ]


def test_many_waits_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    waits = [wait_for(f"waiting for pi-{n}", 9.0) for n in range(1, 6)]
    watched(status_of("waiting_nodes", 0, waits=waits), status_of("finished", 3, line="finished"))
    assert capsys.readouterr().out.splitlines()[1] == "waiting for pi-1 for 9 s; waiting for pi-2 for 9 s; waiting for pi-3 for 9 s; and 2 more"


def test_the_moving_view_shows_rounds_waits_and_problems() -> None:
    from rich.console import Console

    view = Watch(Output(json=True))
    status = status_of("running", 2, waits=[wait_for("1 of 4 updates, closes in", 8.0, 12.0)] * 9, problems=["pi-2: disk full [red]"])
    view.show(status)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(view.picture(status))
    text = console.export_text()
    for part in ("digits-1 fedavg", "round 2/3", "0.9000", "closes in 12 s at the latest", "and 3 more", "pi-2: disk full [red]"):
        assert part in text


def test_json_says_nothing_on_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    watched(status_of("running", 1), status_of("finished", 3), json=True)
    assert capsys.readouterr().out == ""


def test_a_restarting_coordinator_is_waited_for_but_not_for_ever() -> None:
    assert watched(status_of("running", 1), Unreachable("gone"), Unreachable("gone"), status_of("finished", 3))["round"] == 3
    times = iter(range(0, 1000, 40))
    with pytest.raises(Unreachable):
        watched(*[Unreachable("gone")] * 5, clock=lambda: float(next(times)))


def test_waiting_has_an_end_if_one_was_asked_for() -> None:
    times = iter(range(0, 1000, 4))
    with pytest.raises(TimedOut, match="digits-1 is still running after 10 s"):
        watched(*[status_of("running", 1)] * 9, at_most_s=10.0, clock=lambda: float(next(times)))


def test_how_a_job_ended_is_the_exit_code() -> None:
    assert checked_end(status_of("finished", 3))["round"] == 3
    with pytest.raises(JobFailed, match="digits-1 failed in round 2 of 3: disk full"):
        checked_end(status_of("failed", 2, why="disk full"))
    with pytest.raises(JobFailed, match="digits-1 was cancelled in round 2 of 3"):
        checked_end(status_of("cancelled", 2))
    problems = ["pi-1: no data set mnist", "pi-2: lenet5 does not fit", "pi-3: no data set mnist"]
    with pytest.raises(ConfigError, match=r"^digits-1: pi-1, pi-3: no data set mnist; pi-2: lenet5 does not fit$"):
        checked_end(status_of("failed", 0, started_at=None, problems=problems, refused=True))
    crashed = ["pi-1: its worker ended 5 times: exit code 1: no space left"]
    with pytest.raises(JobFailed, match=r"^digits-1 failed before its first round: pi-1: its worker ended 5 times"):
        checked_end(status_of("failed", 0, started_at=None, problems=crashed, why=crashed[0]))


def test_a_status_says_what_is_waited_for_and_labels_its_figures() -> None:
    lines = list(details(status_of("running", 2, waits=[wait_for("3 of 4 updates, waiting for pi-3, closes in", 8.0, 12.0)])))
    assert lines[1] == "  3 of 4 updates, waiting for pi-3, closes in 12 s at the latest (for 8 s so far)"
    assert any(line.endswith("12.0 J (modelled)") for line in lines)
    unknown = summary_lines(status_of("finished", 3, energy_j={"value": None, "source": ""}, metrics={}))
    assert "energy        unknown" in unknown
    assert not any("accuracy" in line for line in unknown)


# -- output --------------------------------------------------------------------------------


def test_figures_for_people() -> None:
    assert [size(n) for n in (None, 0, 1023, 1536, 5 * 2**20, 2**41)] == ["-", "0 B", "1023 B", "1.5 KiB", "5.0 MiB", "2.0 TiB"]
    assert [duration(s) for s in (None, 0.25, 59.9, 75, 3700)] == ["-", "0.2 s", "59.9 s", "1 min 15 s", "1 h 1 min"]


def test_json_holds_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=True).result({"loss": float("nan"), "deep": [float("inf"), (1, 2)]})
    assert data_of(capsys.readouterr().out) == {"loss": None, "deep": [None, [1, 2]]}


def test_a_fault_of_ours_is_one_line_too_unless_debug(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @command(app, "break", connects=False)
    def break_(session: Session) -> None:
        raise KeyError("nobody thought of this")

    runner = CliRunner()
    result = runner.invoke(app, ["--json"])
    assert result.exit_code == 1
    assert "a fault of fogctl in test_cli.py:" in error_of(result.stdout)["message"]
    assert isinstance(runner.invoke(app, ["--debug"]).exception, KeyError)

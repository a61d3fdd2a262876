"""fogctl as its users meet it: output, envelope, exit codes. What needs a coordinator is in tests/broker and tests/e2e."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fog_learning.models import MODELS
from fogctl import app as fogctl
from fogctl.session import Session, command
from fogctl.show.output import Output, duration, size
from support.cli import JOB, data_of, error_of, run

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
        (["job", "list", "--broker", "host:port"], "--broker 'host:port' is not an address"),
        (["job", "list", "--fleet", "My Fleet"], "--fleet 'My Fleet' is not allowed"),
        (["job", "list", "--config", "/nowhere/fogctl.yaml"], "/nowhere/fogctl.yaml: cannot read: No such file"),
        (["job", "list", "--password-file", "/nowhere/secret"], "password file /nowhere/secret: cannot read"),
        (["models", "show", "mpl"], "model.name"),
        (["models", "show", "mlp", "--input", "28by28"], "--input '28by28' is not a shape"),
        (["models", "show", "lenet5", "--input", "1x2x2"], "model lenet5, block c"),
        (["models", "show", "mlp", "--set", "hidden=[0]"], "model.hidden"),
        (["methods", "show", "fedavgg"], "'fedavgg': unknown method, did you mean 'fedavg'?"),
        (["broker", "init", "--listen", "1.2.3", "--out", "/nowhere/x"], "'1.2.3' is not an address to listen on"),
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

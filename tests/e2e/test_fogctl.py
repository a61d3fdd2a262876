"""fogctl against a whole fleet of processes: every command, its envelope and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blake3
import pytest

from fogctl import app as fogctl
from fogctl.fleet.local_fleet import LocalFleet

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    """Two agents and a cloud agent, with ops that need no torch."""
    with LocalFleet(tmp_path_factory.mktemp("fleet"), 2, backend="standin") as fleet, fleet.client() as client:
        fleet.wait_for_nodes(client, 3)
        yield fleet


@pytest.fixture
def run(fleet: LocalFleet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A command with --json: (exit code, data or error)."""
    assert fleet.broker is not None
    monkeypatch.setenv("FOGLEARN_BROKER", f"{fleet.broker.host}:{fleet.broker.port}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = fogctl.run([*arguments, "--json"])
        envelope = json.loads(capsys.readouterr().out)
        assert envelope["status"] == ("ok" if code == 0 else "error")
        return code, envelope["data" if code == 0 else "error"]

    return run


def job_file(folder: Path, name: str, rounds: int = 3) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\nmethod: {{name: fedavg, local_steps: 2}}\nmodel: {{name: mlp, hidden: [8]}}\ntrain: {{rounds: {rounds}}}\n")
    return str(path)


def test_a_job_from_its_file_to_its_result(run: Run, tmp_path: Path) -> None:
    file = job_file(tmp_path, "first")
    code, end = run("submit", file, "--wait", "--token", "once", "--at-most", "60")
    assert code == 0
    assert (end["state"], [entry["round"] for entry in end["history"]]) == ("finished", [1, 2, 3])
    assert end["bytes"]["total"] >= end["bytes"]["ideal"] > 0
    assert run("submit", file, "--token", "once") == (0, {"job": "first", "state": "finished", "repeated": True})
    assert run("job", "watch", "first")[1]["history"] == end["history"]

    code, written = run("job", "result", "first", "--out", str(tmp_path / "out"))
    assert code == 0
    weights = Path(written["weights"]).read_bytes()
    assert blake3.blake3(weights).hexdigest() == written["digest"] == end["digest"]
    assert json.loads(Path(written["metrics"]).read_text())["status"]["state"] == "finished"
    again = run("job", "result", "first", "--out", str(tmp_path / "again"))[1]
    assert Path(again["weights"]).read_bytes() == weights

    code, refused = run("job", "cancel", "first")
    assert (code, refused["kind"]) == (4, "Refused")
    assert "first" in [job["job"] for job in run("job", "list")[1]["jobs"]]
    assert run("job", "list", "--active")[1]["jobs"] == []
    assert [event["text"] for event in run("job", "logs", "first")[1]["events"]][-1] == "finished"


def test_waiting_stops_when_told_and_the_job_goes_on(run: Run, tmp_path: Path) -> None:
    code, error = run("submit", job_file(tmp_path, "endless", rounds=100_000), "--wait", "--at-most", "0.5")
    assert (code, error["kind"]) == (5, "TimedOut")
    assert run("job", "status", "endless")[1]["state"] in ("preparing", "running")
    assert run("job", "cancel", "endless")[0] == 0
    code, error = run("job", "watch", "endless", "--at-most", "60")
    assert (code, error["kind"]) == (1, "JobFailed")
    assert "was cancelled" in error["message"]


def test_what_only_the_coordinator_knows_keeps_its_exit_code(run: Run) -> None:
    for arguments in (["job", "status", "nosuch"], ["job", "result", "nosuch"], ["node", "show", "nosuch"], ["node", "drain", "nosuch"]):
        code, error = run(*arguments)
        assert (code, error["kind"]) == (2, "ConfigError"), arguments
        assert "nosuch" in error["message"]


def test_nodes_are_shown_and_drained(run: Run) -> None:
    nodes = {node["node"]: node for node in run("node", "list")[1]["nodes"]}
    assert {name: node["state"] for name, node in nodes.items()} == {"agent-1": "online", "agent-2": "online", "cloud-1": "online"}
    assert run("node", "show", "agent-1")[1]["profile"]["tier"] == "edge"
    assert run("node", "drain", "agent-2")[0] == 0
    assert run("node", "show", "agent-2")[1]["draining"]
    assert run("node", "drain", "agent-2", "--undo")[0] == 0
    assert not run("node", "show", "agent-2")[1]["draining"]


def test_people_get_tables(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("submit", job_file(tmp_path, "shown"), "--wait")[0] == 0
    for arguments, part in (
        (["job", "list"], "nodes"),
        (["node", "list"], "cloud-1"),
        (["node", "show", "agent-1"], "agent-1: online"),
        (["doctor"], "3 of 3 nodes online"),
    ):
        code = fogctl.run(list(arguments))
        said = capsys.readouterr()
        assert (code, said.err) == (0, "")
        assert part in said.out


def test_a_plan_says_who_would_do_what_and_the_run_how_it_was(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = job_file(tmp_path, "planned", rounds=5)
    code, body = run("plan", file)
    assert code == 0
    assert body["choice"]["places"] == {"server": "cloud-1"} and body["choice"]["source"] == "modelled"
    assert body["runner_up"]["title"] != body["choice"]["title"]
    assert [task["node"] for task in body["tasks"] if task["role"] == "trainer"] == ["agent-1", "agent-2"]
    assert fogctl.run(["plan", file]) == 0
    text = capsys.readouterr().out
    assert "server on cloud-1" in text and "not measured yet, guessed by tier" in text
    code, end = run("submit", file, "--wait", "--at-most", "60")
    assert end["plan"]["measured"]["step_s"] > 0 and end["plan"]["error"] == pytest.approx(
        (end["plan"]["predicted"]["step_s"] - end["plan"]["measured"]["step_s"]) / end["plan"]["measured"]["step_s"]
    )
    assert fogctl.run(["job", "status", "planned"]) == 0
    assert "measured: prediction" in capsys.readouterr().out

"""What a newcomer types, as they type it: the demo, its end by Ctrl-C and by force, bad jobs, and a network with passwords."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fog_learning.ops.values import Weights, encode
from fogctl.fleet.broker import find_mosquitto
from fogctl.fleet.local_fleet import CLOUD_NODE, LocalFleet
from support.broker import needs
from support.commands import PATIENCE_S, Commands

ENDLESS = "name: endless\nmethod: {name: fedavg}\nmodel: {name: mlp, hidden: [8]}\ntrain: {rounds: 100000}\n"
SHORT = "name: short\nmethod: {name: fedavg, local_steps: 5}\nmodel: {name: mlp, hidden: [8]}\ntrain: {rounds: 3, lr: 0.1}\n"


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    with Commands(tmp_path) as running:
        yield running


def test_the_default_demo_says_all_that_its_users_parse(commands: Commands):
    code, data = commands.json("fogctl demo --seed 3")
    assert code == 0
    assert {"accuracy", "loss", "rounds", "nodes", "wall_s", "bytes", "energy_j", "broker", "history"} <= set(data)
    assert data["accuracy"] >= 0.93
    assert 0 < data["loss"] < 1
    assert (data["rounds"], data["nodes"]) == (30, 4)
    assert 0 < data["wall_s"] < data["total_s"]
    assert set(data["bytes"]) == {"up", "down", "cast", "d2d", "ideal"}
    assert all(isinstance(count, int) and count >= 0 for count in data["bytes"].values())
    assert sum(data["bytes"][plane] for plane in ("up", "down", "cast", "d2d")) >= data["bytes"]["ideal"] > 0
    assert set(data["energy_j"]) == {"value", "source"} and data["energy_j"]["source"] == "modelled" and data["energy_j"]["value"] > 0
    assert data["broker"].startswith("mosquitto on " if find_mosquitto() else "embedded on ")
    assert [record["round"] for record in data["history"]] == list(range(1, 31))
    assert all(set(record) == {"round", "accuracy", "loss", "wall_s", "bytes"} for record in data["history"])
    assert data["history"][-1]["accuracy"] == data["accuracy"]
    walls = [record["wall_s"] for record in data["history"]]
    assert walls == sorted(walls)
    assert commands.left_after() == []
    assert list((commands.home / "tmp").iterdir()) == [], "the demo's folder is still there"


def test_the_demo_on_the_embedded_broker_shows_its_rounds_and_a_table(commands: Commands):
    (commands.home / "short.yaml").write_text(SHORT)
    ended = commands.run("fogctl demo --broker embedded --agents 2 --job short.yaml")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.startswith("broker embedded on 127.0.0.1:")
    assert [f"round {number}/3" in ended.stdout for number in (1, 2, 3)] == [True, True, True]
    table = dict(line.split("  ", 1) for line in ended.stdout.splitlines() if "  " in line)
    assert {"accuracy on held-out data", "training loss", "rounds", "wall time", "bytes up", "bytes down", "energy", "broker"} <= set(table), (
        ended.stdout
    )
    assert "(modelled)" in table["energy"]
    assert commands.left_after() == []


@pytest.mark.slow
def test_the_default_demo_is_as_good_with_other_seeds(commands: Commands):
    reached = [commands.json(f"fogctl demo --seed {seed}")[1]["accuracy"] for seed in range(1, 6)]
    assert min(reached) >= 0.93 and sum(reached) / len(reached) >= 0.95, reached


@pytest.mark.slow
def test_sixteen_agents_start_and_finish(commands: Commands):
    code, data = commands.json("fogctl demo --agents 16")
    assert code == 0
    assert (data["rounds"], data["nodes"]) == (30, 16)
    assert data["accuracy"] >= 0.9
    assert commands.left_after() == []


def begun(commands: Commands) -> subprocess.Popen[str]:
    """A demo that never ends by itself, in its second round, with all of its processes."""
    (commands.home / "endless.yaml").write_text(ENDLESS)
    demo = commands.start("fogctl demo --agents 2 --job endless.yaml", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert demo.stdout is not None and demo.stderr is not None
    guard = threading.Timer(PATIENCE_S, demo.kill)
    guard.start()
    if not any(line.startswith("round 2/") for line in demo.stdout):
        raise AssertionError(f"no second round: {demo.stderr.read()}")
    guard.cancel()
    # the demo, broker, coordinator, spawner, three agents, three workers
    assert len(commands.alive()) >= 10, [process.cmdline() for process in commands.alive()]
    return demo


def test_ctrl_c_ends_the_demo_and_all_that_it_started(commands: Commands):
    demo = begun(commands)
    os.killpg(demo.pid, signal.SIGINT)  # a terminal tells the whole group
    _, said = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert said.splitlines()[-1].startswith("error: interrupted")
    assert "Traceback" not in said
    assert commands.left_after(0.5) == []  # gone when it says that it has ended, not some time after
    assert list((commands.home / "tmp").iterdir()) == []


def test_a_demo_that_is_killed_leaves_nothing_running(commands: Commands):
    demo = begun(commands)
    demo.kill()
    demo.communicate(timeout=30)
    assert commands.left_after() == []


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """fogctl beside a fleet with torch whose data set `gears` (labels 0 to 4) agent-2 lacks; agent-1 and the cloud have it."""
    folder = tmp_path_factory.mktemp("uneven")
    dice = np.random.default_rng(1)
    np.savez(
        folder / "gears.npz",
        **{
            f"{kind}_{part}": value
            for part in ("train", "test")
            for kind, value in (("x", dice.random((50, 6), np.float32)), ("y", np.arange(50) % 5))
        },
    )

    first = {"fc1.linear.bias": torch.full((4,), 5.0), "head.linear.bias": torch.tensor([0.0, 0.0, 0.0, 0.0, 100.0])}
    (folder / "worn.safetensors").write_bytes(encode(Weights(first)))

    class Uneven(LocalFleet):
        def start_agent(self, node: str) -> None:
            files = {"datasets": {"gears": str(folder / "gears.npz")}, "weights": {"worn": str(folder / "worn.safetensors")}}
            self._options = {} if node == "agent-2" else files
            super().start_agent(node)

    with Uneven(folder / "fleet", 2) as fleet, fleet.client() as client:
        fleet.wait_for_nodes(client, 3)
        assert fleet.broker is not None
        with Commands(folder, {"FOGLEARN_BROKER": f"{fleet.broker.host}:{fleet.broker.port}"}) as commands:
            yield commands


def refused(commands: Commands, **job: Any) -> dict[str, Any]:
    """The error of a job that the nodes refuse before its first step; nothing of it goes on."""
    name = job["name"]
    (commands.home / f"{name}.yaml").write_text(json.dumps({"method": {"name": "fedavg"}, "train": {"rounds": 5}, **job}))
    code, error = commands.json(f"fogctl submit {name}.yaml --wait --at-most 60")
    assert (code, error["exit_code"]) == (2, 2), error
    assert "\n" not in error["message"]
    if name in [job["job"] for job in commands.json("fogctl job list")[1]["jobs"]]:
        status = commands.json(f"fogctl job status {name}")[1]
        assert (status["state"], status["round"], status["history"]) == ("failed", 0, [])
    return error


MLP = {"name": "mlp", "hidden": [4], "input_shape": [6]}


def test_a_data_set_missing_on_a_node_is_said_with_the_nodes_name(uneven: Commands):
    message = refused(uneven, name="lacking", data={"name": "gears"}, model={**MLP, "classes": 5})["message"]
    assert "agent-2" in message and "gears" in message
    assert "agent-1" not in message and CLOUD_NODE not in message


def test_a_job_begins_with_weights_that_every_node_has(uneven: Commands):
    model = {**MLP, "classes": 5, "weights": "worn"}
    message = refused(uneven, name="unworn", data={"name": "gears"}, model=model, nodes={"select": {"names": ["agent-1", "agent-2"]}})["message"]
    assert "agent-2: model.weights worn not found" in message and "agent-1:" not in message
    job = {
        "name": "worn",
        "method": {"name": "fedavg", "local_steps": 1},
        "train": {"rounds": 1, "lr": 1e-6},
        "data": {"name": "gears"},
        "model": model,
    }
    (uneven.home / "worn.yaml").write_text(json.dumps({**job, "nodes": {"select": {"names": ["agent-1"]}}}))
    code, found = uneven.json("fogctl submit worn.yaml --wait --at-most 60")
    assert code == 0 and found["metrics"]["accuracy"] == pytest.approx(0.2), found  # its bias says class 4 always, one in five
    assert found["metrics"]["loss"] > 50, "not those weights"


def test_a_model_that_does_not_fit_the_classes_is_refused(uneven: Commands):
    nodes = {"select": {"names": ["agent-1"]}}
    message = refused(uneven, name="narrow", data={"name": "gears"}, model={**MLP, "classes": 3}, nodes=nodes)["message"]
    assert "labels up to 4" in message and "3 outputs" in message
    message = refused(uneven, name="digits-narrow", data={"name": "digits"}, model={"name": "mlp", "classes": 7})["message"]
    assert "7" in message


def test_a_network_with_passwords_runs_by_the_lines_that_broker_init_prints(commands: Commands):
    needs("mosquitto", find_mosquitto())
    home = commands.home
    for place in (home, *home.parents):  # pytest closes its folders, and a broker started by root runs as mosquitto's own user
        if os.geteuid() == 0 and not place.stat().st_mode & stat.S_IXOTH:
            place.chmod(place.stat().st_mode | stat.S_IXGRP | stat.S_IXOTH)
    program(commands, "scp", 'mkdir -p "$HOME/${2%:}" && exec cp "$1" "$HOME/${2%:}"')  # a folder in the place of another machine
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ended = commands.run(f"fogctl broker init --listen 127.0.0.1:{port} --out broker --node pi-1 --node pi-2")
    assert ended.returncode == 0, ended.stderr
    log, machine, typed = open(home / "log", "w"), home, []  # noqa: SIM115 - the children keep it
    for line in ended.stdout.splitlines():
        if line.startswith("# on "):
            name = line.removeprefix("# on ").partition(":")[0]
            machine = home if name.startswith("this machine") else home / name
        elif line.startswith("# who"):
            machine = home
        elif line and not line.startswith("#"):
            typed.append(line.split()[0].rpartition("/")[2])
            if " run --config " in line or line.endswith("mosquitto.conf"):
                commands.start(line, machine, stdout=log, stderr=log)  # a terminal of its own
                if line.endswith("mosquitto.conf"):
                    wait_for_port(port)
            elif line != "fogctl doctor":  # it has nobody to ask yet; below
                done = commands.run(line)
                assert done.returncode == 0, (line, done.stderr)
    assert typed == ["mosquitto", "fog-coordinator", "fog-agent", "mkdir", "fogctl", "scp", "fog-agent", "scp", "fog-agent"]
    shutil.copy(Path(__file__).parents[2] / "examples" / "digits.yaml", home)
    short = (home / "digits.yaml").read_text().replace("rounds: 30", "rounds: 4")
    (home / "digits.yaml").write_text(short + 'nodes: {select: {names: ["pi-1", "pi-2"]}}\n')
    code, end = commands.json("fogctl submit digits.yaml --wait --at-most 80")
    assert code == 0, (end, (home / "log").read_text())
    assert [record["updates"] for record in end["history"]] == [2, 2, 2, 2]
    code, doctor = commands.json("fogctl doctor")
    assert code == 0, doctor
    assert commands.json("fogctl job result digits --out result")[0] == 0
    assert (home / "result" / "digits.safetensors").exists()
    (home / "nobody.yaml").write_text(f"broker: {{host: 127.0.0.1, port: {port}}}\n")
    assert commands.json("fogctl node list --config nobody.yaml")[0] == 4  # no password, no entry


def program(commands: Commands, name: str, script: str) -> None:
    """A program of ours, first in PATH."""
    folder = commands.home / "bin"
    folder.mkdir()
    (folder / name).write_text(f"#!/bin/bash -e\n{script}\n")
    (folder / name).chmod(0o755)
    commands.environment["PATH"] = f"{folder}{os.pathsep}{commands.environment['PATH']}"


def wait_for_port(port: int) -> None:
    """Until somebody listens there: the coordinator would wait too, but no longer than a second is lost here."""
    for _ in range(1000):
        with socket.socket() as probe:
            probe.settimeout(0.01)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise AssertionError(f"nothing listens on port {port}")

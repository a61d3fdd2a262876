"""`fogctl top` and `fogctl job plot`: what they show of what the coordinator says."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from msgspec.structs import replace

from fog_common.errors import ConfigError, Refused
from fog_common.wire.api.jobs import RoundShown
from fog_common.wire.api.verbs import Body, Question, ReadJob, ReadTop
from fogctl.show.plot import checked, columns, draw, spread
from fogctl.show.watch import whole_status
from fogctl.verbs.top import as_json, lines, picture, sparkline, with_rates
from support.few import few
from support.reports import MeasuringNode
from support.stand_ins import World
from support.statuses import status_of


def world() -> World:
    world = World(MeasuringNode("cloud-1", "cloud", "cloud"), MeasuringNode("pi-1"), MeasuringNode("pi-2"))
    world.run(1.0)
    world.submit(budgets={"time_s": 20})
    world.run(2.0)
    for _ in range(3):
        world.train()
        world.run(1.0)
    return world


def test_the_screen_shows_nodes_jobs_and_bytes_per_second():
    fleet = world()
    before = fleet.look(ReadTop())
    fleet.run(2.0)
    body = with_rates(fleet.look(ReadTop()), before)
    text = lines(body)
    assert text[0].startswith("3 of 3 nodes online   1 jobs running   12.8 W   up 29.3 KiB/s   down 58.6 KiB/s   d2d 87.9 KiB/s   cast 117.2 KiB/s")
    (pi,) = [line for line in text if line.startswith("pi-1")]
    assert pi.split() == [
        "pi-1",
        "online",
        "home",
        "edge",
        "42",
        "%",
        "286.1",
        "MiB",
        "52",
        "°C",
        "81",
        "%",
        "4.2",
        "W",
        "4.2",
        "ms",
        "2.4",
        "MiB/s",
        "digits",
    ]
    (job,) = [line for line in text if line.startswith("digits")]
    assert (
        "running" in job and "4/6" in job and "0.0300" in job and "▁▄█" in job.replace("▅", "▄") and "% of time" in job and "waiting for pi-2" in job
    )


def test_the_first_look_knows_no_rates():
    screen = with_rates(world().look(ReadTop()), None)
    assert "up -" in lines(screen)[0]
    printed = as_json(screen)
    assert printed["jobs"][0]["rates"] == printed["rates"] == dict.fromkeys(("up", "down", "d2d", "cast"))
    assert printed["jobs"][0]["accuracy"][-1] == 0.03


def test_an_offline_node_keeps_its_row_and_loses_its_figures():
    fleet = world()
    fleet.kill("pi-2")
    fleet.run(2.0)
    (row,) = [line for line in lines(with_rates(fleet.look(ReadTop()), None)) if line.startswith("pi-2")]
    assert row.split()[:2] == ["pi-2", "offline"] and "%" not in row


def test_an_empty_fleet_is_shown_too():
    assert lines(with_rates(World().look(ReadTop()), None))[0].startswith("0 of 0 nodes online   0 jobs running   power unknown")


def test_the_moving_picture_can_be_drawn():
    from rich.console import Console

    console = Console(file=io.StringIO(), width=160)
    console.print(picture(with_rates(world().look(ReadTop()), None), "the coordinator does not answer; trying again"))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "pi-1" in shown and "digits" in shown and "trying again" in shown


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([None], ""),
        ([0.5], "▅"),
        ([0.0, 0.5, 1.0], "▁▅█"),
        ([1.0, None, 0.0], "█ ▁"),
        ([float(n) for n in range(100)], "▁▁▂▂▂▃▃▃▃▄▄▄▅▅▅▆▆▆▆▇▇▇██"),
    ],
)
def test_a_sparkline(values: list[float | None], line: str):
    assert sparkline(values) == line


# -- plot ----------------------------------------------------------------------------------


def test_figures_of_a_round_are_those_of_the_round_itself():
    rounds = [(100, 50.0, 0.1, 2.0), (250, 53.0, None, 1.0), (300, None, 0.5, 0.5), (350, 60.0, 0.6, 0.4)]
    history = tuple(
        RoundShown(round=n, wall_s=float(n), updates=1, examples=1, bytes=sent, joules=joules, numbers={"accuracy": accuracy, "loss": loss})
        for n, (sent, joules, accuracy, loss) in enumerate(rounds, start=1)
    )
    found = columns(status_of("running", 0, history=history))
    assert found["bytes"] == [100, 150, 50, 50]
    assert found["joules"] == [None, 3.0, None, 7.0]
    assert found["accuracy"] == [0.1, None, 0.5, 0.6]


def test_rounds_that_were_heard_of_together_share_what_they_used():
    assert spread([100.0, 100.0, 400.0, 400.0, 400.0, 450.0], 0.0) == [50.0, 50.0, 100.0, 100.0, 100.0, 50.0]
    assert spread([7.0, 7.0, 10.0, None, 12.0], None) == [None, None, 3.0, None, 2.0]


@pytest.mark.parametrize(("name", "begins"), few([("x.svg", b"<?xml"), ("x.png", b"\x89PNG"), ("x.pdf", b"%PDF")], 1))
def test_a_picture_is_written(tmp_path: Path, name: str, begins: bytes):
    pytest.importorskip("matplotlib")
    draw(world().look(ReadJob("digits")), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_a_job_without_rounds_has_no_picture(tmp_path: Path):
    with pytest.raises(Refused, match="no round yet"):
        draw(status_of("queued", 0), tmp_path / "x.png")


@pytest.mark.parametrize(("out", "what"), [("x.bmp", "a picture ends in"), ("nowhere/x.png", "does not exist")])
def test_a_picture_that_cannot_be_written_is_refused_first(tmp_path: Path, out: str, what: str):
    with pytest.raises(ConfigError, match=what):
        checked(tmp_path / out)


def test_the_whole_history_is_asked_for():
    whole = status_of("running", 0, history=tuple(replace(status_of("running", 1).history[0], round=number) for number in range(1, 11)))

    class Answers:
        def ask(self, question: Question[Body]) -> Body:
            assert isinstance(question, ReadJob)
            return replace(whole, history=whole.history[question.after : question.after + 4])

    assert [entry.round for entry in whole_status(Answers(), "digits").history] == list(range(1, 11))

"""The progress of a job as fogctl shows it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from msgspec.structs import replace

from fog_common.errors import ConfigError, JobFailed, TimedOut, Unreachable
from fog_common.wire.api.jobs import Energy, Figure, JobStatus, RoundShown
from fog_common.wire.api.plans import PlanReport, PlanShown, StepBytes
from fog_common.wire.api.verbs import Body, Question, ReadJob
from fogctl.show.output import Output
from fogctl.show.watch import Watch, checked_end, details, follow, summary_lines
from support.statuses import status_of, wait_for


class Coordinator:
    """Answers job.status with one status after the other, each with only the rounds asked for."""

    def __init__(self, *statuses: JobStatus | Exception) -> None:
        self.statuses = list(statuses)

    def ask(self, question: Question[Body]) -> Body:
        assert isinstance(question, ReadJob)
        status = self.statuses.pop(0)
        if isinstance(status, Exception):
            raise status
        return replace(status, history=tuple(entry for entry in status.history if entry.round > question.after))


def watched(*statuses: JobStatus | Exception, json: bool = False, **options: Any) -> JobStatus:
    return follow(Coordinator(*statuses), "digits-1", Output(json=json), pause=lambda seconds: None, **options)


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
    assert [entry.round for entry in end.history] == [1, 2, 3]
    assert capsys.readouterr().out.splitlines() == [
        "workers start",
        "waiting for pi-3: its worker is not started yet for 4 s",
        "training begins",
        "round 1/3  accuracy 0.9000  training loss 0.5000  4 updates  2.0 KiB  1.5 s",
        "round 2/3  accuracy 0.9000  training loss 0.5000  4 updates  4.0 KiB  3.0 s",
        "3 of 4 updates, waiting for pi-3, closes in 12 s at the latest (for 8 s so far)",
        "round 3/3  accuracy 0.9000  training loss 0.5000  4 updates  6.0 KiB  4.5 s",
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
    assert watched(status_of("running", 1), Unreachable("gone"), Unreachable("gone"), status_of("finished", 3)).round == 3
    times = iter(range(0, 1000, 40))
    with pytest.raises(Unreachable):
        watched(*[Unreachable("gone")] * 5, clock=lambda: float(next(times)))


def test_waiting_has_an_end_if_one_was_asked_for() -> None:
    times = iter(range(0, 1000, 4))
    with pytest.raises(TimedOut, match="digits-1 is still running after 10 s"):
        watched(*[status_of("running", 1)] * 9, at_most_s=10.0, clock=lambda: float(next(times)))


def test_how_a_job_ended_is_the_exit_code() -> None:
    assert checked_end(status_of("finished", 3)).round == 3
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
    unknown = summary_lines(status_of("finished", 3, energy_j=Energy(), metrics={}))
    assert "energy        unknown" in unknown
    assert not any("accuracy" in line for line in unknown)


def test_the_closing_table_names_its_numbers_and_keeps_predictions_for_who_asks() -> None:
    predicted = PlanShown(
        title="cut after c1",
        settings={},
        places={},
        step_s=0.012,
        step_bytes=1.0,
        step_joules=1.0,
        round_steps=1.0,
        total_s=1.0,
        value=1.0,
        parts=(),
        guessed=(),
        assumed=(),
    )
    plan = PlanReport(predicted=predicted, runner_up=None, measured=None, error=None)
    status = status_of("finished", 3, plan=plan, step_bytes=StepBytes(steps=3, formula=1000.0, paper=500.0))
    short, whole = "\n".join(summary_lines(status, details=False)), "\n".join(summary_lines(status))
    assert "accuracy on held-out data" in short and "training loss" in short
    assert "predicted" not in short and "formula" not in short and "paper" not in short and "tensors alone" not in short
    assert "12.0 ms predicted" in whole and "the paper counts 500 B" in whole and "tensors alone" in whole


def test_a_headline_number_that_is_no_accuracy_is_shown_with_its_unit() -> None:
    figures = (Figure(name="delay_s", title="delay of an answer", unit="s", better="less"),)
    history = (RoundShown(round=1, wall_s=1.5, updates=4, examples=4, bytes=2048, numbers={"delay_s": 75.0, "other": 1.0}),)
    status = status_of("running", 1, headline=figures, metrics={"delay_s": 75.0}, history=history)
    assert any(line.split() == ["delay", "of", "an", "answer", "1", "min", "15", "s"] for line in summary_lines(status))

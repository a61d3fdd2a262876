"""The campaign's figures: a line per schedule, a table per kind."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from msgspec import Struct

from bench.chaos.watch import Figures
from fog_sim.faults import Schedule


class Outcome(Struct, frozen=True):
    """One schedule on the live fleet."""

    name: str
    seed: int
    schedule: Schedule
    state: str
    line: str
    whole: bool
    """Every round held every update; then the weights are those of the undisturbed run."""
    took_s: float
    figures: Figures | None
    violations: tuple[str, ...]


def line(outcome: Outcome, at_s: float) -> str:
    measured = outcome.figures
    figures = f"recovered in {measured.recover_s:.1f} s, {measured.again} rounds closed again" if measured else "not measured"
    text = f"[{at_s:5.0f} s] {outcome.name} #{outcome.seed}: {outcome.state} in {outcome.took_s:.1f} s; {figures}{'' if outcome.whole else '; some rounds without all'}"
    for violation in outcome.violations:
        text += (
            f"\n    VIOLATION {violation}\n    {[f'{fault.at:g} {fault.kind} {fault.node} {fault.seconds:g}' for fault in outcome.schedule.faults]}"
        )
    return text


def table(outcomes: Sequence[Outcome], real_s: float, small_disks: bool) -> str:
    """Markdown, for docs/reliability.md."""
    names = list(dict.fromkeys(outcome.name for outcome in outcomes))
    lines = [
        "",
        "| fault | away, s | schedules | median to recover, s | worst, s | rounds closed again | all updates in every round |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        some = [outcome for outcome in outcomes if outcome.name == name]
        measured = sorted(outcome.figures.recover_s for outcome in some if outcome.figures is not None)
        again = sum(outcome.figures.again for outcome in some if outcome.figures is not None)
        away = {fault.seconds for outcome in some for fault in outcome.schedule.faults[:1]}
        shown = f"{away.pop():g}" if len(away) == 1 else "0.5–8" if away else ""
        median, worst = (f"{statistics.median(measured):.1f}", f"{measured[-1]:.1f}") if measured else ("", "")
        lines.append(f"| {name} | {shown} | {len(some)} | {median} | {worst} | {again} | {sum(outcome.whole for outcome in some)} of {len(some)} |")
    bad = [outcome for outcome in outcomes if outcome.violations]
    usual = sorted(outcome.figures.round_s for outcome in outcomes if outcome.figures is not None)
    hung = sum(outcome.state != "finished" for outcome in outcomes)
    lines += [
        "",
        f"{len(outcomes)} schedules in {real_s / 60:.1f} minutes: {hung} jobs hung or failed, {len(bad)} schedules with violations; "
        f"an undisturbed round took {usual[len(usual) // 2] if usual else 0:.2f} s; "
        f"full disks were {'small tmpfs mounts' if small_disks else 'folders that refuse writes'}.",
    ]
    return "\n".join(lines) + "\n"


def memory(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Resident MB of each process that lived through it all, or of the one that took its place."""
    grown = ", ".join(f"{name} {before[name]:.0f} → {after[name]:.0f}" for name in after if name in before)
    return f"Resident memory before the first and after the last schedule, MB: {grown}.\n"

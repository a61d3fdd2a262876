"""Stop of a running job that has used up a budget. Pure."""

from __future__ import annotations

from fog_common.wire.api.states import RUNNING
from fog_coordinator.accounts import budgets
from fog_coordinator.lifecycle.docket import Docket
from fog_coordinator.state.book import Entry


def spend(now: float, entry: Entry, docket: Docket) -> None:
    """Warn when WARN_AT of a budget is used; when all of it is, ask the root for its present model."""
    job = entry.job
    if job.state != RUNNING or job.stop:
        return
    for use in budgets.nearly_spent(job, entry.file.budgets, entry.tally, now):
        if use.ratio >= 1.0:
            job.stop = f"stopped, it used {use.text}"
            docket.raise_view(now, job, f"view {job.view + 1}: {job.stop}; {job.root} hands in the model that it has")
            return
        if use.name not in job.warned:
            job.warned.append(use.name)
            docket.log(now, job, f"warning: it used {use.text}; at 100 % it stops")
            docket.write(job)

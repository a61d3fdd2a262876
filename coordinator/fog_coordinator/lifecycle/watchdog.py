"""Which jobs must be looked at again because time passes: a node is gone or goes, and something is to move. Pure."""

from __future__ import annotations

from fog_coordinator.placement.eligible import is_there
from fog_coordinator.state.jobs import Job
from fog_coordinator.state.nodes import Registry


def overdue(job: Job, registry: Registry) -> bool:
    """A node is gone, or goes, whose task or copy is to move, or without which the round goes on."""
    if any(seat.gone_since is not None or seat.leaves_in is not None for seat in job.seats):
        return True
    if any(
        (seat.movable or seat.heir) and (seat.away_since is not None or seat.successor or (seat.fetch and not seat.fetched)) for seat in job.seats
    ):
        return True
    return any(not is_there(registry.get(name)) for name in (*job.buddies.values(), *(seat.node for seat in job.seats if seat.movable)))

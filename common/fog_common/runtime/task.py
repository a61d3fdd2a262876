"""One task in a host: its machine and what surrounds it."""

from __future__ import annotations

import math
from collections import deque

from fog_common.runtime.closed import ClosedRounds
from fog_common.runtime.effects import Compute
from fog_common.runtime.machine import Cast, Finish, Machine, Peer, Send


class Task:
    def __init__(self, peer: Peer, machine: Machine, zero: float, epoch: int, closed: ClosedRounds) -> None:
        self.peer = peer
        self.machine = machine
        self.zero = zero
        """Host time at which the task's job time was 0."""
        self.closed = closed
        """Of the root: rounds that the coordinator has not acknowledged."""
        self.epoch = epoch
        """Differs between all tasks that the host ever opened: what an earlier one asked for does not count for this one."""
        self.wake_at: float | None = None
        """Job time."""
        self.saving: deque[int] = deque()
        """Labels on their way to the disk."""
        self.held: list[tuple[int, Send | Cast | Finish]] = []
        """(number of the Save that it waits for, command)"""
        self.saves_begun = 0
        self.saves_done = 0
        self.saved = -1
        """Label of the newest Save that was begun."""
        self.result: Finish | None = None
        """Of the root: handed in once that Save is safe."""
        self.kept: list[Send] = []
        """The spool: what the root has not saved yet."""
        self.computing: dict[int, Compute] = {}
        """By serial: asked for, and not ended."""
        self.cancelled: set[int] = set()
        """Serials of those whose end is no event."""
        self.finished = False
        self.stopping = False
        self.why = ""
        self.rewound_view = 0

    def job_now(self, now: float) -> float:
        return max(0.0, now - self.zero)

    @property
    def wakes_at(self) -> float | None:
        """Host time at which `wake_at` has come for the machine too: rounding must not wake it a moment early, again and again."""
        if self.wake_at is None:
            return None
        at = self.zero + self.wake_at
        while self.job_now(at) < self.wake_at:
            at = math.nextafter(at, math.inf)
        return at

"""One task in a host: its machine, timers, Saves, spool and running ops."""

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
        """Root task only: rounds that the coordinator has not acknowledged."""
        self.epoch = epoch
        """Number of this task among all that the host opened; the end of an op of an earlier one is ignored."""
        self.wake_at: float | None = None
        """Job time of the next `Woke`, in seconds."""
        self.saving: deque[int] = deque()
        """Labels whose Saves are on their way to the disk."""
        self.held: list[tuple[int, Send | Cast | Finish]] = []
        """(number of the Save that the command waits for, command)"""
        self.saves_begun = 0
        self.saves_done = 0
        self.saved = -1
        """Label of the newest Save begun; -1 before the first."""
        self.result: Finish | None = None
        """Root task only: the Finish, handed in once its Save is safe."""
        self.kept: list[Send] = []
        """The spool: messages with `keep` whose label the root has not saved yet."""
        self.computing: dict[int, Compute] = {}
        """Ops begun and not ended, by serial."""
        self.cancelled: set[int] = set()
        """Serials of ops whose end is not delivered."""
        self.finished = False
        self.stopping = False
        self.why = ""
        self.rewound_view = 0

    def job_now(self, now: float) -> float:
        return max(0.0, now - self.zero)

    @property
    def wakes_at(self) -> float | None:
        """Host time of the next `Woke`, rounded up so that the machine never reads a job time just before `wake_at`."""
        if self.wake_at is None:
            return None
        at = self.zero + self.wake_at
        while self.job_now(at) < self.wake_at:
            at = math.nextafter(at, math.inf)
        return at

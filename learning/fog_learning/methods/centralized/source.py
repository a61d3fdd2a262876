"""A source of centralized training: a node with data (protocol and ops: fog_learning.methods.centralized.method)."""

from __future__ import annotations

from fog_common.runtime.machine import (
    Command,
    Delivered,
    Event,
    Failed,
    Machine,
    Ran,
    Rewound,
    Run,
    Send,
    Started,
    Waiting,
)
from fog_learning.methods.centralized.messages import AskSamples, NoSamples, Samples


class SampleSource(Machine):
    slot: int
    asked: str = ""
    """Task that waits for the samples; '' for none."""
    since: float = 0.0

    def step(self, event: Event, now: float) -> list[Command]:
        match event:
            case Started() | Rewound():
                self.since = now
            case Delivered(sender, AskSamples()) if not self.asked:
                self.asked = sender
                return [Run("samples", {}, ("samples",), {"slot": self.slot})]
            case Ran(("samples",), refs, numbers) if self.asked:
                sender, self.asked, self.since = self.asked, "", now
                return [Send(sender, Samples(self.slot, refs["samples"], int(numbers["examples"])))]
            case Failed(("samples",), why) if self.asked:
                sender, self.asked, self.since = self.asked, "", now
                return [Send(sender, NoSamples(self.slot, why))]
        return []

    def waiting(self, now: float) -> Waiting | None:
        return None if self.asked else Waiting("question", since=self.since)

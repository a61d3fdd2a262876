"""A member of a cluster passes calls on, gives its input up or sideways, and averages with its neighbours (fog_learning.clusters.messages)."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct, field

from fog_common.runtime.machine import Blob, Command, Failed, Numbers, Ran, Ref, Run, Send, Slots, Waiting
from fog_learning.clusters.messages import Call, Consensus, Contribution, Line, More, Neighbours, NoContribution, PassOn, Pull, Ready, Settled, Stuck
from fog_learning.clusters.mixing import Epoch, Mixing, Share

Heard = PassOn | Neighbours | More | Pull | Share


class ClusterMember(Struct):
    """State of one member, from its own side. The owner follows or drops calls by `verdict`, and computes the input of a round."""

    seed: int
    consensus: Consensus
    head: str = ""
    call: Call | None = None
    """The newest call, kept to be passed on."""
    passes: list[PassOn] = field(default_factory=list)
    """Requests to pass on calls that have not come yet."""
    number: int = -1
    """Round of the input below."""
    line: Line = ()
    """The latest line heard."""
    root: int = -1
    """The root's round in which the input counts."""
    given_to: str = ""
    """The head that has the input."""
    base: str = ""
    """Digest of the weights from which the input was made."""
    weights: Ref | None = None
    examples: int = 0
    slots: Slots = Slots()
    numbers: Numbers = field(default_factory=dict)
    counts: tuple[int, ...] = ()
    mixing: Mixing = field(default_factory=Mixing)
    reported: tuple[Epoch, int] = ((), 0)
    """(epoch, turn) whose sketch was begun."""
    stuck_at: float | None = None
    """Job time at which silent neighbours are reported."""
    patience: tuple[Epoch, int] = ((), 0)
    """(epoch, turn) of `stuck_at`."""

    def called(self, call: Call) -> list[Command]:
        """Pass the call on to the members that it, or a PassOn, names."""
        if call.head != self.head:  # the member is in another cluster now, and lines of two heads cannot be compared
            self.head, self.line, self.call, self.passes = call.head, (), None, []
        if call.line < self.line:
            return []
        if self.call is None or (call.line, call.number) >= (self.call.line, self.call.number):
            self.call, self.head = msgspec.structs.replace(call, relay=(), base=None), call.head
        now = [each for each in self.passes if (each.number, each.line) == (call.number, call.line)]
        self.passes = [each for each in self.passes if each not in now]
        names = [*call.relay, *(name for each in now for name in each.relay)]
        return [Send(name, msgspec.structs.replace(call, relay=(), base=None), latest=True) for name in dict.fromkeys(names)]

    def verdict(self, call: Call, doing: Call | None, newest: int) -> Literal["drop", "again", "adopt", "begin", "elsewhere"]:
        """Decide about a call.

        drop: it is outdated or a copy; again: give the input again; adopt: the running work serves it, too; begin: begin to work;
        elsewhere: another cluster has this node's part of the round, which must not count twice.
        """
        if call.root == self.root and call.head != self.given_to:
            return "elsewhere"
        if call.line < self.line:
            return "drop"
        later, self.line = call.line > self.line, call.line
        if call.number < newest and not later:
            return "drop"
        if call.number == self.number and self.weights is not None and _digest(call.weights) == self.base:
            return "again"
        if doing is not None and (call.number, call.weights) == (doing.number, doing.weights):
            return "adopt"
        return "begin" if later or call.number > newest else "drop"

    def give(self, call: Call, weights: Ref, examples: int, slots: Slots, numbers: Numbers, counts: tuple[int, ...] = ()) -> list[Command]:
        """Give the input of a round to the head; the owner puts a Save before these commands. counts: as in Contribution."""
        self.root, self.given_to = call.root, call.head
        self.number, self.base, self.examples, self.slots, self.numbers = call.number, _digest(call.weights), examples, slots, numbers
        self.weights, self.counts = weights, counts
        self.mixing.stop()
        self.stuck_at = None
        return self.give_again(call)

    def elsewhere(self, call: Call) -> list[Command]:
        """Tell the head that another cluster has this node's part of the round."""
        return [
            Send(call.head, NoContribution(call.number, call.line, f"its part of round {call.root} is with {self.given_to}", empty=True), latest=True)
        ]

    def give_again(self, call: Call) -> list[Command]:
        """Give the input again, to a head that began anew or did not get it."""
        assert self.weights is not None
        if call.d2d:
            return [Send(call.head, Ready(call.number, call.line, self.examples, self.slots, self.numbers, self.counts), keep=call.root)]
        update = Contribution(call.number, call.line, self.weights, self.examples, self.slots, self.numbers, counts=self.counts)
        return [Send(call.head, update, keep=call.root)]

    def hear(self, sender: str, message: Heard, now: float) -> list[Command]:
        match message:
            case Share():
                return self._after(self.mixing.hear(sender, message), now)
            case Neighbours(epoch, turns, links) if epoch[-1] == self.number and self.weights is not None:
                return self._after(self.mixing.begin(epoch, links, turns, self.weights, self.examples), now)
            case More(epoch, turns) if epoch == self.mixing.epoch:
                return self._after(self.mixing.extend(turns), now)
            case Pull(epoch, part, of) if epoch == self.mixing.epoch and self.mixing.phase == "settled" and self.mixing.value is not None:
                return [Run("settle", {"value": self.mixing.value}, ("pulled", part, of, *epoch), {"m": self.mixing.mass, "part": part, "of": of})]
            case PassOn(number, line, relay):
                if self.call is not None and (self.call.number, self.call.line) == (number, line):
                    return [Send(name, self.call, latest=True) for name in relay]
                self.passes = [*self.passes[-7:], message]
        return []

    def ran(self, event: Ran, now: float) -> list[Command]:
        match event.tag:
            case ("paired" | "mixed", *_):
                return self._after(self.mixing.ran(event), now)
            case ("sketched", turn, *epoch) if tuple(epoch) == self.mixing.epoch and turn == self.mixing.turn:
                exact = event.numbers.get("exact", 0.0) == 1.0
                return [Send(self.head, Settled(self.mixing.epoch, self.mixing.turn, self.mixing.mass, event.refs["sketch"], exact))]
            case ("pulled", int() as part, int() as of, *epoch) if tuple(epoch) == self.mixing.epoch:
                whole = Contribution(
                    self.number, self.line, event.refs["weights"], self.examples, self.slots, epoch=self.mixing.epoch, part=part, of=of
                )
                return [Send(self.head, whole)]
        return []

    def op_failed(self, event: Failed) -> list[Command]:
        """An op of the consensus failed: the other members go on without this node."""
        match event.tag:
            case ("paired" | "mixed" | "sketched" | "pulled" as what, *rest) if tuple(rest[-len(self.mixing.epoch) :]) == self.mixing.epoch:
                self.mixing.stop()
                return [
                    Send(
                        self.head, NoContribution(self.number, self.line, f"averaging with its neighbours failed ({what}): {event.why}"), latest=True
                    )
                ]
        return []

    def woke(self, now: float) -> list[Command]:
        """Report silent neighbours to the head, again after every `stall_s`."""
        if self.stuck_at is None or now < self.stuck_at:
            return []
        self.stuck_at = now + self.consensus.stall_s
        missing = self.mixing.missing()
        return [Send(self.head, Stuck(self.mixing.epoch, missing))] if missing else []

    def waiting(self, now: float) -> Waiting | None:
        mixing = self.mixing
        if mixing.phase != "waiting":
            return None
        missing = mixing.missing()
        have = len(mixing.links) - len(missing)
        return Waiting(f"neighbours (turn {mixing.turn + 1} of {mixing.turns})", have, len(mixing.links), missing, until=self.stuck_at)

    def _after(self, commands: list[Command], now: float) -> list[Command]:
        """After a step of the consensus: set the stall timer while it waits, begin the sketch when it has settled."""
        mixing = self.mixing
        at = (mixing.epoch, mixing.turn)
        if mixing.phase != "waiting":
            self.stuck_at = None
        elif self.stuck_at is None or self.patience != at:
            self.stuck_at, self.patience = now + self.consensus.stall_s, at
        if mixing.phase == "settled" and self.reported != at and mixing.value is not None:
            self.reported = at
            drawn = "/".join(str(part) for part in (self.seed, *mixing.epoch, mixing.turn))  # a new draw each time, so that a bad one does not stay
            numbers: dict[str, float | int | str] = {"size": self.consensus.sketch, "seed": drawn}
            return [*commands, Run("sketch", {"value": mixing.value}, ("sketched", mixing.turn, *mixing.epoch), numbers)]
        return commands


def _digest(ref: Ref) -> str:
    """Digest of received weights, or the name of a handle, if the head is on this node."""
    return ref.digest if isinstance(ref, Blob) else ref.name

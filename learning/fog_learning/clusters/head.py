"""The head of a cluster calls its members to a round and ends the round with one set of weights, averaged vertically or by d2d.

Averaging among the members is led by fog_learning.clusters.agreement.

| op         | inputs              | numbers in     | outputs | numbers out |
|------------|---------------------|----------------|---------|-------------|
| accumulate | sum?, add           | n              | sum     |             |
| mean       | sum                 |                | weights | bytes       |
| join       | like, slice0, slice1 … | without     | weights | bytes       |
"""

from __future__ import annotations

import math
import random
from typing import Literal

import msgspec
from msgspec import Struct, field

from fog_common.runtime.machine import Blob, Command, Failed, Handle, Measure, Peer, Ran, Ref, Run, Send, Slots, Waiting
from fog_learning.clusters.agreement import Agreement
from fog_learning.clusters.messages import (
    Agreed,
    Call,
    Child,
    Contribution,
    Input,
    Lacking,
    Line,
    NoContribution,
    PassOn,
    Ready,
    Said,
    Settled,
    Stuck,
)
from fog_learning.clusters.tradeoff import Comparison, LinkCosts, Objective, choose
from fog_learning.rounds.closing import Closing


class ClusterHead(Struct):
    """State of one cluster, from the side of its parent. Methods return commands; the owner then reads `agreed` and `failed`."""

    me: str
    seed: int
    mode: Literal["vertical", "d2d", "auto"]
    downlink: Literal["relay", "direct"]
    agreement: Agreement
    closing: Closing
    costs: LinkCosts = LinkCosts()
    objective: Objective = "energy"
    born: tuple[int, int] = (0, 0)
    """(view, incarnation) of this instance, so that its epochs are newer than those of an earlier instance."""
    children: dict[str, Child] = field(default_factory=dict)
    phase: Literal["idle", "gathering", "averaging", "agreeing", "judging", "pulling", "joining"] = "idle"
    number: int = -1
    root: int = 0
    line: Line = ()
    opening: int = 0
    """Number of rounds opened by this instance: a round may open again while ops of the first time still run."""
    weights: Ref | None = None
    whole: bool = True
    """`weights` hold all blocks of the model."""
    base: Ref | None = None
    """A whole model for members that lack the other blocks; None if no member can lack them."""
    without: str = ""
    """Blocks that the members' updates lack, separated by commas."""
    size_bytes: int = 0
    """Size of the weights; 0 = not known yet."""
    d2d: bool = False
    why: str = ""
    """Reason for vertical or d2d, for a person."""
    called: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    """Members that have the Call of this round: they answered, or this head sent it to them."""
    relayers: tuple[str, ...] = ()
    """Members that were asked to pass the Call on."""
    answers: dict[str, Input] = field(default_factory=dict)
    troubled: dict[str, str] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    """Members that head clusters without members."""
    awaited: dict[str, float] = field(default_factory=dict)
    """Lost member that heads a cluster -> job time until which the round waits for its new instance."""
    absent_s: float = 30.0
    """Seconds of that wait."""
    sum: Handle | None = None
    agreed: Agreed | None = None
    failed: str = ""

    # -- members ---------------------------------------------------------------------------

    def meet(self, roster: tuple[Peer, ...], mine: tuple[str, ...]) -> None:
        """Take over the roster. mine: task ids of this cluster's members."""
        by_name = {peer.task: peer for peer in roster}
        self.born = (by_name[self.me].since, by_name[self.me].incarnation) if self.me in by_name else self.born
        self.children = {name: Child.of(by_name[name]) for name in sorted(mine)}

    def renew(self, roster: tuple[Peer, ...], mine: tuple[str, ...], now: float) -> list[Command]:
        """Go on after a restart within a round; members may have joined or left meanwhile."""
        before, self.agreement.broken = self.children, []
        self.meet(roster, mine)
        self.awaited = {name: until for name, until in self.awaited.items() if name not in self.children}
        for name in before.keys() - self.children.keys():
            self._await(name, before[name], now)
        new = tuple(name for name in self.children if name not in self.called and (name not in before or self.children[name].role != "aggregator"))
        if self.phase != "gathering":
            return []
        # call all members again: an earlier instance may have got further than the Save, and members follow the newest line
        self.line = (*self.line[:-2], *self.born)
        self.holders, self.relayers, self.answers = (), (), {}
        widened = self._widen(new) if new else []
        orphans = self._call_orphans(new)  # including members that the Save awaited and that are back
        return [*widened, *orphans, *self._close_if_ready(now)]

    def called_anew(self, above: Line) -> list[Command]:
        """The parent repeated its call with a newer line: call the members again that have not answered."""
        line = (*above, *self.born)
        if self.phase != "gathering" or line <= self.line:
            return []
        self.line, self.holders, self.relayers = line, (), ()
        return self._call_orphans()

    def joined(self, peer: Peer, now: float) -> list[Command]:
        """A member joined, or is back as a new instance, whose part in a consensus is lost but whose input is not."""
        name = peer.task
        lost = self._lost(name, now) if name in self.children and self.phase != "gathering" else []
        sampled = peer.role == "aggregator" and any(other not in self.called for other in self.children)
        self.children = dict(sorted({**self.children, name: Child.of(peer)}.items()))
        self.agreement.renewed(name)
        self.awaited.pop(name, None)
        if self.phase not in ("gathering", "agreeing"):
            return lost
        self.troubled.pop(name, None)
        self.empty = tuple(other for other in self.empty if other != name)
        self.holders = tuple(other for other in self.holders if other != name)
        if self.d2d:
            self.answers.pop(name, None)
        if name in self.called:
            if self.phase == "gathering" and name in self.relayers:  # its old instance may not have passed the Call on
                return [*lost, *self._call_orphans()]
            return lost if name in self.answers else [*lost, *self._hand_on((name,))]
        if sampled and any(other in self.children for other in self.called):
            return lost
        return [*lost, *self._widen((name,))]

    def left(self, task: str, now: float) -> list[Command]:
        if task not in self.children:
            return []
        rest = dict(self.children)
        self._await(task, rest.pop(task), now)
        self.children = rest
        return self._lost(task, now)

    def _await(self, name: str, child: Child, now: float) -> None:
        if child.role == "aggregator" and self.absent_s > 0.0:
            self.awaited = dict(sorted({**self.awaited, name: now + self.absent_s}.items()))

    def wakes_at(self) -> float | None:
        """Job time at which the owner must call woke(); None without a timer."""
        waited = [until for name, until in self.awaited.items() if name in self.missing()] if self.phase == "gathering" else []
        closes_at, ends_at = self.closing.wakes_at()
        times = [*waited, closes_at, ends_at if self.phase == "gathering" else None]
        return min((at for at in times if at is not None), default=None)

    def _lost(self, name: str, now: float) -> list[Command]:
        """Go on in the round after a member's instance is gone."""
        self.holders = tuple(other for other in self.holders if other != name)
        if self.d2d and self.phase in ("gathering", "agreeing"):
            self.answers.pop(name, None)
        if self._agrees(name):
            return self._agree(now)
        if self.phase in ("judging", "pulling"):
            asked = self.agreement.lost(name, self.number)
            return asked if self.agreement.settled else self._agree(now)
        if self.phase != "gathering":
            return []
        return [*(self._call_orphans() if name in self.relayers else []), *self._close_if_ready(now)]

    def _call_orphans(self, called: tuple[str, ...] = ()) -> list[Command]:
        """Call members that have not answered and may lack the Call, because its relayer is gone or they joined during a consensus.
        called: members that need no other Call."""
        self.relayers = tuple(name for name in self.relayers if name in self.holders and name in self.children)
        orphans = tuple(name for name in self.missing() if name not in (*self.holders, *called) and name in self.children)
        return self._hand_on(orphans) if orphans else []

    def _widen(self, names: tuple[str, ...]) -> list[Command]:
        """Call more members to the round. Before the first answer this may switch between vertical and d2d; then all are called again."""
        sites = {self.children[name].site for name in self.called if name in self.children}
        if self.d2d and self.answers:
            names = tuple(name for name in names if self.children[name].site in sites)
        self.called = tuple(sorted({*self.called, *names}))
        before = self.d2d
        if not self.answers:
            self._decide()
        if self.d2d != before:
            self.holders, names = (), tuple(name for name in self.called if name in self.children)
        return self._hand_on(names) if names else []

    def _hand_on(self, names: tuple[str, ...]) -> list[Command]:
        """Give the Call to members: by a neighbour of their site that has it; without one, d2d by the first of the members, vertical to each.
        downlink: direct: to each."""
        call, commands = self._call(), []
        if self.downlink == "relay":
            near: dict[str, str] = {}  # site -> the first of its members that has the Call
            for name in self.holders:
                if name in self.children and name not in names:
                    near.setdefault(self.children[name].site, name)
            for site, giver in near.items():
                if served := tuple(name for name in names if self.children[name].site == site):
                    commands.append(Send(giver, PassOn(self.number, self.line, served)))
                    self._relays(giver)
            names = tuple(name for name in names if self.children[name].site not in near)
        if names and self.d2d and self.downlink == "relay":
            self.holders = (*self.holders, names[0])
            self._relays(names[0])
            return [*commands, Send(names[0], msgspec.structs.replace(call, relay=names[1:]), latest=True)]
        self.holders = tuple(sorted({*self.holders, *names}))
        return [*commands, *(Send(name, call, latest=True) for name in names)]

    def _relays(self, name: str) -> None:
        if name not in self.relayers:
            self.relayers = (*self.relayers, name)

    def _call(self) -> Call:
        assert self.weights is not None
        return Call(self.number, self.root, self.weights, self.me, self.line, self.d2d, whole=self.whole)

    # -- a round opens ---------------------------------------------------------------------

    def open(
        self,
        number: int,
        root: int,
        above: Line,
        weights: Ref,
        now: float,
        fraction: float = 1.0,
        whole: bool = True,
        base: Ref | None = None,
        without: str = "",
    ) -> list[Command]:
        """Call the members to round `number`. above: line of the parent's call; fraction: part of the members with own clusters that take
        part, chosen under the seed (members with data always do); whole, base, without: see the fields."""
        self.number, self.root, self.line, self.weights = number, root, (*above, *self.born), weights
        self.whole, self.base, self.without = whole, base, without
        self.opening += 1
        self.phase, self.agreed, self.failed, self.sum = "gathering", None, "", None
        self.answers, self.troubled, self.empty, self.holders, self.relayers = {}, {}, (), (), ()
        self.agreement.mend(sorted(self.children))
        self.agreement.members, self.agreement.settled, self.agreement.error = (), {}, 0.0
        self.awaited = {name: until for name, until in self.awaited.items() if until > now}
        heads = sorted({*self.awaited, *(name for name, child in self.children.items() if child.role == "aggregator")})
        if fraction < 1.0 and heads:
            dice = random.Random(f"clusters/{self.seed}/{self.me}/{number}")
            heads = dice.sample(heads, max(1, math.ceil(fraction * len(heads) - 1e-9)))
        self.called = tuple(sorted({*heads, *(name for name, child in self.children.items() if child.role != "aggregator")}))
        names = tuple(name for name in self.called if name in self.children)
        self._decide()
        self.closing.open(now, len(self.children), len(names))
        if not names:
            return []
        if self.d2d and self.downlink == "relay":
            first = random.Random(f"first/{self.seed}/{self.me}/{number}").choice(names)
            names = (first, *(name for name in names if name != first))
        return self._hand_on(names)

    def _decide(self) -> None:
        sites = {self.children[name].site for name in self.called if name in self.children}
        if self.mode != "vertical" and len(sites) > 1:
            self.d2d, self.why = False, f"members of {len(sites)} sites: D2D stays inside a site"
        elif self.mode != "auto":
            self.d2d, self.why = self.mode == "d2d", "as the job says"
        elif len(self.called) < 2:
            self.d2d, self.why = False, "fewer than two members"
        else:
            choice = self.choice()
            self.d2d, self.why = choice.d2d, choice.why

    def choice(self) -> Comparison:
        """The comparison of `auto` for the members called now."""
        graph = self.agreement.graph(len(self.called))
        size = self.weights.size if isinstance(self.weights, Blob) else self.size_bytes
        slices = len(graph) if self.agreement.uplink == "diversity" else 1
        return choose(graph, self.agreement.turns_on(graph), size, self._links(), self.objective, slices, self.downlink == "relay")

    def _links(self) -> LinkCosts:
        """The job's link costs, replaced by the slowest and dearest known links of the called members."""
        links = [self.children[name].link for name in self.called if name in self.children]
        rates = [rate for link in links if (rate := link.bandwidth_bytes_s or 0.0) > 0.0]
        trips, joules = max((link.rtt_s or 0.0 for link in links), default=0.0), max((link.byte_j or 0.0 for link in links), default=0.0)
        known: dict[str, float] = {"up_bytes_s": min(rates)} if rates else {}
        known |= {"up_latency_s": trips / 2} if trips > 0.0 else {}
        known |= {"up_j_per_byte": joules} if joules > 0.0 else {}
        return msgspec.structs.replace(self.costs, **known)

    # -- messages of members ---------------------------------------------------------------

    def hear(self, sender: str, message: Said, now: float) -> list[Command]:
        agreement = self.agreement
        match message:
            case Lacking(number, line) if (number, line) == (self.number, self.line) and self.phase != "idle" and self.base is not None:
                # not `latest`, which would replace a Call that this member must pass on
                return [Send(sender, msgspec.structs.replace(self._call(), base=self.base))] if sender in self.children else []
            case Ready() | Contribution(epoch=()):
                return self._answered(sender, message, now)
            case NoContribution(number, line, why, empty) if (
                (number, line) == (self.number, self.line) and sender in self.called and sender not in self.answers
            ):
                if empty:
                    self.empty = tuple(sorted({*self.empty, sender}))
                    return self._close_if_ready(now)
                return self._troubled(sender, why, now)
            case NoContribution(number, line, why) if (number, line) == (self.number, self.line) and self._agrees(sender):
                return self._troubled(sender, why, now)
            case Settled(epoch) if epoch == agreement.epoch and self._agrees(sender) and message.turn >= agreement.turns:
                if agreement.settle(sender, message):
                    self.phase = "judging"
                    return [agreement.spread()]
            case Stuck(epoch, missing) if epoch == agreement.epoch and self._agrees(sender):
                agreement.stuck(sender, missing)
                return [Measure("broken_links", len(missing)), *self._agree(now)]
            case Contribution(epoch=epoch) if epoch == agreement.epoch and self.phase == "pulling" and agreement.pulled.get(message.part) == sender:
                if agreement.take(message.part, message.weights):
                    return self._join()
        return []

    def _agrees(self, name: str) -> bool:
        return self.phase == "agreeing" and name in self.agreement.members

    def _answered(self, sender: str, message: Ready | Contribution, now: float) -> list[Command]:
        if (message.number, message.line) != (self.number, self.line) or sender not in self.called:
            return [Measure("late_updates", 1)]
        if isinstance(message, Ready) != self.d2d:  # called before the switch between vertical and d2d
            # not `latest`, which would replace a Call that this member must pass on
            return [Send(sender, self._call())] if self.phase in ("gathering", "agreeing") and sender not in self.answers else []
        if sender not in self.holders:
            self.holders = (*self.holders, sender)
        if sender in self.answers or any(message.slots & answer.slots for answer in self.answers.values()):
            return [Measure("repeated_updates", 1)]
        if self.phase not in ("gathering", "agreeing"):
            return [Measure("late_updates", 1)]
        self.closing.arrived(now)
        self.troubled.pop(sender, None)
        self.empty = tuple(name for name in self.empty if name != sender)
        self.answers[sender] = Input(message.slots, message.examples, message.numbers, message.counts)
        if self.phase == "agreeing":  # the member is back in time: the consensus begins again with it
            return self._agree(now)
        adding: list[Command] = []
        if isinstance(message, Contribution):
            self.sum = Handle(f"sum{self.number}-{self.opening}")
            refs = {"sum": self.sum, "add": message.weights}
            adding = [Run("accumulate", refs, ("added", self.number, self.opening, sender), {"n": message.examples}, {"sum": self.sum})]
        return [*adding, *self._close_if_ready(now)]

    def _troubled(self, name: str, why: str, now: float) -> list[Command]:
        self.troubled[name] = why
        self.answers.pop(name, None)
        if self._agrees(name):
            return [Measure("troubled_updates", 1), *self._agree(now)]
        return [Measure("troubled_updates", 1), *self._close_if_ready(now)]

    # -- a round closes --------------------------------------------------------------------

    def woke(self, now: float) -> list[Command]:
        return self._close_if_ready(now)

    def missing(self) -> tuple[str, ...]:
        """Members whose answer this round waits for: live ones, and awaited heads."""
        given = {*self.answers, *self.troubled, *self.empty}
        return tuple(name for name in self.called if (name in self.children or name in self.awaited) and name not in given)

    def deserted(self) -> bool:
        """Whether the round is open without a member that could answer."""
        return self.phase == "gathering" and not self.answers and not self.troubled and not self.missing()

    def _close_if_ready(self, now: float) -> list[Command]:
        if self.phase != "gathering":
            return []
        self.awaited = {name: until for name, until in self.awaited.items() if until > now}
        live, complete = sum(1 for name in self.called if name in self.children), not self.missing()
        if self.closing.offer(now, len(self.answers), live, complete) != "open":
            return self._close(now)
        if complete and self.troubled:
            self.phase, self.failed = "idle", next(f"{name}: {self.troubled[name]}" for name in sorted(self.troubled))
        elif complete and (others := tuple(name for name in self.children if name not in self.called)):  # all members chosen for this round are gone
            return self._widen(others)
        return []

    def _close(self, now: float) -> list[Command]:
        self.closing.close()
        if self.d2d:
            return self._agree(now)
        self.phase = "averaging"
        assert self.sum is not None
        return [Run("mean", {"sum": self.sum}, ("mean", self.number, self.opening))]

    def ran(self, event: Ran) -> list[Command]:
        match event.tag:
            case ("mean" | "joined", _, opening) if opening == self.opening and self.phase in ("averaging", "joining"):
                self.size_bytes = int(event.numbers.get("bytes", self.size_bytes))
                self._end(event.refs["weights"])
            case tag if tag == self.agreement.tag and self.phase == "judging":
                self.agreement.error = event.numbers["error"]
                return self._judged()
        return []

    def op_failed(self, event: Failed, now: float) -> list[Command]:
        match event.tag:
            case ("added", _, opening, str() as name) if opening == self.opening:
                return self._troubled(name, f"its update cannot be added: {event.why}", now)
            case ("mean" | "joined", _, opening) if opening == self.opening:
                self.phase, self.failed = "idle", f"averaging failed in round {self.number}: {event.why}"
            case ("spread", _, *epoch) if tuple(epoch) == self.agreement.epoch:
                self.phase, self.failed = "idle", f"measuring the consensus error failed in round {self.number}: {event.why}"
        return []

    def _end(self, weights: Ref) -> None:
        counted = [self.answers[name] for name in (self.agreement.members if self.d2d else sorted(self.answers))]
        slots = Slots.of(*(slot for answer in counted for slot in answer.slots))
        examples = sum(answer.examples for answer in counted)
        known = [(answer.examples, answer.numbers["loss"]) for answer in counted if "loss" in answer.numbers]
        numbers = {"loss": math.fsum(n * loss for n, loss in known) / max(1, sum(n for n, _ in known))} if known else {}
        errors = [answer.numbers["consensus_error"] for answer in counted if "consensus_error" in answer.numbers]
        if self.d2d or errors:
            numbers["consensus_error"] = max([*errors, *([self.agreement.error] if self.d2d else [])])
        counts = {slot: n for answer in counted for slot, n in answer.by_slot().items()}
        self.agreed = Agreed(weights, examples, slots, len(counted), numbers, counts)
        self.phase, self.sum, self.weights = "idle", None, None
        self.agreement.clear()

    # -- d2d: the members agree ------------------------------------------------------------

    def _agree(self, now: float) -> list[Command]:
        """Begin a new epoch from the inputs of all ready members; without any, gather again."""
        names = [name for name in sorted(self.answers) if name in self.children]
        if not names:
            self.phase, self.answers, self.holders = "gathering", {}, ()  # members that answered too late are called again
            return [*self._call_orphans(), *self._close_if_ready(now)]
        self.phase = "agreeing"
        return self.agreement.begin(names, (*self.line, *self.born), self.number)

    def _judged(self) -> list[Command]:
        if more := self.agreement.more():
            self.phase = "agreeing"
            return more
        self.phase = "pulling"
        return [Measure("consensus_error", self.agreement.error), *self.agreement.pull(self.number)]

    def _join(self) -> list[Command]:
        slices = self.agreement.slices
        if len(slices) == 1:
            self._end(slices[0])
            return []
        self.phase = "joining"
        like = self.base or self.weights
        assert like is not None
        refs = {f"slice{part}": slices[part] for part in sorted(slices)}
        return [Run("join", {"like": like, **refs}, ("joined", self.number, self.opening), {"without": self.without})]

    # -- for a person ----------------------------------------------------------------------

    def note(self) -> str:
        """'vertical: reason' or 'd2d: reason'; '' before the first round."""
        return f"{'d2d' if self.d2d else 'vertical'}: {self.why}" if self.why else ""

    def waiting(self) -> Waiting | None:
        agreement = self.agreement
        match self.phase:
            case "gathering" if not self.missing() and not self.answers:
                return Waiting("members", 0, 1, (), self.closing.opened_at)
            case "gathering":
                who, have = self.missing(), len(self.answers)
                what, until = "ready members" if self.d2d else "updates", self.closing.until(have, have + len(who))
                return Waiting(what, have, have + len(who), who, self.closing.opened_at, until)
            case "agreeing":
                who = tuple(name for name in agreement.members if name not in agreement.settled)
                return Waiting(f"consensus ({agreement.turns} turns)", len(agreement.settled), len(agreement.members), who, self.closing.opened_at)
            case "pulling":
                who = tuple(name for part, name in agreement.pulled.items() if part not in agreement.slices)
                return Waiting("the cluster's weights", len(agreement.slices), len(agreement.pulled), who, self.closing.opened_at)
        return None

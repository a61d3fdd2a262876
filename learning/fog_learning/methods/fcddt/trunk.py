"""The trunk of fcddt (protocol and ops: fog_learning.methods.fcddt.method)."""

from __future__ import annotations

import math
from typing import Literal

from msgspec import field

from fog_common.runtime.machine import (
    Cancel,
    Cast,
    Command,
    Delivered,
    Event,
    Failed,
    Finish,
    Handle,
    Joined,
    Left,
    Machine,
    Measure,
    Numbers,
    Peer,
    Ran,
    Ref,
    Rewound,
    Run,
    Save,
    Send,
    Started,
    Tag,
    Waiting,
)
from fog_learning.methods.fcddt.messages import Cut, Features, FrontRows, Go, Heads, Local, NoStep, Plan, Step
from fog_learning.methods.fcddt.sums import Sums
from fog_learning.rounds.ledger import Ledger

LOCAL, TRUNK, OPT, GRADS, GRAPH = (Handle(name) for name in ("local", "trunk", "opt", "grads", "graph"))
"""Values that ops update in place, so that a step allocates no lasting memory."""


class Trunk(Machine):
    plan: Plan
    ledger: Ledger
    phase: Literal["starting", "idle", "rows", "computing", "heads", "locals", "applying", "ending"] = "starting"
    life: str = ""
    number: int = 1
    """The running step, from 1."""
    attempt: int = 0
    local: Ref | None = None
    trunk: Ref | None = None
    opt: Ref | None = None
    fronts: dict[str, int] = field(default_factory=dict)
    """Live fronts: task -> slot."""
    active: dict[int, str] = field(default_factory=dict)
    """Fronts that have the weights and take part: slot -> task."""
    rows: dict[int, dict[int, FrontRows]] = field(default_factory=dict)
    """step -> slot -> received rows, for the running step and, with a frozen front, the next."""
    chosen: list[int] = field(default_factory=list)
    """Slots whose rows make up the step, in order."""
    examples: dict[int, int] = field(default_factory=dict)
    """slot -> rows of the step, for the chosen slots."""
    grads: Handle | None = None
    graph: Handle | None = None
    heads: dict[int, Heads] = field(default_factory=dict)
    locals: dict[int, Local] = field(default_factory=dict)
    troubled: dict[int, str] = field(default_factory=dict)
    sums: Sums = field(default_factory=Sums)
    loss: float = 0.0
    weights: Ref | None = None
    since: float = 0.0

    def step(self, event: Event, now: float) -> list[Command]:
        if self.ledger.over:
            return []
        match event:
            case Started(roster):
                self._meet(roster)
                return [Run("split_init", {}, ("init",))]
            case Rewound(_, roster):
                self._meet(roster)
                return self._end() if self.phase == "ending" else [*self._begin(now), *self._rating()]
            case Joined(peer) if peer.role == "front":
                self.fronts[peer.task] = peer.slot
                return self._joined(peer, now)
            case Left(peer, in_order) if peer.role == "front":
                self.fronts.pop(peer.task, None)
                if in_order and self._can_take_again():  # Joined follows with a new instance, which sends the same rows
                    self.rows.get(self.number, {}).pop(peer.slot, None)
                    return []
                return self._without(peer.slot, now)
            case Delivered(_, NoStep() as trouble) if self._is_now(trouble) and trouble.slot in self.active:
                self.troubled[trouble.slot] = trouble.why
                return [Measure("troubled_steps", 1), *self._without(trouble.slot, now)]
            case Delivered(sender, FrontRows() as rows):
                return self._rows_came(sender, rows, now)
            case Delivered(_, Heads() as heads) if self._is_now(heads) and self.phase == "heads" and heads.slot in self.chosen:
                self.heads[heads.slot] = heads
                return self._backward_if_ready(now)
            case Delivered(_, Local() as local) if self._is_now(local) and self._takes_locals() and local.slot in self.chosen:
                self.locals[local.slot] = local
                return self._apply_if_ready(now)
            case Ran(("init",), refs):
                self.local, self.trunk = refs["local"], refs["trunk"]
                return self._begin(now)
            case Ran(("featured", *at), refs) if self._is_at(at):
                return self._features(refs, now)
            case Ran(("stepped", *at), refs, numbers) if self._is_at(at):
                return self._stepped(refs, numbers, now)
            case Ran(("applied", *at), refs) if self._is_at(at):
                return self._applied(refs, now)
            case Ran(("rated", number), _, numbers):
                return self.ledger.rate(int(number), {"accuracy": numbers["accuracy"], "rated_loss": numbers["loss"]})
            case Ran(("joined",), refs):
                self.weights = refs["weights"]
                return self.ledger.finish(self.weights)
            case Failed((what, *at), why) if what in ("init", "rated", "joined", "whole") or self._is_at(at):
                return self.ledger.fail(f"{what} failed in step {self.number}: {why}")
        return []

    def waiting(self, now: float) -> Waiting | None:
        who: list[int] = []
        match self.phase:
            case "idle":
                return Waiting("fronts", 0, 1, (), self.since)
            case "rows":
                received = self.rows.get(self.number, {})
                who = [slot for slot in self.active if slot not in received]
                return Waiting(f"activations of step {self.number}", len(received), self.plan.chosen(len(self.active)), self._names(who), self.since)
            case "heads":
                who = [slot for slot in self.chosen if slot not in self.heads]
                return Waiting(f"head gradients of step {self.number}", len(self.heads), len(self.chosen), self._names(who), self.since)
            case "locals":
                what = "weights" if self.plan.own else "gradients"
                who = [slot for slot in self.chosen if slot not in self.locals]
                return Waiting(f"front {what} of step {self.number}", len(self.locals), len(self.chosen), self._names(who), self.since)
        return None

    def progress(self) -> int:
        return min(1 + (self.number - 1) // self.plan.round_steps, self.ledger.rounds)

    def figures(self) -> Numbers:
        return self.ledger.numbers

    def stop(self, why: str, roster: tuple[Peer, ...], now: float) -> list[Command]:
        """Join front and trunk of the newest Save."""
        if self.local is None or self.trunk is None:
            return [Finish(why=f"{why}; there was no model yet")]
        return [self._whole(("joined",), {})]

    # -- the fronts --------------------------------------------------------------------

    def _meet(self, roster: tuple[Peer, ...]) -> None:
        self.fronts = {peer.task: peer.slot for peer in roster if peer.role == "front"}
        me = next((peer for peer in roster if peer.role == "trunk"), None)
        self.life = "" if me is None else f"{me.node}.{me.incarnation}.{me.since}"

    def _names(self, slots: list[int]) -> tuple[str, ...]:
        return tuple(self.active[slot] for slot in slots if slot in self.active)

    def _joined(self, peer: Peer, now: float) -> list[Command]:
        if self.phase == "idle":
            return self._begin(now)
        if not self._can_take_again():
            return []  # the front takes part from the next Step on
        self.active[peer.slot] = peer.task
        self.rows.get(self.number, {}).pop(peer.slot, None)
        return [Send(peer.task, self._call(), latest=True)]

    def _can_take_again(self) -> bool:
        """Whether a front that begins anew can still take part in this step; with own steps, only in the first one after a sync."""
        return self.phase == "rows" and not (self.plan.own and not self.plan.is_sync(self.number - 1))

    def _without(self, slot: int, now: float) -> list[Command]:
        """Go on without a front that took part in this step."""
        if self.active.pop(slot, None) is None:
            return []
        for rows in self.rows.values():
            rows.pop(slot, None)
        if self.phase == "rows":
            return self._compute_if_ready(now)
        if slot not in self.chosen or slot in self.locals or self.plan.frozen:
            return []
        if self.phase == "applying" or (self.plan.own and (self.phase == "locals" or not self.plan.u_shaped)):
            self.chosen.remove(slot)  # the other fronts have the gradient at the cut already, or will get it
            return self._apply_if_ready(now)
        return [Cancel(("featured", *self._at())), Cancel(("stepped", *self._at())), *self._again(now)]

    def _again(self, now: float) -> list[Command]:
        """Repeat the step with the remaining fronts; no weights have changed, so this is exact."""
        if not self.active:
            return self._begin(now)
        if not self.plan.own:
            return [Measure("repeated_steps", 1), *self._begin(now)]
        self._clear(now)
        self.attempt += 1
        self.phase = "rows"
        return [Measure("repeated_steps", 1), Cast("front", Go(self.life, self.number, self.attempt, self.number), latest=True)]

    def _takes_locals(self) -> bool:
        return self.phase == "locals" or (self.phase == "applying" and self.plan.own)

    # -- a step ------------------------------------------------------------------------

    def _at(self) -> tuple[str, int, int]:
        return self.life, self.number, self.attempt

    def _is_at(self, at: list[str | int]) -> bool:
        return tuple(at) == self._at()

    def _is_now(self, message: Heads | Local | NoStep) -> bool:
        return (message.life, message.number, message.attempt) == self._at()

    def _clear(self, now: float) -> None:
        self.rows = {number: rows for number, rows in self.rows.items() if number == self.number}
        self.chosen, self.heads, self.locals, self.grads, self.graph = [], {}, {}, None, None
        self.since = now

    def _until(self) -> int:
        """Last step that the fronts may forward: with a frozen front one ahead, but never beyond the round, whose Save holds no activations."""
        return self.number + 1 if self.plan.frozen and self.number % self.plan.round_steps else self.number

    def _call(self) -> Step:
        assert self.local is not None
        return Step(self.life, self.number, self.attempt, self.local, self._until())

    def _begin(self, now: float) -> list[Command]:
        """Give all live fronts the weights and this step."""
        self.rows = {}
        self._clear(now)
        if len(self.troubled) and all(slot in self.troubled for slot in self.fronts.values()) and self.fronts:
            slot = min(self.troubled)
            return self.ledger.fail(f"no front can go on in step {self.number}: slot {slot}: {self.troubled[slot]}")
        self.active = {slot: task for task, slot in self.fronts.items() if slot not in self.troubled}
        if not self.active:
            self.phase = "idle"
            return []
        self.attempt += 1
        self.phase = "rows"
        return [Cast("front", self._call(), latest=True)]

    def _rows_came(self, sender: str, rows: FrontRows, now: float) -> list[Command]:
        if rows.life != self.life or self.active.get(rows.slot) != sender:
            return [Measure("late_rows", 1)]
        open_ = self.number if self.phase == "rows" else self.number + 1
        if rows.attempt == self.attempt and open_ <= rows.number <= max(self._until(), self._after()):
            self.rows.setdefault(rows.number, {})[rows.slot] = rows
            return self._compute_if_ready(now) if rows.number == self.number else []
        if not self.plan.own or rows.number > self.number or (rows.number == self.number and rows.slot in self.chosen):
            return [Measure("late_rows", 1)]
        # a straggler between two syncs goes on with the open step
        after = self.number if self.phase == "rows" else self._after()
        return [Measure("late_rows", 1), Send(sender, Cut(self.life, rows.number, rows.attempt, None, after))]

    def _compute_if_ready(self, now: float) -> list[Command]:
        received = self.rows.get(self.number, {})
        if not self.active:
            return self._begin(now)
        if self.phase != "rows" or len(received) < self.plan.chosen(len(self.active)):
            return []
        self.chosen = sorted(received)
        self.examples = {slot: received[slot].examples for slot in self.chosen}
        self.phase, self.since = "computing", now
        assert self.trunk is not None
        refs: dict[str, Ref] = {"trunk": self.trunk, **{f"rows{slot}": received[slot].rows for slot in self.chosen}}
        del self.rows[self.number]
        if self.plan.u_shaped:
            return [Run("trunk_forward", refs, ("featured", *self._at()), {"step": self.number}, {"graph": GRAPH})]
        run = Run("trunk_step", refs, ("stepped", *self._at()), {"step": self.number, "own": int(self.plan.own)}, {"grads": GRADS})
        return [run, self._apply()] if self.plan.frozen else [run]

    def _features(self, refs: dict[str, Ref], now: float) -> list[Command]:
        self.graph = GRAPH
        self.phase, self.since = "heads", now
        total = sum(self.examples[slot] for slot in self.chosen)
        return [Send(self.active[slot], Features(*self._at(), refs[f"features{slot}"], total), once=True) for slot in self.chosen]

    def _backward_if_ready(self, now: float) -> list[Command]:
        if len(self.heads) < len(self.chosen) or self.graph is None:
            return []
        self.phase, self.since = "computing", now
        self.loss = math.fsum(self.heads[slot].loss for slot in self.chosen)
        refs: dict[str, Ref] = {"graph": self.graph, **{f"heads{slot}": self.heads[slot].heads for slot in self.chosen}}
        numbers: dict[str, float | int | str] = {"own": int(self.plan.own), **{f"examples{slot}": self.examples[slot] for slot in self.chosen}}
        self.graph, self.heads = None, {}
        return [Run("trunk_backward", refs, ("stepped", *self._at()), numbers, {"grads": GRADS})]

    def _stepped(self, refs: dict[str, Ref], numbers: Numbers, now: float) -> list[Command]:
        """The trunk's backward is done: send each front the gradient at the cut."""
        self.loss = numbers.get("loss", self.loss)
        if self.plan.frozen:
            self.phase = "applying"
            return []
        self.since = now
        after = self._after()
        cuts: list[Command] = [
            Send(self.active[slot], Cut(*self._at(), refs[f"cut{slot}"], after), once=True) for slot in self.chosen if slot in self.active
        ]
        if not self.plan.own:
            self.phase, self.grads = "locals", GRADS
            return cuts
        self.phase = "applying"
        return [*cuts, self._apply()]

    def _after(self) -> int:
        """The step that a front goes on with by itself; 0 at a sync."""
        return self.number + 1 if self.plan.own and not self.plan.is_sync(self.number) else 0

    def _apply(self) -> Run:
        assert self.trunk is not None
        refs: dict[str, Ref] = {"trunk": self.trunk, "grads": GRADS}
        if self.opt is not None:
            refs["opt"] = self.opt
        into = {"trunk": TRUNK, "opt": OPT}
        if not self.plan.own and not self.plan.frozen:
            assert self.local is not None
            refs |= {"local": self.local, **{f"gradient{slot}": self.locals[slot].local for slot in self.chosen}}
            into["local"] = LOCAL
        return Run("split_apply", refs, ("applied", *self._at()), into=into)

    def _apply_if_ready(self, now: float) -> list[Command]:
        if self.phase != "locals":
            return []
        if not self.chosen:  # every front left before its weights came: the weights of the last sync stay
            return [Measure("lost_syncs", 1), *self._done(now)]
        if len(self.locals) < len(self.chosen):
            return []
        self.phase, self.since = "applying", now
        if not self.plan.own:
            run = self._apply()
            self.locals, self.grads = {}, None
            return [run]
        refs: dict[str, Ref] = {f"local{slot}": self.locals[slot].local for slot in self.chosen}
        numbers: dict[str, float | int | str] = {f"examples{slot}": self.locals[slot].examples for slot in self.chosen}
        self.locals = {}
        return [Run("split_mean", refs, ("applied", *self._at()), numbers, {"local": LOCAL})]

    def _applied(self, refs: dict[str, Ref], now: float) -> list[Command]:
        self.trunk, self.opt, self.local = refs.get("trunk", self.trunk), refs.get("opt", self.opt), refs.get("local", self.local)
        if self.plan.own and "trunk" in refs and self.plan.is_sync(self.number):
            self.phase, self.since = "locals", now
            return self._apply_if_ready(now)
        return self._done(now)

    def _done(self, now: float) -> list[Command]:
        """Count the finished step and begin the next; at the end of a round save and evaluate."""
        self.sums.add(self.loss, self.examples)
        self.troubled = {}
        measured = Measure("loss", self.loss)
        ends = self.number % self.plan.round_steps == 0
        self.number += 1
        if not ends:
            return [measured, *self._next(now)]
        return [measured, *self._end_round(now)]

    def _next(self, now: float) -> list[Command]:
        on_their_own = self.plan.own and not self.plan.is_sync(self.number - 1)
        joined = any(self.active.get(slot) != task for task, slot in self.fronts.items())
        if not self.active or not (on_their_own or self.plan.frozen) or (self.plan.frozen and joined):
            return self._begin(now)
        self._clear(now)
        self.phase = "rows"
        go: list[Command] = [Cast("front", Go(self.life, self.number, self.attempt, self._until()), latest=True)] if self.plan.frozen else []
        return [*go, *self._compute_if_ready(now)]

    # -- a round -----------------------------------------------------------------------

    def _end_round(self, now: float) -> list[Command]:
        number = (self.number - 1) // self.plan.round_steps
        record, self.sums = self.sums.record(number, now), Sums()
        self.ledger.round = number
        closed = self.ledger.close(record, rate=self.ledger.rates_here(number))
        if self.ledger.last:
            self.rows = {}
            self._clear(now)
            self.phase = "ending"
            return [*self._end(), *closed, Save(number)]
        # fronts keep no state, so the next step is cast before the Save and does not wait for the disk
        return [*self._next(now), *self._rating(), *closed, Save(number)]

    def _whole(self, tag: Tag, into: dict[str, Handle]) -> Run:
        assert self.local is not None
        assert self.trunk is not None
        return Run("split_join", {"local": self.local, "trunk": self.trunk}, tag, into=into)

    def _rating(self) -> list[Command]:
        """Evaluate the weights of the newest unrated round, before the next step changes them."""
        if not self.ledger.unrated:
            return []
        number = max(self.ledger.unrated)
        whole = Handle(f"whole{number}")
        return [
            self._whole(("whole", number), {"weights": whole}),
            Run("evaluate", {"weights": whole}, ("rated", number), {"round": number}),
        ]

    def _end(self) -> list[Command]:
        return [*self._rating(), self._whole(("joined",), {})]

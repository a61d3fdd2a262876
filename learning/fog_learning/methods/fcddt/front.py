"""The front of fcddt (protocol and ops: fog_learning.methods.fcddt.method)."""

from __future__ import annotations

from fog_common.runtime.machine import (
    Cancel,
    Command,
    Delivered,
    Event,
    Failed,
    Handle,
    Machine,
    Ran,
    Ref,
    Rewound,
    Run,
    Send,
    Started,
    Waiting,
)
from fog_learning.methods.fcddt.messages import Cut, Features, FrontRows, Go, Heads, Local, NoStep, Plan, Step

LOCAL, OPT, GRAPH, TAIL = (Handle(name) for name in ("local", "opt", "graph", "tail"))


class Front(Machine):
    """Holds no state beyond a step but the weights from the trunk, and makes no Saves."""

    plan: Plan
    slot: int
    trunk: str = ""
    life: str = ""
    given: tuple[int, int] = (0, 0)
    """(number, attempt) of the Step that brought `local`."""
    at: tuple[int, int] = (0, 0)
    """The newest (number, attempt) that the trunk asked for."""
    until: int = 0
    """The last step whose forward the trunk asked for."""
    begun: int = 0
    """The newest step of this attempt whose forward was begun."""
    local: Ref | None = None
    opt: Ref | None = None
    graph: Handle | None = None
    tail: Handle | None = None
    next: int = 0
    batch: int = 0
    """Examples of the step that runs."""
    seen: int = 0
    """Examples of the own steps since the last sync."""
    running: str = ""
    """The op whose end is awaited; '' for a front_step, which is never cancelled."""
    waits: str = "step"
    since: float = 0.0

    def step(self, event: Event, now: float) -> list[Command]:
        match event:
            case Started() | Rewound():
                self.since = now
            case Delivered(sender, Step() as call):
                return self._given(sender, call, now)
            case Delivered(_, Go(life, number, attempt, until)):
                self._meet(life)
                return self._go((number, attempt), until, now)
            case Delivered(_, Features(life, number, attempt, features, total)) if self._is_at(life, number, attempt) and self.graph is not None:
                assert self.local is not None
                numbers = {**self._numbers(number), "total": total, "own": int(self.plan.own)}
                self._wait("", now, "head")
                return [Run("front_head", {"local": self.local, "features": features}, ("head", *self._tag()), numbers, {"tail": TAIL})]
            case Delivered(_, Cut(life, number, attempt, cut, after)) if self._is_at(life, number, attempt):
                return self._cut(cut, after, now)
            case Ran(("forward", life, number, attempt), refs, numbers) if life == self.life and self._is_wanted(int(number), int(attempt)):
                self.graph = GRAPH if "graph" in refs else None
                self.batch = int(numbers["examples"])
                self._wait("gradient of the cut" if not self.plan.frozen else "step", now)
                return [Send(self.trunk, FrontRows(self.life, int(number), int(attempt), self.slot, refs["rows"], self.batch), once=True)]
            case Ran(("head", *at), refs, numbers) if at == [*self._tag()]:
                self.tail = TAIL
                self._wait("gradient of the cut", now)
                return [Send(self.trunk, Heads(self.life, *self.at, self.slot, refs["heads"], numbers["loss"]), once=True)]
            case Ran(("backward", *at), refs) if at == [*self._tag()]:
                self.graph = self.tail = None
                self._wait("step", now)
                return [Send(self.trunk, Local(self.life, *self.at, self.slot, refs["gradient"], self.batch), once=True)]
            case Ran(("step", life, number, attempt), refs) if life == self.life and self.local == LOCAL:
                self.local, self.opt = refs["local"], refs["opt"]
                if (number, attempt) != self.at or not self.plan.is_sync(int(number)):
                    return []
                self._wait("step", now)
                return [Send(self.trunk, Local(self.life, *self.at, self.slot, self.local, self.seen), once=True)]
            case Failed((what, life, number, attempt), why) if life == self.life and self._is_wanted(int(number), int(attempt)):
                self._wait("step", now)
                return [Send(self.trunk, NoStep(self.life, int(number), int(attempt), self.slot, f"{what} failed: {why}"))]
        return []

    def waiting(self, now: float) -> Waiting | None:
        return Waiting(self.waits, since=self.since) if self.waits else None

    def progress(self) -> int:
        return 1 + max(0, self.at[0] - 1) // self.plan.round_steps

    def _wait(self, what: str, now: float, running: str = "") -> None:
        self.waits, self.since, self.running = what, now, running

    def _numbers(self, number: int) -> dict[str, float | int | str]:
        return {"slot": self.slot, "step": number}

    def _tag(self) -> tuple[str, int, int]:
        return (self.life, *self.at)

    def _is_at(self, life: str, number: int, attempt: int) -> bool:
        return (life, number, attempt) == self._tag()

    def _is_wanted(self, number: int, attempt: int) -> bool:
        return attempt == self.at[1] and self.at[0] <= number <= self.until

    def _meet(self, life: str) -> None:
        """A message of another trunk instance ends all work for the old one."""
        if life != self.life:
            self.life, self.given, self.at, self.until, self.begun = life, (0, 0), (0, 0), 0, 0
            self.local = self.opt = self.graph = self.tail = None

    def _given(self, sender: str, call: Step, now: float) -> list[Command]:
        self._meet(call.life)
        if (call.attempt, call.number) <= (self.given[1], self.given[0]):
            return []
        self.trunk, self.given, self.local, self.opt, self.seen = sender, (call.number, call.attempt), call.local, None, 0
        return self._go((call.number, call.attempt), call.until, now)

    def _go(self, at: tuple[int, int], until: int, now: float) -> list[Command]:
        """Go on with a newer step, or begin the same one again."""
        stale: list[Command] = []
        if (at[1], at[0]) > (self.at[1], self.at[0]):
            if not self.plan.frozen or at[1] != self.at[1]:
                stale = [Cancel((self.running, self.life, number, self.at[1])) for number in range(self.at[0], self.until + 1) if self.running]
                self.begun, self.graph, self.tail = at[0] - 1, None, None
            else:  # the trunk closed these steps without this node, whose activations would come too late
                stale = [Cancel(("forward", self.life, number, at[1])) for number in range(self.at[0], min(at[0], self.until + 1))]
            self.at, self.until = at, until
        if self.local is None:  # the Go came before its Step
            return stale
        first = max(self.at[0], self.begun + 1)
        self.begun = max(self.begun, self.until)
        if first <= self.until:
            self._wait("", now, "forward")
        return [*stale, *(self._forward(number) for number in range(first, self.until + 1))]

    def _forward(self, number: int) -> Run:
        assert self.local is not None
        into = {} if self.plan.frozen else {"graph": GRAPH}
        return Run("front_forward", {"local": self.local}, ("forward", self.life, number, self.at[1]), self._numbers(number), into)

    def _cut(self, cut: Ref | None, after: int, now: float) -> list[Command]:
        if cut is None:
            return self._go((after, self.at[1]), after, now) if after else []
        if self.graph is None or self.local is None:
            return []  # a repeated message
        refs: dict[str, Ref] = {"graph": self.graph, "cut": cut}
        if self.tail is not None:
            refs["tail"] = self.tail
        tag, numbers = self._tag(), self._numbers(self.at[0])
        self.graph = self.tail = None
        self._wait("", now, "" if self.plan.own else "backward")
        if not self.plan.own:
            return [Run("front_backward", refs, ("backward", *tag), numbers)]
        refs["local"] = self.local
        if self.opt is not None:
            refs["opt"] = self.opt
        self.seen += self.batch
        self.local, self.opt = LOCAL, OPT  # the following ops find the stepped values under these names
        stepping = Run("front_step", refs, ("step", *tag), numbers, {"local": LOCAL, "opt": OPT})
        return [stepping, *(self._go((after, self.at[1]), after, now) if after else [])]

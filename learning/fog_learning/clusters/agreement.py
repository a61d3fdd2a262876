"""One consensus of a cluster, from the side of its head: links and turns of the members, their error, the hand-in of the result.

| op     | inputs              | numbers in     | outputs | numbers out |
|--------|---------------------|----------------|---------|-------------|
| spread | sketch0, sketch1 …  | m0, m1 …, exact |        | error       |

error: max over the members of |y_i/m_i - sum(y)/sum(m)|, Euclidean norm over all parameters. exact = 1: from the values themselves;
otherwise from their sketches, times sqrt(2): an upper bound of the true error, at most twice as large, with a chance of failure below 1 in 10^4.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct, field

from fog_common.runtime.machine import Command, Ref, Run, Send
from fog_learning.clusters.graphs import Graph, components, edges_of, full, make_graph, metropolis, second_eigenvalue, turns_needed, without
from fog_learning.clusters.messages import Consensus, Line, More, Neighbours, Pull, Settled
from fog_learning.clusters.mixing import Epoch


class Agreement(Struct):
    """The state of the newest epoch. An epoch begins from the members' inputs; the head decides when."""

    me: str
    seed: int
    uplink: Literal["sample", "diversity"]
    rules: Consensus
    epoch: Epoch = ()
    epochs: int = 0
    members: tuple[str, ...] = ()
    """Members of the epoch, in index order of its graph."""
    broken: list[tuple[str, str]] = field(default_factory=list)
    """Sorted pairs of members that do not reach each other; a pair stays out until one of them is a new instance."""
    turns: int = 0
    settled: dict[str, Settled] = field(default_factory=dict)
    pulled: dict[int, str] = field(default_factory=dict)
    """slice -> member asked for it; '' before a member is."""
    slices: dict[int, Ref] = field(default_factory=dict)
    error: float = 0.0

    # -- graphs ----------------------------------------------------------------------------

    def graph(self, n: int) -> Graph:
        """Graph of n members that all reach each other."""
        rules = self.rules
        return make_graph(rules.graph, n, self.seed, rules.radius, rules.degree, rules.rewire)

    def turns_on(self, graph: Graph) -> int:
        """Turns of a consensus on this graph, by the rules of the job."""
        if len(graph) < 2:
            return 0
        rules = self.rules
        return min(rules.max_turns, rules.turns or turns_needed(second_eigenvalue(metropolis(graph)), rules.shrink))

    def mend(self, names: Sequence[str]) -> None:
        """Try broken links again that a cluster of these sorted names needs to be connected, so that no member stays out for ever."""
        pieces = components(without(full(len(names)), self._broken(names)))
        part = {names[index]: number for number, each in enumerate(pieces) for index in each}
        self.broken = [(a, b) for a, b in self.broken if part.get(a) == part.get(b)]

    def stuck(self, name: str, missing: tuple[str, ...]) -> None:
        """The members in `missing` are silent towards `name`: break these links."""
        self.broken = sorted({*self.broken, *((min(name, other), max(name, other)) for other in missing)})

    def renewed(self, name: str) -> None:
        """The member is a new instance: try its broken links again."""
        self.broken = [pair for pair in self.broken if name not in pair]

    def _broken(self, names: Sequence[str]) -> set[tuple[int, int]]:
        """The broken pairs as indices into these sorted names."""
        return {(names.index(a), names.index(b)) for a, b in self.broken if a in names and b in names}

    # -- an epoch --------------------------------------------------------------------------

    def begin(self, names: list[str], line: Line, number: int) -> list[Command]:
        """Begin an epoch from the inputs of these sorted members, in round `number`. line: that of the call, then this instance's."""
        graph = self.graph(len(names))
        broken = self._broken(names)
        if broken & edges_of(graph):
            graph = without(graph, broken)
            part = components(graph)[0]  # members outside the largest part sit this round out
            new = {old: index for index, old in enumerate(part)}
            graph = tuple(tuple(new[other] for other in graph[old]) for old in part)
            names = [names[old] for old in part]
        self.members, self.turns = tuple(names), self.turns_on(graph)
        self.settled, self.pulled, self.slices = {}, {}, {}
        self.epochs += 1
        self.epoch = (*line, self.epochs, number)
        rows = metropolis(graph)
        return [Send(name, Neighbours(self.epoch, self.turns, {names[j]: rows[i][j] for j in graph[i]}), latest=True) for i, name in enumerate(names)]

    def settle(self, name: str, message: Settled) -> bool:
        """A member's turns are done; returns whether those of all members are."""
        self.settled[name] = message
        return len(self.settled) == len(self.members)

    def spread(self) -> Run:
        """The op that measures the error; it ends with `tag`."""
        settled = [self.settled[name] for name in self.members]
        numbers: dict[str, float | int | str] = {f"m{i}": each.mass for i, each in enumerate(settled)}
        numbers["exact"] = int(all(each.exact for each in settled))
        return Run("spread", {f"sketch{i}": each.sketch for i, each in enumerate(settled)}, self.tag, numbers)

    @property
    def tag(self) -> tuple[str | int, ...]:
        """Tag of the op that measures these turns of this epoch."""
        return ("spread", self.turns, *self.epoch)

    def more(self) -> list[Command]:
        """Double the turns if the error is too large and all members are still there; otherwise []."""
        rules = self.rules
        complete = len(self.settled) == len(self.members)
        if not (rules.max_error > 0.0 and self.error > rules.max_error and self.turns < rules.max_turns and complete):
            return []
        self.turns, self.settled = min(rules.max_turns, 2 * self.turns), {}
        return [Send(name, More(self.epoch, self.turns)) for name in self.members]

    # -- the result ------------------------------------------------------------------------

    def pull(self, number: int) -> list[Command]:
        """Ask for the result. uplink: sample: the whole from one member; diversity: a slice from each."""
        of = len(self.members) if self.uplink == "diversity" else 1
        self.pulled = dict.fromkeys(range(of), "")
        return self._ask(list(range(of)), number)

    def lost(self, name: str, number: int) -> list[Command]:
        """A member is gone: ask others for its slices, as their values hold its data, too."""
        self.settled.pop(name, None)
        return self._ask([part for part, asked in self.pulled.items() if asked == name and part not in self.slices], number) if self.settled else []

    def _ask(self, parts: list[int], number: int) -> list[Command]:
        """Ask members that hold the result for these slices: each for its own, a random one for a whole."""
        holders, of = sorted(self.settled), len(self.pulled)
        dice = random.Random(f"uplink/{self.seed}/{self.me}/{number}/{len(holders)}")
        for part in parts:
            own = self.members[part] if of > 1 else ""
            self.pulled[part] = own if own in self.settled else dice.choice(holders)
        return [Send(self.pulled[part], Pull(self.epoch, part, of)) for part in parts]

    def take(self, part: int, weights: Ref) -> bool:
        """Take a slice; returns whether all are there."""
        self.slices[part] = weights
        return len(self.slices) == len(self.pulled)

    def clear(self) -> None:
        """Forget the results of a finished round."""
        self.settled, self.slices, self.pulled = {}, {}, {}

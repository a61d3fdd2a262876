"""One consensus of a cluster, from the side of its head: who averages with whom, how far they are, and who hands in the result.

| op     | inputs              | numbers in     | outputs | numbers out |
|--------|---------------------|----------------|---------|-------------|
| spread | sketch0, sketch1 …  | m0, m1 …, exact |        | error       |

error: max over the members of |y_i/m_i - sum(y)/sum(m)|, Euclidean norm over all parameters. exact = 1: of the values themselves;
else from their sketches, times sqrt(2), so that it bounds the true one from above (and is at most twice it) but for a chance of less than 1 in 10^4.
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
    """Of the epoch, in index order of its graph."""
    broken: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of members, sorted, that do not reach each other: left out until one of them is a new instance."""
    turns: int = 0
    settled: dict[str, Settled] = field(default_factory=dict)
    pulled: dict[int, str] = field(default_factory=dict)
    """slice -> member that was asked for it."""
    slices: dict[int, Ref] = field(default_factory=dict)
    error: float = 0.0

    # -- graphs ----------------------------------------------------------------------------

    def graph(self, n: int) -> Graph:
        """Of n members that all reach each other."""
        rules = self.rules
        return make_graph(rules.graph, n, self.seed, rules.radius, rules.degree, rules.rewire)

    def turns_on(self, graph: Graph) -> int:
        if len(graph) < 2:
            return 0
        rules = self.rules
        return min(rules.max_turns, rules.turns or turns_needed(second_eigenvalue(metropolis(graph)), rules.shrink))

    def mend(self, names: Sequence[str]) -> None:
        """Links that a cluster of these (sorted) cannot do without are tried again: nobody's data is to be left out for good."""
        pieces = components(without(full(len(names)), self._broken(names)))
        part = {names[index]: number for number, each in enumerate(pieces) for index in each}
        self.broken = [(a, b) for a, b in self.broken if part.get(a) == part.get(b)]

    def stuck(self, name: str, missing: tuple[str, ...]) -> None:
        """These are silent to that member."""
        self.broken = sorted({*self.broken, *((min(name, other), max(name, other)) for other in missing)})

    def renewed(self, name: str) -> None:
        """It is a new instance: its links may work."""
        self.broken = [pair for pair in self.broken if name not in pair]

    def _broken(self, names: Sequence[str]) -> set[tuple[int, int]]:
        """The pairs that do not reach each other, as indices of these sorted names."""
        return {(names.index(a), names.index(b)) for a, b in self.broken if a in names and b in names}

    # -- an epoch --------------------------------------------------------------------------

    def begin(self, names: list[str], line: Line, number: int) -> list[Command]:
        """From the inputs of these (sorted), in round `number`. line: of the call, then of this instance."""
        graph = self.graph(len(names))
        broken = self._broken(names)
        if broken & edges_of(graph):
            graph = without(graph, broken)
            part = components(graph)[0]  # who cannot be reached by the others sits this round out
            new = {old: index for index, old in enumerate(part)}
            graph = tuple(tuple(new[other] for other in graph[old]) for old in part)
            names = [names[old] for old in part]
        self.members, self.turns = tuple(names), self.turns_on(graph)
        self.settled, self.pulled, self.slices = {}, {}, {}
        self.epochs += 1
        self.epoch = (*line, self.epochs, number)
        rows = metropolis(graph)
        return [Send(name, Neighbours(self.epoch, self.turns, {names[j]: rows[i][j] for j in graph[i]}), latest=True) for i, name in enumerate(names)]

    def settle(self, name: str, said: Settled) -> bool:
        """Its turns are done; whether everybody's are."""
        self.settled[name] = said
        return len(self.settled) == len(self.members)

    def spread(self) -> Run:
        """How far apart they are; `ran` with what comes of it."""
        settled = [self.settled[name] for name in self.members]
        numbers: dict[str, float | int | str] = {f"m{i}": said.mass for i, said in enumerate(settled)}
        numbers["exact"] = int(all(said.exact for said in settled))
        return Run("spread", {f"sketch{i}": said.sketch for i, said in enumerate(settled)}, self.tag, numbers)

    @property
    def tag(self) -> tuple[str | int, ...]:
        """Of the op that measures these turns of this epoch."""
        return ("spread", self.turns, *self.epoch)

    def more(self) -> list[Command]:
        """Twice the turns, if the error is too large and everybody is still there; [] if it is as good as it gets."""
        rules = self.rules
        here = len(self.settled) == len(self.members)
        if not (rules.max_error > 0.0 and self.error > rules.max_error and self.turns < rules.max_turns and here):
            return []
        self.turns, self.settled = min(rules.max_turns, 2 * self.turns), {}
        return [Send(name, More(self.epoch, self.turns)) for name in self.members]

    # -- its result ------------------------------------------------------------------------

    def pull(self, number: int) -> list[Command]:
        """uplink: sample: the whole from one; diversity: a slice from each."""
        of = len(self.members) if self.uplink == "diversity" else 1
        self.pulled = dict.fromkeys(range(of), "")
        return self._ask(list(range(of)), number)

    def lost(self, name: str, number: int) -> list[Command]:
        """Its data stays in the others' values: they are asked for what it was to hand in."""
        self.settled.pop(name, None)
        return self._ask([part for part, asked in self.pulled.items() if asked == name and part not in self.slices], number) if self.settled else []

    def _ask(self, parts: list[int], number: int) -> list[Command]:
        """Ask members that hold the result for these slices: each for its own, one at random for a whole."""
        holders, of = sorted(self.settled), len(self.pulled)
        dice = random.Random(f"uplink/{self.seed}/{self.me}/{number}/{len(holders)}")
        for part in parts:
            own = self.members[part] if of > 1 else ""
            self.pulled[part] = own if own in self.settled else dice.choice(holders)
        return [Send(self.pulled[part], Pull(self.epoch, part, of)) for part in parts]

    def take(self, part: int, weights: Ref) -> bool:
        """A slice; whether all are there."""
        self.slices[part] = weights
        return len(self.slices) == len(self.pulled)

    def clear(self) -> None:
        """The round is over: nothing of it is needed any more."""
        self.settled, self.slices, self.pulled = {}, {}, {}

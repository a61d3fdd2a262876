"""Op backends that record the updates in each mean, so that fault schedules can compare them with the reported history.

`StarBook` records the stand-in ops (fedavg): the final weights are traced back, round by round, to the updates in them.
`TreeBook` checks the plain ops (methods that average among neighbours), whose weights carry each slot's share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fog_learning.backend import plain_ops
from fog_learning.backend.plain import PlainBackend
from fog_learning.backend.standin import StandinBackend, examples
from fog_learning.job.sections import JobFile

Numbers = dict[str, float]


class Trained(NamedTuple):
    """An update: its slot, its round, the weights from which it was made (the stand-in's number)."""

    slot: int
    round: int
    base: int


class Mean(NamedTuple):
    """A mean (the stand-in's number) and the updates in it."""

    weights: int
    members: tuple[Trained, ...]


class Verdict(NamedTuple):
    """Result of a comparison between the means and the history."""

    violations: list[str]
    whole: bool
    """Every round held every slot's update."""
    counted: frozenset[tuple[int, int]]
    """(slot, round) of every update that is in the final weights."""
    trained: frozenset[tuple[int, int]] = frozenset()
    """(slot, round) of every update that was made from the weights with which the round finally began."""


class StarBook(StandinBackend):
    """The stand-in ops, with a record of the updates in each sum and mean."""

    def __init__(self, job: JobFile, slots: Mapping[str, int], roster_size: int) -> None:
        super().__init__(job, slots, roster_size)
        self._late = job.stragglers.late == "accept"
        self._made: dict[bytes, Trained] = {}
        self._sums: dict[int, tuple[Any, tuple[Trained, ...]]] = {}  # id of a sum -> (the sum, which must live as long as its id; its updates)
        self._means: dict[int, list[Mean]] = {}  # round -> its means; a server that fell back closes a round again
        self.violations: list[str] = []

    def run(self, op: str, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> tuple[dict[str, Any], Numbers]:
        inside = self._sums.pop(id(inputs.get("sum")), (None, ()))[1]
        outputs, gives = super().run(op, task, inputs, numbers)
        match op:
            case "train":
                slot = int(numbers.get("slot", self.slots.get(task, -1)))
                trained = Trained(slot, int(numbers["round"]), inputs["weights"].numbers[0])
                self._made[bytes(self.encode(outputs["weights"]))] = trained
            case "accumulate":
                self._sums[id(outputs["sum"])] = (outputs["sum"], self._added(inside, self._made[bytes(self.encode(inputs["add"]))]))
            case "mean":
                self._means.setdefault(max(each.round for each in inside), []).append(Mean(outputs["weights"].numbers[0], inside))
        return outputs, gives

    def _added(self, inside: tuple[Trained, ...], new: Trained) -> tuple[Trained, ...]:
        if any((other.slot, other.round) == (new.slot, new.round) for other in inside):
            self.violations.append(f"slot {new.slot} of round {new.round} is twice in one mean")
        if not self._late and any(other.round != new.round for other in inside):
            self.violations.append(f"an update of round {new.round} is in a mean with updates of another round")
        return (*inside, new)

    def verify(self, status: Mapping[str, Any], weights: bytes, slots: Iterable[int]) -> Verdict:
        """Trace the final weights of a finished job back through its means, and compare these with the history. status: as fogctl prints it."""
        violations, counted, number = list(self.violations), set(), self.decode(weights).numbers[0]
        begun: dict[int, int] = {}
        for record in reversed(status["history"]):
            mean = next((each for each in self._means.get(record["round"], ()) if each.weights == number), None)
            if mean is None:
                return Verdict(
                    [*violations, f"round {record['round']}: no mean of this run gives the weights that the next round began with"],
                    False,
                    frozenset(),
                )
            own = [each for each in mean.members if each.round == record["round"]]
            if len(own) != record["updates"] or sum(examples(each.slot) for each in own) != record["examples"]:
                slots_in = sorted(each.slot for each in own)
                violations.append(
                    f"round {record['round']}: the history says {record['updates']} updates of {record['examples']} examples; slots {slots_in} are in it"
                )
            for each in mean.members:
                if (each.slot, each.round) in counted:
                    violations.append(f"slot {each.slot} of round {each.round} is counted in two rounds")
                counted.add((each.slot, each.round))
            number = begun[record["round"]] = own[0].base if own else -1
            if any(each.base != number for each in own):
                violations.append(f"round {record['round']}: updates of the same round were made from different weights")
        whole = all((slot, record["round"]) in counted for slot in slots for record in status["history"])
        trained = {(each.slot, each.round) for each in self._made.values() if begun.get(each.round) == each.base}
        return Verdict(violations, whole, frozenset(counted), frozenset(trained))


class TreeBook(PlainBackend):
    """The plain ops, with a check that the weights before each training are a mean with each slot once, at its own weight."""

    TOLERANCE = 1e-6
    """Largest accepted error of a share; a consensus ends with an error (docs/fog.md)."""

    def __init__(self, job: JobFile, slots: Mapping[str, int], roster_size: int) -> None:
        super().__init__(job, slots, roster_size)
        self.violations: list[str] = []

    def run(self, op: str, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> tuple[dict[str, Any], Numbers]:
        if op == "train" and any(inputs["weights"][1:]):
            self._judge(f"what {task} trains from in round {numbers.get('round', '?')}", inputs["weights"])
        return super().run(op, task, dict(inputs), dict(numbers))

    def _judge(self, what: str, weights: list[float]) -> list[int]:
        """Slots in the weights; a violation is noted if their shares are not those of a mean that holds each slot once."""
        inside = [slot for slot, share in enumerate(weights[1:]) if share > self.TOLERANCE]
        if any(abs(share - right) > self.TOLERANCE for share, right in zip(weights[1:], plain_ops.shares(inside), strict=True)):
            self.violations.append(f"{what}: shares {[round(share, 4) for share in weights[1:]]} are no mean of slots {inside}")
        return inside

    def verify(self, status: Mapping[str, Any], weights: bytes, slots: Iterable[int]) -> Verdict:
        """Compare the final weights of a finished job with its history. status: as fogctl prints it."""
        final, wanted = self.decode(weights), len(list(slots))
        inside, last = self._judge("the final weights", final), status["history"][-1]
        violations = list(self.violations)
        if len(inside) != last["slots"]:
            violations.append(f"round {last['round']}: the history says {last['slots']} slots; {inside} are in it")
        whole = all(record["slots"] == wanted for record in status["history"])
        if whole and abs(final[0] - plain_ops.flat(len(status["history"]), wanted)) > self.TOLERANCE:
            violations.append("every slot was counted in every round, and the weights are not those of federated averaging")
        return Verdict(violations, whole, frozenset())

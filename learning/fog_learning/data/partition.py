"""Partition of a training set over the roster's slots: a function of (labels, slots, partition, seed), the same on every node."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

from fog_common.errors import ConfigError
from fog_learning.data.streams import stream
from fog_learning.job.sections import Partition

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def check_partition(how: Partition) -> None:
    """ConfigError for values that fit no data set."""
    if not (isfinite(how.alpha) and how.alpha > 0):
        raise ConfigError(f"data.partition.alpha must be a number above 0, got {how.alpha}")
    if how.shards_per_node < 1:
        raise ConfigError(f"data.partition.shards_per_node must be at least 1, got {how.shards_per_node}")


def partition(labels: Array, slots: int, how: Partition, seed: int) -> list[Array]:
    """Sorted row numbers per slot: disjoint, together all rows, at least one each. ConfigError if there are too few rows.

    labels: (rows,). iid: shuffled and cut evenly. dirichlet: of each class, shares drawn from Dir(alpha) (Hsu et al. 2019); an
    empty slot takes one row from the largest. shards: sorted by class, cut into slots x shards_per_node pieces, dealt at
    random (McMahan et al. 2017).
    """
    import numpy as np

    check_partition(how)
    labels = np.asarray(labels)
    rows = len(labels)
    if slots < 1:
        raise ConfigError(f"data cannot be divided over {slots} nodes; at least 1")
    if slots > rows:
        raise ConfigError(f"{slots} nodes share {rows} training examples; each needs at least one: use fewer nodes or more data")
    random = stream("partition", how.kind, seed)
    match how.kind:
        case "iid":
            parts = np.array_split(random.permutation(rows), slots)
        case "dirichlet":
            parts = _dirichlet(labels, slots, how.alpha, random)
        case "shards":
            pieces = slots * how.shards_per_node
            if pieces > rows:
                raise ConfigError(f"{slots} nodes x {how.shards_per_node} shards = {pieces} shards of {rows} training examples; use fewer")
            shuffled = random.permutation(rows)
            shards = np.array_split(shuffled[np.argsort(labels[shuffled], kind="stable")], pieces)
            dealt = random.permutation(pieces).reshape(slots, how.shards_per_node)
            parts = [np.concatenate([shards[piece] for piece in hand]) for hand in dealt]
    return [np.sort(part) for part in parts]


def _dirichlet(labels: Array, slots: int, alpha: float, random: np.random.RandomState) -> list[Array]:
    import numpy as np

    hands: list[list[Array]] = [[] for _ in range(slots)]
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        # a tiny alpha underflows to 0/0 = NaN; in the limit one slot gets the whole class. The slot is always drawn, for the stream's sake
        lucky = random.randint(slots)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = random.dirichlet(np.full(slots, alpha)) if slots > 1 else np.ones(1)
        if not np.isfinite(shares).all():
            shares = np.eye(slots)[lucky]
        cuts = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(np.int64)
        for hand, piece in zip(hands, np.split(rows, cuts), strict=True):
            hand.append(piece)
    parts = [np.concatenate(hand) for hand in hands]
    for slot in range(slots):
        if not len(parts[slot]):
            largest = max(range(slots), key=lambda s: len(parts[s]))
            parts[slot], parts[largest] = parts[largest][-1:], parts[largest][:-1]
    return parts

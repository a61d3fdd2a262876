"""A data set in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fog_common.errors import ConfigError
from fog_learning.data.streams import stream

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


class DataError(ConfigError):
    """A data set is missing or malformed; the text names the places searched and the content found."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Scale from stored values to a model's inputs: (value - shift) / divide, per channel or feature; a single entry serves all."""

    shift: tuple[float, ...]
    divide: tuple[float, ...]

    def apply(self, rows: Array) -> Array:
        """float32 rows of the same shape."""
        import numpy as np

        shape = (-1, *(1,) * (rows.ndim - 2))
        shift, divide = (np.asarray(values, dtype=np.float32).reshape(shape) for values in (self.shift, self.divide))
        return (rows.astype(np.float32) - shift) / divide


AS_STORED = Scale((0.0,), (1.0,))


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set. x: (rows, *input_shape), channels first, as stored (uint8 takes a quarter of the memory); y: int64 in 0..classes-1.

    DataError if the arrays do not fit each other or hold NaN or infinity.
    """

    name: str
    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array
    classes: int
    scale: Scale = AS_STORED
    class_names: tuple[str, ...] = ()
    train_groups: Array | None = None
    """The person (subject, writer) behind each training row, if the files contain it."""
    origin: str = ""
    """Source of the set, for a person."""
    input_shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        import numpy as np

        object.__setattr__(self, "input_shape", tuple(self.train_x.shape[1:]))
        for part, x, y in (("training", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            if len(x) != len(y):
                raise DataError(f"data set {self.name}: {len(x)} {part} examples but {len(y)} labels ({self.origin})")
            if tuple(x.shape[1:]) != self.input_shape:
                raise DataError(f"data set {self.name}: test examples have shape {tuple(x.shape[1:])}, training {self.input_shape} ({self.origin})")
            if len(y) and (y.min() < 0 or y.max() >= self.classes):
                raise DataError(f"data set {self.name}: {part} labels run from {y.min()} to {y.max()}, it has {self.classes} classes ({self.origin})")
            if x.dtype.kind == "f" and not np.isfinite(x).all():
                raise DataError(f"data set {self.name}: {part} examples hold NaN or infinity ({self.origin})")
        if not len(self.train_y):
            raise DataError(f"data set {self.name} has no training examples ({self.origin})")

    @property
    def named(self) -> bool:
        """Whether labels stand for words, which each node numbers by itself; numbers mean the same on every node."""
        return any(not name.isdecimal() for name in self.class_names)

    def limited(self, train_limit: int | None, test_limit: int | None, seed: int) -> Dataset:
        """The set with the first examples after a seeded shuffle, up to each limit; None: all, in their order."""
        changed = self
        if train_limit is not None and train_limit < len(self.train_y):
            rows = stream("train_limit", seed).permutation(len(self.train_y))[:train_limit]
            groups = None if self.train_groups is None else self.train_groups[rows]
            changed = replace(changed, train_x=self.train_x[rows], train_y=self.train_y[rows], train_groups=groups)
        if test_limit is not None and test_limit < len(self.test_y):
            rows = stream("test_limit", seed).permutation(len(self.test_y))[:test_limit]
            changed = replace(changed, test_x=self.test_x[rows], test_y=self.test_y[rows])
        return changed


def standardised(train_x: Array) -> Scale:
    """The scale to mean 0 and deviation 1 per channel (or feature) of the training rows; constant channels are only shifted."""
    import numpy as np

    axes = (0, *range(2, train_x.ndim))
    chunks = [train_x[first : first + 1024] for first in range(0, len(train_x), 1024)]  # a float64 copy of all rows would be large
    per_channel = train_x.size / train_x.shape[1]
    mean = sum(chunk.sum(axis=axes, dtype=np.float64) for chunk in chunks) / per_channel
    middle = mean.reshape(-1, *(1,) * (train_x.ndim - 2))
    variance = sum(np.square(chunk - middle).sum(axis=axes) for chunk in chunks) / per_channel
    deviation = np.sqrt(variance)
    deviation[deviation == 0] = 1.0
    return Scale(tuple(mean.tolist()), tuple(deviation.tolist()))


def stratified_split(labels: Array, fraction: float, *name: int | str) -> tuple[Array, Array]:
    """Sorted (training rows, test rows): `fraction` of each class, rounded, is held out, drawn from stream(*name)."""
    import numpy as np

    random, held = stream(*name), []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held.append(random.permutation(rows)[: round(fraction * len(rows))])
    test = np.sort(np.concatenate(held)) if held else np.empty(0, dtype=np.int64)
    return np.setdiff1d(np.arange(len(labels)), test, assume_unique=True), test

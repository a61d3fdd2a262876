"""Data sets whose facts are known without their files. Imports neither numpy nor torch, because the coordinator reads it."""

from __future__ import annotations

from typing import Final

from msgspec import Struct


class DatasetEntry(Struct, frozen=True):
    """Facts of a data set that follow from its name."""

    title: str
    input_shape: tuple[int, ...]
    classes: int
    scale: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """(shift, divide) of the usual uint8 files, see base.Scale; None: measured on the training part."""
    test_examples: int = 0
    """Examples of the published test part; 0 = unknown."""


DATASETS: Final[dict[str, DatasetEntry]] = {
    "digits": DatasetEntry("1 797 scanned digits of scikit-learn, nothing to download", (1, 8, 8), 10, ((4.88,), (6.02,)), test_examples=359),
    "mnist": DatasetEntry("handwritten digits, idx files", (1, 28, 28), 10, ((33.32,), (78.57,)), test_examples=10000),
    "fashion-mnist": DatasetEntry("pictures of clothes, idx files", (1, 28, 28), 10, ((72.94,), (90.02,)), test_examples=10000),
    "emnist-byclass": DatasetEntry("handwritten characters, idx files", (1, 28, 28), 62, ((44.27,), (84.56,)), test_examples=116323),
    "emnist-balanced": DatasetEntry("handwritten characters, idx files", (1, 28, 28), 47, ((44.68,), (84.98,)), test_examples=18800),
    "cifar10": DatasetEntry("small photographs, npz", (3, 32, 32), 10, ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)), test_examples=10000),
    "uci-har": DatasetEntry("accelerometer and gyroscope windows of 30 persons, npz", (9, 128), 6),
}
"""Names with a known shape. Any other name works if the nodes have its files; then only they know its shape."""


def known_shape(name: str) -> tuple[tuple[int, ...], int] | None:
    """(input shape, classes) of a data set, or of the set of which it is a `-subset`, by its name alone; None if unknown."""
    entry = known(name)
    return None if entry is None else (entry.input_shape, entry.classes)


def known_test_examples(name: str) -> int:
    """Examples of a data set's test part by its name alone; 0 if unknown (a `-subset` has fewer)."""
    entry = DATASETS.get(name)
    return 0 if entry is None else entry.test_examples


def known_value_bytes(name: str) -> int | None:
    """Bytes of one stored value of a data set, by its name alone; None if unknown."""
    entry = known(name)
    return 1 if entry is not None and entry.scale is not None else None


def known(name: str) -> DatasetEntry | None:
    """The entry of that name, or of the set of which it is a `-subset`."""
    return DATASETS.get(name) or DATASETS.get(name.removesuffix("-subset"))

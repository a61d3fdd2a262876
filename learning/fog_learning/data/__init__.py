"""Data sets by name: which are known, where they are looked for, how they are read.

A name is looked for in the agent's `datasets:` (name: path), then in $FOGLEARN_DATA/NAME; `digits` comes with scikit-learn.
A place may hold idx files (MNIST and relatives), npz, CSV, or a folder of images per class; the file names decide.

What a model sees is (stored value - mean) / deviation, per channel or feature. Of the sets in DATASETS these are constants, so that
nodes which own their data agree; of all others they are those of the training part that the node has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from msgspec import Struct

from fog_learning.data.base import DataError, Dataset, Scale, standardised, stratified_split
from fog_learning.data.files import load_csv, load_folders, load_npz
from fog_learning.data.idx import load_idx
from fog_learning.data.partition import check_partition, partition

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "DatasetEntry",
    "Scale",
    "check_partition",
    "known_shape",
    "known_test_examples",
    "known_value_bytes",
    "load_dataset",
    "partition",
    "places",
]


class DatasetEntry(Struct, frozen=True):
    """What is known of a data set without having it. load: where it needs no files."""

    title: str
    input_shape: tuple[int, ...]
    classes: int
    scale: Scale | None = None
    """Of the usual uint8 files; None: as measured on the training part."""
    load: Callable[[], Dataset] | None = None
    test_examples: int = 0
    """Of its test part as it is published; 0 = not known."""


DIGITS: Final = Scale((4.88,), (6.02,))


def load_digits() -> Dataset:
    """scikit-learn's 1 797 handwritten digits, 8x8, real scans with values 0..16; always the same fifth held out."""
    import gzip
    import importlib.util

    import numpy as np

    # its file is read without importing the package, which would cost each worker a second and 60 MB
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise DataError("data set digits needs scikit-learn on this node; pip install 'foglearn[torch]'")
    file = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if file.is_file():
        table = np.array([line.split(b",") for line in gzip.decompress(file.read_bytes()).split()], dtype=np.float32)
    else:
        from sklearn.datasets import load_digits as sklearn_digits

        bunch = sklearn_digits()
        table = np.column_stack([bunch.data, bunch.target])
    x, y = table[:, :-1].astype(np.uint8).reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)
    train, test = stratified_split(y, 0.2, "split", "digits")
    return Dataset("digits", x[train], y[train], x[test], y[test], 10, DIGITS, origin="scikit-learn")


DATASETS: dict[str, DatasetEntry] = {
    "digits": DatasetEntry("1 797 scanned digits of scikit-learn, nothing to download", (1, 8, 8), 10, DIGITS, load_digits, 359),
    "mnist": DatasetEntry("handwritten digits, idx files", (1, 28, 28), 10, Scale((33.32,), (78.57,)), test_examples=10000),
    "fashion-mnist": DatasetEntry("pictures of clothes, idx files", (1, 28, 28), 10, Scale((72.94,), (90.02,)), test_examples=10000),
    "emnist-byclass": DatasetEntry("handwritten characters, idx files", (1, 28, 28), 62, Scale((44.27,), (84.56,)), test_examples=116323),
    "emnist-balanced": DatasetEntry("handwritten characters, idx files", (1, 28, 28), 47, Scale((44.68,), (84.98,)), test_examples=18800),
    "cifar10": DatasetEntry("small photographs, npz", (3, 32, 32), 10, Scale((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)), test_examples=10000),
    "uci-har": DatasetEntry("accelerometer and gyroscope windows of 30 persons, npz", (9, 128), 6),
}
"""Names with a known shape. Any other name works too, if its files are found; then only the nodes know its shape."""

_READERS = (load_idx, load_npz, load_csv, load_folders)


def known_shape(name: str) -> tuple[tuple[int, ...], int] | None:
    """(input shape, classes) of a data set by its name alone, a `-subset` of a known one included; None if not known."""
    entry = _known(name)
    return None if entry is None else (entry.input_shape, entry.classes)


def known_test_examples(name: str) -> int:
    """Examples of a data set's test part by its name alone; 0 if that is not known (a `-subset` has fewer)."""
    entry = DATASETS.get(name)
    return 0 if entry is None else entry.test_examples


def known_value_bytes(name: str) -> int | None:
    """Bytes of one stored value of a data set, by its name alone; None if that is not known."""
    entry = _known(name)
    return 1 if entry is not None and entry.scale is not None else None


def _known(name: str) -> DatasetEntry | None:
    return DATASETS.get(name) or DATASETS.get(name.removesuffix("-subset"))


def _scale(dataset: Dataset) -> Scale:
    entry = _known(dataset.name)
    usual = entry is not None and dataset.train_x.dtype.name == "uint8" and dataset.input_shape == entry.input_shape
    return entry.scale if entry is not None and entry.scale is not None and usual else standardised(dataset.train_x)


def places(name: str, paths: Mapping[str, str], env: Mapping[str, str]) -> list[Path]:
    """Where a data set of that name may be on this node, in the order of looking."""
    if name in paths:
        return [Path(paths[name]).expanduser()]
    return [Path(env["FOGLEARN_DATA"]).expanduser() / name] if env.get("FOGLEARN_DATA") else []


def load_dataset(name: str, paths: Mapping[str, str], env: Mapping[str, str]) -> Dataset:
    """The data set, as stored. paths: the agent's `datasets:`; env: for FOGLEARN_DATA. DataError says where was looked."""
    looked = places(name, paths, env)
    for place in looked:
        if place.exists():
            for reader in _READERS:
                if (dataset := reader(name, place)) is not None:
                    return replace(dataset, scale=_scale(dataset))
            raise DataError(f"data set {name}: {place} holds no idx, npz or CSV file and no folder of images per class")
    entry = DATASETS.get(name)
    if entry is not None and entry.load is not None and name not in paths:
        return entry.load()
    where = (
        f"not found in {', '.join(map(str, looked))}"
        if looked
        else "not found: neither datasets: in the agent's configuration nor $FOGLEARN_DATA says where"
    )
    raise DataError(f"data set {name} {where}; put its files there, or use a built-in one ({', '.join(_built_in())})")


def _built_in() -> list[str]:
    return [name for name, entry in DATASETS.items() if entry.load is not None]

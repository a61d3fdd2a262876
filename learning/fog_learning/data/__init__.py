"""Data sets by name: known sets, places of the files, readers.

A name is looked up in the agent's `datasets:` (name: path), then in $FOGLEARN_DATA/NAME; `digits` comes with scikit-learn.
A place may hold idx files (MNIST and relatives), npz, CSV, or a folder of images per class; the file names decide.

A model's input is (stored value - mean) / deviation, per channel or feature. For the sets in DATASETS these are constants, so that
nodes with data of their own agree; for all others they are those of the node's training part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from fog_learning.data.base import DataError, Dataset, Scale, standardised, stratified_split
from fog_learning.data.files import load_csv, load_folders, load_npz
from fog_learning.data.idx import load_idx
from fog_learning.data.known import DATASETS, DatasetEntry, known, known_shape, known_test_examples, known_value_bytes
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


DIGITS: Final = DATASETS["digits"].scale or ((0.0,), (1.0,))


def load_digits() -> Dataset:
    """scikit-learn's 1 797 scanned digits, (1, 8, 8) with values 0..16; the held-out fifth is always the same. DataError without scikit-learn."""
    import gzip
    import importlib.util

    import numpy as np

    # reading the file without importing the package saves each worker a second and 60 MB
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
    return Dataset("digits", x[train], y[train], x[test], y[test], 10, Scale(*DIGITS), origin="scikit-learn")


_READERS = (load_idx, load_npz, load_csv, load_folders)
_BUILT_IN: Final[dict[str, Callable[[], Dataset]]] = {"digits": load_digits}


def _constants(entry: DatasetEntry | None) -> Scale | None:
    return None if entry is None or entry.scale is None else Scale(*entry.scale)


def _scale(dataset: Dataset) -> Scale:
    entry = known(dataset.name)
    usual = entry is not None and dataset.train_x.dtype.name == "uint8" and dataset.input_shape == entry.input_shape
    return (_constants(entry) if usual else None) or standardised(dataset.train_x)


def places(name: str, paths: Mapping[str, str], env: Mapping[str, str]) -> list[Path]:
    """Places where this node looks for a data set, in order."""
    if name in paths:
        return [Path(paths[name]).expanduser()]
    return [Path(env["FOGLEARN_DATA"]).expanduser() / name] if env.get("FOGLEARN_DATA") else []


def load_dataset(name: str, paths: Mapping[str, str], env: Mapping[str, str]) -> Dataset:
    """The data set, as stored. paths: the agent's `datasets:`; env: for FOGLEARN_DATA. DataError names the places searched."""
    searched = places(name, paths, env)
    for place in searched:
        if place.exists():
            for reader in _READERS:
                if (dataset := reader(name, place)) is not None:
                    return replace(dataset, scale=_scale(dataset))
            raise DataError(f"data set {name}: {place} holds no idx, npz or CSV file and no folder of images per class")
    if name in _BUILT_IN and name not in paths:
        return _BUILT_IN[name]()
    where = (
        f"not found in {', '.join(map(str, searched))}"
        if searched
        else "not found: neither datasets: in the agent's configuration nor $FOGLEARN_DATA says where"
    )
    raise DataError(f"data set {name} {where}; put its files there, or use a built-in one ({', '.join(_BUILT_IN)})")

"""The idx format of MNIST and its relatives (plain or gzip)."""

from __future__ import annotations

import gzip
import struct
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fog_learning.data.base import DataError, Dataset, stratified_split

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

TEST_WORDS = ("t10k", "test")


def read_idx(path: Path, axes: int) -> Array:
    """The uint8 array of an idx file with this number of axes. DataError for any other or a truncated file."""
    import numpy as np

    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        raise DataError(f"{path} cannot be read: {error}") from None
    head = 4 + 4 * axes
    if len(content) < head or content[:4] != bytes((0, 0, 8, axes)):
        raise DataError(f"{path} is not an idx file of bytes with {axes} axes; it begins with {content[:4].hex(' ') or 'nothing'}")
    shape = struct.unpack(f">{axes}I", content[4:head])
    if prod(shape) != len(content) - head:
        raise DataError(f"{path} says shape {shape} = {prod(shape)} B but holds {len(content) - head} B; download it again")
    return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(shape)


def find_images(folder: Path, word: str) -> list[Path]:
    return sorted([*folder.glob(f"*{word}-images-idx3-ubyte"), *folder.glob(f"*{word}-images-idx3-ubyte.gz")])


def load_idx(name: str, folder: Path) -> Dataset | None:
    """A data set from idx files in `folder`; None if it holds none. Without test files a fifth of each class is held out.

    EMNIST stores its images transposed: they are turned upright if the name of the set or of a file contains emnist. DataError for
    files that do not fit together.
    """
    import numpy as np

    train = _one_of(name, find_images(folder, "train"))
    if train is None:
        return None
    train_x, train_y = _pair(train)
    tests = [path for word in TEST_WORDS for path in find_images(folder, word)]
    test = _one_of(train.name.split("train-images")[0].rstrip("-"), tests)
    if "emnist" in name.lower() or "emnist" in train.name.lower():
        train_x = train_x.transpose(0, 2, 1)
    if test is None:
        rows, held = stratified_split(train_y, 0.2, "split", name)
        train_x, test_x, train_y, test_y = train_x[rows], train_x[held], train_y[rows], train_y[held]
    else:
        test_x, test_y = _pair(test)
        if "emnist" in name.lower() or "emnist" in train.name.lower():
            test_x = test_x.transpose(0, 2, 1)
    classes = int(max(train_y.max(initial=0), test_y.max(initial=0))) + 1
    images = (np.ascontiguousarray(x)[:, None] for x in (train_x, test_x))
    train_x, test_x = images
    return Dataset(name, train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64), classes, origin=str(folder))


def _pair(images: Path) -> tuple[Array, Array]:
    wanted = images.name.replace("images-idx3", "labels-idx1").removesuffix(".gz")
    for labels in (images.with_name(wanted), images.with_name(wanted + ".gz")):
        if labels.is_file():
            x, y = read_idx(images, 3), read_idx(labels, 1)
            if len(x) != len(y):
                raise DataError(f"{images} has {len(x)} images, {labels.name} {len(y)} labels")
            return x, y
    raise DataError(f"{images} is here, but {wanted}[.gz] is not")


def _one_of(stem: str, paths: list[Path]) -> Path | None:
    """The only file, or the one that begins with `stem`, plain before gzip; None without files. DataError if several remain."""
    unique = {path.name.removesuffix(".gz"): path for path in reversed(paths)}
    if len(unique) > 1:
        named = {base: path for base, path in unique.items() if stem and base.startswith(stem + "-")}
        unique = named or unique
    if len(unique) > 1:
        raise DataError(f"{paths[0].parent} holds several data sets ({', '.join(sorted(unique))}); put each into a folder of its own")
    return next(iter(unique.values()), None)

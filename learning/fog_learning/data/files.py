"""Data sets from npz, CSV and folders of images."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fog_learning.data.base import DataError, Dataset, stratified_split

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

LABEL_COLUMNS = ("label", "class", "target", "y")
GROUP_KEYS = ("subject", "group", "writer")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
UCI_HAR_TEST = (2, 4, 9, 10, 12, 13, 18, 20, 24)
"""Subjects of the official test part of UCI HAR."""


# -- npz -----------------------------------------------------------------------------------


def load_npz(name: str, place: Path) -> Dataset | None:
    """A data set from an npz file with x_train, y_train[, x_test, y_test] or x, y[, subject], or a folder with one such file or with
    *train*.npz and *test*.npz; None without npz files. DataError for other contents.

    A set without a test part gets one: whole subjects if the file names them (windows of one person overlap), otherwise a fifth
    of each class.
    """
    import numpy as np

    files = [place] if place.is_file() else sorted(place.glob("*.npz"))
    files = [file for file in files if file.suffix == ".npz"]
    if not files:
        return None
    train = [file for file in files if "train" in file.stem]
    test = [file for file in files if "test" in file.stem]
    if len(files) == 2 and len(train) == len(test) == 1:
        (train_x, train_y, groups), (test_x, test_y, _) = (_xy(_arrays(one), one) for one in (train[0], test[0]))
    elif len(files) == 1:
        arrays = _arrays(files[0])
        train_x, train_y, groups = _xy(arrays, files[0])
        if "x_test" in arrays and "y_test" in arrays:
            test_x, test_y = arrays["x_test"], arrays["y_test"]
        else:
            rows, held = _split_by_group(name, groups) if groups is not None else stratified_split(train_y, 0.2, "split", name)
            test_x, test_y = train_x[held], train_y[held]
            train_x, train_y, groups = train_x[rows], train_y[rows], groups[rows] if groups is not None else None
    else:
        raise DataError(f"{place} holds {len(files)} npz files; needed: one, or one *train*.npz and one *test*.npz")
    train_x, test_x = _channels_first(train_x), _channels_first(test_x)
    for y in (train_y, test_y):
        if y.dtype.kind not in "iu" or y.ndim != 1:
            raise DataError(f"{place}: labels must be whole numbers, one per example; found {y.dtype} of shape {y.shape}")
    classes = int(max(train_y.max(initial=0), test_y.max(initial=0))) + 1
    return Dataset(name, train_x, train_y.astype(np.int64), test_x, test_y.astype(np.int64), classes, train_groups=groups, origin=str(place))


def _arrays(file: Path) -> dict[str, Array]:
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files if key in ("x", "y", "x_train", "y_train", "x_test", "y_test", *GROUP_KEYS)}
    except Exception as error:  # zipfile, lzma, zlib and numpy each raise their own
        raise DataError(f"{file} cannot be read as npz without pickle: {error}") from None


def _xy(arrays: dict[str, Array], file: Path) -> tuple[Array, Array, Array | None]:
    for x, y in (("x_train", "y_train"), ("x", "y")):
        if x in arrays and y in arrays:
            if len(arrays[x]) != len(arrays[y]):
                raise DataError(f"{file}: {x} has {len(arrays[x])} rows, {y} {len(arrays[y])}")
            groups = next((arrays[key] for key in GROUP_KEYS if key in arrays and len(arrays[key]) == len(arrays[y])), None)
            return arrays[x], arrays[y], groups
    raise DataError(f"{file} needs the arrays x and y, or x_train and y_train; it has {', '.join(sorted(arrays)) or 'none of them'}")


def _channels_first(x: Array) -> Array:
    """uint8 (N,H,W) gets a channel axis; (N,H,W,1|3) becomes (N,1|3,H,W); other shapes stay."""
    import numpy as np

    if x.dtype == np.uint8 and x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3):
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return x


def _split_by_group(name: str, groups: Array) -> tuple[Array, Array]:
    import numpy as np

    from fog_learning.data.streams import stream

    members = np.unique(groups)
    if "har" in name and members.tolist() == list(range(1, 31)):
        held = np.array(UCI_HAR_TEST)
    else:
        held = stream("split", name).permutation(members)[: max(1, len(members) // 5)]
    is_test = np.isin(groups, held)
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


# -- csv -----------------------------------------------------------------------------------


def load_csv(name: str, place: Path) -> Dataset | None:
    """A data set from a CSV file with a header, numbers, and a label column (label, class, target or y; words or numbers), or a folder
    with one such file or with *train*.csv and *test*.csv; None without CSV files. DataError for other contents.
    """
    import numpy as np

    files = [place] if place.is_file() else sorted(place.glob("*.csv"))
    files = [file for file in files if file.suffix == ".csv"]
    if not files:
        return None
    train = [file for file in files if "train" in file.stem]
    test = [file for file in files if "test" in file.stem]
    if len(files) == 2 and len(train) == len(test) == 1:
        train_x, train_words = _read_csv(train[0])
        test_x, test_words = _read_csv(test[0])
    elif len(files) == 1:
        x, words = _read_csv(files[0])
        rows, held = stratified_split(np.array(words), 0.2, "split", name)
        train_x, test_x = x[rows], x[held]
        train_words, test_words = [words[row] for row in rows], [words[row] for row in held]
    else:
        raise DataError(f"{place} holds {len(files)} CSV files; needed: one, or one *train*.csv and one *test*.csv")
    names = _class_names([*train_words, *test_words])
    number = {word: index for index, word in enumerate(names)}
    train_y, test_y = (np.array([number[word] for word in words], dtype=np.int64) for words in (train_words, test_words))
    return Dataset(name, train_x, train_y, test_x, test_y, len(names), class_names=names, origin=str(place))


def _class_names(words: list[str]) -> tuple[str, ...]:
    """Whole numbers keep their value as label (a node may lack some classes); words are numbered in alphabetical order."""
    names = set(words)
    if all(word.isdecimal() and len(word) <= 4 for word in names):
        return tuple(str(n) for n in range(max(int(word) for word in names) + 1))
    return tuple(sorted(names))


def _word(text: str) -> str:
    """The label in its shortest form: 07 becomes 7."""
    return str(int(text)) if text.isdecimal() else text


def _read_csv(file: Path) -> tuple[Array, list[str]]:
    import numpy as np

    rows: list[list[float]] = []
    labels: list[str] = []
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines)
            header = [column.strip().lower() for column in next(reader, [])]
            label = next((header.index(column) for column in LABEL_COLUMNS if column in header), None)
            if label is None:
                raise DataError(f"{file} has no label column; name one of its columns {', '.join(LABEL_COLUMNS)} (found: {', '.join(header[:8])})")
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(f"{file}, line {reader.line_num}: {len(row)} fields, the header has {len(header)}")
                labels.append(_word(row.pop(label).strip()))
                try:
                    rows.append([float(value) for value in row])
                except ValueError as error:
                    raise DataError(f"{file}, line {reader.line_num}: {error}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    if not rows:
        raise DataError(f"{file} has no rows")
    return np.array(rows, dtype=np.float32), labels


# -- folders of images ---------------------------------------------------------------------


def load_folders(name: str, place: Path) -> Dataset | None:
    """A data set from {class}/*.png|jpg|bmp, or train/{class}/… and test/{class}/…; None without images. DataError if their sizes differ."""
    import numpy as np

    if not place.is_dir():
        return None
    train_root, test_root = place / "train", place / "test"
    divided = train_root.is_dir() and test_root.is_dir()
    roots = (train_root, test_root) if divided else (place,)
    folders = [(root, folder) for root in roots for folder in sorted(root.iterdir()) if folder.is_dir() and _images(folder)]
    if not folders:
        return None
    names = _class_names([_word(folder.name) for _, folder in folders])
    parts: dict[Path, tuple[list[Array], list[int]]] = {root: ([], []) for root in roots}
    size: tuple[int, ...] | None = None
    for root, folder in folders:
        for file in _images(folder):
            pixels = _pixels(file)
            size = size or pixels.shape
            if pixels.shape != size:
                raise DataError(f"{file} has shape {pixels.shape}, the others {size} (channels, height, width); all images need one size")
            parts[root][0].append(pixels)
            parts[root][1].append(names.index(_word(folder.name)))
    arrays = [(np.stack(x) if x else np.empty((0, *(size or ())), np.uint8), np.array(y, dtype=np.int64)) for x, y in parts.values()]
    if divided:
        (train_x, train_y), (test_x, test_y) = arrays
    else:
        ((x, y),) = arrays
        rows, held = stratified_split(y, 0.2, "split", name)
        train_x, train_y, test_x, test_y = x[rows], y[rows], x[held], y[held]
    return Dataset(name, train_x, train_y, test_x, test_y, len(names), class_names=names, origin=str(place))


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def _pixels(file: Path) -> Array:
    import numpy as np

    try:
        from PIL import Image
    except ImportError:
        raise DataError(f"{file}: images need the package pillow; pip install 'foglearn[torch]'") from None
    try:
        with Image.open(file) as image:
            grey = image.mode in ("1", "L", "I", "I;16")
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except Exception as error:  # pillow raises many kinds for a broken file
        raise DataError(f"{file} cannot be read as an image: {error}") from None
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))

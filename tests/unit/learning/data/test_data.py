"""Data sets from every kind of file, and partitions."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fog_common.errors import ConfigError
from fog_learning.data import DATASETS, DataError, Scale, known_shape, load_dataset, partition
from fog_learning.data.streams import stream
from fog_learning.job.sections import Partition

# -- partitions ----------------------------------------------------------------------------

HOW = st.one_of(
    st.just(Partition("iid")),
    st.builds(lambda alpha: Partition("dirichlet", alpha=alpha), st.floats(1e-6, 1e3)),
    st.builds(lambda n: Partition("shards", shards_per_node=n), st.integers(1, 3)),
)


@settings(max_examples=150, deadline=None)
@given(labels=st.lists(st.integers(0, 9), min_size=1, max_size=200), slots=st.integers(1, 40), how=HOW, seed=st.integers(0, 2**31 - 1))
def test_parts_are_disjoint_complete_and_never_empty(labels: list[int], slots: int, how: Partition, seed: int):
    pieces = slots * how.shards_per_node if how.kind == "shards" else slots
    if pieces > len(labels):
        with pytest.raises(ConfigError, match="use fewer"):
            partition(np.array(labels), slots, how, seed)
        return
    parts = partition(np.array(labels), slots, how, seed)
    assert len(parts) == slots
    assert min(len(part) for part in parts) >= 1
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    again = partition(np.array(labels), slots, how, seed)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_partitions_depend_on_the_seed():
    labels = np.arange(200) % 10
    for how in (Partition("iid"), Partition("dirichlet"), Partition("shards")):
        one, other = partition(labels, 4, how, 1), partition(labels, 4, how, 2)
        assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_small_alpha_and_shards_are_not_alike():
    labels = np.repeat(np.arange(10), 100)

    def classes_per_slot(how: Partition) -> float:
        return float(np.mean([len(np.unique(labels[part])) for part in partition(labels, 10, how, 5)]))

    assert classes_per_slot(Partition("iid")) == 10
    assert classes_per_slot(Partition("dirichlet", alpha=100)) == 10
    assert classes_per_slot(Partition("dirichlet", alpha=0.05)) < 6
    assert classes_per_slot(Partition("shards", shards_per_node=2)) <= 3


def test_more_slots_than_examples_is_said_with_the_numbers():
    with pytest.raises(ConfigError, match="5 nodes share 3 training examples"):
        partition(np.zeros(3, dtype=int), 5, Partition(), 0)


@pytest.mark.parametrize("how", [Partition("dirichlet", alpha=0), Partition("dirichlet", alpha=float("nan")), Partition("shards", shards_per_node=0)])
def test_impossible_partition_values(how: Partition):
    with pytest.raises(ConfigError, match=r"data\.partition\."):
        partition(np.zeros(30, dtype=int), 3, how, 0)


def test_streams_are_pinned():
    """All nodes must draw the same, today's and next year's: a change here breaks running fleets."""
    assert stream("partition", "iid", 7).permutation(8).tolist() == [4, 1, 3, 2, 6, 5, 7, 0]
    assert stream("a", 1).randint(1000) != stream("a", 2).randint(1000)


# -- files ---------------------------------------------------------------------------------


def write_idx(path: Path, array: np.ndarray) -> None:
    content = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def idx_folder(folder: Path, prefix: str = "", test: str = "t10k", suffix: str = "") -> np.ndarray:
    folder.mkdir(parents=True)
    images = np.arange(12 * 3 * 4).reshape(12, 3, 4) % 256
    labels = np.arange(12) % 3
    write_idx(folder / f"{prefix}train-images-idx3-ubyte{suffix}", images[:9])
    write_idx(folder / f"{prefix}train-labels-idx1-ubyte{suffix}", labels[:9])
    write_idx(folder / f"{prefix}{test}-images-idx3-ubyte{suffix}", images[9:])
    write_idx(folder / f"{prefix}{test}-labels-idx1-ubyte{suffix}", labels[9:])
    return images


@pytest.mark.thorough
def test_digits_come_along_and_are_always_split_alike():
    one, two = load_dataset("digits", {}, {}), load_dataset("digits", {}, {})
    assert (len(one.train_y), len(one.test_y), one.input_shape, one.classes) == (1438, 359, (1, 8, 8), 10)
    assert np.array_equal(one.test_x, two.test_x)
    assert np.bincount(one.test_y).min() >= 34
    scaled = one.scale.apply(one.train_x)
    assert scaled.dtype == np.float32
    assert (float(scaled.mean()), float(scaled.std())) == (pytest.approx(0, abs=0.01), pytest.approx(1, abs=0.01))
    from sklearn.datasets import load_digits

    everything = np.concatenate([one.train_x, one.test_x]).reshape(-1, 64)
    assert sorted(map(bytes, everything)) == sorted(bytes(row) for row in load_digits().data.astype(np.uint8))


@pytest.mark.parametrize(("prefix", "test", "suffix"), [("", "t10k", ".gz"), ("letters-", "test", ""), ("", "test", ".gz")])
def test_idx_files_by_folder_and_by_name(tmp_path: Path, prefix: str, test: str, suffix: str):
    images = idx_folder(tmp_path / "things", prefix, test, suffix)
    by_env = load_dataset("things", {}, {"FOGLEARN_DATA": str(tmp_path)})
    by_path = load_dataset("other", {"other": str(tmp_path / "things")}, {})
    for found in (by_env, by_path):
        assert np.array_equal(found.train_x[:, 0], images[:9])
        assert np.array_equal(found.test_x[:, 0], images[9:])
        assert (found.input_shape, found.classes, found.train_x.dtype) == ((1, 3, 4), 3, np.uint8)
    scaled = by_env.scale.apply(by_env.train_x)
    assert (float(scaled.mean()), float(scaled.std())) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))


def test_a_known_set_is_scaled_alike_on_every_node(tmp_path: Path):
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", np.random.RandomState(1).randint(0, 99, (4, 28, 28)))
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", np.arange(4))
    places = {"mnist": str(tmp_path), "mine": str(tmp_path)}
    assert load_dataset("mnist", places, {}).scale == Scale(*DATASETS["mnist"].scale or ()) != load_dataset("mine", places, {}).scale


def test_emnist_is_put_upright(tmp_path: Path):
    images = idx_folder(tmp_path / "emnist-balanced", "emnist-balanced-", "test")
    found = load_dataset("emnist-balanced", {}, {"FOGLEARN_DATA": str(tmp_path)})
    assert found.input_shape == (1, 4, 3)
    assert np.array_equal(found.test_x[:, 0], images[9:].transpose(0, 2, 1))


def test_broken_idx_files_are_named(tmp_path: Path):
    folder = tmp_path / "things"
    idx_folder(folder)
    (folder / "train-images-idx3-ubyte").write_bytes(b"PK\3\4 no idx")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte is not an idx file of bytes with 3 axes; it begins with 50 4b 03 04"):
        load_dataset("things", {"things": str(folder)}, {})
    write_idx(folder / "train-images-idx3-ubyte", np.zeros((9, 3, 4)))
    whole = (folder / "train-images-idx3-ubyte").read_bytes()
    (folder / "train-images-idx3-ubyte").write_bytes(whole[:-5])
    with pytest.raises(DataError, match=r"says shape \(9, 3, 4\) = 108 B but holds 103 B"):
        load_dataset("things", {"things": str(folder)}, {})
    (folder / "train-images-idx3-ubyte").write_bytes(whole)
    (folder / "train-labels-idx1-ubyte").rename(folder / "hidden")
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\[\.gz\] is not"):
        load_dataset("things", {"things": str(folder)}, {})
    (folder / "hidden").rename(folder / "train-labels-idx1-ubyte")
    (folder / "train-images-idx3-ubyte").rename(folder / "train-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset("things", {"things": str(folder)}, {})


def test_npz_with_one_file_with_two_and_with_subjects(tmp_path: Path):
    x, y = np.arange(40 * 5 * 5 * 3, dtype=np.uint8).reshape(40, 5, 5, 3), np.arange(40) % 4
    np.savez(tmp_path / "one.npz", x=x, y=y)
    one = load_dataset("one", {"one": str(tmp_path / "one.npz")}, {})
    assert (one.input_shape, len(one.train_y), np.bincount(one.test_y).tolist()) == ((3, 5, 5), 32, [2, 2, 2, 2])
    (tmp_path / "two").mkdir()
    np.savez(tmp_path / "two" / "a-train.npz", x=x[:30], y=y[:30])
    np.savez(tmp_path / "two" / "a-test.npz", x=x[30:], y=y[30:])
    two = load_dataset("two", {}, {"FOGLEARN_DATA": str(tmp_path)})
    assert np.array_equal(two.test_x, x[30:].transpose(0, 3, 1, 2))
    np.savez(tmp_path / "people.npz", x=np.random.RandomState(0).normal(5, 3, (40, 2, 7)), y=y, subject=np.arange(40) // 4)
    people = load_dataset("people", {"people": str(tmp_path / "people.npz")}, {})
    assert people.train_groups is not None
    assert (len(np.unique(people.train_groups)), people.input_shape) == (8, (2, 7))
    scaled = people.scale.apply(people.train_x)
    assert np.allclose(scaled.mean(axis=(0, 2)), 0, atol=1e-5)
    assert np.allclose(scaled.std(axis=(0, 2)), 1, atol=1e-5)


def test_npz_never_unpickles(tmp_path: Path):
    np.savez(tmp_path / "evil.npz", x=np.array([{}, {}], dtype=object), y=np.zeros(2, dtype=int))
    with pytest.raises(DataError, match="cannot be read as npz without pickle"):
        load_dataset("evil", {"evil": str(tmp_path / "evil.npz")}, {})
    np.savez(tmp_path / "evil.npz", images=np.zeros(2))
    with pytest.raises(DataError, match="needs the arrays x and y"):
        load_dataset("evil", {"evil": str(tmp_path / "evil.npz")}, {})


def test_csv_labels_by_word_and_by_number(tmp_path: Path):
    rows = "".join(f"{i},{i * 2.5},{'cat' if i % 2 else 'ant'}\n" for i in range(20))
    (tmp_path / "pets.csv").write_text("a,b,Label\n" + rows)
    pets = load_dataset("pets", {"pets": str(tmp_path / "pets.csv")}, {})
    assert (pets.input_shape, pets.classes, pets.class_names, len(pets.test_y)) == ((2,), 2, ("ant", "cat"), 4)
    (tmp_path / "sensors").mkdir()
    for part, first in (("train", 0), ("test", 7)):
        (tmp_path / "sensors" / f"{part}.csv").write_text("y,a\n" + "".join(f"{(first + i) % 8},{i}\n" for i in range(6)))
    sensors = load_dataset("sensors", {}, {"FOGLEARN_DATA": str(tmp_path)})
    assert (sensors.classes, sensors.train_y.tolist()) == (8, [0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r"has no label column; name one of its columns label, class, target, y \(found: a, b\)"),
        ("a,label\n1,0\n1\n", "line 3: 1 fields, the header has 2"),
        ("a,label\nx,0\n", "line 2: could not convert string to float: 'x'"),
        ("a,label\n", "has no rows"),
        ("a,label\nnan,0\nnan,0\nnan,0\nnan,1\n", "training examples hold NaN or infinity"),
    ],
)
def test_wrong_csv(tmp_path: Path, text: str, message: str):
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset("bad", {"bad": str(tmp_path / "bad.csv")}, {})


def test_folders_of_images(tmp_path: Path):
    from PIL import Image

    for label in ("left", "right"):
        (tmp_path / "signs" / label).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (6, 4), (i, 200, 7)).save(tmp_path / "signs" / label / f"{i}.png")
    signs = load_dataset("signs", {}, {"FOGLEARN_DATA": str(tmp_path)})
    assert (signs.input_shape, signs.class_names, len(signs.train_y), len(signs.test_y)) == ((3, 4, 6), ("left", "right"), 8, 2)
    Image.new("RGB", (5, 4)).save(tmp_path / "signs" / "left" / "9.png")
    with pytest.raises(DataError, match=r"9\.png has shape \(3, 4, 5\), the others \(3, 4, 6\)"):
        load_dataset("signs", {}, {"FOGLEARN_DATA": str(tmp_path)})


def test_folders_named_by_numbers_keep_their_value(tmp_path: Path):
    """A node may lack some classes: 2 and 10 are no 0 and 1."""
    from PIL import Image

    for name in ("2", "10"):
        folder = tmp_path / "own" / name
        folder.mkdir(parents=True)
        for index in range(3):
            Image.new("L", (4, 4), index).save(folder / f"{index}.png")
    dataset = load_dataset("own", {"own": str(tmp_path / "own")}, {})
    assert {*dataset.train_y.tolist(), *dataset.test_y.tolist()} == {2, 10}
    assert dataset.classes == 11 and not dataset.named


def test_missing_data_says_where_was_looked(tmp_path: Path):
    with pytest.raises(DataError, match=r"data set maps not found in .*/maps; put its files there, or use a built-in one \(digits\)"):
        load_dataset("maps", {}, {"FOGLEARN_DATA": str(tmp_path)})
    with pytest.raises(DataError, match=r"not found in /nowhere/maps;"):
        load_dataset("maps", {"maps": "/nowhere/maps"}, {"FOGLEARN_DATA": str(tmp_path)})
    with pytest.raises(DataError, match=r"neither datasets: in the agent's configuration nor \$FOGLEARN_DATA"):
        load_dataset("maps", {}, {})
    (tmp_path / "maps").mkdir()
    with pytest.raises(DataError, match="holds no idx, npz or CSV file and no folder of images"):
        load_dataset("maps", {}, {"FOGLEARN_DATA": str(tmp_path)})


def test_a_configured_path_counts_for_digits_too(tmp_path: Path):
    idx_folder(tmp_path / "mine")
    assert load_dataset("digits", {"digits": str(tmp_path / "mine")}, {}).input_shape == (1, 3, 4)
    with pytest.raises(DataError, match="not found in /nowhere"):
        load_dataset("digits", {"digits": "/nowhere"}, {})


def test_limits_take_a_seeded_sample():
    digits = load_dataset("digits", {}, {})
    small, same, other = (digits.limited(100, 50, seed) for seed in (1, 1, 2))
    assert (len(small.train_y), len(small.test_y)) == (100, 50)
    assert np.array_equal(small.train_x, same.train_x)
    assert not np.array_equal(small.train_x, other.train_x)
    assert digits.limited(None, 10**6, 1).test_x is digits.test_x


def test_known_shapes():
    digits = load_dataset("digits", {}, {})
    assert known_shape("digits") == (digits.input_shape, digits.classes)
    assert known_shape("cifar10-subset") == ((3, 32, 32), 10)
    assert known_shape("maps") is None

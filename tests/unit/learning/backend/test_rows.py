"""Rows of a slot: their division, their batches, their scaling."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
import torch

from fog_common.errors import OpError
from fog_learning.backend.rows import Examples, SentRows
from fog_learning.data import Dataset, load_dataset
from fog_learning.job.sections import Data
from support.backends import CONSENTING, JOB, backend_for


def test_every_row_comes_once_per_pass_and_all_batches_are_of_one_size():
    backend = backend_for()
    rows = backend.rows.train(1)
    rows.y = torch.arange(len(rows))
    seen = torch.cat([backend.batches.at(1, step)[1] for step in range(3 * len(rows) // 32 + 1)])
    assert len(seen) == 32 * (3 * len(rows) // 32 + 1)
    for epoch in range(3):
        one = seen[epoch * len(rows) : (epoch + 1) * len(rows)]
        assert sorted(one.tolist()) == list(range(len(rows)))
    assert not torch.equal(seen[: len(rows)], seen[len(rows) : 2 * len(rows)])


def test_batches_are_a_function_of_seed_slot_and_step():
    one, other = backend_for(), backend_for(msgspec.structs.replace(JOB, seed=4))
    late = one.batches.at(0, 40)
    one.batches.at(0, 2)
    assert all(torch.equal(a, b) for a, b in zip(late, backend_for().batches.at(0, 40), strict=True))
    assert not torch.equal(late[0], other.batches.at(0, 40)[0])


def test_a_slot_smaller_than_a_batch_gives_all_its_rows():
    job = msgspec.structs.replace(JOB, data=Data(train_limit=5))
    backend = backend_for(job, slots=2)
    assert [len(backend.batches.at(slot, 0)[1]) for slot in (0, 1)] == [3, 2]


def test_a_new_roster_divides_anew():
    backend = backend_for(slots=2)
    before = len(backend.rows.train(0))
    backend.assign({"t0": 0}, 4)
    assert len(backend.rows.train(0)) == len(backend_for().rows.train(0)) != before


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_rows_that_are_taken_stay_as_they_are(dtype: torch.dtype):
    """Of a slice of numbers in the job's dtype torch gives a view: scaled in place, every evaluation would have scaled the data once more."""
    stored = torch.arange(8).reshape(4, 2).to(dtype)
    rows = Examples(stored.clone(), torch.zeros(4, dtype=torch.int64), torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
    first, _ = rows.take(slice(0, 4))
    assert torch.equal(rows.take(slice(0, 4))[0], first) and torch.equal(rows.take(torch.arange(4))[0], first)
    assert torch.equal(rows.x, stored)


def test_rows_that_came_from_another_node_give_the_batches_that_they_give_there():
    there, here = backend_for(CONSENTING), backend_for(CONSENTING, slots=0)
    sent = {slot: there.run("samples", f"t{slot}", {}, {"slot": slot})[0]["samples"] for slot in (0, 2)}
    source = SentRows(sent, here.device, 10)
    for slot in sent:
        for ours, theirs in zip(here.batches.at(slot, 5, source), there.batches.at(slot, 5), strict=True):
            assert torch.equal(ours, theirs)


def test_sent_rows_with_a_label_that_the_model_lacks_are_refused_by_the_slots_name():
    value = {"x": torch.zeros(2, 4), "y": torch.tensor([0, 3]), "shift": torch.zeros(()), "divide": torch.ones(())}
    with pytest.raises(OpError, match="slot 1 sent label 3, the model has 3 outputs"):
        SentRows({1: value}, torch.device("cpu"), 3)


def test_the_shape_is_known_after_the_rest_of_the_data_set_is_let_go():
    reads = []

    def read(name: str, paths: Mapping[str, str], env: Mapping[str, str]) -> Dataset:
        reads.append(name)
        return load_dataset(name, paths, env)

    backend = backend_for(slots=2, read=read)
    backend.rows.keep({0, 1}, test=True)
    assert backend.rows.shape() == ((1, 8, 8), 10)
    assert len(backend.rows.test()) and len(backend.rows.train(1)) and reads == ["digits"]

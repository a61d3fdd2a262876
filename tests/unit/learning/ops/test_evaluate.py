"""Rating of a model on the test part and on held-out rows."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from fog_learning.job.sections import Evaluation
from support.backends import JOB, backend_for, first_of


def test_evaluation_is_that_of_the_held_out_digits():
    backend = backend_for()
    _, numbers = backend.run("evaluate", "server", {"weights": first_of(backend)}, {"round": 1})
    assert numbers["examples"] == 359
    assert numbers["loss"] == pytest.approx(np.log(10), abs=0.2)
    trained = backend.run("train", "t0", {"weights": first_of(backend)}, {"round": 1, "steps": 60})[0]["weights"]
    assert backend.run("evaluate", "server", {"weights": trained}, {})[1]["accuracy"] > numbers["accuracy"] + 0.2


def test_federated_evaluation_holds_rows_out():
    backend = backend_for(msgspec.structs.replace(JOB, evaluation=Evaluation(where="federated", holdout=0.25)))
    all_rows = backend_for()
    for slot in range(4):
        train, held = backend.rows.train(slot), backend.rows.held(slot)
        assert len(train) + len(held) == len(all_rows.rows.train(slot))
        assert len(held) == round(0.25 * (len(train) + len(held)))
        rows = [bytes(x.numpy()) for x in torch.cat([train.x, held.x])]
        assert sorted(rows) == sorted(bytes(x.numpy()) for x in all_rows.rows.train(slot).x)
    _, numbers = backend.run("evaluate_local", "t1", {"weights": first_of(backend)}, {"slot": 1, "layers": ""})
    assert numbers["examples"] == len(backend.rows.held(1))

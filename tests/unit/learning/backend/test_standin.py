"""The torch-free stand-in: its arithmetic can be predicted, so that tests of the rest can check every number."""

from __future__ import annotations

import random

import pytest

from fog_common.errors import OpError, WireError
from fog_learning.backend.standin import StandinBackend, examples, expected
from fog_learning.job.sections import JobFile

JOB = JobFile(name="chaos", method={"name": "fedavg"}, model={"name": "mlp"})


def test_a_job_ends_with_the_expected_number_whatever_the_order():
    backend = StandinBackend(JOB, {f"t{slot}": slot for slot in range(9)}, 9, size=5)
    weights = backend.run("init", "server", {}, {})[0]["weights"]
    dice = random.Random(1)
    for round in range(1, 8):
        total = None
        for slot in dice.sample(range(9), 9):
            outputs, numbers = backend.run("train", f"t{slot}", {"weights": weights}, {"round": round, "slot": slot})
            assert numbers["examples"] == examples(slot)
            sent = backend.decode(bytes(backend.encode(outputs["weights"])))
            total = backend.run("accumulate", "server", {"sum": total, "add": sent}, {"n": numbers["examples"]})[0]["sum"]
        weights = backend.run("mean", "server", {"sum": total}, {})[0]["weights"]
    assert list(weights.numbers) == [expected(7, range(9))] * 5
    assert expected(7, range(9)) != expected(7, range(8)) != expected(6, range(9))


def test_sums_of_parts_are_the_sum():
    backend = StandinBackend(JOB, {}, 4, size=3)
    weights = backend.run("init", "server", {}, {})[0]["weights"]
    trained = [backend.run("train", "t", {"weights": weights}, {"round": 1, "slot": slot})[0]["weights"] for slot in range(4)]

    def add(total: object, value: object, n: float) -> object:
        return backend.run("accumulate", "s", {"sum": total, "add": value}, {"n": n})[0]["sum"]

    flat = add(add(add(add(None, trained[0], 1), trained[1], 2), trained[2], 3.5), trained[3], 4)
    tree = add(add(None, add(add(None, trained[3], 4), trained[0], 1), 0), add(add(None, trained[2], 3.5), trained[1], 2), 0)
    assert flat == tree
    assert backend.run("evaluate", "s", {"weights": backend.run("mean", "s", {"sum": flat}, {})[0]["weights"]}, {})[1]["accuracy"] > 0.5


def test_bad_bytes_and_bad_inputs_are_refused():
    backend = StandinBackend(JOB, {}, 1, size=3)
    good = bytes(backend.encode(backend.run("init", "s", {}, {})[0]["weights"]))
    for bad in (b"", b"x" * 40, good[:-1], good + b"\0" * 8):
        with pytest.raises(WireError):
            backend.decode(bad)
    with pytest.raises(OpError, match="weights is not a value of weights"):
        backend.run("train", "t", {"weights": None}, {"round": 1, "slot": 0})
    with pytest.raises(OpError, match="no update to average"):
        backend.run("mean", "s", {"sum": None}, {})
    with pytest.raises(OpError, match="has no op 'dance'"):
        backend.run("dance", "s", {}, {})

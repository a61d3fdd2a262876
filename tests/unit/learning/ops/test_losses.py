"""The losses that a job may name."""

from __future__ import annotations

from typing import get_args, get_type_hints

import msgspec
import pytest
import torch

from fog_common.errors import ConfigError
from fog_learning.job.reading import job_from
from fog_learning.job.sections import JobFile
from fog_learning.ops.losses import LOSSES
from support.backends import JOB, backend_for, first_of


def test_every_loss_that_a_job_may_name_exists_and_no_other():
    assert set(get_args(get_type_hints(JobFile)["loss"])) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_the_total_of_the_rows_is_their_mean_times_their_number(name: str):
    loss, outputs, targets = LOSSES[name], torch.randn(7, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    assert float(loss.total(outputs, targets)) == pytest.approx(7 * float(loss.mean(outputs, targets)), rel=1e-12)


def test_cross_entropy_scores_the_rows_whose_class_has_the_largest_output():
    outputs = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    assert LOSSES["cross_entropy"].score(outputs, torch.tensor([0, 1, 1])) == 2


@pytest.mark.parametrize("name", LOSSES)
def test_a_rating_bears_the_name_of_the_losss_metric(name: str):
    backend = backend_for(msgspec.structs.replace(JOB, loss=name))
    numbers = backend.run("evaluate", "server", {"weights": first_of(backend)}, {"round": 1})[1]
    assert set(numbers) == {LOSSES[name].metric, "loss", "examples"}


def test_a_loss_that_does_not_exist_is_refused_with_the_key():
    with pytest.raises(ConfigError, match="loss"):
        job_from({"name": "j", "method": {"name": "fedavg"}, "model": {"name": "mlp"}, "loss": "hinge"})

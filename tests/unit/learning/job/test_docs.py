"""docs/jobs.md names every key of the job file, with its default."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fog_learning.job.reading import job_from
from fog_learning.job.sections import job_spec
from support.paths import ROOT

PAGE = (ROOT / "docs/jobs.md").read_text(encoding="utf-8")
BLOCKS = [block.split("```")[0] for block in PAGE.split("```yaml\n")[1:]]


def test_the_page_shows_all_keys_with_their_defaults():
    shown: dict[str, Any] = yaml.safe_load(BLOCKS[0])
    plain = job_spec(job_from({"name": "digits", "method": {"name": "fedavg"}, "model": {"name": "mlp"}}))
    shown["budgets"] = plain["budgets"] if shown["budgets"] == {} else shown["budgets"]
    assert shown == plain
    for key in plain["budgets"]:
        assert f" {key}" in PAGE


@pytest.mark.parametrize("block", BLOCKS)
def test_its_jobs_are_valid(block: str):
    job_from(yaml.safe_load(block))

"""The job files of the package are those of the examples."""

from __future__ import annotations

import pytest

from fogctl.verbs.demo import DIGITS, FOG
from support.paths import ROOT


@pytest.mark.parametrize("path", [DIGITS, FOG])
def test_the_demos_jobs_are_the_examples(path):
    assert path.read_bytes() == (ROOT / "examples" / path.name).read_bytes()

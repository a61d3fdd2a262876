"""A job file from its text to a Job whose method and model are known to exist and to fit each other. No torch.

    load_job("examples/digits.yaml")            # ConfigError: file, line, key, what was found, what is allowed
    checked_job(request.spec)                   # the same for a job that came as a message

What only a node can know (its data, its free memory) is found by the job's preflight, before the first training step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fog_common import config
from fog_common.errors import ConfigError
from fog_learning.job import Job, check
from fog_learning.methods import resolve_method


def load_job(path: str | Path) -> Job:
    """The job in a file, completely checked."""
    return _checked(config.read(path))


def checked_job(spec: Mapping[str, Any], source: str = "") -> Job:
    """The job in builtins, checked like a file; the errors name the key."""
    return _checked(config.Document(dict(spec), source))


def _checked(document: config.Document) -> Job:
    try:
        job = document.to(Job)
        check(job)
        resolve_method(job)
    except ConfigError as error:
        raise document.located(error) from None
    return job

"""A job file from its text to a Job whose method and model are known to exist and to fit each other. No torch.

    load_job("examples/digits.yaml")            # ConfigError: file, line, key, what was found, what is allowed
    job_from(request.spec, "job digits-7")      # the same for a job that came as a message

What only a node can know (its data, its free memory) is found by the job's preflight, before the first training step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fog_common import config
from fog_common.errors import ConfigError
from fog_learning.job import Job, Topology, check
from fog_learning.methods import resolve_method
from fog_learning.models import check_model


def load_job(path: str | Path) -> Job:
    """The job in a file, completely checked."""
    return _checked(config.read(path))


def job_from(spec: Mapping[str, Any], source: str = "") -> Job:
    """The job in builtins (a message, a stored job), checked like a file; the errors name source and key."""
    return _checked(config.Document(dict(spec), source))


def _checked(document: config.Document) -> Job:
    try:
        job = document.to(Job)
        check(job)
        check_model(job.model)
        method, _ = resolve_method(job)
        if job.topology != Topology() and not any(role.where == "layer" for role in method.roles):
            raise ConfigError(f"topology: {method.name} has no inner nodes; remove the section, or choose method fog")
    except ConfigError as error:
        raise document.located(error) from None
    return job

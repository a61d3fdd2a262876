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
from fog_learning.data.known import known_shape
from fog_learning.job.sections import JobFile, check
from fog_learning.methods import resolve_method
from fog_learning.models import check_model, resolve_model


def load_job(path: str | Path, fit: bool = False) -> JobFile:
    """The job in a file, completely checked. fit: also against what is known of its data set by name, which only the nodes' files settle."""
    document = config.read(path)
    job = _checked(document)
    if fit:
        try:
            check_fit(job)
        except ConfigError as error:
            raise document.located(error) from None
    return job


def shape_unsaid(job: JobFile) -> str:
    """'' unless each node has files of its own, of which nobody can tell the model's shape for all."""
    if job.data.local and known_shape(job.data.name) is None and not {"classes", "input_shape"} <= set(job.model):
        return f"each node has its own {job.data.name}, so its files cannot tell the shape of the model; say model.input_shape and model.classes"
    return ""


def check_fit(job: JobFile) -> None:
    """ConfigError if the model does not fit a data set of which the shape and the classes are known by its name."""
    known = known_shape(job.data.name)
    if known is None:
        if lack := shape_unsaid(job):
            raise ConfigError(f"model: {lack}")
        return
    shape, classes = known
    said, wanted = job.model.get("input_shape"), job.model.get("classes")
    if said is not None and tuple(said) != shape:
        raise ConfigError(f"model.input_shape: {list(said)}, but examples of {job.data.name} have shape {list(shape)}; remove the key")
    if wanted is not None and wanted < classes:
        raise ConfigError(f"model.classes: {wanted} outputs, but {job.data.name} has {classes} classes; say {classes} or more, or remove the key")
    try:
        resolve_model(job.model, shape, classes)
    except ConfigError as error:
        raise ConfigError(f"model: {error}") from None


def job_from(spec: Mapping[str, Any], source: str = "") -> JobFile:
    """The job in builtins (a message, a stored job), checked like a file; the errors name source and key."""
    return _checked(config.Document(dict(spec), source))


def _checked(document: config.Document) -> JobFile:
    try:
        job = document.to(JobFile)
        check(job)
        check_model(job.model)
        resolve_method(job)
    except ConfigError as error:
        raise document.located(error) from None
    return job

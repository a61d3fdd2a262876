"""Reading of a job file into a JobFile whose method and model exist and fit each other. Torch-free.

    load_job("examples/digits.yaml")            # ConfigError: file, line, key, found value, allowed values
    job_from(request.spec, "job digits-7")      # the same for a job from a message

Facts that only a node knows (its data, its free memory) are checked by the job's preflight, before the first training step.
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
    """The checked job in a file. fit: also check the model against the known facts of its data set, which the nodes' files may contradict."""
    document = config.read(path)
    job = _checked(document)
    if fit:
        try:
            check_fit(job)
        except ConfigError as error:
            raise document.located(error) from None
    return job


def shape_unsaid(job: JobFile) -> str:
    """Lack of a model shape, for a person; '' unless each node has files of its own and neither their name nor the job gives the shape."""
    if job.data.local and known_shape(job.data.name) is None and not {"classes", "input_shape"} <= set(job.model):
        return f"each node has its own {job.data.name}, so its files cannot tell the shape of the model; say model.input_shape and model.classes"
    return ""


def check_fit(job: JobFile) -> None:
    """ConfigError if the model does not fit a data set with known shape and classes."""
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
    """The job in builtins (a message, a stored job), checked like a file; a ConfigError names source and key."""
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

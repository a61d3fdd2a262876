"""The learning methods that this process may load, and the strict reading of a job's `method` section.

The methods of this package (one folder each) are always allowed. Others come with installed packages: an entry point of the group
`foglearn.methods`, whose name is the method's and whose object is its descriptor, and the method's name in the configuration of the
process (`methods: [NAME, ...]` of agent, coordinator and fogctl). A job only names a method; it never brings code along.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pkgutil import iter_modules
from typing import Final, get_args

from msgspec import Struct

from fog_common import config
from fog_common.errors import ConfigError
from fog_common.telemetry.metrics import METRICS
from fog_learning.job.sections import JobFile
from fog_learning.methods.base import Method, Section

GROUP: Final = "foglearn.methods"
OF_JOBS: Final = {"", *(metric.name for metric in METRICS if metric.labels == ("job",))}
"""Metrics that a headline number may have; '' = `fog_job_headline` alone."""


class Methods(Mapping[str, Method]):
    """Name -> descriptor, for the methods that the process may load. A descriptor is imported when it is asked for."""

    def __init__(self, shipped: Iterable[str]) -> None:
        self._targets = {name: f"{__name__}.{name}.method:METHOD" for name in sorted(shipped)}
        self._loaded: dict[str, Method] = {}

    def allow(self, names: Iterable[str]) -> None:
        """Allow methods of installed packages; an allowed name keeps its descriptor. ConfigError unless exactly one package offers a name."""
        wanted = [name for name in names if name not in self._targets]
        if not wanted:
            return
        from importlib.metadata import entry_points

        offered = entry_points(group=GROUP)
        for name in wanted:
            targets = {point.value for point in offered if point.name == name}
            if len(targets) != 1:
                lack = f"is offered by several packages ({', '.join(sorted(targets))})" if targets else "is offered by no installed package"
                raise ConfigError(f"methods: {name!r} {lack} (entry points of the group {GROUP})")
            self._targets[name] = targets.pop()

    @contextmanager
    def allowed(self, names: Iterable[str]) -> Iterator[None]:
        """As `allow`, until the block ends: then the process may load the same methods as before, whatever was allowed inside."""
        before = dict(self._targets)
        try:
            self.allow(names)
            yield
        finally:
            self._targets = before
            self._loaded = {name: method for name, method in self._loaded.items() if name in before}

    def refusal(self, name: str) -> str:
        """Why a name that is not allowed is refused, and what to do: one line."""
        configure = "`methods:` in the configuration of agents, coordinator and fogctl allows those of installed packages"
        return f"{name!r}: {config.suggest(name, list(self), 'method')}; {configure}"

    def __getitem__(self, name: str) -> Method:
        if name not in self._loaded:
            module, _, attribute = self._targets[name].partition(":")
            method = getattr(import_module(module), attribute, None)
            if not isinstance(method, Method) or method.name != name:
                raise ConfigError(f"methods: {self._targets[name]} is not a descriptor of a method {name!r}")
            if unknown := sorted({figure.metric for figure in method.headline} - OF_JOBS):
                raise ConfigError(f"methods: {name!r} names the metric {unknown[0]!r} in its headline, which is not a metric of jobs; leave it out")
            self._loaded[name] = method
        return self._loaded[name]

    def load(self) -> None:
        """Import the descriptors of all methods that are allowed now."""
        for name in self._targets:
            self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)


METHODS: Final = Methods(module.name for module in iter_modules(__path__) if module.ispkg)


def method_of(job: JobFile) -> Method:
    """The descriptor of the job's method. ConfigError names the found value and the allowed ones."""
    name = job.method.get("name")
    if not isinstance(name, str):
        raise ConfigError(f"method.name: expected one of {', '.join(METHODS)}, got {'nothing' if name is None else repr(name)}")
    if name not in METHODS:
        raise ConfigError(f"method.name: {METHODS.refusal(name)}")
    return METHODS[name]


def plan_of(job: JobFile) -> tuple[Method, Struct]:
    """The job's method and its plan, without a check against the rest of the job. ConfigError as of resolve_method."""
    method = method_of(job)
    return method, config.convert({key: value for key, value in job.method.items() if key != "name"}, method.plan, key="method")


def resolve_method(job: JobFile) -> tuple[Method, Struct]:
    """The job's method and its checked plan. ConfigError names the key, the found value and the allowed ones."""
    method, plan = plan_of(job)
    _refuse_unread(job, method)
    method.check(job, plan)
    return method, plan


def rounds_of(job: JobFile) -> int:
    """Number of rounds of the job. ConfigError as of resolve_method."""
    method, plan = resolve_method(job)
    return method.rounds(job, plan)


def _refuse_unread(job: JobFile, method: Method) -> None:
    """ConfigError if a section that the method does not read differs from its default, because it would have no effect."""
    for section in get_args(Section):
        if section not in method.sections and getattr(job, section) != getattr(_PLAIN, section):
            raise ConfigError(f"{section}: method {method.name} does not read this section; remove it")


_PLAIN: Final = JobFile(name="plain", method={}, model={})

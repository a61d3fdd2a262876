"""The backend of one job on one node: runs ops on values, keeps them as bytes, and says before the start what is in the way.

A machine names refs and numbers; the host hands their values to a Backend and stores the outputs:

    outputs, numbers = backend.run("train", task, {"weights": …}, {"round": 3, "steps": 20, "slot": 1})

Values are opaque above the backend. An op leaves its inputs unchanged, except those that the table of ops lists under `consumes`.
Ops run one at a time per backend. This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, Protocol

from fog_common.telemetry.speed import Speed
from fog_common.wire.messages import BlockReport, ClassSet
from fog_learning.job.sections import JobFile

Numbers = dict[str, Any]
"""Numbers and names that a machine gives to an op."""
Result = tuple[dict[str, Any], dict[str, float]]
"""(outputs by name, numbers by name) of an op."""

BACKENDS: Final = {
    "torch": ("fog_learning.backend.torch", "TorchBackend"),
    "standin": ("fog_learning.backend.standin", "StandinBackend"),
    "plain": ("fog_learning.backend.plain", "PlainBackend"),
}
"""Name -> (module, class). A module is imported when its backend is opened."""


class Backend(Protocol):
    """One job's ops on one node, or on all nodes of a simulated fleet."""

    @property
    def classes(self) -> ClassSet | None:
        """Meaning of the labels of this node's data; None before the preflight, and where no data is needed."""
        ...

    @property
    def blocks(self) -> tuple[BlockReport, ...]:
        """Blocks of a user's own module; () before the preflight, and for models of the zoo."""
        ...

    @property
    def weights(self) -> str:
        """Digest of the file that `model.weights` names; '' before the preflight, and for a job that draws its first weights."""
        ...

    def preflight(self) -> list[str]:
        """Problems that keep the job from running on this node, each as a sentence for a person; [] if there are none."""
        ...

    def speed(self) -> Speed | None:
        """Measured in about 50 ms; None for a backend whose ops stand for the real ones."""
        ...

    def assign(self, slots: Mapping[str, int], roster_size: int) -> None:
        """Tasks of this node that own data, by name, with their slots; roster_size: slots of the whole job."""
        ...

    def run(self, op: str, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> Result:
        """One op. OpError or another FogError, for a person, if the op fails."""
        ...

    def encode(self, value: Any) -> bytes | bytearray:
        """A value as bytes."""
        ...

    def decode(self, content: Any) -> Any:
        """The value in a bytes-like `content`. WireError if the bytes are malformed."""
        ...


def open_backend(name: str, job: JobFile, slots: Mapping[str, int], roster_size: int, **options: Any) -> Backend:
    """The backend of that name (BACKENDS). options: as its class takes them. KeyError for an unknown name."""
    module, kind = BACKENDS[name]
    backend: Backend = getattr(import_module(module), kind)(job, slots, roster_size, **options)
    return backend

"""The model of a job on one node: its spec, its modules by range of blocks, its first weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fog_common.errors import OpError
from fog_learning.backend.device import Device
from fog_learning.backend.stored import fitted, load_weights
from fog_learning.data import DataError
from fog_learning.data.known import known_shape
from fog_learning.data.streams import stream
from fog_learning.job.sections import JobFile
from fog_learning.models import ModelSpec, resolve_model
from fog_learning.models.build import build
from fog_learning.models.layers import Shape
from fog_learning.ops.values import Weights


class Models:
    """shape: (input shape, classes) of the data on this node, for a job whose file does not say them; DataError without the data.

    allow: factories and modules that `model.import` may name here. files: the agent's `weights:`; env: for FOGLEARN_DATA.
    """

    def __init__(
        self,
        job: JobFile,
        device: Device,
        shape: Callable[[], tuple[Shape, int]],
        allow: Sequence[str] = (),
        files: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._job, self._device, self._shape = job, device, shape
        self._allow = tuple(allow)
        self._files, self._env = dict(files or {}), env or {}
        self._spec: ModelSpec | None = None
        self._modules: dict[tuple[int, int | None], nn.Module] = {}
        self._first: Weights | None = None
        self.digest = ""
        """Of the file that `model.weights` names; '' before the first weights are asked for, and without that key."""

    @property
    def spec(self) -> ModelSpec:
        """Of the job's model on the job's data. ConfigError or Refused."""
        if self._spec is None:
            self._spec = resolve_model(self._job.model, *self._known(), self._allow)
        return self._spec

    def _known(self) -> tuple[Shape | None, int | None]:
        """(input shape, classes) of the data; (None, None) where the job says both."""
        if (known := known_shape(self._job.data.name)) is not None:
            return known
        if {"classes", "input_shape"} <= set(self._job.model):
            return None, None
        try:
            return self._shape()
        except DataError as error:
            raise DataError(f"{error}; or say model.input_shape and model.classes, which a node without the data cannot know") from None

    @property
    def block_names(self) -> tuple[str, ...]:
        """In the order of the forward pass; those of a user's own module come from running it once. ConfigError if it cannot be cut."""
        if not self.spec.factory:
            return self.spec.block_names
        from fog_learning.models.imported import block_names

        return block_names(self.module(), self.spec.input_shape)

    def built(self, first: int = 0, last: int | None = None) -> nn.Module:
        """A new module of blocks first..last-1 in CPU memory, with the weights that the job's seed gives."""
        return build(self.spec, first, last, self._job.seed, self._device.dtype)

    def module(self, first: int = 0, last: int | None = None) -> nn.Module:
        """Blocks first..last-1 on the device, one module per range: load weights before use, copy them out after."""
        if (first, last) not in self._modules:
            self._modules[first, last] = self.built(first, last).to(self._device.place)
        return self._modules[first, last]

    def first_weights(self) -> Weights:
        """Of the whole model: those that `model.weights` names, and where that has none, a function of the job's seed."""
        if self._first is None:
            state = self.built().state_dict()
            if name := self._job.model.get("weights"):
                given, self.digest = load_weights(name, self._files, self._env)
                self._first = fitted(name, given, state, self.spec.name)
            else:
                self._first = Weights({name: tensor.detach() for name, tensor in state.items()}, frozen=True)
        return self._first

    def load(self, module: nn.Module, *layers_of_weights: Mapping[str, Tensor] | None) -> None:
        """Put weights into a module; of several mappings the last that has a name wins, the first weights where none has.

        OpError for a name that the model lacks or a shape that differs: the module is unchanged then.
        """
        state, chosen = module.state_dict(), {}
        for weights in layers_of_weights:
            for name, tensor in (weights or {}).items():
                if name not in state:
                    raise OpError(f"weights hold {name!r}, which model {self.spec.name} does not have; another model of the same job?")
                if tensor.shape != state[name].shape:
                    raise OpError(f"weights {name!r} have shape {tuple(tensor.shape)}, model {self.spec.name} needs {tuple(state[name].shape)}")
                chosen[name] = tensor
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(chosen[name] if name in chosen else self.first_weights()[name])

    def weights_of(self, module: nn.Module) -> Weights:
        """A copy of a module's tensors, in CPU memory."""
        return Weights({name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()})

    def seed_draws(self, *name: int | str) -> None:
        """Random numbers of a user's module (dropout) become a function of (seed, name) from here on, so that a computation repeated
        after a Save gives the same result. name: purpose, slot, step. Models of the zoo draw none."""
        if self.spec.factory:
            torch.manual_seed(int(stream(name[0], self._job.seed, *name[1:]).randint(2**31)))

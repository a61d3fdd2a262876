"""One worker's tensors: its model, its data, and the running of ops on them. The machines above see only names and numbers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from fog_common.errors import FogError, OpError
from fog_common.wire.messages import BlockReport, ClassSet
from fog_learning.backend.stored import fitted, load_weights
from fog_learning.data import DataError, Dataset, known_shape, load_dataset, partition
from fog_learning.data.streams import stream
from fog_learning.job.reading import shape_unsaid
from fog_learning.job.sections import Job
from fog_learning.models import ModelSpec, resolve_model
from fog_learning.models.build import build
from fog_learning.ops import OPS
from fog_learning.ops.values import Weights, blocks_of, decode, encode

Numbers = dict[str, Any]
Result = tuple[dict[str, Weights], dict[str, float]]
Operation = Callable[["Workbench", str, dict[str, Any], Numbers], Result]


SHOWN: Final = 20
"""Names of classes that are reported."""


@dataclass(slots=True)
class Rows:
    """Examples on the device, as stored; scaled when a batch is taken."""

    x: Tensor
    y: Tensor
    shift: Tensor
    divide: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Any) -> tuple[Tensor, Tensor]:
        """(x, y) of these rows: x (B, *input_shape) in the job's dtype, y (B,) int64."""
        x = self.x[index].to(self.shift.dtype)  # of a slice of such numbers that is a view: the rows themselves must stay as they are
        return x.sub(self.shift).div_(self.divide), self.y[index]


class Workbench:
    """Of one job on one node. Values are fog_learning.ops.values.Weights, in CPU memory whatever the device is.

    slots: task -> slot of the tasks here that own data; roster_size: slots of the whole job. paths: the agent's `datasets:`; weights:
    its `weights:`. allow_models: factories and modules that `model.import` may name here. device, threads: None = as the job says.
    evaluates: the job's central evaluation happens here (None: if no task here owns data).
    Everything is a function of (job, seed, slot, step): equal on every run with one thread count on one kind of processor.
    """

    def __init__(
        self,
        job: Job,
        slots: Mapping[str, int],
        roster_size: int,
        paths: Mapping[str, str] | None = None,
        *,
        weights: Mapping[str, str] | None = None,
        allow_models: Sequence[str] = (),
        device: str | None = None,
        threads: int | None = None,
        env: Mapping[str, str] | None = None,
        evaluates: bool | None = None,
    ) -> None:
        torch.set_num_threads(threads or job.resources.threads)
        self.job = job
        self.slots = dict(slots)
        self.roster_size = roster_size
        self.dtype = torch.float64 if job.train.dtype == "float64" else torch.float32
        self._paths, self._env = dict(paths or {}), os.environ if env is None else env
        self._files = dict(weights or {})
        self._allow = tuple(allow_models)
        self._evaluates = evaluates
        self._wanted_device = device or job.nodes.device
        self._device: torch.device | None = None
        self._spec: ModelSpec | None = None
        self._modules: dict[tuple[int, int | None], nn.Module] = {}
        self._dataset: Dataset | None = None
        self._parts: list[np.ndarray[Any, Any]] | None = None
        self._rows: dict[tuple[str, int], Rows] = {}
        self._orders: dict[tuple[int, int], np.ndarray[Any, Any]] = {}
        self._first: Weights | None = None
        self._digest = ""
        self._classes: ClassSet | None = None
        self._blocks: tuple[BlockReport, ...] = ()

    # -- what the worker asks --------------------------------------------------------------

    def assign(self, slots: Mapping[str, int], roster_size: int) -> None:
        """Other tasks are here now; data of slots that left is dropped."""
        if roster_size != self.roster_size:
            self._parts = None
            self._rows = {key: rows for key, rows in self._rows.items() if key[1] < 0}
            self._orders.clear()
        self.slots, self.roster_size = dict(slots), roster_size
        mine = {-1, *self.slots.values()}
        self._rows = {key: rows for key, rows in self._rows.items() if key[1] in mine}

    @property
    def classes(self) -> ClassSet | None:
        """What the labels of the data here mean; None before the preflight, and where no data is needed."""
        return self._classes

    @property
    def blocks(self) -> tuple[BlockReport, ...]:
        """Of a user's own module, if no task here owns data (one node needs to look); () before the preflight."""
        return self._blocks

    @property
    def weights(self) -> str:
        """Digest of the file that `model.weights` names; '' before the preflight, and for a job that draws its first weights."""
        return self._digest

    def preflight(self) -> list[str]:
        """What keeps this job from running here, each as a sentence for a person; [] if nothing does."""
        problems: list[str] = []
        for check in (self._check_device, self._check_shape, self._check_model, self._check_weights, self._check_data):
            try:
                problems += check()
            except FogError as error:
                problems.append(str(error))
            if problems:  # what comes next builds on this
                break
        return problems

    def run(self, op: str, task: str, inputs: Mapping[str, Any], numbers: Mapping[str, Any]) -> Result:
        """(outputs, numbers) of one op (table: fog_learning.ops.OPS). OpError or another FogError, for a person, if it cannot."""
        entry = OPS.get(op)
        if entry is None:
            raise OpError(f"there is no op {op!r}; known: {', '.join(OPS)}")
        operation: Operation = getattr(import_module(f"fog_learning.ops.{entry.module}"), entry.function or op)
        return operation(self, task, dict(inputs), dict(numbers))

    def encode(self, value: Weights) -> bytearray:
        return encode(value)

    def decode(self, content: bytes | bytearray | memoryview) -> Weights:
        return decode(content)

    # -- what ops ask: the model -----------------------------------------------------------

    @property
    def device(self) -> torch.device:
        if self._device is None:
            gpu = self._wanted_device != "cpu" and torch.cuda.is_available()
            self._device = torch.device("cuda" if gpu or self._wanted_device == "cuda" else "cpu")
            if self._device.type == "cuda":
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in another order each time
                torch.use_deterministic_algorithms(True, warn_only=True)
        return self._device

    @property
    def spec(self) -> ModelSpec:
        """Of the job's model on the job's data. ConfigError or Refused."""
        if self._spec is None:
            known = known_shape(self.job.data.name)
            says_all = {"classes", "input_shape"} <= set(self.job.model)
            if known is None and not says_all and self._dataset is None and not self._rows:
                try:
                    self._load()
                except DataError as error:
                    raise DataError(f"{error}; or say model.input_shape and model.classes, which a node without the data cannot know") from None
            if self._dataset is not None:
                known = known or (self._dataset.input_shape, self._dataset.classes)
            shape, classes = known or (None, None)
            self._spec = resolve_model(self.job.model, shape, classes, self._allow)
        return self._spec

    def module(self, first: int = 0, last: int | None = None) -> nn.Module:
        """Blocks first..last-1 on the device. There is one per range: load weights before use, copy them out after."""
        if (first, last) not in self._modules:
            self._modules[first, last] = build(self.spec, first, last, self.job.seed, self.dtype).to(self.device)
        return self._modules[first, last]

    def first_weights(self) -> Weights:
        """Of the whole model: those that `model.weights` names, and where that has none, a function of the job's seed."""
        if self._first is None:
            state = build(self.spec, 0, None, self.job.seed, self.dtype).state_dict()
            if name := self.job.model.get("weights"):
                given, self._digest = load_weights(name, self._files, self._env)
                self._first = fitted(name, given, state, self.spec.name)
            else:
                self._first = Weights({name: tensor.detach() for name, tensor in state.items()}, frozen=True)
        return self._first

    def load(self, module: nn.Module, *layers_of_weights: Mapping[str, Tensor] | None) -> None:
        """Put weights into a module; of several mappings the last that has a name wins, the first weights where none has.

        OpError if a name is none of the model's or a shape differs: then the module is unchanged.
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
        """A user's module may draw random numbers (dropout; ours do not): from here on they are a function of (seed, name), so that what is
        computed again after a Save is the same. name: purpose, slot, step."""
        if self.spec.factory:
            torch.manual_seed(int(stream(name[0], self.job.seed, *name[1:]).randint(2**31)))

    # -- what ops ask: the data ------------------------------------------------------------

    def train_rows(self, slot: int) -> Rows:
        return self._get("train", slot)

    def held_rows(self, slot: int) -> Rows:
        """The slot's held-out part; empty unless the job evaluates on the nodes."""
        return self._get("held", slot)

    def test_rows(self) -> Rows:
        return self._get("test", -1)

    def batch(self, slot: int, step: int, rows: Rows | None = None) -> tuple[Tensor, Tensor]:
        """The slot's batch at `step` (0, 1, 2 …): a function of (seed, slot, step). rows: of a slot whose samples came from elsewhere.

        The rows are shuffled anew for each pass, and the passes are read as one stream: all batches are of one size,
        min(batch_size, rows), and every row comes once per pass.
        """
        rows = self.train_rows(slot) if rows is None else rows
        count = len(rows)
        size = min(self.job.train.batch_size, count)
        first, chosen = step * size, []
        while size:
            epoch, at = divmod(first, count)
            chosen.append(self._order(slot, epoch, count)[at : at + size])
            first, size = first + len(chosen[-1]), size - len(chosen[-1])
        return rows.take(torch.from_numpy(np.concatenate(chosen)).to(self.device))

    def slot_of(self, task: str, numbers: Numbers) -> int:
        slot = int(numbers.get("slot", self.slots.get(task, -1)))
        if slot < 0:
            raise OpError(f"task {task} owns no data slot; its machine must say `slot`")
        return slot

    def _order(self, slot: int, epoch: int, count: int) -> np.ndarray[Any, Any]:
        if (slot, epoch) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[0] != slot or key[1] == epoch - 1}
            self._orders[slot, epoch] = stream("batches", self.job.seed, slot, epoch).permutation(count)
        return self._orders[slot, epoch]

    def _get(self, part: str, slot: int) -> Rows:
        if (part, slot) not in self._rows:
            self._cut({slot} if slot >= 0 else set(), test=part == "test")
        return self._rows[part, slot]

    def _load(self) -> Dataset:
        if self._dataset is None:
            data = self.job.data
            self._dataset = load_dataset(data.name, self._paths, self._env).limited(data.train_limit, data.test_limit, self.job.seed)
        return self._dataset

    def _cut(self, slots: set[int], test: bool) -> None:
        """Take from the data set what is needed here, then let go of the rest: a node keeps its own rows only."""
        dataset = self._load()
        self.spec  # noqa: B018 - may need the data set's shape, which is gone afterwards
        if slots and self._parts is None and not self.job.data.local:
            self._parts = partition(dataset.train_y, max(1, self.roster_size), self.job.data.partition, self.job.seed)
        for slot in sorted(slots):
            train, held = self._split(slot, dataset)
            self._rows["train", slot] = self._to_device(dataset, dataset.train_x[train], dataset.train_y[train])
            self._rows["held", slot] = self._to_device(dataset, dataset.train_x[held], dataset.train_y[held])
        if test:
            self._rows["test", -1] = self._to_device(dataset, dataset.test_x, dataset.test_y)
        self._dataset = None

    def _split(self, slot: int, dataset: Dataset) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(training rows, held-out rows) of a slot; at least one row trains."""
        if self.job.data.local:
            rows = np.arange(len(dataset.train_y))
        else:
            assert self._parts is not None
            if slot >= len(self._parts):
                raise OpError(f"slot {slot} is not in the job's roster of {len(self._parts)}")
            rows = self._parts[slot]
        if self.job.evaluation.where != "federated":
            return rows, rows[:0]
        held = min(len(rows) - 1, max(1, round(self.job.evaluation.holdout * len(rows))))
        shuffled = stream("holdout", self.job.seed, slot).permutation(rows)
        return np.sort(shuffled[held:]), np.sort(shuffled[:held])

    def _to_device(self, dataset: Dataset, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> Rows:
        shape = (-1, *(1,) * (x.ndim - 2))
        shift, divide = (
            torch.tensor(values, dtype=self.dtype, device=self.device).reshape(shape) for values in (dataset.scale.shift, dataset.scale.divide)
        )
        inputs, labels = (torch.from_numpy(part if part.flags.writeable else part.copy()).to(self.device) for part in (x, y))
        return Rows(inputs, labels, shift, divide)

    # -- preflight -------------------------------------------------------------------------

    def _check_device(self) -> list[str]:
        if self._wanted_device == "cuda" and not torch.cuda.is_available():
            return ["nodes.device is cuda, but torch finds no CUDA device on this node; say auto or cpu"]
        return []

    def _check_shape(self) -> list[str]:
        return [lack] if (lack := shape_unsaid(self.job)) else []

    def _check_model(self) -> list[str]:
        spec = self.spec
        if spec.factory:
            module = build(spec, seed=self.job.seed, dtype=self.dtype).eval()
            try:
                with torch.no_grad():
                    output = tuple(module(torch.zeros(2, *spec.input_shape, dtype=self.dtype)).shape)
            except Exception as error:  # whatever a user's module raises
                return [f"model {spec.name} does not take examples of shape {spec.input_shape}: {error}"]
            if output != (2, spec.classes):
                return [f"model {spec.name} gives {output[1:]} per example, the data has {spec.classes} classes"]
            if self.job.method.get("name") == "fcddt":
                from fog_learning.ops.split import split_of

                split_of(self)  # a cut that is not possible says so before the first step
            if not self.slots:
                self._blocks = described(module, spec.input_shape, cuts=self.job.method.get("name") == "fcddt")
        blocks = [name.split(".")[0] for name in (spec.parameter_shapes() if not spec.factory else module.state_dict())]
        problems = []
        for key in ("layers", "deep"):
            named = self.job.method.get(key)
            if unknown := sorted(blocks_of(",".join(named)) - set(blocks)) if isinstance(named, list) else []:
                problems.append(f"method.{key} names {', '.join(unknown)}; model {spec.name} has {', '.join(dict.fromkeys(blocks))}")
            elif key == "deep" and isinstance(named, list) and not set(blocks) - set(named):
                problems.append(f"method.deep names all blocks of model {spec.name}, so that nothing would be averaged in between; leave one out")
        return problems

    def _check_weights(self) -> list[str]:
        if self.job.model.get("weights"):
            self.first_weights()
        return []

    def _check_data(self) -> list[str]:
        evaluates = self.job.evaluation.where == "central" and (not self.slots if self._evaluates is None else self._evaluates)
        if not self.slots and not evaluates:
            return []
        try:
            dataset = self._load()
        except DataError as error:
            if self.slots or not self.job.data.local:
                raise
            hint = "this node only rates the model on it: say `evaluation: {where: federated}`, and the nodes with data do"
            raise DataError(f"{error}; {hint}") from None
        spec, problems = self.spec, []
        if dataset.input_shape != spec.input_shape:
            problems.append(f"data set {dataset.name} has examples of shape {dataset.input_shape}, the model expects {spec.input_shape}")
        top = int(max(dataset.train_y.max(initial=0), dataset.test_y.max(initial=0)))
        if top >= spec.classes:
            problems.append(
                f"data set {dataset.name} has labels up to {top}, the model has {spec.classes} outputs; say model.classes: {top + 1} or more"
            )
        if evaluates and not len(dataset.test_y):
            problems.append(f"data set {dataset.name} has no test part on this node, which evaluates; say evaluation.where: federated")
        self._classes = class_set(dataset, spec.classes)
        if not problems:
            self._cut(set(self.slots.values()), test=evaluates)
        return problems


def class_set(dataset: Dataset, outputs: int) -> ClassSet:
    """What its labels mean, for the coordinator to compare."""
    if not dataset.named:
        return ClassSet(outputs, dataset.classes)
    digest = hashlib.sha256("\n".join(dataset.class_names).encode()).hexdigest()[:16]
    return ClassSet(outputs, dataset.classes, digest, dataset.class_names[:SHOWN])


def described(module: nn.Module, input_shape: tuple[int, ...], cuts: bool) -> tuple[BlockReport, ...]:
    """The blocks of a user's module, or (cuts: False) all of it as one. () if torch cannot tell: the job runs all the same."""
    from fog_learning.models.imported import facts, whole

    try:
        found = facts(module, input_shape)[0] if cuts else (whole(module, input_shape),)
    except Exception:  # whatever torch raises when it counts
        return ()
    return tuple(BlockReport(block.name, block.input_shape, block.output_shape, block.parameters, block.flops) for block in found)

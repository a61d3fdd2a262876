"""The table of models, and the spec of a job file's `model:` section. Torch-free; models/build.py makes modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from fog_common.errors import ConfigError, Refused
from fog_common.ids import is_id
from fog_learning.models.layers import Shape
from fog_learning.models.spec import Block, BlockFacts, ModelSpec
from fog_learning.models.zoo import CnnParameters, LeafParameters, MlpParameters, NoParameters, VggParameters, cnn, leaf_cnn, lenet5, mlp, vgg16

__all__ = ["MODELS", "Block", "BlockFacts", "ModelEntry", "ModelSpec", "Shape", "check_model", "resolve_model"]


class ModelEntry(Struct, frozen=True):
    """A model of the table. spec: (parameters, input shape, classes) -> ModelSpec."""

    title: str
    parameters: type[Struct]
    """Type of the `model` section without `name`, `classes` and `input_shape` (frozen, strict)."""
    spec: Callable[[Any, Shape, int], ModelSpec]
    example: Shape = (1, 28, 28)
    """Input shape for which the model is made; default of `fogctl models show`."""


MODELS: dict[str, ModelEntry] = {
    "mlp": ModelEntry("fully connected, any input", MlpParameters, mlp),
    "cnn": ModelEntry("two convolutions, images from 4x4", CnnParameters, cnn),
    "lenet5": ModelEntry("LeNet-5, images from 12x12", NoParameters, lenet5),
    "leaf_cnn": ModelEntry("CNN of the LEAF benchmark (C1 C2 F1 F2)", LeafParameters, leaf_cnn),
    "vgg16": ModelEntry("VGG-16 with group normalisation, images from 32x32", VggParameters, vgg16, (3, 32, 32)),
}

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def check_model(model: dict[str, Any]) -> None:
    """ConfigError for a `model:` section that is wrong with any data."""
    _parse(model)


def resolve_model(model: dict[str, Any], input_shape: Shape | None, classes: int | None, allow_models: Sequence[str] | None = None) -> ModelSpec:
    """The spec of a job's `model:` section on data of this shape.

    model: {name: mlp, …parameters} or {import: "pkg.mod:Factory", arguments: {…}}; both may hold `classes` and
        `input_shape`, which replace those of the data (and are needed without data), and `weights`.
    allow_models: "pkg.mod:Factory" or "pkg.mod" that this node may import; None: no check. Nothing is imported here.
    ConfigError: unknown name or parameter, a shape that does not fit or is unknown. Refused: import not on the list.
    """
    entry, parameters, own_shape, own_classes = _parse(model)
    shape, outputs = own_shape or input_shape, own_classes or classes
    if shape is None or outputs is None:
        raise ConfigError("the shape of the data is not known here; say model.input_shape and model.classes in the job file")
    if entry is None:
        factory = str(model["import"])
        if allow_models is not None and factory not in allow_models and factory.partition(":")[0] not in allow_models:
            allowed = ", ".join(sorted(allow_models)) or "none"
            raise Refused(
                f"model {factory} may not be imported on this node (allowed: {allowed}); add it to allow_models in the agent's configuration"
            )
        return ModelSpec(factory, shape, outputs, factory=factory, arguments=dict(parameters))
    spec = entry.spec(parameters, shape, outputs)
    spec.check()
    return spec


def nominal_spec(model: dict[str, Any]) -> ModelSpec:
    """The spec of a zoo model on data of an arbitrary shape, for facts that do not depend on the data, such as block names."""
    whole = {"classes": 10, **model}
    return resolve_model(whole, tuple(model.get("input_shape") or (3, 32, 32)), whole["classes"])


def _parse(model: dict[str, Any]) -> tuple[ModelEntry | None, Any, Shape | None, int | None]:
    rest = dict(model)
    classes, input_shape, weights = rest.pop("classes", None), rest.pop("input_shape", None), rest.pop("weights", None)
    if weights is not None and not (isinstance(weights, str) and is_id(weights)):
        raise ConfigError(f"model.weights must be a name (letters, digits, - and _), got {weights!r}; agents' weights: say which file it is")
    if classes is not None and (not isinstance(classes, int) or isinstance(classes, bool) or classes < 2):
        raise ConfigError(f"model.classes must be a whole number of at least 2, got {classes!r}")
    if input_shape is not None and not _is_shape(input_shape):
        raise ConfigError(f"model.input_shape must be 1 to 3 whole numbers of at least 1, such as [1, 28, 28], got {input_shape!r}")
    shape = tuple(input_shape) if input_shape is not None else None
    if "import" in rest:
        factory, arguments = rest.pop("import"), rest.pop("arguments", {})
        if not isinstance(factory, str) or not _FACTORY.fullmatch(factory):
            raise ConfigError(f'model.import must look like "package.module:Factory", got {factory!r}')
        if not isinstance(arguments, dict) or any(not isinstance(key, str) for key in arguments):
            raise ConfigError("model.arguments must be a mapping of names to values")
        if rest:
            raise ConfigError(f"model.{min(rest)} is unknown beside model.import; allowed: arguments, classes, input_shape, weights")
        return None, arguments, shape, classes
    name = rest.pop("name", None)
    if not isinstance(name, str) or name not in MODELS:
        raise ConfigError(f'model.name {name!r} is unknown; allowed: {", ".join(MODELS)} (or import: "package.module:Factory")')
    entry = MODELS[name]
    if unknown := [key for key in rest if key not in entry.parameters.__struct_fields__]:
        allowed = ", ".join(("name", *entry.parameters.__struct_fields__, "classes", "input_shape", "weights"))
        raise ConfigError(f"model.{unknown[0]} is unknown for model {name}; allowed: {allowed}")
    try:
        return entry, msgspec.convert(rest, entry.parameters), shape, classes
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        raise ConfigError(f"model{where.rstrip('`')}: {what}") from None


def _is_shape(value: Any) -> bool:
    return isinstance(value, list | tuple) and 1 <= len(value) <= 3 and all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in value)

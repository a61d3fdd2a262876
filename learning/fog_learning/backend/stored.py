"""Weights that a job begins with instead of drawn ones: a safetensors file that every node of the job has under one name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fog_common.errors import ConfigError, FogError
from fog_learning.ops.values import Weights, decode

SUFFIX = ".safetensors"


def places(name: str, paths: Mapping[str, str], env: Mapping[str, str]) -> list[Path]:
    """Files on this node that may hold weights of that name."""
    if name in paths:
        return [Path(paths[name]).expanduser()]
    return [Path(env["FOGLEARN_DATA"]).expanduser() / f"{name}{SUFFIX}"] if env.get("FOGLEARN_DATA") else []


def load_weights(name: str, paths: Mapping[str, str], env: Mapping[str, str]) -> tuple[Weights, str]:
    """(tensors by parameter name, digest of the file). paths: the agent's `weights:`; env: for FOGLEARN_DATA.

    ConfigError: the file is missing or malformed.
    """
    looked = places(name, paths, env)
    file = next((place for place in looked if place.is_file()), None)
    if file is None:
        where = (
            f"not found: no file {', '.join(map(str, looked))}"
            if looked
            else "not found: neither weights: in the agent's configuration nor $FOGLEARN_DATA says where"
        )
        raise ConfigError(f"model.weights {name} {where}; put the same file on every node of the job")
    try:
        content = file.read_bytes()
        return decode(content), hashlib.sha256(content).hexdigest()[:16]
    except (OSError, FogError) as error:
        raise ConfigError(f"model.weights {name}: {file} cannot be read as safetensors: {error}") from None


def fitted(name: str, given: Weights, state: Mapping[str, Tensor], model: str) -> Weights:
    """All tensors of a model's `state`: the given ones, in its dtypes, and of blocks that the file does not have, its own.

    ConfigError: a name that the model lacks, another shape, a value that is not finite, no tensor at all.
    """
    if not given:
        raise ConfigError(f"model.weights {name} holds no tensor")
    chosen = {key: tensor.detach() for key, tensor in state.items()}
    for key, tensor in given.items():
        if key not in state:
            raise ConfigError(f"model.weights {name} holds {key!r}, which model {model} does not have (it has {', '.join(list(state)[:4])} …)")
        if tensor.shape != state[key].shape:
            raise ConfigError(f"model.weights {name}: {key!r} has shape {tuple(tensor.shape)}, model {model} needs {tuple(state[key].shape)}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ConfigError(f"model.weights {name}: {key!r} holds values that are not finite")
        chosen[key] = tensor.to(state[key].dtype)
    return Weights(chosen, frozen=True)

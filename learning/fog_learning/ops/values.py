"""The values of refs: named tensors in CPU memory, and their bytes (safetensors)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from fog_common.errors import OpError
from fog_common.wire import tensors

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

with warnings.catch_warnings():
    # torch warns once per process that a received buffer must not be written to; Weights.frozen says so
    warnings.simplefilter("ignore")
    torch.frombuffer(b"\0", dtype=torch.uint8)


class Weights(dict[str, Tensor]):
    """Name -> CPU tensor. frozen: the memory belongs to received or stored bytes and is read-only."""

    __slots__ = ("frozen",)

    def __init__(self, items: dict[str, Tensor] | None = None, frozen: bool = False) -> None:
        super().__init__(items or {})
        self.frozen = frozen

    @property
    def size_bytes(self) -> int:
        """Of the tensors alone."""
        return sum(tensor.nbytes for tensor in self.values())

    def own(self) -> Weights:
        """Itself if it may be written to, else a copy."""
        return Weights({name: tensor.clone() for name, tensor in self.items()}) if self.frozen else self


def encode(value: Weights) -> bytearray:
    """One copy, into the buffer that is returned."""
    entries: list[tuple[str, str, tuple[int, ...], Any]] = []
    for name, tensor in value.items():
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        buffer = memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(b"")
        entries.append((name, _NAMES[tensor.dtype], tuple(tensor.shape), buffer))
    return tensors.pack(entries)


def decode(content: bytes | bytearray | memoryview) -> Weights:
    """Tensors that lie in `content` itself: no copy, so frozen. WireError for malformed bytes."""
    value = Weights(frozen=True)
    for name, dtype, shape, buffer in tensors.unpack(content):
        if dtype not in DTYPES:
            raise OpError(f"tensor {name!r} has dtype {dtype}, which is not one of {', '.join(DTYPES)}")
        flat = torch.frombuffer(buffer, dtype=DTYPES[dtype]) if len(buffer) else torch.empty(0, dtype=DTYPES[dtype])
        value[name] = flat.reshape(shape)
    return value


TRACE = "z/"
"""Gradient tracking: tensors of this prefix travel with the model, by the names of its parameters, beside its own tensors."""


def blocks_of(names: Any) -> set[str]:
    """'c1,c2' -> {'c1', 'c2'}; '' -> the empty set."""
    return {name for name in str(names or "").split(",") if name}


def only(value: dict[str, Tensor], blocks: set[str], inside: bool = True) -> Weights:
    """The tensors of these blocks (inside) or of all others. A tensor's block is its name up to the first dot."""
    return Weights({name: tensor for name, tensor in value.items() if (name.split(".")[0] in blocks) is inside})

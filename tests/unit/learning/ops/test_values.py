"""Named tensors as bytes and back."""

from __future__ import annotations

import torch

from fog_learning.ops.values import Weights, decode, encode
from support.backends import equal


def test_values_survive_the_wire():
    value = Weights({
        "f64": torch.rand(3, 4, dtype=torch.float64), "f32": torch.rand(5), "f16": torch.rand(2).half(), "bf16": torch.rand(2, 2).bfloat16(),
        "i64": torch.arange(3), "u8": torch.arange(3).to(torch.uint8), "flag": torch.tensor(True), "empty": torch.zeros(0, 4),
        "part": torch.rand(4, 6)[:, ::2],
    })  # fmt: skip
    back = decode(memoryview(bytes(encode(value))))
    assert equal(back, value)
    assert all(back[name].dtype == value[name].dtype for name in value)
    assert back.frozen

"""Random numbers that are a function of their name: (seed, purpose, slot, step …) -> the same stream on every node."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    import numpy as np


def stream(*name: int | str) -> np.random.RandomState:
    """A generator named by whole numbers and words.

    RandomState on purpose: numpy promises never to change its streams, and nodes with different numpy versions must agree
    on partitions, batches and first weights.
    """
    import numpy as np

    words: list[int] = []
    for part in name:
        if isinstance(part, str):
            words.append(crc32(part.encode()))
        else:
            words += [part & 0xFFFFFFFF, (part >> 32) & 0xFFFFFFFF]
    return np.random.RandomState(np.array(words, dtype=np.uint32))

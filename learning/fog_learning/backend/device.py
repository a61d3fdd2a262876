"""The device and the dtype that a job computes with on one node."""

from __future__ import annotations

import os

import torch

from fog_learning.job.sections import JobFile


class Device:
    """wanted: auto, cpu or cuda; '': as the job says."""

    def __init__(self, job: JobFile, wanted: str = "") -> None:
        self.dtype = torch.float64 if job.train.dtype == "float64" else torch.float32
        self._wanted = wanted or job.nodes.device
        self._opened: torch.device | None = None

    @property
    def place(self) -> torch.device:
        """The device, opened when it is first asked for."""
        if self._opened is None:
            gpu = self._wanted != "cpu" and torch.cuda.is_available()
            self._opened = torch.device("cuda" if gpu or self._wanted == "cuda" else "cpu")
            if self._opened.type == "cuda":
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in another order each time
                torch.use_deterministic_algorithms(True, warn_only=True)
        return self._opened

    @property
    def missing(self) -> bool:
        """The device is wanted and this node has none."""
        return self._wanted == "cuda" and not torch.cuda.is_available()

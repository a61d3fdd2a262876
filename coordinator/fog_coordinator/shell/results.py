"""Results of finished jobs: `{job}.safetensors` and `{job}.json` in one folder, durable before a job is shown as finished."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from fog_common.errors import ConfigError


class Results:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"state_dir: cannot use {folder}: {error.strerror}; choose a folder that this user may write") from None

    def save(self, job: str, weights: bytes | memoryview | None, figures: dict[str, Any]) -> None:
        """Durable when it returns. OSError if the disk is full."""
        if weights is not None:
            self._write(f"{job}.safetensors", weights)
        self._write(f"{job}.json", msgspec.json.format(msgspec.json.encode(figures), indent=1))

    def weights(self, job: str) -> bytes | None:
        try:
            return (self.folder / f"{job}.safetensors").read_bytes()
        except FileNotFoundError:
            return None

    def forget_all_but(self, jobs: set[str]) -> None:
        """Remove the files of jobs that nobody remembers."""
        for path in sorted(self.folder.glob("*.*")):
            if path.stem not in jobs:
                path.unlink(missing_ok=True)

    def _write(self, name: str, content: bytes | memoryview) -> None:
        fresh = self.folder / f".{name}.new"
        with open(fresh, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self.folder / name)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

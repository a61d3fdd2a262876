"""The agent's folder: its lock, which keeps a second daemon out, and the incarnations, which must survive a crash."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec

from fog_common.errors import ConfigError, Refused

log = logging.getLogger(__name__)


class StateDir:
    """The folder, locked until close(). ConfigError if the folder cannot be used, Refused if another daemon uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: Any = None
        self._path = folder / "incarnations.json"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            lock = open(folder / "agent.lock", "a+")  # noqa: SIM115 - held until close()
        except OSError as error:
            raise ConfigError(f"state_dir: cannot use {folder}: {error.strerror}; choose a folder that this user may write") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "?"
            lock.close()
            raise Refused(f"{folder} is in use by the agent with pid {owner}; give each agent its own state_dir, or stop the other") from None
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        os.set_inheritable(lock.fileno(), False)
        self._lock = lock

    def incarnations(self) -> dict[str, int]:
        """Job -> highest incarnation ever started here. A damaged file is set aside; the coordinator's floor still holds."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, int])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("incarnations unreadable, set aside path=%s error=%s", self._path, error)
            os.replace(self._path, self._path.with_suffix(".damaged"))
            return {}

    def save_incarnations(self, incarnations: dict[str, int]) -> None:
        """Durable when it returns. OSError if the disk is full."""
        fresh = self._path.with_suffix(".new")
        with open(fresh, "wb") as file:
            file.write(msgspec.json.encode(incarnations))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._path)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def forget(self, job: str) -> None:
        """Remove the Saves, blobs and logs of a job, as far as possible."""
        shutil.rmtree(self.folder / "jobs" / job, ignore_errors=True)
        for suffix in (".log", ".log.old"):
            with contextlib.suppress(OSError):
                (self.folder / "logs" / f"{job}{suffix}").unlink(missing_ok=True)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

"""Fetch of a job's result: the weights come as a letter with one blob, the figures with the reply."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Final

from fog_common.errors import ConfigError, FogError, TimedOut, WireError
from fog_common.ids import CLOUD_SITE, COORDINATOR
from fog_common.transfer.blobs import MemoryBlobs
from fog_common.transfer.endpoint import Address, Arrived, Endpoint, PublishFrame
from fog_common.wire import topics
from fog_common.wire.api.shown import shown
from fog_common.wire.api.verbs import FetchResult
from fogctl.client import Client

STALL_S: Final = 30.0
"""Silence of the transfer after which it is given up; the whole transfer has no limit."""


def fetch(client: Client, job: str, folder: Path) -> dict[str, Any]:
    """Write JOB.json and, if the job has weights, JOB.safetensors; returns the data of --json.

    Errors of the coordinator (JobFailed, ConfigError …); TimedOut if the weights stop coming.
    """
    if blocked := next((place for place in (folder, *folder.parents) if place.exists() and not place.is_dir()), None):
        raise ConfigError(f"--out {folder}: {blocked} is not a folder")
    letterbox = Letterbox(client, job)
    body = client.ask(FetchResult(job))
    metrics, weights = folder / f"{job}.json", folder / f"{job}.safetensors"
    content = letterbox.receive(body.digest) if body.digest else None
    folder.mkdir(parents=True, exist_ok=True)
    if content is not None:
        _write(weights, content)
    _write(metrics, json.dumps(shown(body), indent=1, ensure_ascii=False).encode() + b"\n")
    return {
        "job": job,
        "state": body.state,
        "numbers": body.numbers,
        "rounds": body.rounds,
        "digest": body.digest,
        "metrics": str(metrics),
        "weights": str(weights) if content is not None else None,
        "weights_bytes": len(content) if content is not None else 0,
    }


class Letterbox:
    """The receiving end of a transfer to this session. Frames that come before `receive` wait in the client's queue."""

    def __init__(self, client: Client, job: str) -> None:
        self.client = client
        self._blobs = MemoryBlobs()
        me = Address(client.user, CLOUD_SITE, "cloud", client.bulk_kind)
        self._endpoint = Endpoint(me, client.settings.fleet, job, 1, self._blobs)
        self._came: set[str] = set()
        client.on_bulk = self._on_frame
        self._heard = time.monotonic()

    def receive(self, digest: str) -> memoryview:
        """The bytes of a digest, checked by the endpoint. TimedOut if they stop coming."""
        self._heard = time.monotonic()
        while digest not in self._came:
            now = time.monotonic()
            if now - self._heard > STALL_S:
                raise TimedOut(f"the weights stopped coming {STALL_S:g} s ago; try again, `fogctl doctor` checks the way")
            due = self._endpoint.next_timer()
            self.client.pump(min(now + 1.0, due if due is not None else now + 1.0))
            self._endpoint.on_timer(time.monotonic())
            self._perform()
        content = self._blobs.get(digest)
        if content is None:
            raise FogError("the letter came without its weights")
        return content

    def _on_frame(self, route: topics.Route, payload: bytes) -> None:
        if route.sender != COORDINATOR:
            return
        self._heard = time.monotonic()
        try:
            self._endpoint.on_frame(self._heard, route, payload)
        except WireError:
            return
        self._perform()

    def _perform(self) -> None:
        for effect in self._endpoint.take():
            match effect:
                case PublishFrame(topic, payload):
                    self.client.publish(topic, payload)
                case Arrived(letter):
                    self._endpoint.accept(letter)
                    self._came |= {blob.digest for blob in letter.content.blobs}


def _write(path: Path, content: bytes | memoryview) -> None:
    """Write a file, whole or not at all."""
    draft = path.with_name(path.name + ".part")
    with open(draft, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)

"""Letters of a host that are not acknowledged yet: each can be outdated, cancelled, sent again and measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from fog_common.runtime.acks import Acks
from fog_common.runtime.effects import HOST, HostMessage
from fog_common.runtime.machine import Blob, Cast, Send, refs_in
from fog_common.runtime.saves import Codebook
from fog_common.transfer.endpoint import Address, BlobMeta, Content, Endpoint

Key = tuple[str, int]
"""The endpoint's name for a letter: (task, number)."""

_encoder = msgspec.msgpack.Encoder()


class Mail:
    """Turns the host's commands into letters of the endpoint. All refs in a command must be blobs already."""

    def __init__(self, endpoint: Endpoint, codebook: Codebook) -> None:
        self.acks = Acks()
        self.ideal_bytes = 0
        """Bytes of all tensors sent, each counted once per Send or Cast."""
        self.ideal_cast_bytes = 0
        """Part of `ideal_bytes` that Casts carried."""
        self._endpoint = endpoint
        self._codebook = codebook
        self._number = 0
        self._sent: dict[Key, tuple[str, Send | Cast]] = {}  # -> (task, command)
        self._unacked: dict[Key, set[str]] = {}  # letter of a cast -> nodes that have not acknowledged it
        self._latest: dict[tuple[str, str, str], Key] = {}  # (task, kind of message, receiver or role) of commands with `latest`
        self._refused: dict[Key, dict[str, None]] = {}  # letter -> nodes whose table lacked its sender or receiver

    # -- out -------------------------------------------------------------------------------

    def send(self, now: float, task: str, send: Send, to: Address) -> None:
        """Send a task's message; with `latest` older ones of its kind to that task are cancelled."""
        if send.latest:
            self.outdate(task, send.message, {send.to})
        key = self._begin(task, send, send.latest, send.to)
        self._endpoint.send(now, to, self._content(now, key, task, send.to, send.message), key)

    def cast(self, now: float, task: str, cast: Cast, scope: str, members: dict[str, Address]) -> None:
        """Publish a task's message once for all members. scope: a site or `all`; members: address by node."""
        key = self._begin(task, cast, cast.latest, cast.role)
        self._unacked[key] = set(members)
        before = self.ideal_bytes
        content = self._content(now, key, task, cast.role, cast.message)
        self.ideal_cast_bytes += self.ideal_bytes - before
        self._endpoint.cast(now, scope, cast.role, list(members.values()), content, key)

    def to_host(self, now: float, address: Address, message: HostMessage, blobs: tuple[Blob, ...] = ()) -> Key:
        """Send a letter to another host of the job. Returns the letter's key."""
        return self.post(now, HOST, HOST, _encoder.encode(message), blobs, address)

    def post(self, now: float, sender: str, to: str, body: bytes, blobs: tuple[Blob, ...], address: Address, about: Send | None = None) -> Key:
        """Send a letter to a host or the coordinator. about: the command that it stands for, so that a refusal keeps it."""
        self._number += 1
        key = (sender, self._number)
        if about is not None:
            self._sent[key] = (sender, about)
        metas = tuple(BlobMeta(blob.digest, blob.size) for blob in blobs)
        self.acks.sent(now, key, sum(meta.size for meta in metas))
        self._endpoint.send(now, address, Content(sender=sender, to=to, body=body, blobs=metas), key)
        return key

    def _begin(self, task: str, command: Send | Cast, latest: bool, target: str) -> Key:
        self._number += 1
        key = (task, self._number)
        self._sent[key] = (task, command)
        if latest:
            self._latest[task, type(command.message).__name__, target] = key
        return key

    def _content(self, now: float, key: Key, sender: str, to: str, message: Any) -> Content:
        blobs = {ref.digest: ref for ref in refs_in(message) if isinstance(ref, Blob)}
        size = sum(blob.size for blob in blobs.values())
        self.ideal_bytes += size
        self.acks.sent(now, key, size)
        metas = tuple(BlobMeta(blob.digest, blob.size) for blob in blobs.values())
        return Content(sender=sender, to=to, body=self._codebook.encode_message(message), blobs=metas)

    # -- obsolete --------------------------------------------------------------------------

    def outdate(self, task: str, message: Any, targets: set[str]) -> None:
        """Cancel older messages with `latest` of this kind to `targets`; targets: tasks or roles."""
        kind = type(message).__name__
        for at in [at for at in self._latest if at[0] == task and at[1] == kind and at[2] in targets]:
            self.cancel(self._latest.pop(at))

    def cancel(self, key: Key) -> None:
        self._endpoint.cancel(key)
        self._forget(key)

    def cancel_task(self, task: str) -> None:
        for key in [key for key, (sender, _) in self._sent.items() if sender == task]:
            self.cancel(key)
        self._latest = {at: key for at, key in self._latest.items() if at[0] != task}

    def give_up(self, node: str, task: str, role: str) -> list[tuple[str, Send]]:
        """Forget and return the unacknowledged messages to a task as (sender, Send), in order; a Cast becomes a Send to that task."""
        messages = []
        for key, (sender, command) in list(self._sent.items()):
            if isinstance(command, Send) and command.to == task:
                messages.append((sender, command))
                self._forget(key)
            elif isinstance(command, Cast) and command.role == role and node in self._unacked.get(key, ()):
                messages.append((sender, Send(task, command.message, latest=command.latest)))
                self._unacked[key].discard(node)
                if not self._unacked[key]:
                    self._forget(key)
        return messages

    def cancel_same(self, send: Send) -> None:
        for key in [key for key, (_, old) in self._sent.items() if old == send]:
            self.cancel(key)

    def _forget(self, key: Key) -> None:
        self.acks.forget(key)
        self._sent.pop(key, None)
        self._unacked.pop(key, None)
        self._refused.pop(key, None)

    def digests(self) -> set[str]:
        """Blobs of refused letters: they must stay, because these letters leave again under a later table."""
        return {ref.digest for key in self._refused if key in self._sent for ref in refs_in(self._sent[key][1].message) if isinstance(ref, Blob)}

    def under_way(self, task: str) -> bool:
        """Whether a letter of the task is not acknowledged yet."""
        return any(sender == task for sender, _ in self._sent.values())

    # -- acknowledged and refused ----------------------------------------------------------

    def acked(self, now: float, key: Key, node: str) -> None:
        """The host of `node` has accepted the letter; a cast is forgotten after its last member."""
        self.acks.acked(now, key)
        left = self._unacked.get(key)
        if left is not None:
            left.discard(node)
        if not left:
            self._forget(key)

    def refused(self, key: Any, node: str) -> bool:
        """Keep the letter for another try; False if it is obsolete."""
        if key in self._sent:
            self._refused.setdefault(key, {})[node] = None
            return True
        return False

    def take_refused(self) -> Iterator[tuple[Key, str, Send | Cast, list[str]]]:
        """(key, task, command, nodes) of each refused letter. The caller answers each by `retried`, or by `refused` if it must wait longer."""
        refused, self._refused = self._refused, {}
        for key, nodes in refused.items():
            if key in self._sent:  # otherwise a letter that was tried before it has outdated it
                yield (key, *self._sent[key], list(nodes))

    def retried(self, key: Key) -> None:
        """The letter left under another key. A cast goes on towards its other members."""
        task_and_command = self._sent.get(key)
        if task_and_command is not None and isinstance(task_and_command[1], Send):
            self._forget(key)

    def carries(self, node: str, digests: set[str]) -> bool:
        """Whether a cast with one of these blobs is on its way to `node`."""
        return any(
            node in nodes and any(isinstance(ref, Blob) and ref.digest in digests for ref in refs_in(self._sent[key][1].message))
            for key, nodes in self._unacked.items()
        )

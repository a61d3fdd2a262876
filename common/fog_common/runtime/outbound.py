"""Messages that leave a host: sends, casts, the job's result. All refs in them become blobs here."""

from __future__ import annotations

import msgspec

from fog_common.ids import CLOUD_SITE, COORDINATOR
from fog_common.runtime.effects import RESULT, Result
from fog_common.runtime.hosted import Hosted
from fog_common.runtime.machine import Cast, Delivered, Finish, Peer, Send, map_refs
from fog_common.runtime.task import Task
from fog_common.transfer.endpoint import Address
from fog_common.wire import topics

_encoder = msgspec.msgpack.Encoder()


class Outbound:
    def __init__(self, hosted: Hosted) -> None:
        self._hosted = hosted

    def perform(self, now: float, task: Task, command: Send | Cast | Finish) -> None:
        """Perform a command that no Save holds back any more."""
        match command:
            case Send():
                self.send(now, task, command)
            case Cast():
                self._cast(now, task, command)
            case Finish():
                self._finish(now, task, command)

    def keep(self, task: Task, send: Send) -> Send:
        """Put a message into the task's spool; returns the message with blobs for handles."""
        fixed: Send = map_refs(send, lambda ref: self._hosted.refs.blob(task.peer.task, ref))
        if fixed not in task.kept:
            task.kept.append(fixed)
        return fixed

    def send(self, now: float, task: Task, send: Send) -> None:
        hosted, name = self._hosted, task.peer.task
        if send.keep is not None:
            if send.keep <= hosted.root_saved:
                task.kept = [other for other in task.kept if other != send]  # the root has saved it while a Save held it back
                return
            send = self.keep(task, send)
        peer = hosted.table.peers.get(send.to)
        if peer is None and (address := hosted.ingress_address(send.to)) is not None:
            hosted.mail.send(now, name, map_refs(send, lambda ref: hosted.refs.blob(name, ref, send.once)), address)
            return
        if peer is None or not peer.live:
            hosted.count("sends_without_receiver_total")  # a kept one leaves when the receiver is placed
            if send.to in hosted.unheard and send.keep is None:
                hosted.unheard.note(name, map_refs(send, lambda ref: hosted.refs.blob(name, ref, send.once)))
            return
        fixed: Send = map_refs(send, lambda ref: hosted.refs.blob(name, ref, send.once))
        if peer.node == hosted.me.node:
            hosted.post(send.to, Delivered(name, fixed.message))
            return
        hosted.mail.send(now, name, fixed, hosted.table.address(peer))

    def _cast(self, now: float, task: Task, cast: Cast) -> None:
        hosted, name = self._hosted, task.peer.task
        peers = [peer for peer in hosted.table.peers.values() if peer.role == cast.role and peer.live and peer.task != name]
        if not peers:
            return
        fixed: Cast = map_refs(cast, lambda ref: hosted.refs.blob(name, ref))
        for peer in peers:
            if peer.node == hosted.me.node:
                hosted.post(peer.task, Delivered(name, fixed.message))
        members = {peer.node: hosted.table.address(peer) for peer in peers if peer.node != hosted.me.node}
        if cast.latest:
            hosted.mail.outdate(name, cast.message, {cast.role, *(peer.task for peer in peers)})
        if not members:
            return
        scope = hosted.me.site if all(address.site == hosted.me.site for address in members.values()) else topics.ALL_SITES
        hosted.mail.cast(now, name, fixed, scope, members)

    def _finish(self, now: float, task: Task, finish: Finish) -> None:
        task.finished, task.why = True, finish.why
        task.wake_at = None
        if task.peer.task == self._hosted.table.root:
            task.result = finish
            self.hand_in(now, task)
        self._hosted.change(urgent=True)

    def hand_in(self, now: float, task: Task) -> None:
        """Send the job's result once the root's last Save is safe, so that no finished job can close its last round again."""
        hosted, finish, name = self._hosted, task.result, task.peer.task
        if finish is not None and (finish.why or task.saved <= hosted.root_saved):
            task.result = None
            blobs = {key: hosted.refs.blob(name, ref) for key, ref in finish.refs.items()}
            result = Result(hosted.job, name, finish.numbers, blobs, task.closed.whole(), finish.why)
            to = Address(COORDINATOR, CLOUD_SITE, "cloud", hosted.me.kind)
            hosted.mail.post(now, name, RESULT, _encoder.encode(result), tuple(blobs.values()), to, about=Send(RESULT, result))

    # -- again -----------------------------------------------------------------------------

    def send_unheard(self, now: float, peer: Peer) -> None:
        """Send a silent task that is live again unchanged the messages that it missed."""
        for name, send in self._hosted.unheard.back(peer):
            if name in self._hosted.tasks:
                self.perform(now, self._hosted.tasks[name], send)

    def resend_kept(self, now: float, name: str, receivers: set[str]) -> None:
        """Send kept messages of the task again to receivers that are new instances."""
        task = self._hosted.tasks[name]
        held = [command for _, command in task.held]
        for send in [send for send in task.kept if send.to in receivers and send not in held]:
            self._hosted.mail.cancel_same(send)
            self.send(now, task, send)

    def retry_refused(self, now: float) -> None:
        """Send refused letters again under a new table, with which receivers may know the sender."""
        hosted = self._hosted
        for key, name, command, nodes in hosted.mail.take_refused():
            if not hosted.tasks[name].peer.live:  # wait for the next table
                for node in nodes:
                    hosted.mail.refused(key, node)
                continue
            keep = command.keep if isinstance(command, Send) else None
            for peer in [peer for peer in hosted.table.peers.values() if peer.node in nodes and peer.live]:
                if command.to == peer.task if isinstance(command, Send) else command.role == peer.role:
                    self.perform(now, hosted.tasks[name], Send(peer.task, command.message, keep=keep, latest=command.latest))
            hosted.mail.retried(key)

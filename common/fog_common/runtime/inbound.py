"""Letters that come into a host: to whom they are given, which wait, which are refused and why.

A letter of a newer view waits for the table. Refused are letters of a dead incarnation (`dead_incarnation`), of an older view
(`stale_view`), from a task that the table does not have there (`not_placed`), to no task of this node (`no_such_task`), and
letters that cannot be read (`malformed`). Letters between hosts carry Saves: copies for this node, questions for one, answers.

An ingress peer has no task: it knows no view, and what its letters say of views, incarnations and Saves does not count. It reaches tasks
of the roles that the table names for it, under its own name as the sender; any other letter of it is refused (`not_placed`).
"""

from __future__ import annotations

from fog_common.errors import WireError
from fog_common.runtime.barrier import Barrier
from fog_common.runtime.effects import HOST, Fetch, Missing, Replica, decode_host_message
from fog_common.runtime.hosted import Hosted
from fog_common.runtime.machine import Delivered
from fog_common.runtime.placing import Placer
from fog_common.runtime.saves import Record
from fog_common.transfer.endpoint import Address, Letter


class Inbound:
    def __init__(self, hosted: Hosted, barrier: Barrier, placing: Placer) -> None:
        self._hosted = hosted
        self._barrier = barrier
        self._placing = placing

    def arrived(self, now: float, letter: Letter) -> None:
        hosted, content = self._hosted, letter.content
        if hosted.table.is_ingress(content.sender) and content.sender == letter.node:
            self._asked(letter)
            return
        if letter.root_saved > hosted.root_saved and letter.view >= hosted.table.view:
            self._barrier.heard(now, letter.root_saved)
        if letter.view > hosted.table.view:
            self._park(letter)
            return
        if hosted.table.incarnation(letter.node) > letter.incarnation:
            hosted.refuse(letter, "dead_incarnation")
            return
        if content.to == HOST:
            self._host_letter(now, letter)
            return
        if letter.view < hosted.table.view:
            hosted.refuse(letter, "stale_view")
            return
        sender = hosted.table.peers.get(content.sender)
        if sender is None or sender.node != letter.node or sender.incarnation != letter.incarnation:
            hosted.refuse(letter, "not_placed")
            return
        self._deliver(letter)

    def _asked(self, letter: Letter) -> None:
        """A letter of an ingress peer."""
        hosted, content = self._hosted, letter.content
        if not hosted.table.may_ask(content.sender, content.to):
            hosted.refuse(letter, "not_placed")
            return
        hosted.ingress[content.sender] = Address(letter.node, letter.site, letter.tier, letter.id[0])
        self._deliver(letter)

    def _deliver(self, letter: Letter) -> None:
        """Give a letter of an allowed sender to the tasks of this node that it is for."""
        hosted, content = self._hosted, letter.content
        targets = [content.to] if content.to in hosted.table.peers else hosted.table.of_role(content.to)
        targets = [target for target in targets if hosted.table.mine(target)]
        if not targets:
            hosted.refuse(letter, "no_such_task")
            return
        if any(target not in hosted.tasks for target in targets):
            self._park(letter)
            return
        try:
            message = hosted.codebook.decode_message(content.body)
        except WireError:
            hosted.refuse(letter, "malformed")
            return
        hosted.endpoint.accept(letter)
        for target in targets:
            hosted.post(target, Delivered(content.sender, message))

    def unpark(self, now: float) -> None:
        """Take the letters that waited for a table, or for a task to open."""
        parked, self._hosted.parked = self._hosted.parked, []
        for letter in parked:
            self.arrived(now, letter)

    def _park(self, letter: Letter) -> None:
        self._hosted.parked.append(letter)
        self._hosted.change(urgent=True)

    # -- letters between hosts -------------------------------------------------------------

    def replica_persisted(self, now: float, record: Record) -> None:
        """A copy, or the answer to a Fetch, is on this disk."""
        hosted = self._hosted
        letter = hosted.replica_letters.pop((record.task, record.label), None)
        if record.task in hosted.tasks:  # it was placed here meanwhile
            if letter is not None:
                hosted.refuse(letter, "not_placed")
            return
        hosted.shelf.add(record, replica=True)
        if letter is not None:
            hosted.endpoint.accept(letter)
            if hosted.fetches.is_answer(letter, record.task) and self._placing.obtained(now, record.task):  # else stale; the answer replaces it
                self.unpark(now)
        hosted.change(urgent=True)

    def _host_letter(self, now: float, letter: Letter) -> None:
        hosted = self._hosted
        try:
            message = decode_host_message(letter.content.body)
        except WireError:
            hosted.refuse(letter, "malformed")
            return
        name = message.record.task if isinstance(message, Replica) else message.task
        if isinstance(message, Replica) and name in hosted.tasks:  # it runs here meanwhile: an old copy is of no use
            hosted.endpoint.accept(letter)
            return
        if (reason := self._unwelcome(letter, message, name)) is not None:
            hosted.refuse(letter, reason)
            return
        match message:
            case Replica(record):
                if (before := hosted.replica_letters.pop((record.task, record.label), None)) is not None:
                    hosted.refuse(before, "repeated")  # its sender has sent it anew
                hosted.replica_letters[record.task, record.label] = letter
                self._barrier.persist(record, replica=True)
            case Fetch(_, at_most):
                self._give(now, letter, name, at_most)
            case Missing():
                hosted.endpoint.accept(letter)
                if self._placing.missing(now, name):
                    self.unpark(now)

    def _unwelcome(self, letter: Letter, message: Replica | Fetch | Missing, name: str) -> str | None:
        """Why a letter of another host is refused, or None. An answer to a Fetch may have left before the newest table."""
        hosted, peer = self._hosted, self._hosted.table.peers.get(name)
        if not isinstance(message, Fetch) and hosted.fetches.is_answer(letter, name):
            return None
        if letter.view < hosted.table.view:
            return "stale_view"
        if isinstance(message, Missing) or peer is None or peer.node != letter.node or peer.incarnation not in (0, letter.incarnation):
            return "not_placed"
        return None

    def _give(self, now: float, letter: Letter, name: str, at_most: int | None) -> None:
        """Answer a Fetch with the newest Save of the task, one that is on its way to the disk included."""
        hosted = self._hosted
        records = [record for record in hosted.persisting.values() if record.task == name]
        records += filter(None, [hosted.shelf.newest(name, at_most)])
        newest = max([r for r in records if at_most is None or r.label <= at_most], key=lambda record: record.label, default=None)
        blobs = newest.blobs if newest else ()
        address = hosted.table.address_of(letter.node)
        if address is None or not hosted.refs.blobs.hold(blobs):
            hosted.refuse(letter, "not_placed")  # its blobs have just made room for a newer Save's: it asks again with the next table
            return
        hosted.mail.to_host(now, address, Replica(newest) if newest else Missing(name), blobs)
        hosted.endpoint.accept(letter)

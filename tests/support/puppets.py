"""Hosts of puppets: tasks that do what the test says and remember what they heard. Two nodes hear each other at once; disks and ops wait."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct, field
from msgspec.structs import replace

from fog_common.runtime.effects import Compute, Listen, Persist
from fog_common.runtime.host import Host
from fog_common.runtime.machine import Command, Event, Machine, Peer
from fog_common.runtime.refs import BlobTable, Refs
from fog_common.runtime.saves import Codebook, Program
from fog_common.runtime.shelf import Shelf
from fog_common.transfer.endpoint import Address, Arrived, Content, Endpoint, LetterRefused, PublishFrame
from fog_common.wire import topics
from fog_common.wire.messages import DesiredJob, Placement


class Word(Struct, frozen=True, tag="puppets.Word"):
    text: str


class Puppet(Machine):
    """Answers an event by the commands that stand under its name (`Started`, or `word TEXT`) in orders."""

    me: str
    heard: list[str] = field(default_factory=list)
    orders: ClassVar[dict[str, dict[str, list[Command]]]] = {}
    """Of all tasks; no part of the state."""

    def step(self, event: Event, now: float) -> list[Command]:
        name = named(event)
        self.heard.append(name)
        return self.orders[self.me].get(name, [])

    def stop(self, why: str, roster: tuple[Peer, ...], now: float) -> list[Command]:
        return self.orders[self.me].get("stop", [])


def named(event: Any) -> str:
    kind = type(event).__name__
    match kind:
        case "Delivered":
            return f"word {event.message.text}"
        case "Joined" | "Left":
            return f"{kind} {event.peer.task}"
        case "Rewound":
            return f"Rewound {event.label}"
        case "Ran" | "Failed":
            return f"{kind} {event.tag[0]}"
    return kind


class Values:
    """Values are whole numbers."""

    def encode(self, value: Any) -> bytes:
        return str(value).encode()

    def decode(self, content: Any) -> Any:
        return int(bytes(content))


def peer(task: str, node: str, incarnation: int = 1, since: int = 1) -> Peer:
    return Peer(task, task.split("-", maxsplit=1)[0], -1, node, "s", "edge", incarnation, since)


class Asker:
    """Somebody without a task. Letters leave under `view` and with `root_saved`; what came of them is in `heard` and `refused`."""

    def __init__(self, name: str, view: int = 0, root_saved: int = -1, incarnation: int = 1, kind: str = "ask~j") -> None:
        self.name = name
        self.heard: list[str] = []
        self.refused: list[str] = []
        self.endpoint = Endpoint(Address(name, "out", "cloud", kind), "main", "j", incarnation, BlobTable())
        self.endpoint.stamp(0.0, view, root_saved)
        self._codebook = Codebook(Program({}, (Word,)))

    def ask(self, now: float, to: str, text: str, node: str, sender: str = "") -> None:
        content = Content(sender or self.name, to, self._codebook.encode_message(Word(text)))
        self.endpoint.send(now, Address(node, "s", "edge", "bulk~j"), content, text)

    def take(self, now: float) -> list[tuple[str, bytes]]:
        """(topic, payload) of what it has to say."""
        frames = []
        self.endpoint.on_timer(now)
        for output in self.endpoint.take():
            match output:
                case PublishFrame(topic, payload, _):
                    frames.append((topic, bytes(payload)))
                case Arrived(letter):
                    self.endpoint.accept(letter)
                    self.heard.append(f"{letter.content.sender}: {self._codebook.decode_message(letter.content.body).text}")
                case LetterRefused(_, _, reason):
                    self.refused.append(reason)
        return frames


class Puppets:
    """orders: by task, then as in Puppet. Effects since the last look are in `seen`, as short texts."""

    def __init__(self, orders: dict[str, dict[str, list[Command]]], *peers: Peer, nodes: tuple[str, ...] = ("n", "m")) -> None:
        self.now, self.view, self.orders = 0.0, 0, orders
        Puppet.orders = orders
        self.peers = peers
        self.hosts: dict[str, Host] = {}
        self.shelves = {node: Shelf() for node in nodes}
        self.persists: list[tuple[str, Persist]] = []
        self.computes: list[tuple[str, Compute]] = []
        self.seen: list[str] = []
        self.results: list[bytes] = []
        self.deaf: set[str] = set()
        self.askers: dict[str, Asker] = {}
        for node in nodes:
            self.boot(node)

    def boot(self, node: str, incarnation: int = 1) -> Host:
        """A new process on that node, with what is on its disk."""
        me, blobs = Address(node, "s", "edge", "bulk~j"), BlobTable()
        roles = {task.split("-", maxsplit=1)[0]: Puppet for task in self.orders}
        self.persists = [(other, persist) for other, persist in self.persists if other != node]
        self.computes = [(other, compute) for other, compute in self.computes if other != node]
        host = self.hosts[node] = Host(
            me,
            job="j",
            incarnation=incarnation,
            program=Program(roles, (Word,)),
            build=lambda peer: Puppet(me=peer.task),
            refs=Refs(Values(), blobs, f"{node}-{incarnation}"),
            endpoint=Endpoint(me, "main", "j", incarnation, blobs),
            shelf=self.shelves[node],
        )
        return host

    def place(self, *peers: Peer, only: tuple[str, ...] = (), history_seen: int = 0, **more: Any) -> None:
        """The next view, with these tasks (as before if none is named); `only` these nodes hear of it."""
        self.view += 1
        self.peers = peers or self.peers
        table = Placement("j", self.view, self.peers[0].task, self.peers, **more)
        for node in only or tuple(self.hosts):
            self.hosts[node].on_placement(self.now, DesiredJob("j", {}, table, history_seen=history_seen))
        self.settle()

    def settle(self) -> None:
        """Perform effects until none is left; what is persisted or computed waits."""
        for _ in range(100):  # a refused letter leaves again at once, as long as the two tables differ
            moved = False
            for node, host in self.hosts.items():
                if (at := host.next_timer()) is not None and at <= self.now:
                    host.on_timer(self.now)
                for effect in host.take():
                    moved = True
                    match effect:
                        case Persist(record, replica):
                            self.persists.append((node, effect))
                            self.seen.append(f"{node} persist {record.task} {record.label}{' copy' if replica else ''}")
                        case Compute():
                            self.computes.append((node, effect))
                            self.seen.append(f"{node} compute {effect.task} {effect.op}")
                        case Listen(roles):
                            self.seen.append(f"{node} listen {' '.join(roles)}")
                        case PublishFrame(topic, payload, _):
                            route = topics.parse(topic)
                            if route.target == "coordinator":
                                self.results.append(bytes(payload))
                            elif route.target in self.hosts and not self.deaf & {route.target, node} and route.kind == "bulk~j":
                                self.hosts[route.target].on_frame(self.now, route, bytes(payload))
                            elif route.target in self.askers:
                                self.askers[route.target].endpoint.on_frame(self.now, route, bytes(payload))
                        case _:
                            pass
                assert host.validate() == [], list(host.story())
            for asker in self.askers.values():
                for topic, payload in asker.take(self.now):
                    moved = True
                    if (host_ := self.hosts.get(topics.parse(topic).target)) is not None:
                        host_.on_frame(self.now, topics.parse(topic), payload)
            if not moved:
                break

    def write(self, *nodes: str) -> list[str]:
        """What waits for the disk (of these nodes) is on it, first come, first served; returns what it was."""
        done = []
        while chosen := next((each for each in self.persists if not nodes or each[0] in nodes), None):
            self.persists.remove(chosen)
            node, persist = chosen
            self.hosts[node].on_persisted(self.now, persist.record, persist.replica)
            done.append(f"{node} {persist.record.task} {persist.record.label}{' copy' if persist.replica else ''}")
            self.settle()
        return done

    def compute(self, value: int = 7) -> None:
        """The oldest op ends; its outputs are `value`."""
        node, compute = self.computes.pop(0)
        host = self.hosts[node]
        for handle in compute.into.values():
            host.refs.store(compute.task, handle, value)
        host.on_ran(self.now, compute, {"out": value} if not compute.into else dict.fromkeys(compute.into, value), {})
        self.settle()

    def later(self, seconds: float) -> None:
        self.now += seconds
        for host in self.hosts.values():
            host.on_timer(self.now)
        self.settle()

    def puppet(self, task: str) -> Puppet:
        found = [host._hosted.tasks[task].machine for host in self.hosts.values() if task in host._hosted.tasks]
        assert len(found) == 1 and isinstance(found[0], Puppet)
        return found[0]

    def heard(self, task: str) -> list[str]:
        return self.puppet(task).heard

    def running(self, node: str) -> list[str]:
        return sorted(self.hosts[node]._hosted.tasks)


def moved(old: Peer, node: str, view: int, incarnation: int = 1) -> Peer:
    """The task as a new instance on another node."""
    return replace(old, node=node, incarnation=incarnation, since=view)


def gone(old: Peer) -> Peer:
    """The task's node is thought to be gone."""
    return replace(old, incarnation=0)

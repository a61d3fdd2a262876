"""Letters between hosts: copies of Saves, and who may ask for and bring them."""

from __future__ import annotations

from typing import Any

import blake3
import pytest

from fog_agent.worker import hosting
from fog_common.runtime.closed import ClosedRounds
from fog_common.runtime.effects import Fetch, Missing, Persist, Replica
from fog_common.runtime.host import Host
from fog_common.runtime.machine import Blob, Command, Finish, Peer, RoundRecord
from fog_common.runtime.saves import Record
from fog_common.transfer.endpoint import PublishFrame
from fog_common.wire import topics
from fog_common.wire.messages import DesiredJob, Placement
from fog_learning.backend.standin import StandinBackend
from fog_learning.job.reading import job_from
from fog_learning.job.sections import JobFile
from fog_learning.methods import METHODS, resolve_method
from fog_learning.methods.fedavg.server import Server
from fog_sim.campaign import chaos
from fog_sim.disk import JobDisk

JOB: JobFile = job_from({**chaos.JOB, "evaluation": {"where": "none"}}, "job")
SITES = {"cloud-1": "cloud", "cloud-2": "cloud", "node-1": "home", "node-2": "home"}


def peer(task: str, node: str, incarnation: int = 1, since: int = 1) -> Peer:
    slot = int(task[-1]) if task[-1].isdigit() else -1
    return Peer(task, task.split("-", maxsplit=1)[0], slot, node, SITES[node], "edge", incarnation, since, "" if task == "server" else "server")


def table(view: int, server: str, *, buddy: str = "node-1", since: int = 1, incarnation: int = 1, **more: Any) -> DesiredJob:
    tasks = (peer("server", server, incarnation, since), peer("trainer-0", "node-1"), peer("trainer-1", "node-2"))
    places = {node: (site, "edge") for node, site in SITES.items()}
    placement = Placement("j", view, "server", tasks, buddies={"server": buddy} if buddy else {}, places=places, **more)
    return DesiredJob("j", {}, placement)


class Net:
    """Hosts that hear each other at once. Computing never ends by itself; what is persisted waits for `write`."""

    def __init__(self, *nodes: str) -> None:
        self.now = 0.0
        self.disks = {node: JobDisk({}, []) for node in nodes}
        self.hosts: dict[str, Host] = {}
        self.persists: list[tuple[str, Persist]] = []
        self.results: list[str] = []
        self.deaf: set[str] = set()
        for node in nodes:
            self.boot(node)

    def boot(self, node: str, incarnation: int = 1) -> Host:
        bench = StandinBackend(JOB, {"trainer-0": 0, "trainer-1": 1}, 2)
        first = table(1, "cloud-1")
        disk = self.disks[node]
        host = self.hosts[node] = hosting.open_host(
            first, JOB, node=node, site=SITES[node], tier="edge", fleet="main", incarnation=incarnation, codec=bench,
            disk=disk, shelf=disk.load(), chunk_bytes=4096,
        )  # fmt: skip
        return host

    def place(self, desired: DesiredJob, *nodes: str) -> None:
        for node in nodes or list(self.hosts):
            self.hosts[node].on_placement(self.now, desired)
        self.deliver()

    def deliver(self) -> None:
        moved = True
        while moved:
            moved = False
            for node, host in self.hosts.items():
                if (at := host.next_timer()) is not None and at <= self.now:
                    host.on_timer(self.now)
                for effect in host.take():
                    if isinstance(effect, Persist):
                        self.persists.append((node, effect))
                    elif isinstance(effect, PublishFrame):
                        route = topics.parse(effect.topic)
                        moved = True
                        if route.plane == "cast":
                            continue
                        if route.target == "coordinator":
                            self.results.append(node)
                        elif route.target in self.hosts and route.target not in self.deaf:
                            self.hosts[route.target].on_frame(self.now, route, bytes(effect.payload))

    def write(self) -> list[tuple[str, str, int, bool]]:
        """What waits for the disk is on it now: (node, task, label, replica)."""
        done = []
        while self.persists:
            node, persist = self.persists.pop(0)
            host = self.hosts[node]
            self.disks[node].write(persist.record, persist.replica, host.refs.blobs.get)
            host.on_persisted(self.now, persist.record, persist.replica)
            done.append((node, persist.record.task, persist.record.label, persist.replica))
            self.deliver()
        return done

    def later(self, seconds: float) -> None:
        self.now += seconds
        for host in self.hosts.values():
            host.on_timer(self.now)
        self.deliver()

    def post(self, sender: str, to: str, message: Replica | Fetch | Missing) -> None:
        host = self.hosts[sender]
        address = host.table.address_of(to)
        assert address is not None
        blobs = message.record.blobs if isinstance(message, Replica) else ()
        host.mail.to_host(self.now, address, message, blobs)
        host.on_timer(self.now)
        self.deliver()


def record_of(net: Net, node: str, label: int, rest: tuple[Command, ...] = ()) -> Record:
    """A Save that a server of so many rounds makes on that node; its blob is in the host's table."""
    host = net.hosts[node]
    machine = METHODS["fedavg"].build(JOB, resolve_method(JOB)[1], peer("server", node))
    assert isinstance(machine, Server)
    machine.ledger.round = label
    rounds = ClosedRounds(host.refs.blobs)
    for number in range(1, label + 1):
        rounds.close(RoundRecord(number, float(number), 2, 20))
    content = f"weights of round {label}".encode() * 9
    weights = machine.weights = Blob(blake3.blake3(content).hexdigest(), len(content))
    host.refs.blobs.put(weights.digest, content)
    commands = [Finish({"weights": weights}) if isinstance(command, Finish) else command for command in rest]
    return host._hosted.codebook.encode_record("server", "server", label, float(label), machine, commands, [], None, rounds.save())


def saved(net: Net, node: str, label: int, rest: tuple[Command, ...] = ()) -> Record:
    """The same, on the node's disk, as its host finds it when it starts."""
    record = record_of(net, node, label, rest)
    net.disks[node].write(record, False, net.hosts[node].refs.blobs.get)
    net.boot(node)
    return record


def labels(net: Net, node: str) -> tuple[int, ...]:
    return net.hosts[node].shelf.labels("server")


def refusals(net: Net, node: str, reason: str) -> float:
    return net.hosts[node].counters.get(f"rejected_{reason}_total", 0)


def test_a_copy_of_an_older_view_is_refused_however_new_its_label():
    net = Net("cloud-1", "cloud-2", "node-1")
    saved(net, "cloud-1", 3)
    net.place(table(1, "cloud-1"))
    assert net.write() == [("node-1", "server", 3, True)]
    net.deaf.add("cloud-1")  # frozen, and replaced
    net.place(table(2, "cloud-2", since=2, fetch={"server": "node-1"}), "cloud-2", "node-1")
    assert net.write()[0] == ("cloud-2", "server", 3, True)
    newer = record_of(net, "cloud-1", 7)
    net.deaf.clear()
    net.post("cloud-1", "node-1", Replica(newer))
    assert net.write() == []
    assert labels(net, "node-1") == (3,)
    assert refusals(net, "node-1", "stale_view") == 1


def test_a_copy_is_taken_from_the_node_of_the_task_only():
    net = Net("cloud-1", "cloud-2", "node-1")
    net.place(table(1, "cloud-1"))
    net.post("cloud-2", "node-1", Replica(record_of(net, "cloud-2", 7)))
    assert net.write() == []
    assert refusals(net, "node-1", "not_placed") == 1


def test_the_answer_to_a_fetch_counts_also_if_a_newer_table_came_meanwhile():
    net = Net("cloud-1", "cloud-2", "node-1")
    saved(net, "node-1", 4)
    net.place(table(2, "cloud-2", since=2, buddy="", fetch={"server": "node-1"}), "node-1")
    net.deaf.add("cloud-2")
    net.place(table(2, "cloud-2", since=2, buddy="", fetch={"server": "node-1"}), "cloud-2")  # the answer is on its way
    net.deaf.clear()
    net.hosts["cloud-2"].on_placement(net.now, table(3, "cloud-2", since=2, buddy="", fetch={"server": "node-1"}))
    net.later(30.0)
    assert ("cloud-2", "server", 4, True) in net.write()
    assert [state.task for state in net.hosts["cloud-2"].task_states(net.now) if state.since] == ["server"]


def test_who_has_no_save_is_not_the_last_that_is_asked():
    net = Net("cloud-1", "cloud-2", "node-1")
    saved(net, "node-1", 4)
    net.place(table(2, "cloud-2", since=2, fetch={"server": "cloud-1"}))
    assert ("cloud-2", "server", 4, True) in net.write()
    assert labels(net, "cloud-2") == (4,)


def test_nobody_has_a_save_so_the_task_begins():
    net = Net("cloud-1", "cloud-2", "node-1")
    net.place(table(2, "cloud-2", since=2, fetch={"server": "cloud-1"}))
    assert [state.task for state in net.hosts["cloud-2"].task_states(net.now)] == ["server"]
    assert labels(net, "cloud-2") == ()


def test_a_fetch_asks_for_the_label_to_which_the_job_goes_back():
    net = Net("cloud-1", "cloud-2")
    saved(net, "cloud-1", 4)
    saved(net, "cloud-1", 5)
    net.place(table(2, "cloud-2", since=2, buddy="", fetch={"server": "cloud-1"}, rewind=4, rewind_view=2))
    assert net.write() == [("cloud-2", "server", 4, True)]


@pytest.mark.parametrize("buddy", ["node-1", ""])
def test_rounds_and_result_are_shown_once_the_copy_of_their_save_is_safe(buddy: str):
    net = Net("cloud-1", "node-1", "node-2")
    saved(net, "cloud-1", 8, (Finish(),))
    net.deaf.add("node-1")
    net.place(table(1, "cloud-1", buddy=buddy))
    if buddy:
        assert net.hosts["cloud-1"].task_states(net.now)[0].history == ()
        assert net.results == []
        net.deaf.clear()
        net.later(30.0)
        assert net.results == [], "the copy is there, but not on the disk"
        assert net.write() == [("node-1", "server", 8, True)]
    assert [record.round for record in net.hosts["cloud-1"].task_states(net.now)[0].history] == list(range(1, 9))
    assert net.results[:1] == ["cloud-1"]


def test_a_result_that_waited_for_a_lost_buddy_leaves_when_another_has_the_copy():
    net = Net("cloud-1", "node-1", "node-2")
    saved(net, "cloud-1", 8, (Finish(),))
    net.deaf.add("node-1")
    net.place(table(1, "cloud-1"))
    net.place(table(2, "cloud-1", buddy="node-2"))
    assert net.write() == [("node-2", "server", 8, True)]
    assert net.results[:1] == ["cloud-1"]


def test_a_server_that_begins_anew_forgets_what_its_disk_has():
    net = Net("cloud-1", "node-1")
    saved(net, "cloud-1", 5)
    net.place(table(2, "cloud-1", since=2, rewind=-1, rewind_view=2))
    assert labels(net, "cloud-1") == ()


def test_a_job_that_is_stopped_before_its_first_save_fails_and_says_so():
    net = Net("cloud-1", "node-1", "node-2")
    net.place(table(1, "cloud-1"))
    net.place(table(2, "cloud-1", stop="stopped, it used 5 of 5 s"))
    assert net.results[:1] == ["cloud-1"]
    (state,) = net.hosts["cloud-1"].task_states(net.now)
    assert (state.finished, state.why) == (True, "stopped, it used 5 of 5 s; there was no model yet")


def test_the_save_of_a_job_of_many_rounds_is_copied_and_its_result_handed_in():
    net = Net("cloud-1", "node-1", "node-2")
    record = saved(net, "cloud-1", 20_000, (Finish(),))
    assert len(record.machine) < 2_000 and len(record.rounds) < 5_000 and sum(blob.size for blob in record.blobs) > 300_000
    net.place(table(1, "cloud-1"))
    assert net.write() == [("node-1", "server", 20_000, True)]
    assert net.results[:1] == ["cloud-1"]

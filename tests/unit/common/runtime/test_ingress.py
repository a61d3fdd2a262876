"""A peer from outside asks tasks of a job: only the roles that the table names for it, and only under its own name."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fog_common.runtime.machine import Save, Send
from fog_common.wire import topics
from support.puppets import Asker, Puppets, Word, gone, peer

SERVER, HEAD, OTHER = peer("server", "n"), peer("head-0", "n"), peer("server-1", "m")
ANSWER = Send("gateway", Word("42"))
ORDERS = {"server": {"word ask": [ANSWER]}, "head-0": {}, "server-1": {}}
MAY = {"gateway": ("server",)}


def job(*askers: Asker, orders: dict[str, Any] = ORDERS, **placement: Any) -> Puppets:
    puppets = Puppets({task: dict(each) for task, each in orders.items()}, SERVER, HEAD, OTHER)
    puppets.askers = {asker.name: asker for asker in askers}
    puppets.place(**placement)
    return puppets


def ask(puppets: Puppets, asker: Asker, to: str = "server", text: str = "ask", node: str = "n", sender: str = "") -> None:
    asker.ask(puppets.now, to, text, node, sender)
    puppets.settle()


def test_a_named_role_is_asked_and_answers():
    gateway = Asker("gateway")
    puppets = job(gateway, ingress=MAY)
    ask(puppets, gateway)
    assert puppets.heard("server") == ["Started", "word ask"]
    assert (gateway.heard, gateway.refused) == (["server: 42"], [])


def test_all_tasks_of_the_role_may_be_asked_by_name_and_by_role():
    gateway = Asker("gateway")
    puppets = job(gateway, ingress=MAY)
    ask(puppets, gateway, to="server-1", text="one", node="m")
    ask(puppets, gateway, to="server", text="all", node="m")
    ask(puppets, gateway, to="server", text="mine", node="n")
    assert puppets.heard("server-1") == ["Started", "word one"] and puppets.heard("server") == ["Started", "word mine"]
    assert gateway.refused == ["no_such_task"], "`server` is the name of a task of another node"


def test_another_role_is_refused():
    gateway = Asker("gateway", view=1)
    puppets = job(gateway, ingress=MAY)
    ask(puppets, gateway, to="head-0")
    ask(puppets, gateway, to="head", text="role")
    ask(puppets, gateway, to="@host", text="host")
    assert puppets.heard("head-0") == ["Started"]
    assert gateway.refused == ["not_placed"] * 3


def test_another_sender_is_refused_as_anybody_is():
    mallory, gateway = Asker("mallory", view=1), Asker("gateway", view=1)
    puppets = job(mallory, gateway, ingress=MAY)
    ask(puppets, mallory)
    ask(puppets, mallory, text="as gateway", sender="gateway")
    ask(puppets, gateway, text="as task", sender="head-0")
    assert puppets.heard("server") == ["Started"]
    assert (mallory.refused, gateway.refused) == (["not_placed"] * 2, ["not_placed"])


def test_after_a_table_without_it_it_is_refused_and_its_answers_are_forgotten():
    gateway = Asker("gateway", view=2)
    puppets = job(gateway, ingress=MAY)
    gateway.ask(puppets.now, "server", "ask", "n")
    for topic, payload in gateway.take(puppets.now):
        puppets.hosts["n"].on_frame(puppets.now, topics.parse(topic), payload)
    puppets.askers = {}  # its line is dead when the answer leaves
    puppets.settle()
    host = puppets.hosts["n"]
    assert host.mail.under_way("server") and host.endpoint.pending()
    puppets.place()
    assert not host.mail.under_way("server") and not host.endpoint.pending()
    puppets.askers = {"gateway": gateway}
    ask(puppets, gateway, text="again")
    assert puppets.heard("server") == ["Started", "word ask"]
    assert gateway.refused == ["not_placed"]
    puppets.place(ingress=MAY)
    ask(puppets, gateway, text="ask")
    assert gateway.heard == ["server: 42"]


def test_a_question_waits_for_a_task_that_is_not_open_and_for_a_table_that_names_the_asker():
    gateway = Asker("gateway", view=2)
    puppets = job(gateway)
    ask(puppets, gateway)
    assert puppets.heard("server") == ["Started"] and not gateway.refused
    puppets.place(ingress=MAY)
    assert puppets.heard("server") == ["Started", "word ask"]
    assert gateway.heard == ["server: 42"]


def test_an_answer_that_a_save_held_back_over_a_restart_finds_the_place_that_the_table_gives():
    orders = {"server": {"word ask": [Save(1), ANSWER]}, "head-0": {}, "server-1": {}}
    gateway = Asker("gateway", kind="bulk~j")
    puppets = job(gateway, orders=orders, ingress=MAY, places={"gateway": ("out", "cloud")})
    ask(puppets, gateway)
    assert gateway.heard == []
    puppets.shelves["n"].add(puppets.persists[0][1].record, replica=False)  # on the disk, and the process is gone before it leaves
    puppets.boot("n", 2)
    puppets.place(peer("server", "n", 2, 2), peer("head-0", "n", 2, 2), OTHER, ingress=MAY, places={"gateway": ("out", "cloud")})
    assert gateway.heard == ["server: 42"]


def test_without_a_place_and_a_question_an_answer_has_no_receiver():
    orders = {"server": {"Started": [ANSWER]}, "head-0": {}, "server-1": {}}
    puppets = job(orders=orders, ingress=MAY)
    assert puppets.hosts["n"].counters["sends_without_receiver_total"] == 1


def test_a_name_that_a_task_has_is_the_tasks():
    head = Asker("head-0", view=1)
    puppets = job(head, ingress={"head-0": ("server",)})
    ask(puppets, head)
    assert (puppets.heard("server"), head.refused) == (["Started"], ["not_placed"])


def test_what_it_says_of_saves_frees_no_spool():
    orders = {"server": {"Started": [Send("server-1", Word("kept"), keep=5)]}, "head-0": {}, "server-1": {}}
    gateway = Asker("gateway", view=1, root_saved=9)
    puppets = job(gateway, orders=orders, ingress=MAY)
    ask(puppets, gateway)
    assert puppets.hosts["n"].root_saved == -1 and puppets.hosts["n"]._hosted.tasks["server"].kept


@settings(max_examples=400, deadline=None)
@given(
    ingress=st.dictionaries(st.sampled_from(["gateway", "portal", "server"]), st.lists(st.sampled_from(["server", "head"]), max_size=2).map(tuple)),
    name=st.sampled_from(["gateway", "portal", "mallory", "m"]),
    claimed=st.sampled_from(["", "gateway", "portal", "server-1", "server"]),
    to=st.sampled_from(["server", "head-0", "head", "server-1", "@host", "nobody"]),
    view=st.integers(0, 2),
    incarnation=st.integers(1, 3),
    absent=st.booleans(),
)
def test_only_a_declared_peer_reaches_only_the_roles_named_for_it(
    ingress: dict[str, tuple[str, ...]], name: str, claimed: str, to: str, view: int, incarnation: int, absent: bool
) -> None:
    sender = claimed or name
    roles = {"server": "server", "head-0": "head", "head": "head"}
    allowed = sender == name and sender in ingress and sender not in ORDERS and roles.get(to) in ingress[sender]
    impostor = (sender, name, view) == ("server-1", "m", 1) and not absent  # as good as the task's own host, whose credential it has
    outcomes = []
    for table in (ingress, {}):
        asker = Asker(name, view=view, root_saved=view, incarnation=incarnation)
        puppets = job(asker, ingress=table)
        if absent:
            puppets.place(SERVER, HEAD, gone(OTHER), ingress=table)
        ask(puppets, asker, to=to, text="hello", sender=claimed)
        got = [task for task in ("server", "head-0") if "word hello" in puppets.heard(task)]
        outcomes.append((got, asker.refused, len(puppets.hosts["n"]._hosted.parked)))
    if allowed:
        assert outcomes[0] == ([{"head": "head-0"}.get(to, to)], [], 0)
    elif not impostor:
        assert outcomes[0][0] == []
        if sender not in ingress or sender != name or sender in ORDERS:
            assert outcomes[0] == outcomes[1]
        else:
            elsewhere = to == "server-1" and "server" in ingress[sender]
            assert outcomes[0][1] == ["no_such_task" if elsewhere else "not_placed"]

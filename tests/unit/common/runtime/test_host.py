"""The host directly: order of a placement, the Save barrier, held sends, refusals, early events, Rewind, its log of stimuli."""

from __future__ import annotations

from tests.support.puppets import Puppets, Word, gone, moved, peer

from fog_common.runtime.effects import Persist
from fog_common.runtime.machine import Blob, Cast, Command, Finish, Handle, Run, Save, Send, WakeAt

ROOT, LEAF, NEAR = peer("root", "n"), peer("leaf", "m"), peer("near", "n")


def puppets(root: dict[str, list[Command]] | None = None, leaf: dict[str, list[Command]] | None = None, **nodes: tuple[str, ...]) -> Puppets:
    return Puppets({"root": root or {}, "leaf": leaf or {}, "near": {}}, ROOT, LEAF, NEAR, **nodes)


# -- placement -----------------------------------------------------------------------------


def test_a_task_hears_that_it_started_and_runs_where_the_table_says():
    net = puppets()
    net.place()
    assert net.running("n") == ["near", "root"] and net.running("m") == ["leaf"]
    assert net.heard("root") == ["Started"]
    assert "n listen near root" in net.seen and "m listen leaf" in net.seen


def test_an_older_or_equal_view_changes_nothing():
    net = puppets()
    net.place()
    net.view = 0
    net.place(ROOT, only=("n",))
    assert net.running("n") == ["near", "root"]


def test_left_comes_before_joined_and_joined_before_the_word_of_the_new_instance():
    net = puppets(leaf={"Started": [Send("root", Word("hello"))]})
    net.place()
    assert net.heard("root") == ["Started", "word hello"]
    net.hosts["m"].take()
    net.boot("m", incarnation=2)
    net.place(ROOT, moved(LEAF, "m", 2, incarnation=2), NEAR)
    assert net.heard("root") == ["Started", "word hello", "Left leaf", "Joined leaf", "word hello"]
    assert net.heard("near") == ["Started", "Left leaf", "Joined leaf"]


def test_a_task_that_is_placed_elsewhere_stops_here_and_goes_on_there_from_its_copy():
    net = puppets(root={"Started": [Save(3)]})
    net.place(buddies={"root": "m"})
    assert net.write() == ["n root 3", "m root 3 copy"]
    net.place(moved(ROOT, "m", 2), LEAF, NEAR)
    assert net.running("n") == ["near"] and net.running("m") == ["leaf", "root"]
    assert net.heard("root") == ["Started", "Rewound 3"]


def test_a_silent_task_goes_on_and_hears_what_was_meant_for_it_once_it_is_back():
    net = puppets(root={"Left leaf": [Send("leaf", Word("while you were away"))]})
    net.place()
    net.deaf.add("m")
    net.place(ROOT, gone(LEAF), NEAR)
    assert net.running("m") == ["leaf"]
    net.deaf.clear()
    net.place(ROOT, LEAF, NEAR)
    net.later(30.0)
    assert "word while you were away" in net.heard("leaf")
    assert net.heard("root") == ["Started", "Left leaf", "Joined leaf"]


def test_kept_messages_go_again_to_a_new_instance_until_the_root_has_saved():
    root: dict[str, list[Command]] = {"word one": [Save(1), Send("leaf", Word("thanks"))]}
    net = puppets(root=root, leaf={"Started": [Send("root", Word("one"), keep=1)]})
    net.place()
    assert net.heard("root") == ["Started", "word one"]
    assert net.hosts["m"].kept_bytes == 0  # a word has no blobs
    net.boot("n", incarnation=2)
    net.place(moved(ROOT, "n", 2, 2), LEAF, moved(NEAR, "n", 2, 2))
    assert net.heard("root") == ["Started", "word one"], "the new instance hears it too"
    net.write()
    net.boot("n", incarnation=3)
    net.place(moved(ROOT, "n", 3, 3), LEAF, moved(NEAR, "n", 3, 3))
    assert net.heard("root") == ["Started", "word one", "Rewound 1"], "the root has it in its Save: it is not sent again"


def test_the_job_ends_from_the_newest_save_if_the_table_says_stop():
    net = puppets(root={"Started": [Save(2), Run("long", {}, ("a",))], "stop": [Finish(why="enough")]})
    net.place()
    net.write()
    net.place(stop="enough")
    (state,) = [state for state in net.hosts["n"].task_states(net.now) if state.task == "root"]
    assert (state.finished, state.why) == (True, "enough")
    assert net.heard("root") == ["Started"], "its state is that of the Save"
    assert net.results


# -- the Save barrier ----------------------------------------------------------------------


def test_what_stands_behind_a_save_leaves_once_it_is_durable_and_not_before():
    orders: list[Command] = [Send("near", Word("before")), Save(1), Send("near", Word("behind")), Cast("near", Word("cast")), Run("op", {}, ("op",))]
    net = puppets(root={"Started": orders})
    net.place()
    assert net.heard("near") == ["Started", "word before"]
    assert "n compute root op" in net.seen, "ops do not wait"
    net.write("n")
    assert net.heard("near") == ["Started", "word before", "word behind", "word cast"]


def test_two_saves_hold_back_each_what_stands_behind_it_in_order():
    net = puppets(root={"Started": [Save(1), Send("near", Word("one")), Save(2), Send("near", Word("two"))]})
    net.place()
    persist = net.persists.pop(0)[1]
    net.hosts["n"].on_persisted(0.0, persist.record, False)
    net.settle()
    assert net.heard("near") == ["Started", "word one"]
    net.write()
    assert net.heard("near") == ["Started", "word one", "word two"]


def test_a_save_holds_the_state_after_the_step_and_the_commands_behind_it():
    value, orders = Handle("x"), [Run("make", {}, ("make",), into={"out": Handle("x")})]
    net = puppets(root={"Started": orders, "Ran make": [Save(1), Send("near", Word("behind")), WakeAt(9.0), Run("use", {"x": value}, ("use",))]})
    net.place()
    net.compute(42)
    ((_, persist),) = net.persists
    assert isinstance(persist, Persist) and [type(blob) for blob in persist.record.blobs] == [Blob]
    net.hosts["n"].refs.blobs.get(persist.record.blobs[0].digest)
    net.shelves["n"].add(persist.record, replica=False)  # on the disk, and the process dies before it hears so
    content = bytes(net.hosts["n"].refs.blobs.get(persist.record.blobs[0].digest) or b"")
    net.boot("n", incarnation=2).refs.blobs.put(persist.record.blobs[0].digest, content)
    net.place(moved(ROOT, "n", 2, 2), LEAF, moved(NEAR, "n", 2, 2))
    assert net.heard("root") == ["Started", "Ran make", "Rewound 1"]
    assert net.heard("near") == ["Started", "word behind"], "performed again"
    assert net.hosts["n"].next_timer() is not None
    (compute,) = [compute for _, compute in net.computes if compute.op == "use"]
    assert net.hosts["n"].refs.value("root", compute.refs["x"]) == 42


def test_the_root_is_announced_once_its_copy_is_on_the_disk_of_its_buddy():
    net = puppets(root={"Started": [Save(5)]})
    net.place(buddies={"root": "m"})
    net.write("n")
    assert net.hosts["n"].root_saved == -1
    net.write("m")
    assert net.hosts["n"].root_saved == 5


def test_the_result_waits_for_the_copy_of_the_last_save():
    net = puppets(root={"Started": [Save(5), Finish()]})
    net.place(buddies={"root": "m"})
    net.write("n")
    assert net.results == []
    net.write("m")
    assert net.results


# -- what comes in -------------------------------------------------------------------------


def test_a_letter_of_a_newer_view_waits_for_the_table():
    net = puppets(leaf={"Joined near": [Send("root", Word("from view 2"))]})
    net.place(ROOT, LEAF, gone(NEAR))
    net.place(ROOT, LEAF, NEAR, only=("m",))
    assert net.heard("root") == ["Started"] and net.hosts["n"].backlog == 1
    net.view = 1
    net.place(ROOT, LEAF, NEAR, only=("n",))
    assert net.heard("root") == ["Started", "Joined near", "word from view 2"] and net.hosts["n"].backlog == 0


def test_a_letter_of_an_older_view_is_refused():
    net = puppets(root={"Left near": [Send("leaf", Word("late"))]})
    net.place()
    net.deaf.add("m")
    net.place(ROOT, LEAF, gone(NEAR), only=("n",))  # the letter of view 2 is lost on its way
    net.place(ROOT, LEAF, NEAR, only=("m",))
    net.deaf.clear()
    net.later(30.0)
    assert net.hosts["m"].counters["rejected_stale_view_total"] >= 1
    assert "word late" not in net.heard("leaf")


def test_a_letter_from_a_task_that_is_elsewhere_by_now_is_refused():
    net = Puppets({"root": {}, "leaf": {"word go": [Send("root", Word("stray"))]}}, ROOT, LEAF)
    net.place()
    net.place(ROOT, moved(LEAF, "o", 2), only=("n",))
    net.view = 1
    net.place(ROOT, LEAF, only=("m",))
    host = net.hosts["m"]
    leaf = host._hosted.tasks["leaf"]
    host._outbound.perform(0.0, leaf, Send("root", Word("stray")))
    net.later(1.0)
    assert net.hosts["n"].counters["rejected_not_placed_total"] >= 1
    assert net.heard("root") == ["Started", "Left leaf", "Joined leaf"]


def test_a_neighbours_word_waits_until_the_task_has_its_save():
    net = Puppets({"root": {}, "near": {"Joined root": [Send("root", Word("early"))]}}, peer("root", "m"), NEAR)
    net.place()
    net.deaf.add("m")  # who has the Save does not answer yet
    net.place(moved(peer("root", "m"), "n", 2), NEAR, fetch={"root": "m"}, places={"m": ("s", "edge")})
    assert net.running("n") == ["near"] and net.hosts["n"].backlog == 1
    net.deaf.clear()
    net.later(30.0)
    assert net.heard("root") == ["Started", "word early"] and net.hosts["n"].backlog == 0


# -- Rewind --------------------------------------------------------------------------------


def test_all_tasks_go_back_to_one_label_and_each_only_once():
    net = puppets(root={"Started": [Save(1)], "Joined leaf": [Save(2)]}, leaf={"Started": [Save(1)], "Joined root": [Save(2)]})
    net.place(ROOT, gone(LEAF), NEAR, only=("n",))
    net.view = 0
    net.place(gone(ROOT), LEAF, NEAR, only=("m",))
    net.place(ROOT, LEAF, NEAR)
    net.write()
    assert [net.shelves[node].labels(task) for node, task in (("n", "root"), ("m", "leaf"))] == [(1, 2), (1, 2)]
    net.place(rewind=1, rewind_view=3)
    assert net.heard("root")[-1] == "Rewound 1" and net.heard("leaf")[-1] == "Rewound 1"
    assert net.heard("near") == ["Started"], "a task without a Save begins anew"
    assert net.shelves["n"].labels("root") == (1,), "what lies behind the label is forgotten"
    net.place(rewind=1, rewind_view=3)
    assert net.heard("root").count("Rewound 1") == 1


def test_what_a_task_sent_before_it_went_back_does_not_arrive():
    net = puppets(root={"Started": [Save(1)]})
    net.deaf.add("m")
    net.place()
    net.hosts["n"]._outbound.perform(0.0, net.hosts["n"]._hosted.tasks["root"], Send("leaf", Word("undone")))
    net.write("n")
    net.place(rewind=1, rewind_view=2)
    net.deaf.clear()
    for _ in range(10):
        net.later(10.0)
    assert "word undone" not in net.heard("leaf")


# -- the log of stimuli --------------------------------------------------------------------


def test_a_story_tells_of_one_task_and_of_what_concerns_all_and_is_bounded():
    net = puppets(root={"Started": [Save(1)]})
    net.place()
    net.write()
    story = list(net.hosts["n"].story("root"))
    assert [line.split()[1] for line in story] == ["placement", "Started", "persisted"]
    assert not any(" near" in line for line in story)
    for _ in range(300):
        net.hosts["n"].on_disconnected(1.0)
    assert len(list(net.hosts["n"].story())) == 200


def test_validate_names_a_spool_that_was_not_let_go():
    net = puppets(leaf={"Started": [Send("root", Word("one"), keep=1)]})
    net.place()
    host = net.hosts["m"]
    assert host.validate() == []
    host._hosted.root_saved = 4
    assert host.validate() == ["leaf: its spool holds what the root has saved (up to 4)"]

"""A peer of gossip: a node with data (protocol and ops: fog_learning.methods.gossip.method)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Literal

from msgspec import field

from fog_common.runtime.machine import (
    Cast,
    Command,
    Delivered,
    Event,
    Failed,
    Joined,
    Left,
    Measure,
    Peer,
    Ran,
    Ref,
    Rewound,
    Run,
    Save,
    Send,
    Slots,
    Started,
    Waiting,
    Woke,
)
from fog_learning.clusters.graphs import make_graph, metropolis, over_sites, without
from fog_learning.clusters.mixing import Mixing, Share
from fog_learning.methods.gossip.messages import AskModel, Cut, Halted, Here, Instance, Model, Plan, Report, Silent, Told
from fog_learning.rounds.alarm import Alarm

_OPS = {
    "init": "making the first weights",
    "trained": "training",
    "paired": "averaging",
    "mixed": "averaging",
    "settled": "averaging",
    "tracked": "averaging",
}


def instance_of(peer: Peer) -> Instance:
    return (peer.task, peer.since, peer.incarnation)


def crew_of(peers: Iterable[Peer], cuts: Iterable[Cut] = ()) -> int:
    """Number of this set of instances and cuts (a crc32): two sets share a number with a chance of 1 in 4 billion."""
    parts = [f"{peer.task}/{peer.since}/{peer.incarnation}" for peer in sorted(peers, key=lambda peer: peer.task)]
    return zlib.crc32(";".join([*parts, *(str(cut) for cut in sorted(cuts))]).encode())


# -- a peer --------------------------------------------------------------------------------


class GossipPeer(Alarm, kw_only=True):
    plan: Plan
    me: str
    slot: int
    seed: int
    rounds: int
    observer: str = "observer"
    """Task id; this default serves while the observer is away at the start."""
    phase: Literal["starting", "meeting", "fetching", "training", "mixing", "settling", "done"] = "starting"
    peers: dict[str, Peer] = field(default_factory=dict)
    crew: int = 0
    here: dict[str, Here] = field(default_factory=dict)
    meetings: int = 0
    met: dict[str, int] = field(default_factory=dict)
    """Peer -> its last meeting that was used."""
    gift: Model | None = None
    """Another peer's model for this newcomer; it may come before this peer needs it."""
    done: int = 0
    """Rounds finished by this peer."""
    new: bool = True
    """This peer has not finished a round yet."""
    weights: Ref | None = None
    input: Ref | None = None
    """Weights trained in the round after `done`, not mixed yet."""
    correction: Ref | None = None
    """tracking: c_i, added to each gradient; None: 0."""
    examples: int = 0
    loss: float = 0.0
    begun: int = 0
    mixing: Mixing = field(default_factory=Mixing)
    cuts: list[Cut] = field(default_factory=list)
    """Dead links, including those of instances that this peer does not know yet."""
    waited: tuple[int, int, int] = (0, 0, 0)
    """(meeting, round, turn) whose shares this peer waits for."""
    waits_since: float = 0.0
    stuck_at: float | None = None
    """Job time at which this peer asks for silent neighbours."""
    since: float = 0.0

    def react(self, event: Event, now: float) -> list[Command]:
        match event:
            case Started(roster):
                self._know(roster)
                self.crew, self.since = crew_of(self.peers.values()), now
                return [Run("init", {}, ("init",), {"layers": ""})]
            case Rewound(_, roster):
                self._know(roster)
                return self._meet(now)
            case Joined(peer) if peer.role == "peer":
                self.peers = dict(sorted({**self.peers, peer.task: peer}.items()))
                return self._meet(now)
            case Left(peer) if peer.role == "peer":
                self.peers = {name: other for name, other in self.peers.items() if name != peer.task}
                return self._meet(now)
            case Joined(peer) if peer.role == "observer":
                self.observer = peer.task
            case Delivered(sender, Here() as here):
                learnt = self._learn(here.cuts, now)
                return [*learnt, *self._heard(sender, here, now)] if here.crew == self.crew else learnt
            case Delivered(sender, Silent() as silent) if silent.crew == self.crew and self.me in silent.missing and sender in self.peers:
                return self._missed(sender, silent, now)
            case Woke():
                return self._woke(now)
            case Delivered(_, Model() as model) if model.crew == self.crew and self.new:
                self.gift = model
                return self._train(now) if self.phase == "fetching" else []
            case Delivered(sender, Share() as share) if share.epoch[-1] == self.crew:
                return self._mixed(self.mixing.hear(sender, share), now)
            case Delivered(sender, AskModel(number)) if self.weights is not None:
                return [Send(sender, Told(number, self.weights))]
            case Ran(("init",), refs):
                self.weights = refs["weights"]
                return self._meet(now)
            case Ran(("trained", begun), refs, numbers) if begun == self.begun and self.phase == "training":
                self.input, self.examples, self.loss = refs["weights"], int(numbers["examples"]), numbers["loss"]
                return self._mix(now)
            case Ran(("settled", *epoch), refs) if tuple(epoch) == self.mixing.epoch and self.phase == "settling":
                return self._settled(refs["weights"], now)
            case Ran(("tracked", *epoch), refs) if tuple(epoch) == self.mixing.epoch and self.phase == "settling":
                self.weights, self.correction = refs["weights"], refs["correction"]
                return self._rest(now)
            case Ran(("sketched", *epoch), refs, numbers) if tuple(epoch) == self.mixing.epoch and self.phase == "settling":
                return self._over(refs["sketch"], numbers.get("exact", 0.0) == 1.0, now)
            case Ran():
                return self._mixed(self.mixing.ran(event), now)
            case Failed((what, *_), why):
                return [Send(self.observer, Halted(f"{_OPS.get(str(what), str(what))} failed in round {self.done + 1}: {why}"), latest=True)]
        return []

    def waiting(self, now: float) -> Waiting | None:
        match self.phase:
            case "meeting":
                who = tuple(name for name in self.peers if name not in self.here)
                return Waiting("peers to say where they are", len(self.here), len(self.peers), who, self.since)
            case "fetching":
                return Waiting("a neighbour's model", since=self.since)
            case "mixing" if missing := self.mixing.missing():
                what = f"neighbours (turn {self.mixing.turn + 1} of {self.mixing.turns})"
                return Waiting(what, len(self.mixing.links) - len(missing), len(self.mixing.links), missing, self.since, self.stuck_at)
        return None

    def times(self) -> tuple[float | None, ...]:
        return (self.stuck_at,)

    def progress(self) -> int:
        return self.done

    def _know(self, roster: tuple[Peer, ...]) -> None:
        self.peers = {peer.task: peer for peer in sorted(roster, key=lambda peer: peer.task) if peer.role == "peer"}
        self.observer = next((peer.task for peer in roster if peer.role == "observer"), self.observer)

    # -- the crew has changed --------------------------------------------------------------

    def _meet(self, now: float) -> list[Command]:
        """Begin again with these peers; ends of ops for the old crew are ignored."""
        known = {peer.task: (peer.since, peer.incarnation) for peer in self.peers.values()}
        self.cuts = [cut for cut in self.cuts if not any(end[0] in known and known[end[0]] > end[1:] for end in cut)]
        crew = crew_of(self.peers.values(), self._dead())
        if crew != self.crew:
            self.crew, self.here, self.met, self.gift, self.correction = crew, {}, {}, None, None
        self.here = {name: here for name, here in self.here.items() if here.meeting > self.met.get(name, 0)}
        self.mixing, self.since, self.stuck_at = Mixing(), now, None
        self.begun += 1
        if self.weights is None:
            return []
        self.phase = "meeting"
        self.meetings += 1
        mine = Here(self.crew, self.done + 1, self.new, self.meetings, tuple(self.cuts))
        self.here[self.me] = mine
        return [Cast("peer", mine, latest=True), *self._go_on(now)]

    def _heard(self, sender: str, here: Here, now: float) -> list[Command]:
        if here.meeting <= max(self.met.get(sender, 0), self.here[sender].meeting if sender in self.here else 0):
            return []
        self.here[sender] = here
        if self.phase in ("starting", "meeting"):
            return self._go_on(now) if self.phase == "meeting" else []
        return self._meet(now)  # the sender begins again after a change that only it has seen

    def _go_on(self, now: float) -> list[Command]:
        """Go on from the newest round once all peers have announced theirs."""
        if any(name not in self.here for name in self.peers):
            return []
        self.met = {name: here.meeting for name, here in self.here.items()}
        target = max(here.next for here in self.here.values())
        commands: list[Command] = []
        if any(here.next < target for here in self.here.values()):  # all peers see this, so all corrections begin anew
            self.correction = None
        if self.done + 1 < target:  # the other peers are ahead: the trained, unmixed weights become this peer's model
            first, self.done = self.done + 1, target - 1
            trained = None if self.plan.tracking else self.input  # with tracking it holds z_i, too, and the step is lost
            self.weights, self.input = trained or self.weights, None
            commands += self._report(Report(self.done, 0, Slots(), {}, first=first))
        givers = [name for name in self.peers if self.here[name].next == target and not self.here[name].new]
        strangers = [name for name in self.peers if self.here[name].new and target > 1]
        if givers and givers[0] == self.me:
            assert self.weights is not None
            commands += [Send(name, Model(self.crew, self.weights)) for name in strangers]
        if self.me in strangers and givers and self.gift is None:
            self.phase, self.since = "fetching", now
            return commands
        return [*commands, *(self._mix(now) if self.input is not None else self._train(now))]

    # -- dead links ------------------------------------------------------------------------

    def _dead(self) -> list[Cut]:
        """Cuts between the present peers."""
        live = {instance_of(peer) for peer in self.peers.values()}
        return [cut for cut in self.cuts if set(cut) <= live]

    def _learn(self, cuts: Iterable[Cut], now: float) -> list[Command]:
        """Take over cuts of other peers; if one concerns the present crew, all peers meet again."""
        if new := set(cuts) - set(self.cuts):
            before = self._dead()
            self.cuts = sorted({*self.cuts, *new})
            return self._meet(now) if self._dead() != before else []
        return []

    def _woke(self, now: float) -> list[Command]:
        """Ask all peers for silent neighbours, again after every `stall_s`."""
        if self.stuck_at is None or now < self.stuck_at:
            return []
        missing = self.mixing.missing()
        self.stuck_at = now + self.plan.consensus.stall_s if missing else None
        return [Cast("peer", Silent(self.crew, self.done + 1, self.mixing.turn, missing), latest=True)] if missing else []

    def _missed(self, sender: str, silent: Silent, now: float) -> list[Command]:
        """`sender` lacks our share of a turn. If we sent it, and have waited for `stall_s` since, the link between us is dead."""
        given = (self.done + 1, self.mixing.turn, self.mixing.phase == "waiting") > (silent.round, silent.turn, False)
        if not given or self.phase not in ("mixing", "done") or now - self.waits_since < self.plan.consensus.stall_s:
            return []
        ends = sorted([instance_of(self.peers[self.me]), instance_of(self.peers[sender])])
        return [Measure("broken_links", 1), *self._learn([(ends[0], ends[1])], now)]

    # -- a round ---------------------------------------------------------------------------

    def _train(self, now: float) -> list[Command]:
        if self.gift is not None:
            self.weights, self.new, self.gift = self.gift.weights, False, None
        if self.done >= self.rounds:
            self.phase, self.waits_since = "done", now
            return []
        assert self.weights is not None
        self.phase = "training"
        self.begun += 1
        numbers: dict[str, float | int | str] = {
            "round": self.done + 1,
            "slot": self.slot,
            "steps": self.plan.local_steps,
            "prox_mu": self.plan.prox_mu,
            "layers": "",
            "tracking": int(self.plan.tracking),
        }
        refs = {"weights": self.weights} if self.correction is None else {"weights": self.weights, "correction": self.correction}
        return [Run("train", refs, ("trained", self.begun), numbers)]

    def _mix(self, now: float) -> list[Command]:
        assert self.input is not None
        self.phase = "mixing"
        names, say = list(self.peers), self.plan.consensus
        sites = [peer.site for peer in self.peers.values()]
        graph = over_sites(sites, lambda n: make_graph(say.graph, n, self.seed, say.radius, say.degree, say.rewire))
        graph = without(graph, {(min(pair), max(pair)) for one, other in self._dead() if (pair := (names.index(one[0]), names.index(other[0])))})
        me = names.index(self.me)
        row = metropolis(graph)[me]
        turns = (say.turns or 1) if len(names) > 1 else 0
        links = {names[j]: row[j] for j in graph[me]}
        n = 1 if self.plan.tracking else self.examples  # with equal weights the corrections keep the sum 0
        return self._mixed(self.mixing.begin((self.done + 1, self.crew), links, turns, self.input, n), now)

    def _mixed(self, commands: list[Command], now: float) -> list[Command]:
        at = (self.meetings, self.done + 1, self.mixing.turn)
        if self.phase != "mixing" or self.mixing.phase != "waiting":
            self.stuck_at = None
        elif self.stuck_at is None or self.waited != at:
            self.waited, self.waits_since, self.stuck_at = at, now, now + self.plan.consensus.stall_s
        if self.mixing.phase != "settled" or self.phase != "mixing" or self.mixing.value is None:
            return commands
        self.phase = "settling"
        settle = Run("settle", {"value": self.mixing.value}, ("settled", *self.mixing.epoch), {"m": self.mixing.mass, "part": 0, "of": 1})
        return [*commands, settle]

    def _settled(self, weights: Ref, now: float) -> list[Command]:
        if not self.plan.tracking:
            self.weights = weights
            return self._rest(now)
        assert self.input is not None
        refs = {"settled": weights, "trained": self.input}
        if self.correction is not None:
            refs["correction"] = self.correction
        return [Run("track", refs, ("tracked", *self.mixing.epoch))]

    def _rest(self, now: float) -> list[Command]:
        wanted = (self.done + 1) % self.plan.sketch_every == 0 or self.done + 1 >= self.rounds
        return self._sketch() if wanted else self._over(None, False, now)

    def _sketch(self) -> list[Command]:
        assert self.mixing.value is not None
        numbers: dict[str, float | int | str] = {"size": self.plan.consensus.sketch, "seed": f"{self.seed}/{self.done + 1}"}
        return [Run("sketch", {"value": self.mixing.value}, ("sketched", *self.mixing.epoch), numbers)]

    def _over(self, sketch: Ref | None, exact: bool, now: float) -> list[Command]:
        self.done += 1
        self.input, self.new, self.since = None, False, now
        mass, self.mixing.value, self.mixing.sent = self.mixing.mass, None, None
        report = self._report(Report(self.done, self.examples, Slots.of(self.slot), {"loss": self.loss}, mass, sketch, exact))
        return [Save(self.done), *report, Measure("loss", self.loss), *self._train(now)]

    def _report(self, report: Report) -> list[Command]:
        return [Send(self.observer, report, keep=report.round)]

"""Decentralised SGD (Lian et al. 2017; Hosseinalipour et al. 2020, fully decentralised learning): no server.

Every peer trains on its own data, then averages with its neighbours for a few turns, weighted by examples; nobody holds "the" model.
The observer only watches: it keeps the history, asks a peer for its model now and then to rate it, and hands out the result.

A **crew** is the set of live peers (and their incarnations). Whenever it changes, all peers meet: each says where it stands, all go on
from the newest round, a newcomer takes the model of one who is there, and the consensus that was going on begins again from its inputs.
Messages of another crew do not count.

Ops: `init`, `train`, `evaluate` as in fedavg; `pair`, `mix`, `settle`, `sketch` as in mixing.py; `spread` as in head.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct, field

from fog_common.errors import ConfigError
from fog_common.machine import (
    Cast,
    Command,
    Delivered,
    Event,
    Failed,
    Joined,
    Left,
    Machine,
    Measure,
    Peer,
    Ran,
    Ref,
    Rewound,
    RoundRecord,
    Run,
    Save,
    Send,
    Slots,
    Started,
    Waiting,
)
from fog_learning.job import Job
from fog_learning.methods.base import Method, Role
from fog_learning.methods.consensus import make_graph, metropolis
from fog_learning.methods.gossip_messages import Ask, Here, Model, Plan, Report, Told, Trouble
from fog_learning.methods.mixing import Mixing, Share
from fog_learning.methods.observer import Observer

_OPS = {"init": "making the first weights", "trained": "training", "paired": "averaging", "mixed": "averaging", "settled": "averaging"}


def crew_of(peers: Iterable[Peer]) -> int:
    """A number for this set of instances; another set has another one, but for a chance of 1 in 4 billion."""
    text = ";".join(f"{peer.task}/{peer.since}/{peer.incarnation}" for peer in sorted(peers, key=lambda peer: peer.task))
    return zlib.crc32(text.encode())


# -- a peer --------------------------------------------------------------------------------


class GossipPeer(Machine):
    plan: Plan
    me: str
    slot: int
    seed: int
    rounds: int
    observer: str = "observer"
    """Task id; what one is called that is away while we begin."""
    phase: Literal["starting", "meeting", "fetching", "training", "mixing", "settling", "done"] = "starting"
    peers: dict[str, Peer] = field(default_factory=dict)
    crew: int = 0
    here: dict[str, Here] = field(default_factory=dict)
    meetings: int = 0
    met: dict[str, int] = field(default_factory=dict)
    """Peer -> its meeting that has been used."""
    gift: Model | None = None
    """A neighbour's model for us newcomers; it may come before we know that we need it."""
    done: int = 0
    """Rounds that are over here."""
    new: bool = True
    weights: Ref | None = None
    input: Ref | None = None
    """Trained in the round after `done`, not mixed yet."""
    examples: int = 0
    loss: float = 0.0
    begun: int = 0
    mixing: Mixing = field(default_factory=Mixing)
    since: float = 0.0

    def step(self, event: Event, now: float) -> list[Command]:
        match event:
            case Started(roster):
                self._know(roster)
                self.crew, self.since = crew_of(self.peers.values()), now
                return [Run("init", {}, ("init",), {"layers": ""})]
            case Rewound(_, roster):
                self._know(roster)
                return self._meet(now)
            case Joined(peer) if peer.role == "peer":
                self.peers = dict(sorted([*self.peers.items(), (peer.task, peer)]))
                return self._meet(now)
            case Left(peer) if peer.role == "peer":
                self.peers = {name: other for name, other in self.peers.items() if name != peer.task}
                return self._meet(now)
            case Joined(peer) if peer.role == "observer":
                self.observer = peer.task
            case Delivered(sender, Here() as here) if here.crew == self.crew:
                return self._heard(sender, here, now)
            case Delivered(_, Model() as model) if model.crew == self.crew and self.new:
                self.gift = model
                return self._train() if self.phase == "fetching" else []
            case Delivered(sender, Share() as share) if share.epoch[-1] == self.crew:
                return self._mixed(self.mixing.hear(sender, share))
            case Delivered(sender, Ask(number)) if self.weights is not None:
                return [Send(sender, Told(number, self.weights))]
            case Ran(("init",), refs):
                self.weights = refs["weights"]
                return self._meet(now)
            case Ran(("trained", begun), refs, numbers) if begun == self.begun and self.phase == "training":
                self.input, self.examples, self.loss = refs["weights"], int(numbers["examples"]), numbers["loss"]
                return self._mix()
            case Ran(("settled", *epoch), refs) if tuple(epoch) == self.mixing.epoch and self.phase == "settling":
                self.weights = refs["weights"]
                wanted = (self.done + 1) % self.plan.sketch_every == 0 or self.done + 1 >= self.rounds
                return self._sketch() if wanted else self._over(None, False, now)
            case Ran(("sketched", *epoch), refs, numbers) if tuple(epoch) == self.mixing.epoch and self.phase == "settling":
                return self._over(refs["sketch"], numbers.get("exact", 0.0) == 1.0, now)
            case Ran():
                return self._mixed(self.mixing.ran(event))
            case Failed((what, *_), why):
                return [Send(self.observer, Trouble(f"{_OPS.get(str(what), str(what))} failed in round {self.done + 1}: {why}"), latest=True)]
        return []

    def waiting(self, now: float) -> Waiting | None:
        match self.phase:
            case "meeting":
                who = tuple(name for name in self.peers if name not in self.here)
                return Waiting("peers to say where they are", len(self.here), len(self.peers), who, self.since)
            case "fetching":
                return Waiting("a neighbour's model", since=self.since)
            case "mixing" if missing := self.mixing.missing():
                return Waiting("neighbours", len(self.mixing.links) - len(missing), len(self.mixing.links), missing, self.since)
        return None

    def progress(self) -> tuple[int, tuple[RoundRecord, ...]]:
        return self.done, ()

    def _know(self, roster: tuple[Peer, ...]) -> None:
        self.peers = {peer.task: peer for peer in sorted(roster, key=lambda peer: peer.task) if peer.role == "peer"}
        self.observer = next((peer.task for peer in roster if peer.role == "observer"), self.observer)

    # -- the crew has changed --------------------------------------------------------------

    def _meet(self, now: float) -> list[Command]:
        """Begin again with these peers. What is being computed for the old crew is not looked at any more."""
        crew = crew_of(self.peers.values())
        if crew != self.crew:
            self.crew, self.here, self.met, self.gift = crew, {}, {}, None
        self.here = {name: here for name, here in self.here.items() if here.meeting > self.met.get(name, 0)}
        self.mixing, self.since = Mixing(), now
        self.begun += 1
        if self.weights is None:
            return []
        self.phase = "meeting"
        self.meetings += 1
        mine = Here(self.crew, self.done + 1, self.new, self.meetings)
        self.here[self.me] = mine
        return [Cast("peer", mine, latest=True), *self._go_on(now)]

    def _heard(self, sender: str, here: Here, now: float) -> list[Command]:
        if here.meeting <= max(self.met.get(sender, 0), self.here[sender].meeting if sender in self.here else 0):
            return []
        self.here[sender] = here
        if self.phase in ("starting", "meeting"):
            return self._go_on(now) if self.phase == "meeting" else []
        return self._meet(now)  # the others begin again, though nothing has changed that we were told of

    def _go_on(self, now: float) -> list[Command]:
        """All are here: go on from the newest round."""
        if any(name not in self.here for name in self.peers):
            return []
        self.met = {name: here.meeting for name, here in self.here.items()}
        target = max(here.next for here in self.here.values())
        commands: list[Command] = []
        if self.done + 1 < target:  # the others are further: what was trained and not mixed is our model now
            first, self.done = self.done + 1, target - 1
            self.weights, self.input = self.input or self.weights, None
            commands += self._report(Report(self.done, 0, Slots(), {}, first=first))
        givers = [name for name in self.peers if self.here[name].next == target and not self.here[name].new]
        strangers = [name for name in self.peers if self.here[name].new and target > 1]
        if givers and givers[0] == self.me:
            assert self.weights is not None
            commands += [Send(name, Model(self.crew, self.weights)) for name in strangers]
        if self.me in strangers and givers and self.gift is None:
            self.phase, self.since = "fetching", now
            return commands
        return [*commands, *(self._mix() if self.input is not None else self._train())]

    # -- a round ---------------------------------------------------------------------------

    def _train(self) -> list[Command]:
        if self.gift is not None:
            self.weights, self.new, self.gift = self.gift.weights, False, None
        if self.done >= self.rounds:
            self.phase = "done"
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
        }
        return [Run("train", {"weights": self.weights}, ("trained", self.begun), numbers)]

    def _mix(self) -> list[Command]:
        assert self.input is not None
        self.phase = "mixing"
        names, say = list(self.peers), self.plan.consensus
        graph = make_graph(say.graph, len(names), self.seed, say.radius, say.degree, say.rewire)
        me = names.index(self.me)
        row = metropolis(graph)[me]
        turns = (say.turns or 1) if len(names) > 1 else 0
        return self._mixed(self.mixing.begin((self.done + 1, self.crew), {names[j]: row[j] for j in graph[me]}, turns, self.input, self.examples))

    def _mixed(self, commands: list[Command]) -> list[Command]:
        if self.mixing.phase != "settled" or self.phase != "mixing" or self.mixing.value is None:
            return commands
        self.phase = "settling"
        settle = Run("settle", {"value": self.mixing.value}, ("settled", *self.mixing.epoch), {"m": self.mixing.mass, "part": 0, "of": 1})
        return [*commands, settle]

    def _sketch(self) -> list[Command]:
        assert self.mixing.value is not None
        numbers: dict[str, float | int | str] = {"size": self.plan.consensus.sketch, "seed": f"{self.seed}/{self.done + 1}"}
        return [Run("sketch", {"value": self.mixing.value}, ("sketched", *self.mixing.epoch), numbers)]

    def _over(self, sketch: Ref | None, exact: bool, now: float) -> list[Command]:
        self.done += 1
        self.input, self.new, self.since = None, False, now
        mass, self.mixing.value, self.mixing.sent = self.mixing.mass, None, None
        said = self._report(Report(self.done, self.examples, Slots.of(self.slot), {"loss": self.loss}, mass, sketch, exact))
        return [Save(self.done), *said, Measure("loss", self.loss), *self._train()]

    def _report(self, report: Report) -> list[Command]:
        return [Send(self.observer, report, keep=report.round)]


# -- the method ----------------------------------------------------------------------------


def build(job: Job, plan: Struct, peer: Peer) -> Machine:
    assert isinstance(plan, Plan)
    if peer.role == "observer":
        return Observer(evaluation=job.evaluation, rounds=job.train.rounds, seed=job.seed)
    return GossipPeer(plan=plan, me=peer.task, slot=peer.slot, seed=job.seed, rounds=job.train.rounds)


def check(job: Job, plan: Struct) -> None:
    assert isinstance(plan, Plan)
    if job.evaluation.where == "federated":
        raise ConfigError("evaluation.where: gossip rates the model of one peer; expected central or none, got federated")
    if job.stragglers.quorum < 1.0 or job.stragglers.late == "accept":
        raise ConfigError("stragglers: gossip waits for its neighbours; remove quorum and late")


GOSSIP = Method(
    name="gossip",
    title="Decentralised SGD: neighbours average, there is no server",
    source="Lian et al. 2017, Algorithm 1",
    plan=Plan,
    roles=(Role("observer", Observer, where="cloud", stateful=True), Role("peer", GossipPeer, where="data", heritable=True)),
    messages=(Here, Model, Share, Report, Trouble, Ask, Told),
    root="observer",
    build=build,
    check=check,
)

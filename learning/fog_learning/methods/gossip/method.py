"""Decentralised SGD without a server (Lian et al. 2017; Hosseinalipour et al. 2020, fully decentralised learning).

Every peer trains on its own data, then averages with its neighbours for a few turns, weighted by examples; each peer has a model of its own.
Neighbours are chosen inside a site; neighbouring sites are linked by one pair of peers each (`clusters.graphs.over_sites`).
The observer does not take part: it keeps the history, asks a peer for its model now and then to rate it, and hands out the result.

A **crew** is the set of live peers (with their incarnations) and of dead links. If a neighbour is silent for `stall_s`, a peer asks for it
through all peers; if the neighbour sent its share long ago, the link between the two is dead and is left out. Whenever the crew changes, all
peers meet: each announces its next round, all go on from the newest round, a newcomer takes the model of an older peer, and the exchange
that was running begins again from its inputs. Messages of another crew do not count.

tracking (Liu et al. 2023, "Decentralized gradient tracking with local steps", K-GT with eta_s = 1): K local steps of lr on g_i + c_i from x_i
to x_i'; with z_i = (x_i - x_i') / (K lr) and the weights W of an exchange, x_i = sum_j W_ij x_j' and c_i += sum_j W_ij z_j - z_i. The sum of
the c_i stays 0, because all peers have the same weight; when the crew changes, or a peer skips a round, all begin again with c_i = 0.

Ops: `init`, `train`, `evaluate` as in fedavg; `pair`, `mix`, `settle`, `sketch` as in mixing.py; `spread` as in head.py. tracking: `train` takes
`correction` (c_i; absent: 0) and the number `tracking`, its `weights` hold z_i, too; `track` takes settled, trained and correction, and gives
weights (without z) and correction.
"""

from __future__ import annotations

from msgspec import Struct

from fog_common.errors import ConfigError
from fog_common.runtime.machine import Machine, Peer
from fog_learning.clusters.messages import Consensus
from fog_learning.clusters.mixing import Share
from fog_learning.job.sections import JobFile
from fog_learning.methods.base import ACCURACY, LOSS, Method, Role
from fog_learning.methods.gossip.messages import AskModel, Halted, Here, Model, Plan, Report, Silent, Told
from fog_learning.methods.gossip.observer import Observer
from fog_learning.methods.gossip.peer import GossipPeer
from fog_learning.ops import rows
from fog_learning.rounds.ledger import Ledger


def build(job: JobFile, plan: Struct, peer: Peer) -> Machine:
    assert isinstance(plan, Plan)
    if peer.role == "observer":
        return Observer(ledger=Ledger(job.train.rounds, job.evaluation), seed=job.seed)
    return GossipPeer(plan=plan, me=peer.task, slot=peer.slot, seed=job.seed, rounds=job.train.rounds)


def check(job: JobFile, plan: Struct) -> None:
    assert isinstance(plan, Plan)
    if job.evaluation.where == "federated":
        raise ConfigError("evaluation.where: gossip rates the model of one peer; expected central or none, got federated")
    if plan.tracking and (job.train.optimizer != "sgd" or job.train.momentum):
        optimiser = job.train.optimizer if job.train.optimizer != "sgd" else f"momentum {job.train.momentum:g}"
        raise ConfigError(f"method.tracking corrects plain gradient steps: expected train.optimizer sgd with momentum 0, got {optimiser}")
    usual, say = Consensus(), plan.consensus
    if unused := [key for key in ("shrink", "max_error", "max_turns") if getattr(say, key) != getattr(usual, key)]:
        raise ConfigError(f"method.consensus.{unused[0]}: gossip exchanges for a fixed number of turns; say turns, and remove the key")


METHOD = Method(
    name="gossip",
    title="Decentralised SGD: neighbours average, there is no server",
    source="Lian et al. 2017, Algorithm 1; tracking: Liu et al. 2023, Algorithm 1",
    plan=Plan,
    roles=(
        Role("observer", Observer, bound="free", stateful=True, talks_to=("peer",)),
        Role("peer", GossipPeer, bound="slot", heritable=True, talks_to=("peer", "observer")),
    ),
    messages=(Here, Silent, Model, Share, Report, Halted, AskModel, Told),
    ops=rows("init", "train", "track", "evaluate", "pair", "mix", "settle", "sketch", "spread"),
    root="observer",
    build=build,
    sections=("data", "train", "evaluation"),
    headline=(ACCURACY, LOSS),
    check=check,
)

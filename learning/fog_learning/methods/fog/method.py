"""Fog learning (Hosseinalipour et al. 2020): aggregation at every layer of a tree, averaging sideways inside its clusters.

The placement makes the tree: each task names its parent (Peer.parent; trainers without one belong to the server). An inner
node heads the cluster of its children, and is a member of its parent's cluster. Each cluster averages `vertical` (all members
send up) or `d2d` (the members agree among themselves, one vector goes up); `auto` chooses by cost and notes the reason.
Every aggregate carries its slots and its sum of examples; parents merge disjoint sets only. With `mode: vertical` this is
federated averaging in a tree: the result equals that of the flat star, to rounding.

Ops: `init`, `train`, `evaluate` as in fedavg; clusters/head.py lists those of the head, clusters/mixing.py those of the members.

Schedules: `clusters` is the fraction of a parent's clusters that take part in a round; `period` the number of in-block rounds that an
inner node runs with its children for each update that it sends up, for all layers or for each. `deep` names blocks that are averaged
only every `deep_every` rounds of the root (periods layer by layer): in between they stay with the trainers, and neither calls nor
updates carry them. The root and the heads keep the newest whole model for members that have no such blocks of their own, and to rate
and hand out a model at any time.
"""

from __future__ import annotations

from msgspec import Struct

from fog_common.errors import ConfigError
from fog_common.runtime.machine import Machine, Peer
from fog_learning.clusters.agreement import Agreement
from fog_learning.clusters.head import ClusterHead
from fog_learning.clusters.member import ClusterMember
from fog_learning.clusters.messages import Call, Contribution, Lacking, Links, More, NoContribution, PassOn, Pull, Ready, Settled, Stuck
from fog_learning.clusters.mixing import Share
from fog_learning.job.sections import JobFile
from fog_learning.methods.base import ACCURACY, LOSS, Method, ModelFacts, Role
from fog_learning.methods.fog.aggregator import Aggregator
from fog_learning.methods.fog.plan import Blocks, Plan
from fog_learning.methods.fog.root import Root
from fog_learning.methods.fog.trainer import Leaf
from fog_learning.models import MODELS, nominal_spec
from fog_learning.ops import rows
from fog_learning.rounds.closing import Closing
from fog_learning.rounds.ledger import Ledger


def build(job: JobFile, plan: Struct, peer: Peer) -> Machine:
    assert isinstance(plan, Plan)
    blocks = Blocks(tuple(plan.deep), plan.deep_every, job.train.rounds)
    member = ClusterMember(seed=job.seed, consensus=plan.consensus, head=peer.parent)
    if peer.role == "trainer":
        return Leaf(plan=plan, blocks=blocks, slot=peer.slot, member=member)
    head = ClusterHead(
        me=peer.task,
        seed=job.seed,
        mode=plan.mode,
        downlink=plan.downlink,
        agreement=Agreement(peer.task, job.seed, plan.uplink, plan.consensus),
        absent_s=plan.absent_s,
        closing=Closing(job.stragglers),
        costs=plan.costs,
        objective=plan.objective,
    )
    if peer.role == "aggregator":
        return Aggregator(plan=plan, blocks=blocks, me=peer.task, head=head, member=member, period=plan.in_block(max(1, peer.layer)))
    return Root(plan=plan, blocks=blocks, ledger=Ledger(job.train.rounds, job.evaluation), me=peer.task, head=head)


def check(job: JobFile, plan: Struct) -> None:
    assert isinstance(plan, Plan)
    if job.evaluation.where == "federated":
        raise ConfigError("evaluation.where: fog evaluates at the root; expected central or none, got federated")
    if plan.clusters < 1.0 and job.topology.layers == []:
        raise ConfigError("method.clusters: a star (topology.layers: []) has no clusters to choose from; remove one of the two")
    layers = job.topology.layers
    if isinstance(plan.period, list) and layers is not None and len(plan.period) > len(layers):
        raise ConfigError(
            f"method.period names {len(plan.period)} layers of inner nodes, topology.layers {len(layers)}; remove the last of method.period"
        )
    if plan.deep_every > 1 and not plan.deep:
        raise ConfigError("method.deep_every: say which blocks are averaged less often (method.deep), or remove the key")
    if plan.deep and MODELS.get(str(job.model.get("name"))) is not None:  # a user's own module is checked on a node, by the preflight
        _check_deep(job, plan)
    if job.stragglers.late == "accept":
        raise ConfigError("stragglers.late: fog drops what comes after its round; expected drop, got accept")


def _check_deep(job: JobFile, plan: Plan) -> None:
    spec = nominal_spec(job.model)
    if unknown := [name for name in plan.deep if name not in spec.block_names]:
        raise ConfigError(f"method.deep: model {spec.name} has no block {', '.join(unknown)}; its blocks are {', '.join(spec.block_names)}")
    if not {name.split(".")[0] for name in spec.parameter_shapes()} - set(plan.deep):
        raise ConfigError("method.deep names every block that has weights, so that nothing would be averaged in between; leave one out")


def preflight(model: ModelFacts, plan: Struct) -> list[str]:
    assert isinstance(plan, Plan)
    if problems := model.misnamed("deep", plan.deep):
        return problems
    if plan.deep and not set(model.weighted) - set(plan.deep):
        return [f"method.deep names all blocks of model {model.name}, so that nothing would be averaged in between; leave one out"]
    return []


METHOD = Method(
    name="fog",
    title="Fog learning: a tree of clusters, averaging up or sideways",
    source="Hosseinalipour et al. 2020",
    plan=Plan,
    roles=(
        Role("server", Root, bound="free", stateful=True, talks_to=("aggregator", "trainer")),
        Role("aggregator", Aggregator, bound="tree", stateful=True, talks_to=("server", "aggregator", "trainer")),
        Role("trainer", Leaf, bound="slot", heritable=True, talks_to=("server", "aggregator", "trainer")),
    ),
    messages=(Call, Lacking, PassOn, Ready, Contribution, NoContribution, Links, Settled, More, Pull, Stuck, Share),
    ops=rows("init", "train", "evaluate", "accumulate", "mean", "pair", "mix", "settle", "join", "sketch", "spread"),
    root="server",
    build=build,
    sections=("data", "train", "stragglers", "evaluation", "topology"),
    headline=(ACCURACY, LOSS),
    check=check,
    preflight=preflight,
)

"""Centralized training (CC), the baseline of the other methods: the samples go up once, and one node trains on them.

The job file must consent by `privacy: {share_samples: true}`, and the op `samples` asks the node as well. Every step takes each slot's
batch of that step, as fedavg with local_steps: 1 and fcddt do, so all three see the same rows at the same step.

| op         | runs on | inputs                          | numbers in         | outputs       | numbers out    |
|------------|---------|---------------------------------|--------------------|---------------|----------------|
| samples    | source  |                                 | slot               | samples       | examples       |
| init       | center  |                                 | layers ('')        | weights       |                |
| train_union| center  | weights, opt?, samples{slot} ...| round, steps       | weights, opt  | loss, examples |
| evaluate   | center  | weights                         | round              |               | accuracy, loss |

A round is `round_steps` steps; at its end the center saves (the samples with it, once) and evaluates. A source that joins later is
asked at once, and its samples count from the next round on; the samples of a source that leaves stay.
"""

from __future__ import annotations

from msgspec import Struct

from fog_common.errors import ConfigError
from fog_common.runtime.machine import Machine, Peer
from fog_learning.job.sections import JobFile
from fog_learning.methods.base import ACCURACY, LOSS, Method, Role
from fog_learning.methods.centralized.center import Center
from fog_learning.methods.centralized.demands import demands
from fog_learning.methods.centralized.messages import AskSamples, NoSamples, Plan, Samples
from fog_learning.methods.centralized.source import SampleSource
from fog_learning.methods.centralized.traffic import traffic
from fog_learning.ops import rows
from fog_learning.rounds.ledger import Ledger


def build(job: JobFile, plan: Struct, peer: Peer) -> Machine:
    assert isinstance(plan, Plan)
    if peer.role == "center":
        return Center(plan=plan, ledger=Ledger(job.train.rounds, job.evaluation))
    return SampleSource(slot=peer.slot)


def check(job: JobFile, plan: Struct) -> None:
    if not job.privacy.share_samples:
        raise ConfigError("privacy.share_samples: centralized sends the nodes' samples away; that needs `privacy: {share_samples: true}`")
    if job.evaluation.where == "federated":
        raise ConfigError("evaluation.where: centralized evaluates where it trains; say central or none, got federated")


METHOD = Method(
    name="centralized",
    title="Centralized training on all samples (baseline)",
    source="decomposed deep training (FCDDT), section 5: CC",
    plan=Plan,
    roles=(
        Role("source", SampleSource, bound="slot", talks_to=("center",)),
        Role("center", Center, bound="free", stateful=True, talks_to=("source",)),
    ),
    messages=(AskSamples, Samples, NoSamples),
    ops=rows("samples", "init", "train_union", "evaluate"),
    root="center",
    build=build,
    sections=("data", "train", "evaluation"),
    headline=(ACCURACY, LOSS),
    check=check,
    demands=demands,
    traffic=traffic,
)

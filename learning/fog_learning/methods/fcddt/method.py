"""Decomposed training, FCDDT: the front of the model on the nodes that own data, the trunk on one node, usually in the cloud.

The paper's Algorithm 3 cannot be computed as written: the gradient of the local weights needs the local inputs, which never leave
the node. Two exact ways replace it: `cut_gradient` (the trunk returns dl/dz for each node's rows, the node finishes its own backward)
and `frozen_front` (the front does not learn, and no gradient comes back). One step, with p fronts, B_i rows each, N = sum B_i:

    trunk  -> fronts  Step      the front's weights, cast once
    front  -> trunk   Rows      z = front(x) and labels                                                up    B_i l_m
    trunk  -> front   Cut       dl/dz of its rows, l the mean over all N rows                          down  B_i l_m
    front  -> trunk   Local     its gradient of the front's weights                                    up    |w_local|
    trunk             sums, takes one optimiser step on front and trunk, and casts the next Step       cast  |w_local|

This equals one step of the unsplit model on the union batch, for SGD, momentum and Adam. The trunk owns all weights and all optimiser
state: a front holds no state beyond a step, so it may die, return or move at any time, and a trunk that is restored from its Save
casts the step again. If a front leaves before it has sent its gradient, the step is repeated without its rows.

sync_every = s > 1: each node takes s - 1 steps of its own between two syncs (Cut names the next step, dl/dz is scaled to the node's
own mean, N / B_i), then the weights are averaged by examples. This is not exact: fronts drift apart between syncs, and their optimiser
state begins anew after each; the trunk's steps stay the same. frozen_front: Step once, then Go; one step ahead is in flight, which is
exact because z does not depend on the trunk. u_shaped: the last `tail` blocks, the labels and the loss stay on the node (Rows
without labels, then Features down and Heads up before Cut); the tail's weights travel with the front's. straggler_rate = a: a step
goes on with the first ceil((1 - a) p) fronts; N counts their rows only.

A round is `round_steps` steps; at its end the trunk saves (label = round) and evaluates. Inputs and outputs below are refs.

| op             | runs on | inputs                                  | numbers in                    | outputs                      | numbers out    |
|----------------|---------|-----------------------------------------|-------------------------------|------------------------------|----------------|
| split_init     | trunk   |                                         |                               | local, trunk                 |                |
| front_forward  | front   | local                                   | slot, step                    | rows (z, labels unless u_shaped), graph unless frozen | examples |
| trunk_step     | trunk   | trunk, rows{slot} ...                   | step, own                     | cut{slot} ... unless frozen, grads | loss     |
| trunk_forward  | trunk   | trunk, rows{slot} ...                   | step                          | features{slot} ..., graph    |                |
| front_head     | front   | local, features                         | slot, step, total, own        | heads, tail                  | loss           |
| trunk_backward | trunk   | graph, heads{slot} ...                  | own, examples{slot} ...       | cut{slot} ..., grads         |                |
| front_backward | front   | graph, cut, tail?                       | slot                          | gradient                     |                |
| front_step     | front   | local, opt?, graph, cut, tail?          | slot                          | local, opt                   |                |
| split_apply    | trunk   | trunk, grads, opt?; local, gradient{slot} ... |                         | trunk, opt; local            |                |
| split_mean     | trunk   | local{slot} ...                         | examples{slot} ...            | local                        |                |
| split_join     | trunk   | local, trunk                            |                               | weights (the whole model)    |                |
| evaluate       | trunk   | weights                                 | round                         |                              | accuracy, loss |

Ops read the job (model, cut, wire, optimiser). own = 1: gradients are scaled to each node's own mean. `loss` of front_head is the
sum over its rows divided by total. graph and tail live in one process between two ops; no Save holds them.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from fog_common.errors import ConfigError
from fog_common.runtime.machine import Machine, Peer
from fog_learning.job.sections import JobFile
from fog_learning.methods.base import ACCURACY, AUTO, LOSS, Method, ModelFacts, Role, Segments
from fog_learning.methods.fcddt.demands import demands
from fog_learning.methods.fcddt.front import Front
from fog_learning.methods.fcddt.messages import Cut, Features, FrontRows, Go, Heads, Local, NoStep, Plan, Step, cut_at
from fog_learning.methods.fcddt.traffic import traffic
from fog_learning.methods.fcddt.trunk import Trunk
from fog_learning.models import MODELS, nominal_spec
from fog_learning.ops import rows
from fog_learning.rounds.ledger import Ledger


def build(job: JobFile, plan: Struct, peer: Peer) -> Machine:
    assert isinstance(plan, Plan)
    if peer.role == "trunk":
        return Trunk(plan=plan, ledger=Ledger(job.train.rounds, job.evaluation))
    return Front(plan=plan, slot=peer.slot)


def check(job: JobFile, plan: Struct) -> None:
    assert isinstance(plan, Plan)
    if plan.round_steps % plan.sync_every:
        raise ConfigError(f"method.sync_every must divide method.round_steps ({plan.round_steps}), got {plan.sync_every}")
    if plan.frozen and plan.sync_every > 1:
        raise ConfigError("method.sync_every: a frozen front has nothing to sync; remove the key")
    if plan.frozen and plan.u_shaped:
        raise ConfigError("method.u_shaped: the last blocks learn on the nodes, which frozen_front does not allow; say backward: cut_gradient")
    if job.evaluation.where == "federated":
        raise ConfigError("evaluation.where: no node of fcddt has the whole model; say central or none, got federated")
    entry = MODELS.get(str(job.model.get("name")))
    if plan.cut == AUTO and entry is None:
        raise ConfigError("method.cut: auto needs a model of ours; say which block of your module is the last on the nodes (`fogctl models show`)")
    if entry is not None:  # a user's own module is cut on a node, by the preflight
        cut_at(plan if plan.cut != AUTO else replace(plan, cut=1), nominal_spec(job.model).block_names)


def cut(plan: Struct, blocks: tuple[str, ...]) -> tuple[int, ...]:
    """(first block of the trunk, first block of the tail or the number of blocks). ConfigError for an impossible cut."""
    assert isinstance(plan, Plan)
    return cut_at(plan, blocks)


def preflight(model: ModelFacts, plan: Struct) -> list[str]:
    assert isinstance(plan, Plan)
    cut_at(plan, model.blocks)
    return []


METHOD = Method(
    name="fcddt",
    title="Decomposed training: front on the nodes, trunk in the cloud",
    source="decomposed deep training (FCDDT), Algorithms 1 to 3, with the backward pass made exact",
    plan=Plan,
    roles=(
        Role("front", Front, bound="slot", talks_to=("trunk",)),
        Role("trunk", Trunk, bound="free", stateful=True, talks_to=("front",)),
    ),
    messages=(Step, Go, FrontRows, Features, Heads, Cut, Local, NoStep),
    ops=rows(
        "split_init",
        "front_forward",
        "front_head",
        "front_backward",
        "front_step",
        "trunk_step",
        "trunk_forward",
        "trunk_backward",
        "split_apply",
        "split_mean",
        "split_join",
        "evaluate",
    ),
    root="trunk",
    build=build,
    sections=("data", "train", "evaluation"),
    headline=(ACCURACY, LOSS),
    check=check,
    preflight=preflight,
    demands=demands,
    traffic=traffic,
    segments=Segments("cut", cut),
)

"""Federated averaging (McMahan et al. 2017). Both sides of the protocol.

local_steps = 1 is FedSGD; prox_mu > 0 is FedProx (Li et al. 2020); server_optimizer momentum or adam is FedOpt (Reddi et
al. 2021: the mean's difference to the old weights is the server's gradient); `layers` averages only the named blocks and
leaves the others to each trainer (as gFL does).

Ops (run by fog_learning.ops; `weights` is a mapping of tensors):

| op             | inputs                        | numbers in                                   | outputs             | numbers out             |
|----------------|-------------------------------|----------------------------------------------|---------------------|-------------------------|
| init           |                               | layers                                       | weights             |                         |
| train          | weights, own?                 | round, slot, steps, prox_mu, layers          | weights, own?       | examples, loss          |
| evaluate_local | weights, own?                 | slot, layers                                 |                     | accuracy, loss, examples |
| accumulate     | sum?, add                     | n                                            | sum                 |                         |
| mean           | sum                           |                                              | weights             |                         |
| server_opt     | weights, mean, m?, v?         | kind, lr, beta1, beta2, eps, round           | weights, m?, v?     |                         |
| evaluate       | weights                       | round                                        |                     | accuracy, loss          |

`layers` is a comma-separated string, '' = all: then `weights` holds only those blocks and `own` holds the rest (absent: as
`init` of the whole model makes it). `sum` carries sum(n w) in float64 and sum(n), so `mean` needs no number.

An update is named by (slots, round), and counts if no earlier update of its round holds any of its slots. In the open round it
counts with its examples n, if it was made from that round's own weights (`branch`). An update of a round that is not open yet
was called by a lost server, and waits for that round. An update of an older round counts with `late: accept`, if it is at most
`late_rounds` rounds late: with n (1 + s)^-staleness in the open or the next round, s rounds later; it never helps the quorum.
All other updates are dropped and measured.
"""

from __future__ import annotations

from msgspec import Struct

from fog_common.errors import ConfigError
from fog_common.runtime.machine import Machine, Peer
from fog_learning.job.sections import JobFile, refuse_idle
from fog_learning.methods.base import ACCURACY, LOSS, Method, ModelFacts, Role
from fog_learning.methods.fedavg.demands import demands
from fog_learning.methods.fedavg.messages import NoUpdate, Plan, RoundCall, Update
from fog_learning.methods.fedavg.server import Server
from fog_learning.methods.fedavg.traffic import traffic
from fog_learning.methods.fedavg.trainer import Trainer
from fog_learning.ops import rows
from fog_learning.rounds.closing import Closing
from fog_learning.rounds.ledger import Ledger


def build(job: JobFile, plan: Struct, peer: Peer) -> Machine:
    assert isinstance(plan, Plan)
    if peer.role == "server":
        return Server(plan=plan, ledger=Ledger(job.train.rounds, job.evaluation), closing=Closing(job.stragglers))
    return Trainer(plan=plan, slot=peer.slot, late=job.stragglers.late, late_rounds=job.stragglers.late_rounds)


def check(job: JobFile, plan: Struct) -> None:
    assert isinstance(plan, Plan)
    if plan.layers and job.evaluation.where == "central":
        raise ConfigError("method.layers leaves each node its own model: evaluation.where must be federated or none, got central")
    if plan.server_optimizer == "none":
        refuse_idle(plan, "method", ("server_lr", "beta1", "beta2", "eps"), "only server_optimizer: momentum or adam reads it")
    if plan.server_optimizer == "momentum":
        refuse_idle(plan, "method", ("beta2", "eps"), "only server_optimizer: adam reads it")


def preflight(model: ModelFacts, plan: Struct) -> list[str]:
    assert isinstance(plan, Plan)
    return model.misnamed("layers", plan.layers)


METHOD = Method(
    name="fedavg",
    title="Federated averaging (FedSGD, FedProx, FedOpt)",
    source="McMahan et al. 2017, Algorithm 1",
    plan=Plan,
    roles=(
        Role("server", Server, bound="free", stateful=True, talks_to=("trainer",)),
        Role("trainer", Trainer, bound="slot", talks_to=("server",)),
    ),
    messages=(RoundCall, Update, NoUpdate),
    ops=rows("init", "train", "evaluate", "evaluate_local", "accumulate", "mean", "server_opt"),
    root="server",
    build=build,
    sections=("data", "train", "stragglers", "evaluation"),
    headline=(ACCURACY, LOSS),
    check=check,
    preflight=preflight,
    demands=demands,
    traffic=traffic,
)

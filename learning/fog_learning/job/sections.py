"""The job file as types. Strict: an unknown key, a wrong type or an impossible value is a ConfigError with file, line and key.

Sections `method` and `model` carry the parameters of the named method or model; their types are the `Plan` of the method
(fog_learning.methods) and the parameters of the model (fog_learning.models). Ranges stand in the types, so that they hold for
a job from any source; `fog_learning.job.reading` reads files and checks all sections together.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from fog_common.errors import ConfigError
from fog_common.ids import Id
from fog_learning.costs.objectives import DEFAULT_OBJECTIVE, OBJECTIVES, Prices

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(gt=0, le=1)]
BlockName = Annotated[str, Meta(pattern=r"^[^,]+$", description="the name of a block of the model")]
MAX_NODES: Final = 10_000


class Partition(Struct, frozen=True, forbid_unknown_fields=True):
    """Division of the training set over the roster's slots; deterministic under the job's seed."""

    kind: Literal["iid", "dirichlet", "shards"] = "iid"
    alpha: Positive = 0.5
    """dirichlet: concentration; a smaller value makes the slots less alike."""
    shards_per_node: Count = 2
    """shards: number of shards of each slot, cut from the set sorted by label."""


class Data(Struct, frozen=True, forbid_unknown_fields=True):
    name: Id = "digits"
    partition: Partition = Partition()
    local: bool = False
    """Each node owns its data (the agent's `datasets:` maps the name to a path), and the set is not partitioned."""
    train_limit: Count | None = None
    """Largest number of training examples, taken after a seeded shuffle."""
    test_limit: Count | None = None
    """Largest number of test examples, taken after a seeded shuffle."""


class Train(Struct, frozen=True, forbid_unknown_fields=True):
    rounds: Count = 30
    batch_size: Count = 32
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Positive = 0.1
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    weight_decay: NotNegative = 0.0
    dtype: Literal["float32", "float64"] = "float32"


class Select(Struct, frozen=True, forbid_unknown_fields=True):
    tier: list[Literal["thing", "edge", "fog", "cloud"]] = []
    site: list[Id] = []
    names: list[Id] = []
    """Exactly these nodes; the job waits for those that are offline."""


class Nodes(Struct, frozen=True, forbid_unknown_fields=True):
    """Nodes that own data slots. The roster is fixed at submit: all matching nodes, or `count` of them (the job waits for that many)."""

    select: Select = Select(tier=["thing", "edge"])
    count: Annotated[int, Meta(ge=1, le=MAX_NODES)] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Stragglers(Struct, frozen=True, forbid_unknown_fields=True):
    """Conditions under which a round closes, and the treatment of later updates (docs/jobs.md)."""

    quorum: Fraction = 1.0
    """Fraction of the live data tasks (rounded down, at least one) that must have answered before the adaptive deadline counts:
    0.8 of 4 nodes are 3. 1.0: a round waits for all, or for deadline_s."""
    deadline_s: Positive | None = None
    """Seconds after its opening at which a round closes with the updates that it has, at least one, at any quorum. None: no such limit."""
    mad_factor: NotNegative = 4.0
    """quorum < 1: the adaptive deadline is median + mad_factor x MAD of recent arrival times, but see grace_s."""
    grace_s: NotNegative = 1.0
    """quorum < 1: the adaptive deadline is at least this many seconds after the median."""
    late: Literal["drop", "accept"] = "drop"
    staleness: NotNegative = 0.5
    """late: accept: an update that is s rounds old counts with n x (1 + s) ** -staleness."""
    late_rounds: Count = 3
    """late: accept: an update that is older than this many rounds is dropped; a node's spool holds this many more updates."""


class Evaluation(Struct, frozen=True, forbid_unknown_fields=True):
    """Evaluation of the model: by one task (central), by each node with data (federated), or none."""

    where: Literal["central", "federated", "none"] = "central"
    every: Count = 1
    """Rounds between evaluations; the last round is always evaluated."""
    holdout: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    """federated: fraction of each node's data that is held out."""


class Layer(Struct, frozen=True, forbid_unknown_fields=True):
    """One layer of inner nodes, each of which heads a cluster of the next lower layer; clusters hold nodes of one site if possible."""

    on: Literal["thing", "edge", "fog", "cloud", "member"] = "member"
    """Tier of the heads, nodes of the cluster's own site first. member: the best connected member of the cluster itself."""
    size: Annotated[int, Meta(ge=2, le=MAX_NODES)] | None = None
    """Largest number of members in a cluster; None: a site has as many clusters as nodes of that tier."""


class Topology(Struct, frozen=True, forbid_unknown_fields=True):
    """The tree of a method with inner nodes (fog). Without this section it follows from the tiers and sites of the nodes."""

    layers: list[Layer] | None = None
    """Layers from the nodes with data up; the root is above the last. []: a star."""
    parents: dict[Id, Id] = {}
    """node -> the node that aggregates for it, to any depth. A node without a parent is under the root. Excludes `layers`."""


class Resources(Struct, frozen=True, forbid_unknown_fields=True):
    """Resources of each worker of the job."""

    memory_mb: Count | None = None
    """Memory of a worker, in MB; None: estimated from the model."""
    threads: Annotated[int, Meta(ge=1, le=1024)] = 1


class Where(Struct, frozen=True, forbid_unknown_fields=True):
    """Nodes that may take a task: they fulfil all conditions, even in a recovery."""

    tier: list[Literal["thing", "edge", "fog", "cloud"]] = []
    """Only nodes of these tiers; [] = any."""
    site: list[Id] = []
    names: list[Id] = []
    labels: dict[Id, str] = {}
    """Only nodes whose agents have all these labels."""


class Placing(Where, frozen=True, forbid_unknown_fields=True):
    """Placement of tasks without data, including heads of clusters, and choice of the cut (`method.cut: auto`).

    Without this section free tasks go to the best nodes of the cloud. With it they go where a training step costs least, by the
    measured speeds of nodes and links. `fogctl plan` shows the choice.
    """

    roles: dict[Id, Where] = {}
    """role -> conditions for its tasks, which replace the conditions for all."""
    objective: str = DEFAULT_OBJECTIVE
    """A row of `OBJECTIVES` in `fog_learning.costs.objectives`."""
    weights: Prices = Prices()
    margin: Annotated[float, Meta(ge=0, le=10)] = 0.2
    """A running task moves only to a place that is better by this fraction of its present cost, for hold_s."""
    hold_s: NotNegative = 60.0
    """Seconds for which a better place must stay better before a task moves there."""

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective: expected one of {', '.join(OBJECTIVES)}, got {self.objective!r}")

    def of(self, role: str) -> Where:
        """Conditions for the tasks of a role."""
        return self.roles.get(role, self)


class Privacy(Struct, frozen=True, forbid_unknown_fields=True):
    """Consent of the job's owner."""

    share_samples: bool = False
    """Raw samples may leave the nodes that own them. A method that sends samples refuses a job without this."""


class Budgets(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the job. At 80 % of a limit the job warns, at 100 % it ends with its present model. None: no limit."""

    time_s: Positive | None = None
    """Seconds since training began."""
    bytes: Count | None = None
    """Payload bytes of all nodes on all planes."""
    joules: Positive | None = None
    """Joules of all nodes together, as far as nodes know their energy."""
    node_cpu_s: Positive | None = None
    """CPU seconds of the workers of any single node that measures them."""
    node_bytes: Count | None = None
    """Payload bytes that any single node sends on all planes."""
    node_joules: Positive | None = None
    """Joules of any single node that knows its energy."""


class JobFile(Struct, frozen=True, forbid_unknown_fields=True):
    """One job file."""

    name: Id
    method: dict[str, Any]
    model: dict[str, Any]
    data: Data = Data()
    train: Train = Train()
    loss: Literal["cross_entropy"] = "cross_entropy"
    """Loss by which the model is trained and rated; a rating also holds its metric (cross_entropy: accuracy)."""
    nodes: Nodes = Nodes()
    stragglers: Stragglers = Stragglers()
    evaluation: Evaluation = Evaluation()
    topology: Topology = Topology()
    resources: Resources = Resources()
    privacy: Privacy = Privacy()
    placement: Placing | None = None
    budgets: Budgets = Budgets()
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0


def job_spec(job: JobFile) -> dict[str, Any]:
    """The job as builtins with all defaults, as fog_learning.job.reading.job_from reads and the coordinator stores it."""
    return msgspec.to_builtins(job)  # type: ignore[no-any-return]


def check(job: JobFile) -> None:
    """Check keys against each other. A ConfigError begins with the key at fault."""
    for section in ("method", "model"):
        table = getattr(job, section)
        if "name" not in table and not (section == "model" and "import" in table):
            raise ConfigError(f"{section}: key 'name' is missing; `fogctl {section}s` lists what there is")
    if job.placement is not None and not OBJECTIVES[job.placement.objective].weighs and job.placement.weights != Prices():
        weighing = " or ".join(name for name, row in OBJECTIVES.items() if row.weighs)
        raise ConfigError(f"placement.weights: objective {job.placement.objective} does not weigh; say objective: {weighing}, or remove the weights")
    if job.data.local and job.data.partition != Partition():
        raise ConfigError("data.partition: nodes that own their data (data.local: true) have nothing to partition; remove the section")
    if job.nodes.select.names and job.nodes.count is not None and job.nodes.count > len(job.nodes.select.names):
        raise ConfigError(f"nodes.count: {job.nodes.count} nodes wanted, but nodes.select.names lists {len(job.nodes.select.names)}")
    if len(set(job.nodes.select.names)) != len(job.nodes.select.names):
        raise ConfigError("nodes.select.names: a node is listed twice")
    check_topology(job.topology)
    _check_idle(job)
    slots, limit = job.nodes.count or len(job.nodes.select.names), job.data.train_limit
    if not job.data.local and limit is not None and slots > limit:
        raise ConfigError(f"data.train_limit: {limit} examples cannot be divided over {slots} nodes; raise it or lower nodes.count")


def refuse_idle(section: Struct, path: str, keys: tuple[str, ...], why: str) -> None:
    """ConfigError if one of these keys, which have no effect in this job, differs from its default. why: the reason, for a person."""
    plain = type(section)()
    for key in keys:
        if getattr(section, key) != getattr(plain, key):
            raise ConfigError(f"{path}.{key}: {why}; remove the key")


def _check_idle(job: JobFile) -> None:
    partition, stragglers, evaluation = job.data.partition, job.stragglers, job.evaluation
    if partition.kind != "dirichlet":
        refuse_idle(partition, "data.partition", ("alpha",), f"only kind: dirichlet reads it, this is {partition.kind}")
    if partition.kind != "shards":
        refuse_idle(partition, "data.partition", ("shards_per_node",), f"only kind: shards reads it, this is {partition.kind}")
    if job.train.optimizer == "adam":
        refuse_idle(job.train, "train", ("momentum",), "adam has momentum of its own; only optimizer: sgd reads it")
    if evaluation.where != "federated":
        refuse_idle(evaluation, "evaluation", ("holdout",), f"only where: federated reads it, this is {evaluation.where}")
    if evaluation.where == "none":
        refuse_idle(evaluation, "evaluation", ("every",), "nothing is evaluated with where: none")
    if stragglers.late == "drop":
        refuse_idle(stragglers, "stragglers", ("staleness", "late_rounds"), "late updates are dropped; only late: accept reads it")
    if stragglers.quorum >= 1.0:
        refuse_idle(stragglers, "stragglers", ("mad_factor", "grace_s"), "the adaptive deadline needs a quorum below 1")


def check_topology(topology: Topology) -> None:
    """ConfigError if `layers` and `parents` are both given, or `parents` has a circle."""
    if topology.parents and topology.layers is not None:
        raise ConfigError("topology: `parents` names every inner node, `layers` has them chosen; give one of the two")
    for node in topology.parents:
        above, seen = topology.parents[node], [node]
        while above in topology.parents and above not in seen:
            seen.append(above)
            above = topology.parents[above]
        if above in seen:
            raise ConfigError(f"topology.parents: {' -> '.join([*seen, above])} is a circle; one of them must be without a parent")

"""The job file as types. Strict: an unknown key, a wrong type, an impossible value is a ConfigError with file, line and key.

Sections `method` and `model` carry the parameters of the named method or model; their types are the `Plan` of the method
(fog_learning.methods) and the parameters of the model (fog_learning.models). A key that nothing enforces yet is refused.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct


class Partition(Struct, frozen=True, forbid_unknown_fields=True):
    """How the training set is divided over the roster's slots; deterministic under the job's seed."""

    kind: Literal["iid", "dirichlet", "shards"] = "iid"
    alpha: float = 0.5
    """dirichlet: concentration; smaller is less alike."""
    shards_per_node: int = 2
    """shards: the set is sorted by label and cut; each slot gets this many shards."""


class Data(Struct, frozen=True, forbid_unknown_fields=True):
    name: str = "digits"
    partition: Partition = Partition()
    local: bool = False
    """True: each node owns its data (the agent's `datasets:` maps the name to a path); nothing is partitioned."""
    train_limit: int | None = None
    """Use only the first so many training examples (after a seeded shuffle)."""
    test_limit: int | None = None


class Train(Struct, frozen=True, forbid_unknown_fields=True):
    rounds: int = 30
    batch_size: int = 32
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    dtype: Literal["float32", "float64"] = "float32"


class Select(Struct, frozen=True, forbid_unknown_fields=True):
    tier: list[str] = []
    site: list[str] = []
    names: list[str] = []
    """Exactly these; one that is offline is waited for, visibly."""


class Nodes(Struct, frozen=True, forbid_unknown_fields=True):
    """Which nodes own data slots. The roster is fixed at submit: all that match then, or `count` of them (waits until so many are there)."""

    select: Select = Select(tier=["thing", "edge"])
    count: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Stragglers(Struct, frozen=True, forbid_unknown_fields=True):
    """When a round may close (DESIGN section 6) and what happens to an update that comes later."""

    quorum: float = 1.0
    """Fraction of the live data tasks that must have answered before the deadline counts."""
    deadline_s: float | None = None
    """Fixed: seconds after the round opened. None: adaptive, median + mad_factor x MAD of recent arrival times."""
    mad_factor: float = 4.0
    grace_s: float = 1.0
    """The adaptive deadline is at least this long after the median."""
    late: Literal["drop", "accept"] = "drop"
    staleness: float = 0.5
    """late=accept: an update that is s rounds old counts with n x (1 + s) ** -staleness."""


class Evaluation(Struct, frozen=True, forbid_unknown_fields=True):
    where: Literal["central", "federated", "none"] = "central"
    every: int = 1
    """Rounds between evaluations; the last round is always evaluated."""
    holdout: float = 0.2
    """federated: the fraction of each node's data that is held out."""


class Resources(Struct, frozen=True, forbid_unknown_fields=True):
    memory_mb: int | None = None
    """What a worker of this job needs; None: estimated from the model."""
    threads: int = 1


class Job(Struct, frozen=True, forbid_unknown_fields=True):
    """One job file."""

    name: str
    method: dict[str, Any]
    model: dict[str, Any]
    data: Data = Data()
    train: Train = Train()
    nodes: Nodes = Nodes()
    stragglers: Stragglers = Stragglers()
    evaluation: Evaluation = Evaluation()
    resources: Resources = Resources()
    seed: int = 0

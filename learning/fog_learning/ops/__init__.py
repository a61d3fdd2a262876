"""The ops that machines can run, by name. Importing this table imports no torch; backends run ops (fog_learning.backend.base).

An op leaves its inputs unchanged, except those that `consumes` names: their handle's old value is gone afterwards.
"""

from __future__ import annotations

from msgspec import Struct

__all__ = ["OPS", "Op"]


class Op(Struct, frozen=True):
    """Where an op is and what goes in and out ('?': may be absent; 'x0…': any number of them)."""

    module: str
    inputs: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    """Numbers that come back."""
    consumes: tuple[str, ...] = ()
    function: str = ""
    """Its name in the module, where it is not the op's."""


OPS: dict[str, Op] = {
    # ops/train.py: one node, its own data
    "init": Op("train", (), ("layers?",), ("weights",), ("bytes",)),
    "train": Op(
        "train",
        ("weights", "own?", "correction?"),
        ("round", "slot", "steps", "prox_mu?", "layers?", "without?", "tracking?", "lr?", "first_step?"),
        ("weights", "own?"),
        ("examples", "loss", "steps"),
    ),
    "track": Op("train", ("settled", "trained", "correction?"), (), ("weights", "correction")),
    # ops/evaluate.py
    "evaluate": Op("evaluate", ("weights", "own?"), ("round?",), (), ("accuracy", "loss", "examples")),
    "evaluate_local": Op("evaluate", ("weights", "own?"), ("slot", "layers?"), (), ("accuracy", "loss", "examples")),
    # ops/average.py: weighted means
    "accumulate": Op("average", ("sum?", "add"), ("n",), ("sum",), ("n",), consumes=("sum",)),
    "mean": Op("average", ("sum", "base?"), (), ("weights",), ("n", "bytes")),
    "server_opt": Op(
        "average", ("weights", "mean", "m?", "v?"), ("kind", "lr", "beta1", "beta2", "eps"), ("weights", "m?", "v?"), consumes=("m", "v")
    ),
    # ops/consensus.py: means among neighbours
    "pair": Op("consensus", ("weights",), ("n",), ("value", "sent")),
    "mix": Op("consensus", ("value", "sent", "from0…"), ("w0…",), ("value", "sent"), ("change",), consumes=("value",)),
    "settle": Op("consensus", ("value",), ("m", "part?", "of?"), ("weights",)),
    "join": Op("consensus", ("like", "slice0…"), ("without?",), ("weights",), ("bytes",)),
    "sketch": Op("consensus", ("value",), ("size", "seed?"), ("sketch",), ("exact",)),
    "spread": Op("consensus", ("sketch0…",), ("m0…", "exact?"), (), ("error",)),
    # ops/split.py: the model cut between nodes and trunk (fcddt)
    "split_init": Op("split", (), (), ("local", "trunk")),
    "front_forward": Op("split", ("local",), ("slot", "step"), ("rows", "graph?"), ("examples",)),
    "front_head": Op("split", ("local", "features"), ("slot", "step", "total", "own"), ("heads", "tail"), ("loss",)),
    "front_backward": Op("split", ("graph", "cut", "tail?"), ("slot",), ("gradient",), consumes=("graph",)),
    "front_step": Op("split", ("local", "opt?", "graph", "cut", "tail?"), ("slot",), ("local", "opt"), consumes=("local", "opt", "graph")),
    "trunk_step": Op("split", ("trunk", "rows0…"), ("own",), ("cut0…", "grads"), ("loss",)),
    "trunk_forward": Op("split", ("trunk", "rows0…"), (), ("features0…", "graph")),
    "trunk_backward": Op("split", ("graph", "heads0…"), ("own", "examples0…"), ("cut0…", "grads"), consumes=("graph",)),
    "split_apply": Op(
        "split", ("trunk", "grads", "opt?", "local?", "gradient0…"), (), ("trunk", "opt", "local?"), consumes=("trunk", "opt", "local")
    ),
    "split_mean": Op("split", ("local0…",), ("examples0…",), ("local",)),
    "split_join": Op("split", ("local", "trunk"), (), ("weights",)),
    # ops/union.py: all samples in one place (centralized)
    "samples": Op("union", (), ("slot",), ("samples",), ("examples",)),
    "train_union": Op(
        "union", ("weights", "opt?", "samples0…"), ("round", "steps"), ("weights", "opt"), ("loss", "examples"), consumes=("weights", "opt")
    ),
}

"""Cuts of a user's own nn.Module, by the splitter of torch.distributed.pipelining. Imports torch.

A block is a top-level child with parameters, in the order in which forward uses them; operations between two children belong
to the first. (A module whose only child holds all parameters is cut inside that child.) Parameter names are kept. Each cut is
compared with the whole module, with two batch sizes, before it is used.

ConfigError, with the reason, for control flow that depends on data, a block that is used twice, several tensors that cross the cut,
weights on both sides, buffers that training changes (BatchNorm), outputs of an example that depend on its batch.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from math import prod
from typing import Any, Final

import torch
from torch import Tensor, nn

from fog_common.errors import ConfigError
from fog_learning.models.layers import Shape
from fog_learning.models.spec import BlockFacts

SIZES: Final = (2, 3)
"""Batch sizes with which a cut is tried; the second reveals a constant in place of the batch axis."""


def block_names(module: nn.Module, input_shape: Shape) -> tuple[str, ...]:
    """The blocks, in the order of their use. ConfigError if the module does not take examples of this shape."""
    prefix, parent = "", module
    while True:
        children = [(name, child) for name, child in parent.named_children() if any(True for _ in child.parameters())]
        own = any(True for _ in parent.parameters(recurse=False))
        if len(children) != 1 or own:
            break
        name, only = children[0]
        if not any(True for grandchild in only.children() for _ in grandchild.parameters()):
            break
        prefix, parent = f"{prefix}{name}.", only
    used: list[str] = []
    hooks = [child.register_forward_pre_hook(_noting(used, prefix + name)) for name, child in children]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            module(_examples(module, input_shape, SIZES[0]))
    except Exception as error:  # a user's module may raise any exception
        raise ConfigError(f"the module does not take examples of shape {tuple(input_shape)}: {error}") from None
    finally:
        for hook in hooks:
            hook.remove()
    if twice := next((name for name in used if used.count(name) > 1), None):
        raise ConfigError(f"the module cannot be cut: forward uses its block {twice} {used.count(twice)} times")
    return tuple(used)


def segment(module: nn.Module, input_shape: Shape, first: int, last: int | None) -> nn.Module:
    """Blocks first..last-1 of `module` (last None: to the end), with copies of its weights, ready for training.

    ConfigError names the reason if the module cannot be cut there.
    """
    names = block_names(module, input_shape)
    end = len(names) if last is None else last
    if not 0 <= first < end <= len(names):
        raise ConfigError(f"the module has blocks 0..{len(names) - 1} ({', '.join(names)}), not {first}..{end - 1}")
    borders = [border for border in (first, end) if 0 < border < len(names)]
    if not borders:
        return copy.deepcopy(module)
    stages = split(module, input_shape, [names[border] for border in borders])
    return stages[0 if first == 0 else 1]


def split(module: nn.Module, input_shape: Shape, before: list[str]) -> list[nn.Module]:
    """The module in len(before) + 1 tried parts, each but the first beginning with a block of `before`. ConfigError as of segment()."""
    make, point = _splitter()
    _check_batches(module, input_shape)
    whole = copy.deepcopy(module).train()
    where = " and ".join(before)
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            pipe = make(copy.deepcopy(whole), (_examples(module, input_shape, SIZES[0]),), split_spec=dict.fromkeys(before, point.BEGINNING))
            stages = [pipe.get_stage_module(index) for index in range(len(before) + 1)]
    except Exception as error:  # the splitter may raise any exception, even RecursionError
        raise ConfigError(f"the module cannot be cut before {where}: {_reason(error)}") from None
    _check_borders(stages, before)
    _check_weights(whole, stages, where)
    _check_results(whole, stages, input_shape, where)
    return stages


def facts(module: nn.Module, input_shape: Shape) -> tuple[tuple[BlockFacts, ...], dict[str, str]]:
    """(facts of each block, block -> reason for which no cut behind it is possible). Per example; FLOPs as torch counts them.

    A block behind which no cut is possible has no output shape; its FLOPs are counted with the next block's.
    """
    names = block_names(module, input_shape)
    size = torch.empty(0, dtype=_dtype(module)).element_size()
    total, blocks, impossible = _flops(module, input_shape), [], {}
    before: Shape = tuple(input_shape)
    done = 0
    for index, name in enumerate(names):
        shape: Shape = ()
        flops = done
        if index + 1 == len(names):
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                shape, flops = tuple(module(_examples(module, input_shape, SIZES[0])).shape[1:]), total
        else:
            try:
                front = split(module, input_shape, [names[index + 1]])[0]
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    shape = tuple(front(_examples(module, input_shape, SIZES[0])).shape[1:])
                flops = _flops(front, input_shape)
            except ConfigError as error:
                impossible[name] = str(error)
        parameters = sum(parameter.numel() for key, parameter in module.named_parameters() if key.startswith(f"{name}."))
        blocks.append(BlockFacts(name, before, shape, parameters, parameters * size, flops - done, prod(shape) * size if shape else 0))
        before, done = shape, flops
    return tuple(blocks), impossible


def whole(module: nn.Module, input_shape: Shape) -> BlockFacts:
    """The module as one block."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        shape = tuple(module(_examples(module, input_shape, SIZES[0])).shape[1:])
    size, parameters = torch.empty(0, dtype=_dtype(module)).element_size(), sum(parameter.numel() for parameter in module.parameters())
    return BlockFacts("all", tuple(input_shape), shape, parameters, parameters * size, _flops(module, input_shape), prod(shape) * size)


# -- the splitter --------------------------------------------------------------------------


def _splitter() -> tuple[Callable[..., Any], Any]:
    """(pipeline, SplitPoint) of torch, whose API is labelled alpha and is used only here."""
    try:
        from torch.distributed.pipelining import SplitPoint, pipeline
    except ImportError:
        raise ConfigError(
            f"a module of your own is cut by torch.distributed.pipelining, which torch {torch.__version__} on this node does not have; "
            "install torch 2.5 or newer, built with distributed"
        ) from None
    return pipeline, SplitPoint


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch.export, which prints whole graphs when it fails; our error names the reason."""
    logger = logging.getLogger("torch")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if "full graph" in text or isinstance(error, RecursionError):
        cause: BaseException | None = error
        while cause is not None and "data-dependent" not in str(cause).lower():
            cause = cause.__cause__ or cause.__context__
        what = "its control flow depends on data" if cause is not None else "torch.export cannot capture it as one graph"
        return f"{what}; write forward without Python branches on tensor values, or train it uncut (fedavg)"
    return text[:300] or type(error).__name__


def _check_borders(stages: list[nn.Module], before: list[str]) -> None:
    """ConfigError unless one tensor goes into each part and one comes out."""
    for stage, name in zip(stages[1:], before, strict=True):
        count = sum(node.op == "placeholder" for node in _graph(stage).nodes)
        if count != 1:
            raise ConfigError(f"the module cannot be cut before {name}: {count} tensors cross the cut (a skip connection?); cut it elsewhere")
    for stage, name in zip(stages[:-1], before, strict=True):
        (output,) = (node.args[0] for node in _graph(stage).nodes if node.op == "output")
        if isinstance(output, tuple | list) and len(output) != 1:
            raise ConfigError(f"the module cannot be cut before {name}: {len(output)} tensors cross the cut (a skip connection?); cut it elsewhere")


def _graph(stage: nn.Module) -> Any:
    return stage.graph


def _check_weights(whole: nn.Module, stages: list[nn.Module], where: str) -> None:
    sides = [{name for name, _ in stage.named_parameters()} for stage in stages]
    every = {name for name, _ in whole.named_parameters(remove_duplicate=False)}
    if both := sorted(set.intersection(*sides)) if len(sides) == 2 else sorted(name for name in every if sum(name in side for side in sides) > 1):
        raise ConfigError(f"the module cannot be cut before {where}: {both[0]} is used on both sides")
    tied = {name for name, _ in whole.named_parameters()} ^ every
    if tied:
        raise ConfigError(f"the module cannot be cut: {min(tied)} is another name of a weight (tied weights)")
    if unused := sorted(every - set.union(*sides)):
        raise ConfigError(f"the module cannot be cut: forward does not use {unused[0]}; remove it from the module")


def _check_results(whole: nn.Module, stages: list[nn.Module], input_shape: Shape, where: str) -> None:
    for size in SIZES:
        x = _examples(whole, input_shape, size)
        outputs = []
        for parts in ([whole], stages):
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                value = x
                try:
                    for part in parts:
                        value = part(value)
                except Exception as error:
                    raise ConfigError(f"the module cannot be cut before {where}: with a batch of {size} it fails: {error}") from None
            outputs.append(value)
        if outputs[0].shape != outputs[1].shape or not torch.allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-5):
            raise ConfigError(f"the module cannot be cut before {where}: with a batch of {size} its parts give another result than the whole")


def _check_batches(module: nn.Module, input_shape: Shape) -> None:
    """ConfigError if outputs of an example depend on its batch, or a pass changes a buffer."""
    trial = copy.deepcopy(module)
    before = {name: buffer.clone() for name, buffer in trial.named_buffers()}
    x = _examples(module, input_shape, max(SIZES))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        trial.train()(x)
        changed = next((name for name, buffer in trial.named_buffers() if not torch.equal(buffer, before[name])), None)
        if changed:
            raise ConfigError(
                f"the module cannot be cut: training changes its buffer {changed}, so parts of a batch would give other statistics; "
                "use GroupNorm or LayerNorm in the place of BatchNorm"
            )
        trial.eval()
        if not torch.allclose(trial(x)[: min(SIZES)], trial(x[: min(SIZES)]), rtol=1e-4, atol=1e-5):
            raise ConfigError("the module cannot be cut: what it gives for an example depends on the other examples of the batch")


# -- pieces --------------------------------------------------------------------------------


def _noting(used: list[str], name: str) -> Callable[[nn.Module, Any], None]:
    def note(module: nn.Module, inputs: Any) -> None:
        used.append(name)

    return note


def _dtype(module: nn.Module) -> torch.dtype:
    return next((parameter.dtype for parameter in module.parameters()), torch.float32)


def _examples(module: nn.Module, input_shape: Shape, size: int) -> Tensor:
    """Fixed random examples, (size, *input_shape)."""
    generator = torch.Generator().manual_seed(size)
    return torch.randn(size, *input_shape, dtype=torch.float64, generator=generator).to(_dtype(module))


def _flops(module: nn.Module, input_shape: Shape) -> int:
    """FLOPs of the forward pass of one example."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter:
        module(_examples(module, input_shape, SIZES[0]))
    return int(counter.get_total_flops()) // SIZES[0]

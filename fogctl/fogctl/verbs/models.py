"""`fogctl models`: show the models that a job can name and the costs of their blocks, without torch and coordinator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fogctl.session import Session, command
from fogctl.show.output import literal, size

if TYPE_CHECKING:
    from fog_learning.models import BlockFacts, ModelSpec

app = typer.Typer(no_args_is_help=False, invoke_without_command=True, help="The models and their costs.")


@command(app, "list", connects=False)
def list_(session: Session) -> None:
    """The models that a job file can name."""
    from fog_learning.models import MODELS

    rows = [(name, entry.title, _parameters(entry.parameters)) for name, entry in sorted(MODELS.items())]
    data = [{"name": name, "title": title, "parameters": parameters} for name, title, parameters in rows]
    session.out.table({"models": data}, ("name", "what", "parameters (default)"), rows, "no models")


@command(app, "show", connects=False)
def show(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of `fogctl models`, or package.module:Factory of your own (needs torch here).")],
    input_: Annotated[
        str | None, typer.Option("--input", metavar="CxHxW", help="Shape of one example (default: the model's usual shape, or 1x28x28).")
    ] = None,
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 10,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the model, as in the job file; repeat it.")
    ] = None,
) -> None:
    """Each block's output, parameters, FLOPs of one forward pass and activation bytes, per example."""
    from fog_learning.models import MODELS, resolve_model

    own = ":" in name
    section = {"import": name, "arguments": _settings(set_ or [])} if own else {"name": name, **_settings(set_ or [])}
    spec = resolve_model(section, _shape(input_) if input_ is not None else MODELS[name].example if name in MODELS else (1, 28, 28), classes)
    blocks, impossible = _own_facts(spec) if own else (spec.facts(), {})
    parameters, flops = sum(block.parameters for block in blocks), sum(block.flops for block in blocks)
    rows = [
        (
            block.name,
            _times(block.output_shape) or "-",
            f"{block.parameters:,}",
            size(block.parameter_bytes),
            "-" if block.name in impossible else f"{block.flops:,}",
            "no cut behind it" if block.name in impossible else size(block.activation_bytes),
        )
        for block in blocks
    ]
    total = sum(block.parameter_bytes for block in blocks)
    rows.append(("total", "", f"{parameters:,}", size(total), f"{flops:,}", ""))
    for block, why in impossible.items():
        session.out.note(f"behind {block}: {why}")
    data = {
        "name": name,
        "input_shape": spec.input_shape,
        "classes": classes,
        "parameters": parameters,
        "parameter_bytes": total,
        "flops": flops,
        "blocks": [
            {
                "name": block.name,
                "output_shape": block.output_shape,
                "parameters": block.parameters,
                "parameter_bytes": block.parameter_bytes,
                "flops": block.flops,
                "activation_bytes": block.activation_bytes,
                "no_cut": impossible.get(block.name, ""),
            }
            for block in blocks
        ],
    }
    session.out.table(data, ("block", "output", "parameters", "bytes", "FLOPs forward", "activation"), rows, "no blocks")


def _own_facts(spec: ModelSpec) -> tuple[tuple[BlockFacts, ...], dict[str, str]]:
    """Facts of a user's own module, which may also lie in the folder in which the command runs. ConfigError without torch."""
    import sys

    from fog_common.errors import ConfigError

    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        from fog_learning.models.build import build
        from fog_learning.models.imported import facts
    except ImportError as error:
        raise ConfigError(f"{spec.factory}: showing a module of your own needs torch here: {error}") from None
    return facts(build(spec), spec.input_shape)


def _shape(text: str) -> tuple[int, ...]:
    """'1x28x28' -> (1, 28, 28)."""
    from fog_common.errors import ConfigError

    parts = text.lower().split("x")
    if not 1 <= len(parts) <= 3 or not all(part.isascii() and part.isdigit() and 0 < int(part) < 100_000 for part in parts):
        raise ConfigError(f"--input {text!r} is not a shape; expected 1 to 3 sizes such as 64, or 1x28x28")
    return tuple(int(part) for part in parts)


def _settings(pairs: list[str]) -> dict[str, Any]:
    from fog_common import config
    from fog_common.errors import ConfigError

    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"--set {pair!r}: expected KEY=VALUE, such as hidden=[64]")
        values.update(config.compose(f"{key}: {value}", f"--set {pair}").root)
    return values


def _parameters(type: Any) -> str:
    import msgspec

    return " ".join(
        f"{field.name}={'(needed)' if field.required else literal(field.default if field.default is not msgspec.NODEFAULT else field.default_factory())}"
        for field in msgspec.structs.fields(type)
    )


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))

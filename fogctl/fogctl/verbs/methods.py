"""`fogctl methods`: show the learning methods that a job can name, without torch and coordinator."""

from __future__ import annotations

import inspect
from itertools import pairwise
from typing import Annotated, Any

import typer

from fogctl.session import Session, command
from fogctl.show.output import aligned, literal

app = typer.Typer(no_args_is_help=False, invoke_without_command=True, help="The learning methods.")


@command(app, "list", connects=False)
def list_(session: Session) -> None:
    """The methods that a job file can name."""
    from fog_learning.methods import METHODS

    session.allow_methods()
    methods = [METHODS[name] for name in sorted(METHODS)]
    data = [{"name": method.name, "title": method.title, "source": method.source} for method in methods]
    session.out.table({"methods": data}, ("name", "what", "source"), [(m.name, m.title, m.source) for m in methods], "no methods")


@command(app, "show", connects=False)
def show(session: Session, name: Annotated[str, typer.Argument(metavar="NAME", help="One of `fogctl methods`.")]) -> None:
    """One method: its roles, and the keys of its section in the job file."""
    import msgspec

    from fog_common.errors import ConfigError
    from fog_learning.methods import METHODS

    session.allow_methods()
    if name not in METHODS:
        raise ConfigError(METHODS.refusal(name))
    method = METHODS[name]
    keys = _keys(method.plan)
    roles = [{"name": role.name, "bound": role.bound, "stateful": role.stateful, "talks_to": list(role.talks_to)} for role in method.roles]
    headline = [msgspec.to_builtins(each) for each in method.headline]
    data = {"name": name, "title": method.title, "source": method.source, "root": method.root, "roles": roles, "keys": keys}
    data |= {"sections": list(method.sections), "headline": headline}
    lines = [f"{name}: {method.title}", f"  {method.source}", "", "roles"]
    lines += [
        "  " + line
        for line in aligned([(role.name, _PLACES[role.bound] + (", the root" if role.name == method.root else "")) for role in method.roles])
    ]
    lines += ["", "judged by"]
    lines += ["  " + line for line in aligned([(each.title, f"{each.unit or 'number'}, {each.better} is better") for each in method.headline])]
    lines += ["", "sections of the job file that it reads", "  " + (", ".join(method.sections) or "none")]
    lines += ["", "keys of the `method` section"]
    lines += [
        "  " + line for line in aligned([(key["key"], f"= {key['default']}", key["type"], key["about"]) for key in keys] or [("none", "", "", "")])
    ]
    session.out.result(data, lines)


_PLACES = {"slot": "on every node with data", "free": "where placement puts it", "tree": "on the inner nodes of the job's tree"}


def _keys(plan: Any) -> list[dict[str, str]]:
    """The fields of a plan, each with the docstring below it."""
    import msgspec

    from fog_common.config import describe

    about = _docstrings(plan)
    return [
        {
            "key": field.name,
            "type": describe(field.type),
            "default": "(needed)"
            if field.required
            else literal(field.default if field.default is not msgspec.NODEFAULT else field.default_factory()),
            "about": about.get(field.name, ""),
        }
        for field in msgspec.structs.fields(plan)
    ]


def _docstrings(plan: Any) -> dict[str, str]:
    """Field -> the string literal below it in the source; {} without the source."""
    import ast
    import textwrap

    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(plan)))
    except (OSError, TypeError, SyntaxError):
        return {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    texts: dict[str, str] = {}
    for field, after in pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            texts[field.target.id] = " ".join(str(after.value.value).split())
    return texts

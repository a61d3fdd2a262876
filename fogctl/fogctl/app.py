"""Entry point of fogctl: the tree of commands, and exit codes. Heavy modules are imported only when a command runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

import typer

from fogctl.show.output import Output
from fogctl.verbs import broker, doctor, jobs, methods, models, nodes, plan, top, topology, validate

app = typer.Typer(
    name="fogctl",
    help="Train one model on unequal machines over MQTT: submit jobs, watch them, look after the nodes.",
    epilog="Exit codes: 0 ok, 1 failed, 2 bad input, 3 broker or coordinator not reachable, 4 refused, 5 timed out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
jobs.register(app)
app.add_typer(jobs.app, name="job")
app.add_typer(nodes.app, name="node")
app.add_typer(methods.app, name="methods")
app.add_typer(models.app, name="models")
validate.register(app)
plan.register(app)
topology.register(app)
top.register(app)
doctor.register(app)
app.add_typer(broker.app, name="broker")
for _optional in ("fogctl.verbs.demo", "fogctl.verbs.sim", "fogctl.verbs.paper"):
    if find_spec(_optional) is not None:
        import_module(_optional).register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code. A usage error of typer (a missing argument, an unknown option) is bad input: 2."""
    for noun in ("methods", "models"):  # `fogctl models` stands for `fogctl models list`
        if arguments[:1] == [noun] and (len(arguments) == 1 or (arguments[1].startswith("-") and arguments[1] not in ("-h", "--help"))):
            arguments.insert(1, "list")
    try:
        code = app(arguments, prog_name="fogctl", standalone_mode=False)
    except typer.Abort:
        return 130
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:
        explain = getattr(error, "format_message", None)  # a usage error of typer's parser
        if explain is None:
            raise
        message = explain() or "no command given"
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "fogctl"
        Output(json="--json" in arguments).error(UsageError(f"{message.rstrip('.')}{' ' if message.endswith('?') else '; '}see `{path} --help`"), 2)
        return 2
    return code if isinstance(code, int) else 0


class UsageError(Exception):
    """The command line itself is wrong."""

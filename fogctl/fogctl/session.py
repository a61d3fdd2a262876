"""One invocation of fogctl: the options of every command, its output, its connection to the coordinator.

Options win over the environment (FOGLEARN_BROKER, …), which wins over `~/.config/foglearn/fogctl.yaml`, which wins over the defaults.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fog_common.program import envelope
from fogctl.show.output import Output

if TYPE_CHECKING:
    from fogctl.client import Client
    from fogctl.settings import Settings

_SHARED: dict[str, Any] = {
    "broker": Annotated[str | None, typer.Option(envvar="FOGLEARN_BROKER", metavar="HOST[:PORT]", help="The broker (default: 127.0.0.1:1883).")],
    "fleet": Annotated[str | None, typer.Option(envvar="FOGLEARN_FLEET", help="Name of the fleet on that broker.")],
    "user": Annotated[str | None, typer.Option(envvar="FOGLEARN_USER", help="Your user at the broker (default: operator).")],
    "password_file": Annotated[str | None, typer.Option(envvar="FOGLEARN_PASSWORD_FILE", metavar="FILE", help="File with its password.")],
    "config": Annotated[
        str | None, typer.Option(envvar="FOGLEARN_CONFIG", metavar="FILE", help="Settings of fogctl (default: ~/.config/foglearn/fogctl.yaml).")
    ],
    "timeout": Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Longest wait for an answer.")],
}
_OUTPUT: dict[str, Any] = {
    "json_": Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Tracebacks with errors.")],
}
_DEFAULTS: dict[str, Any] = {"timeout": 10.0, "json_": False, "debug": False}


@dataclass(slots=True)
class Session:
    """Context of a command beside its own arguments."""

    out: Output = field(default_factory=Output)
    broker: str | None = None
    fleet: str | None = None
    user: str | None = None
    password_file: str | None = None
    config: str | None = None
    timeout: float = 10.0

    def settings(self) -> Settings:
        """Settings of the connection. ConfigError if file, environment or options are wrong."""
        from fogctl.settings import settings

        return settings(self.config, broker=self.broker, fleet=self.fleet, user=self.user, password_file=self.password_file)

    def allow_methods(self) -> None:
        """Let this process load the methods that the settings name. ConfigError if settings or methods are wrong."""
        from fog_learning.methods import METHODS

        METHODS.allow(self.methods())

    def methods(self) -> Sequence[str]:
        """Names of methods of installed packages that the settings allow. ConfigError if the settings are wrong."""
        from fogctl.settings import settings

        return settings(self.config or os.environ.get("FOGLEARN_CONFIG")).methods

    def client(self) -> Client:
        """A connection, used as a context manager; entering it raises Unreachable if the broker does not answer."""
        import logging

        from fogctl.client import Client

        if self.out.debug:
            logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
        else:  # errors are one line of our own
            logging.getLogger().addHandler(logging.NullHandler())
        return Client(self.settings(), timeout_s=self.timeout)


Body = Callable[..., None]


def command(app: typer.Typer, name: str | None = None, *, connects: bool = True, **options: Any) -> Callable[[Body], Body]:
    """Register a function as a command. Its first argument is the Session; the shared options are added after its own.

    connects: the command connects to the coordinator, and gets the options of the connection.
    """

    def register(body: Body) -> Body:
        shared = {**(_SHARED if connects else {}), **_OUTPUT}
        signature = inspect.signature(body, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.annotation is not Session]
        kind = inspect.Parameter.KEYWORD_ONLY
        added = [inspect.Parameter(key, kind, default=_DEFAULTS.get(key), annotation=hint) for key, hint in shared.items()]

        @functools.wraps(body)
        def run(**arguments: Any) -> None:
            out = Output(json=arguments.pop("json_"), debug=arguments.pop("debug"))
            session = Session(out, **{key: arguments.pop(key) for key in shared if key in arguments and key not in _OUTPUT})
            code = guarded(out, functools.partial(body, session, **arguments))
            if code:
                raise typer.Exit(code)

        run.__signature__ = signature.replace(parameters=[*(p.replace(kind=kind) for p in own), *added])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
        app.command(name, **options)(run)
        return body

    return register


def guarded(out: Output, action: Callable[[], None]) -> int:
    """Run `action` and print its error; returns the exit code: 0 ok, 1 failed, 2 bad input, 3 unreachable, 4 refused, 5 timed out, 130 interrupted."""
    from fog_common.errors import FogError

    try:
        action()
    except FogError as error:
        out.error(error, error.exit_code)
        return error.exit_code
    except KeyboardInterrupt as stop:
        out.error(KeyboardInterrupt("interrupted" if not str(stop) else f"interrupted: {stop}"), 130)
        return 130
    except BrokenPipeError:  # the reader has closed the pipe, as in `fogctl … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        out.error(error, 1)
        return 1
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if out.debug:
            raise
        out.error(envelope.fault(error, "fogctl"), 1)
        return 1
    return 0

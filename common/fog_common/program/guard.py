"""The end of a daemon's command with an error: one line on standard error, or the JSON envelope on standard output; a traceback on request."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

from fog_common.errors import ConfigError, FogError
from fog_common.program import envelope


def failed(error: Exception, given: Sequence[str], program: str, label: str) -> int:
    """Say the error; its exit code (1 for a fault of the program). given: the command line, of which --debug and --json count. label: begins
    the line on standard error."""
    code = error.exit_code if isinstance(error, FogError) else 1
    if "--debug" in given:
        traceback.print_exception(error)
    shown = error if isinstance(error, FogError) else envelope.fault(error, program)
    if "--json" in given:
        sys.stdout.write(envelope.failed(shown, code) + "\n")
    else:
        sys.stderr.write(f"{label}: {envelope.one_line(shown)}\n")
    return code


def usage(error: Exception, program: str) -> ConfigError | None:
    """A mistake on the command line as the parser of typer found it, with the help to look at; None for any other error."""
    explain = getattr(error, "format_message", None)
    if explain is None:
        return None
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else program
    message = (explain() or "no command given").rstrip(".")
    return ConfigError(f"{message}{' ' if message.endswith('?') else '; '}see `{path} --help`")

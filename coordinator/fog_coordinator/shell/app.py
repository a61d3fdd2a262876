"""`fog-coordinator run | check`: the only place of the coordinator that builds objects."""

from __future__ import annotations

import fcntl
import logging
import secrets
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import replace

from fog_common.bus.mqtt import MqttBus
from fog_common.errors import ConfigError, FogError, Refused
from fog_common.ids import COORDINATOR, checked_id
from fog_common.program import envelope
from fog_coordinator.core import Core
from fog_coordinator.shell.config import CoordinatorConfig, load_config, state_dir
from fog_coordinator.shell.journal import Journal
from fog_coordinator.shell.results import Results
from fog_coordinator.shell.scrape import Scrapes
from fog_coordinator.shell.service import Clock, Inbox, Service, StopAsked
from fog_learning.methods import METHODS

log = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="The coordinator of a foglearn fleet.")
File = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Configuration; without it everything has its default.")]
Broker = Annotated[str | None, typer.Option("--broker", metavar="HOST[:PORT]", help="In place of the file's.")]
Fleet = Annotated[str | None, typer.Option("--fleet", help="In place of the file's.")]
Folder = Annotated[Path | None, typer.Option("--state-dir", metavar="DIR", help="In place of the file's.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable answer on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Tracebacks with errors, and a talkative log.")]


@app.command()
def run(config: File = None, broker: Broker = None, fleet: Fleet = None, state: Folder = None, json: Json = False, debug: Debug = False) -> None:
    """Run until SIGTERM. Jobs go on while the coordinator is away; it takes them up again."""
    _guarded(lambda: serve(_settings(config, broker, fleet, state, debug)))


@app.command()
def check(config: File = None, broker: Broker = None, fleet: Fleet = None, state: Folder = None, json: Json = False, debug: Debug = False) -> None:
    """Is the configuration usable? Opens the journal, does not connect."""

    def action() -> int:
        settings = _settings(config, broker, fleet, state, debug)
        METHODS.allow(settings.methods)
        folder = state_dir(settings)
        with _locked(folder):
            tables = _journal(settings, folder).load()
        broker_at, nodes, jobs = f"{settings.broker.host}:{settings.broker.port}", len(tables["nodes"]), len(tables["jobs"])
        if json:
            typer.echo(envelope.ok({"fleet": settings.fleet, "broker": broker_at, "state_dir": str(folder), "nodes": nodes, "jobs": jobs}))
            return 0
        typer.echo(f"ok: fleet {settings.fleet}, broker {broker_at}, state in {folder}")
        typer.echo(f"    {nodes} nodes, {jobs} jobs in the journal")
        return 0

    _guarded(action)


def serve(config: CoordinatorConfig) -> int:
    """The service, until SIGTERM."""
    logging.basicConfig(level=config.log_level, stream=sys.stderr, format="%(levelname)s coordinator: %(message)s", force=True)
    inbox = Inbox()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: inbox.put(StopAsked()))
    METHODS.allow(config.methods)
    folder = state_dir(config)
    with _locked(folder):
        journal = _journal(config, folder)
        clock = Clock(journal.clock)
        core = Core(secrets.token_hex(6), journal.load(), config.rules, version=_version())
        results = Results(folder / "results")
        bus = MqttBus(config.broker, f"{config.fleet}_{COORDINATOR}", inbox.put)
        log.info("started fleet=%s broker=%s:%d state=%s jobs=%d", config.fleet, config.broker.host, config.broker.port, folder, len(core.book))
        service = Service(config.fleet, core=core, journal=journal, results=results, bus=bus, inbox=inbox, clock=clock)
        pages = Scrapes(inbox.put).serve(config.metrics.host, config.metrics.port) if config.metrics.port else None
        try:
            return service.run()
        finally:
            if pages is not None:
                pages.close()


def _settings(config: Path | None, broker: str | None, fleet: str | None, state: Path | None, debug: bool) -> CoordinatorConfig:
    """Options over the file over the defaults."""
    found = load_config(config) if config is not None else CoordinatorConfig()
    if broker is not None:
        host, colon, port = broker.rpartition(":")
        if not colon:
            host, port = broker, "1883"
        if not host or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise ConfigError(f"--broker {broker!r} is no address; expected HOST or HOST:PORT, such as 192.168.1.10:1883")
        found = replace(found, broker=replace(found.broker, host=host.strip("[]"), port=int(port)))
    if fleet is not None:
        found = replace(found, fleet=checked_id(fleet, "--fleet"))
    if state is not None:
        found = replace(found, state_dir=str(state))
    if config is not None and found.broker.password_file and not Path(found.broker.password_file).is_absolute():
        beside = config.parent / found.broker.password_file
        if beside.exists():
            found = replace(found, broker=replace(found.broker, password_file=str(beside)))
    return replace(found, log_level="DEBUG") if debug else found


def _journal(config: CoordinatorConfig, folder: Path) -> Journal:
    return Journal(config.journal) if config.journal else Journal.in_folder(folder)


def _locked(folder: Path) -> Any:
    """The folder, held against a second coordinator while the file that is returned is open."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        lock = open(folder / "coordinator.lock", "a+")  # noqa: SIM115 - held while the service runs
    except OSError as error:
        raise ConfigError(f"state_dir: cannot use {folder}: {error.strerror}; choose a folder that this user may write") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise Refused(f"{folder} is in use by another coordinator; stop it, or give this one its own state_dir") from None
    return lock


def _version() -> str:
    try:
        return version("foglearn")
    except PackageNotFoundError:
        return "0"


def _guarded(action: Callable[[], int]) -> None:
    raise typer.Exit(action())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    sys.exit(_run(sys.argv[1:] if arguments is None else list(arguments)))


def _run(given: list[str]) -> int:
    try:
        code = app(given, prog_name="fog-coordinator", standalone_mode=False)
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort:
        return 130
    except FogError as error:
        return _failed(error, error.exit_code, given)
    except Exception as error:
        explain = getattr(error, "format_message", None)  # a usage error of typer's parser
        if explain is None:
            return _failed(error, 1, given)
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "fog-coordinator"
        message = (explain() or "no command given").rstrip(".")
        return _failed(ConfigError(f"{message}{' ' if message.endswith('?') else '; '}see `{path} --help`"), 2, given)
    return code if isinstance(code, int) else 0


def _failed(error: Exception, exit_code: int, given: list[str]) -> int:
    if "--debug" in given:
        traceback.print_exception(error)
    shown = error if isinstance(error, FogError) else envelope.fault(error, "fog-coordinator")
    if "--json" in given:
        typer.echo(envelope.failed(shown, exit_code))
    else:
        typer.echo(f"error: {envelope.one_line(shown)}", err=True)
    return exit_code


if __name__ == "__main__":
    main()

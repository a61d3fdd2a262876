"""`fogctl doctor`: check this machine, the broker, its access rules and the coordinator, and suggest repairs."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import typer

from fog_common.errors import FogError
from fog_common.wire.api.verbs import Ping
from fogctl.session import Session, command

if TYPE_CHECKING:
    from fogctl.client import Client

MARKS: Final = {"ok": "ok  ", "warning": "warn", "failed": "FAIL", "skipped": "-   "}
SILENCE_S: Final = 0.5
"""Seconds after our own message within which a forged one is noticed."""


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. state: ok, warning (works, with a limit), failed, skipped. do: a repair, '' if none is needed."""

    name: str
    state: str
    found: str
    do: str = ""
    exit_code: int = 1
    """Exit code of fogctl, if this is the first failure."""


def register(app: typer.Typer) -> None:
    command(app, "doctor")(doctor)


class Unwell(FogError):
    """Some checks failed."""

    def __init__(self, checks: list[Check]) -> None:
        bad = [check for check in checks if check.state == "failed"]
        super().__init__(f"{len(bad)} of {len(checks)} checks failed: {', '.join(check.name for check in bad)}")
        self.exit_code = bad[0].exit_code
        self.details = {"checks": [asdict(check) for check in checks]}


def doctor(session: Session) -> None:
    """Check this machine, the broker, its access rules and the coordinator, and suggest repairs."""
    checks = [*machine(), *fleet(session)]
    lines = [f"{MARKS[check.state]}  {check.name}: {check.found}" + (f"\n      {check.do}" if check.do else "") for check in checks]
    failed = any(check.state == "failed" for check in checks)
    if not (failed and session.out.json):
        session.out.result({"checks": [asdict(check) for check in checks]}, lines)
    if failed:
        raise Unwell(checks)


def machine() -> Iterator[Check]:
    """Checks without a network."""
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    bits = 64 if sys.maxsize > 2**32 else 32
    python = f"{'.'.join(map(str, sys.version_info[:3]))}, {bits} bit"
    fine = sys.version_info >= (3, 11) and bits == 64
    yield Check("python", "ok" if fine else "failed", python, "" if fine else "install a 64-bit Python 3.11 or newer")
    found, missing = [], []
    for name in ("foglearn", "paho-mqtt", "msgspec", "pyyaml", "blake3"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    yield Check("packages", "failed" if missing else "ok", ", ".join(found), f"pip install {' '.join(missing)}" if missing else "")
    if find_spec("torch") is None:
        yield Check(
            "torch",
            "warning",
            "not installed: no training on this machine",
            "only agents need it; on a CPU install it from PyTorch's CPU index (the line stands in README.md, under real machines)",
        )
    else:
        yield Check("torch", "ok", version("torch"))
    path = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/sbin")
    yield Check(
        "mosquitto",
        "ok" if path else "warning",
        path or "not on PATH",
        "" if path else "only the broker's machine needs it: apt install mosquitto; `fogctl demo` does without",
    )


def fleet(session: Session) -> Iterator[Check]:
    """Checks of the broker and the coordinator."""
    from fog_common.errors import Refused, Unreachable

    settings = session.settings()
    try:
        with session.client() as client:
            yield Check("broker", "ok", f"{client.where}, as {settings.broker.username or 'nobody in particular'}")
            yield from _messages(client)
            yield _coordinator(client)
    except Refused as error:
        yield Check("broker", "failed", str(error), "give the user and password that `fogctl broker init` made (its fogctl-*.yaml)", error.exit_code)
    except Unreachable as error:
        yield Check(
            "broker", "failed", str(error), "start it, or name it with --broker HOST:PORT; for a network: `fogctl broker init`", error.exit_code
        )
    except FogError as error:
        yield Check("broker", "failed", str(error), "see the message")


def _messages(client: Client) -> Iterator[Check]:
    """Checks of the round trip to our own inbox, and of the access list: the broker must drop a message in another's name."""
    if client.denied:
        yield Check(
            "inbox", "failed", f"the broker refuses user {client.user!r} the subscription {', '.join(client.denied)}", "correct its access list", 4
        )
        return
    began = time.monotonic()
    own, forged = client.echo("own"), client.echo("forged", sender="doctor-forged")
    took = client.hear({own, forged}, until={own}, at_most_s=client.timeout_s)
    if own not in took:
        yield Check(
            "round trip",
            "failed",
            "a message to our own inbox did not come back",
            f"let user {client.user!r} write as itself and read its inbox: see the acl of `fogctl broker init`",
        )
        return
    yield Check("round trip", "ok", f"{(took[own] - began) * 1000:.1f} ms")
    if forged not in took:
        took |= client.hear({forged}, until={forged}, at_most_s=SILENCE_S)
    if forged in took:
        open_door = "anybody may send in anybody's name" if not client.settings.broker.username else "a message in another's name was delivered"
        yield Check(
            "access list",
            "warning" if not client.settings.broker.username else "failed",
            open_door,
            "fine for a test on one machine; for a network take the acl and the passwords of `fogctl broker init`",
        )
    else:
        yield Check("access list", "ok", "a message in another's name was dropped")


def _coordinator(client: Client) -> Check:
    try:
        body = client.ask(Ping())
    except FogError as error:
        return Check(
            "coordinator", "failed", str(error), f"start `fog-coordinator run` with this broker and fleet {client.settings.fleet!r}", error.exit_code
        )
    if body.denied:
        return Check(
            "coordinator", "failed", f"answers, but the broker refuses it the subscription {', '.join(body.denied)}", "correct its access list", 4
        )
    online = body.nodes_online
    text = f"answers, {online} of {body.nodes} nodes online, {body.jobs_active} jobs active, version {body.version}"
    return Check("coordinator", "ok" if online else "warning", text, "" if online else "start `fog-agent run --config FILE` on the machines")

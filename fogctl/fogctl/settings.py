"""Settings of fogctl's connection: options over environment over `fogctl.yaml` over defaults."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from fog_common import config
from fog_common.bus.base import BrokerConfig
from fog_common.errors import ConfigError
from fog_common.ids import Id, checked_id
from fog_common.program.broker import address


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The file `fogctl.yaml`."""

    fleet: Id = "main"
    user: Id = "operator"
    broker: BrokerConfig = BrokerConfig()
    methods: tuple[str, ...] = ()
    """Learning methods of installed packages that a job file may name (entry points of the group `foglearn.methods`); those of this program
    are always allowed."""


def settings(
    path: str | None = None, *, broker: str | None = None, fleet: str | None = None, user: str | None = None, password_file: str | None = None
) -> Settings:
    """Settings from options over the configuration file over the defaults. ConfigError if a named file is missing or invalid."""
    file = Path(path).expanduser() if path else config_home() / "fogctl.yaml"
    base = config.load(file, Settings) if path or file.exists() else Settings()
    at = base.broker
    if broker is not None:
        host, port = address(broker)
        at = replace(at, host=host, port=port)
    name = checked_id(user, "--user") if user is not None else base.user
    if at.username and user is not None and at.username != user:
        at = replace(at, username=user, password="")
    if password_file is not None:
        secret = _first_line(password_file)
        at = replace(at, username=name, password=secret, password_file="")
    elif at.password_file and not at.password:
        at = replace(at, password=_first_line(str(file.parent / Path(at.password_file).expanduser())), password_file="")
    return Settings(checked_id(fleet, "--fleet") if fleet is not None else base.fleet, name, at, base.methods)


def config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "foglearn"


def _first_line(path: str) -> str:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"password file {path}: cannot read: {error}") from None
    if not text or "\n" in text:
        raise ConfigError(f"password file {path}: expected one line, the password")
    return text

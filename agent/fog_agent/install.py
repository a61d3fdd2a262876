"""`fog-agent install` writes the systemd unit, its drop-ins and the configuration to their places, after all checks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from fog_agent.config import AgentConfig, load_config
from fog_common.errors import ConfigError, Refused

UNIT: Final = "fog-agent.service"
ETC: Final = Path("etc/foglearn")
SYSTEMD: Final = Path("etc/systemd/system")
HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""Folders that ProtectHome and PrivateTmp hide from the service."""


def install(config_path: Path, prefix: Path = Path("/"), start: bool = True, show: bool = False) -> int:
    """Install, or only print the files (`show`); returns 0. ConfigError for a configuration that cannot run as a service, Refused without
    the right to write."""
    config = load_config(config_path)
    files = planned(config, config_path, prefix)
    if show:
        for path, content in files.items():
            print(f"# {prefix / path}\n{content if path.suffix != '.yaml' else '(copy of ' + str(config_path) + ')'}")  # noqa: T201
        return 0
    for path, content in files.items():
        _write(prefix / path, content, secret=path.parent == ETC)
        print(f"wrote {prefix / path}")  # noqa: T201
    if start and prefix == Path("/"):
        _systemctl("daemon-reload")
        _systemctl("enable", "--now", UNIT)
        print(f"{UNIT} is enabled and runs; see `systemctl status {UNIT}` and `journalctl -u {UNIT}`")  # noqa: T201
    else:
        print(f"next: systemctl daemon-reload && systemctl enable --now {UNIT}")  # noqa: T201
    return 0


def planned(config: AgentConfig, config_path: Path, prefix: Path = Path("/")) -> dict[Path, str]:
    """Path below the prefix -> content of each file. ConfigError for a configuration that cannot run as a service."""
    if config.state_dir:
        raise ConfigError(f"{config_path}: state_dir: leave it out for a service, systemd gives it /var/lib/foglearn-agent")
    if config.spawner:
        raise ConfigError(f"{config_path}: spawner: a service starts its own workers, leave it out")
    program = _program()
    drop_ins = SYSTEMD / f"{UNIT}.d"
    files = {SYSTEMD / UNIT: _template(UNIT).replace("/opt/foglearn/bin/fog-agent", str(program)), ETC / "agent.yaml": _text(config_path)}
    if name := config.broker.password_file:
        if Path(name).name != name:
            raise ConfigError(f"{config_path}: broker.password_file: for a service write the bare name; the file is copied to /{ETC}")
        files[ETC / name] = _text(config_path.parent / name)
        files[drop_ins / "credentials.conf"] = f"[Service]\nLoadCredential={name}:/{ETC / name}\n"
    if hidden := sorted({str(path) for name in (*config.datasets.values(), *config.weights.values()) if _hidden(path := Path(name).expanduser())}):
        files[drop_ins / "paths.conf"] = "[Service]\n" + "".join(f'BindReadOnlyPaths="{path}"\n' for path in hidden)
    needs = config.drain_s + config.stop_s + 15
    if needs > 60:
        files[drop_ins / "stop.conf"] = f"[Service]\nTimeoutStopSec={needs:.0f}\n"
    for board in boards(prefix):
        files[drop_ins / f"{board}.conf"] = _template(f"boards/{board}.conf")
    return files


def boards(root: Path = Path("/")) -> list[str]:
    """Names of the drop-ins for devices of this machine."""
    devices = {"pi": "dev/vcio", "nvidia": "dev/nvidiactl"}
    return [board for board, device in devices.items() if (root / device).exists()]


def units_folder() -> Path:
    """Folder of the units: share/foglearn/systemd of the environment, or the source tree. ConfigError without them."""
    for folder in (Path(sys.prefix) / "share/foglearn/systemd", Path(__file__).parents[2] / "systemd"):
        if (folder / UNIT).is_file():
            return folder
    raise ConfigError("the systemd units are not part of this installation; install the wheel, or run from a source tree")


def _program() -> Path:
    program = Path(sys.executable).parent / "fog-agent"
    if not program.exists():
        raise ConfigError(f"{program} does not exist; install foglearn into the environment of {sys.executable}")
    if _hidden(program):
        raise ConfigError(
            f"{program} is out of a service's sight (ProtectHome); make an environment elsewhere:"
            " sudo python3 -m venv /opt/foglearn && sudo /opt/foglearn/bin/pip install foglearn, then run /opt/foglearn/bin/fog-agent install"
        )
    return program


def _hidden(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in HIDDEN)


def _template(name: str) -> str:
    return (units_folder() / name).read_text(encoding="utf-8")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read: {error.strerror}") from None


def _write(path: Path, content: str, secret: bool) -> None:
    """In one piece; secret: only root may read it (systemd hands it to the service)."""
    draft = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644), "w", encoding="utf-8") as file:
            file.write(content)
        draft.replace(path)
    except PermissionError:
        raise Refused(f"may not write {path}; run it with sudo, or see what it would do with --print") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _systemctl(*arguments: str) -> None:
    try:
        subprocess.run(["systemctl", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise ConfigError(
            "systemctl is not on PATH: this machine has no systemd; the files are written, start `fog-agent run` your own way"
        ) from None
    except subprocess.CalledProcessError as error:
        raise Refused(f"systemctl {' '.join(arguments)}: {(error.stderr or '').strip() or error.returncode}") from None

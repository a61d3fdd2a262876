"""The units: systemd accepts them and finds them closed enough."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fog_agent import install
from fog_agent.config import AgentConfig, load_config
from fog_common.errors import ConfigError
from support.paths import ROOT

UNITS = ROOT / "systemd"
EXPOSURE = 20
"""Of 100, systemd's own measure; a bare unit has 96."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None and not os.environ.get("CI"), reason="systemd-analyze is not installed")


def unit(folder: Path, name: str, *drop_ins: str) -> Path:
    """A copy whose program exists, as `verify` wants it."""
    path = folder / name
    path.write_text((UNITS / name).read_text().replace("/opt/foglearn/bin/", f"{Path(sys.executable).parent}/"))
    for drop_in in drop_ins:
        (folder / f"{name}.d").mkdir(exist_ok=True)
        shutil.copy(UNITS / "boards" / drop_in, folder / f"{name}.d")
    return path


@needs_systemd
@pytest.mark.parametrize(
    ("name", "drop_ins"),
    [("fog-agent.service", ()), ("fog-agent.service", ("pi.conf",)), ("fog-agent.service", ("nvidia.conf",)), ("fog-coordinator.service", ())],
)
def test_systemd_accepts_the_unit_and_finds_it_closed_enough(tmp_path, name, drop_ins):
    path = unit(tmp_path, name, *drop_ins)
    verify = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    assert verify.returncode == 0 and not verify.stderr, verify.stderr
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", path]
    security = subprocess.run(command, capture_output=True, text=True, check=False)
    assert security.returncode == 0, security.stdout


@needs_systemd
def test_the_exposure_check_can_fail(tmp_path):
    path = tmp_path / "bare.service"
    path.write_text("[Service]\nExecStart=/bin/true\n")
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", path]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_the_agents_unit_leaves_time_to_drain_and_room_for_a_crash():
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment]
    parser.read(UNITS / "fog-agent.service")
    service, config = parser["Service"], AgentConfig(node="a")
    assert float(service["TimeoutStopSec"]) > config.drain_s + config.stop_s
    assert service["KillMode"] == "mixed"  # control-group would end the workers before the drain
    assert service["OOMPolicy"] == "continue"  # stop would end the daemon with a worker
    for harmful in ("MemoryDenyWriteExecute", "ProcSubset"):
        assert harmful not in service


# -- install ---------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path, monkeypatch) -> Path:
    """An environment that is not hidden from services, as far as `install` can see."""
    monkeypatch.setattr(install, "HIDDEN", ("/home/ada",))
    return tmp_path


def planned(folder: Path, text: str, **files: str) -> dict[Path, str]:
    path = folder / "agent.yaml"
    path.write_text(text)
    for name, content in files.items():
        (folder / name).write_text(content)
    return install.planned(load_config(path), path, folder)


def test_install_plans_unit_configuration_and_what_the_configuration_needs(environment):
    text = "node: pi-1\ndatasets: {faces: /home/ada/faces, open: /srv/open}\nweights: {front: /home/ada/front.safetensors}\ndrain_s: 300\nbroker: {username: pi-1, password_file: secret}\n"
    files = {str(path): content for path, content in planned(environment, text, secret="hush\n").items()}
    assert files["etc/foglearn/agent.yaml"] == text and files["etc/foglearn/secret"] == "hush\n"
    folder = "etc/systemd/system/fog-agent.service"
    assert f"ExecStart={Path(sys.executable).parent}/fog-agent run" in files[folder]
    assert "LoadCredential=secret:/etc/foglearn/secret" in files[f"{folder}.d/credentials.conf"]
    bound = 'BindReadOnlyPaths="/home/ada/faces"\nBindReadOnlyPaths="/home/ada/front.safetensors"\n'
    assert files[f"{folder}.d/paths.conf"] == "[Service]\n" + bound, "what a service does not see anyway, and no more"
    assert "TimeoutStopSec=325" in files[f"{folder}.d/stop.conf"]


def test_a_pi_gets_its_drop_in(environment):
    (environment / "dev").mkdir()
    (environment / "dev/vcio").touch()
    assert Path("etc/systemd/system/fog-agent.service.d/pi.conf") in planned(environment, "node: pi-1\n")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("node: pi-1\nstate_dir: /data\n", "state_dir: leave it out"),
        ("node: pi-1\nspawner: /run/x\n", "spawner: a service starts its own workers"),
        ("node: pi-1\nbroker: {password_file: /home/ada/secret}\n", "write the bare name"),
        ("node: pi-1\nbroker: {password_file: missing}\n", "missing: cannot read"),
    ],
)
def test_what_would_not_run_as_a_service_is_refused_before_anything_is_written(environment, text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        planned(environment, text)


def test_an_environment_in_a_home_is_refused_with_the_way_out(environment, monkeypatch):
    monkeypatch.setattr(install, "HIDDEN", (str(Path(sys.executable).parent),))
    with pytest.raises(ConfigError, match="/opt/foglearn"):
        planned(environment, "node: pi-1\n")

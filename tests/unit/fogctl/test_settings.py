"""Settings of fogctl: addresses, options, the file, the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from fogctl.settings import address, settings
from support.cli import run


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("h", "h", 1883),
        ("h:1", "h", 1),
        ("10.0.0.5:1884", "10.0.0.5", 1884),
        ("[::1]:1884", "::1", 1884),
        ("[::1]", "::1", 1883),
        ("::1", "::1", 1883),
    ],
)
def test_broker_addresses(text: str, host: str, port: int) -> None:
    assert address(text) == (host, port)


def test_options_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    (tmp_path / "fogctl.yaml").write_text("fleet: lab\nuser: ada\nbroker: {host: b.local, port: 1884, username: ada, password_file: secret}\n")
    found = settings(str(tmp_path / "fogctl.yaml"))
    assert (found.fleet, found.user, found.broker.host, found.broker.port, found.broker.password) == ("lab", "ada", "b.local", 1884, "s3cret")
    found = settings(str(tmp_path / "fogctl.yaml"), broker="10.0.0.1", fleet="main")
    assert (found.fleet, found.broker.host, found.broker.port, found.broker.username) == ("main", "10.0.0.1", 1883, "ada")


def test_the_users_own_file_is_found_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], closed_port: int
) -> None:
    folder = tmp_path / "config" / "foglearn"
    folder.mkdir(parents=True)
    (folder / "fogctl.yaml").write_text("fleet: lab\nbroker: {host: nowhere.invalid}\n")
    assert settings().broker.host == "nowhere.invalid"
    monkeypatch.setenv("FOGLEARN_BROKER", f"127.0.0.1:{closed_port}")
    assert f"127.0.0.1:{closed_port}" in run(capsys, "job", "list", "--timeout", "0.2")[2]


def test_a_password_of_another_user_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "fogctl.yaml").write_text("user: ada\nbroker: {username: ada, password: hers}\n")
    found = settings(str(tmp_path / "fogctl.yaml"), user="bob")
    assert (found.user, found.broker.username, found.broker.password) == ("bob", "bob", "")

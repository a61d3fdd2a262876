"""`fogctl broker init`: write the files for a broker on the local network and its users, and print the commands for each machine."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fogctl.session import Session, command

app = typer.Typer(no_args_is_help=True, help="A broker for a local network.")


@dataclass(frozen=True, slots=True)
class Member:
    """A user of the broker. kind: coordinator, operator, agent."""

    name: str
    kind: str
    tier: str = ""
    site: str = ""

    @property
    def file(self) -> str:
        return {"coordinator": "coordinator.yaml", "operator": f"fogctl-{self.name}.yaml"}.get(self.kind, f"agent-{self.name}.yaml")


@command(app, "init", connects=False)
def init(
    session: Session,
    listen: Annotated[str, typer.Option(metavar="ADDRESS[:PORT]", help="This machine's address on the network, or 0.0.0.0 for all of them.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the files; made if it is missing.")],
    node: Annotated[list[str] | None, typer.Option(metavar="NAME[:TIER[:SITE]]", help="A node that may connect; repeat it.")] = None,
    operator: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A user who may submit jobs; repeat it (default: operator).")] = None,
    fleet: Annotated[str, typer.Option(help="Name of the fleet on this broker.")] = "main",
) -> None:
    """Write mosquitto's configuration, password file and access list, and one configuration file for each machine.

    A cloud node (cloud-1) is always added. Run the command again with more --node to add users; existing users keep their passwords.
    """
    from fog_common.ids import checked_id

    checked_id(fleet, "--fleet")
    members = [Member("coordinator", "coordinator"), *(Member(checked_id(name, "--operator"), "operator") for name in operator or ["operator"])]
    agents = [_agent(text) for text in node or []]
    if not any(agent.tier == "cloud" for agent in agents):
        agents.append(Member("cloud-1", "agent", "cloud", "cloud"))
    written = write(out, listen, fleet, [*members, *agents])
    session.out.result(written, _instructions(written))


def _agent(text: str) -> Member:
    from fog_common.errors import ConfigError
    from fog_common.ids import CLOUD_SITE, TIERS, checked_id

    name, _, rest = text.partition(":")
    tier, _, site = rest.partition(":")
    checked_id(name, "--node")
    tier = tier or "edge"
    if tier not in TIERS:
        raise ConfigError(f"--node {text}: tier {tier!r} is not one of {', '.join(TIERS)}")
    return Member(name, "agent", tier, checked_id(site, "site") if site else CLOUD_SITE if tier == "cloud" else "home")


def write(folder: Path, listen: str, fleet: str, members: list[Member]) -> dict[str, Any]:
    """Write all files; returns the data of --json. ConfigError, before any file is written, if two members share a name."""
    from fog_common.errors import ConfigError
    from fogctl.fleet import mosquitto

    host, port = mosquitto.listen_address(listen)
    names = [member.name for member in members]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{twice[0]!r} is named twice; operators, nodes and the coordinator each need a name of their own")
    folder = folder.expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _enterable(folder)
    passwords, acl, conf = folder / "passwords", folder / "acl", folder / "mosquitto.conf"
    users = mosquitto.parse_password_file(passwords.read_text()) if passwords.exists() else {}
    new = [member for member in members if member.name not in users or not (folder / member.file).exists()]
    address = mosquitto.reachable(host)
    for member in new:
        secret = mosquitto.password()
        users[member.name] = mosquitto.hashed(secret)
        _private(folder / member.file, _configuration(member, fleet, address, port, secret))
    operators = sorted(user for user in users if (folder / Member(user, "operator").file).exists())
    agents = sorted(user for user in users if user not in operators and user != "coordinator")
    _private(passwords, mosquitto.password_file(users), for_broker=True)
    _private(acl, mosquitto.access_list(fleet, agents, operators), for_broker=True)
    _private(conf, mosquitto.configuration(host, port, str(passwords), str(acl)), for_broker=True)
    return {
        "folder": str(folder),
        "start": [_program(), "-c", str(conf)],
        "broker": f"[{address}]:{port}" if ":" in address else f"{address}:{port}",
        "fleet": fleet,
        "members": [{"name": m.name, "kind": m.kind, "tier": m.tier, "site": m.site, "file": str(folder / m.file), "new": m in new} for m in members],
    }


def _configuration(member: Member, fleet: str, host: str, port: int, secret: str) -> str:
    """The member's YAML file with its password, so that a single file is copied."""
    broker = f'broker: {{host: "{host}", port: {port}, username: {member.name}, password: "{secret}"}}\n'
    match member.kind:
        case "agent":
            return f"node: {member.name}\ntier: {member.tier}\nsite: {member.site}\nfleet: {fleet}\n{broker}"
        case "operator":
            return f"user: {member.name}\nfleet: {fleet}\n{broker}"
        case _:
            return f"fleet: {fleet}\n{broker}"


def _private(path: Path, text: str, for_broker: bool = False) -> None:
    """Write a file that only its owner may read, whole or not at all. for_broker: root makes mosquitto's user the owner, because the broker runs
    as that user."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    if for_broker and os.geteuid() == 0:
        import pwd

        try:
            owner = pwd.getpwnam("mosquitto")
        except KeyError:
            pass
        else:
            os.chown(draft, owner.pw_uid, owner.pw_gid)
    draft.replace(path)


def _program() -> str:
    """The command for mosquitto on this machine; Debian installs it outside a user's PATH."""
    import shutil

    from fogctl.fleet.broker import find_mosquitto

    return "mosquitto" if shutil.which("mosquitto") else find_mosquitto() or "mosquitto"


def _enterable(folder: Path) -> None:
    """ConfigError, as root, if mosquitto's own user cannot enter the folder: mosquitto changes to it before it reads password file and ACL."""
    if os.geteuid() != 0:
        return
    from fog_common.errors import ConfigError

    if closed := [place for place in (folder, *folder.parents) if not place.stat().st_mode & 0o001]:
        raise ConfigError(f"{closed[-1]} is closed to mosquitto's own user, as which a broker started by root runs; choose --out /etc/foglearn")


def _instructions(written: dict[str, Any]) -> list[str]:
    """The commands for each machine, in their order."""
    files = {member["name"]: shlex.quote(member["file"]) for member in written["members"]}
    lines = ["# on this machine: the broker", shlex.join(written["start"]), "", "# on this machine, in other terminals"]
    for member in written["members"]:
        if member["kind"] == "coordinator":
            lines.append(f"fog-coordinator run --config {files[member['name']]}")
        elif member["tier"] == "cloud":
            lines.append(f"fog-agent run --config {files[member['name']]}")
    for member in written["members"]:
        if member["kind"] == "operator":
            lines += [
                "",
                f"# operator {member['name']}, who submits jobs",
                f"mkdir -p ~/.config/foglearn && cp {files[member['name']]} ~/.config/foglearn/fogctl.yaml",
            ]
            lines += ["fogctl doctor"]
    for member in written["members"]:
        if member["kind"] == "agent" and member["tier"] != "cloud":
            lines += ["", f"# node {member['name']} ({member['tier']}, site {member['site']}): its file goes there"]
            lines += [f"scp {files[member['name']]} {member['name']}:", f"# on {member['name']}: the agent"]
            lines += [f"fog-agent run --config ~/{Path(member['file']).name}"]
    if not any(member["kind"] == "agent" and member["tier"] != "cloud" for member in written["members"]):
        lines += ["", "# no node was named: run this again with --node NAME for each machine that trains"]
    return lines

"""Files of mosquitto for a fleet on a network: configuration, password file, access list. Text in, text out."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
import secrets
import socket
from typing import Final

from fog_common.errors import ConfigError
from fog_common.wire import topics

ITERATIONS: Final = 101
"""Number of iterations of mosquitto_passwd; 192 random bits need no more."""
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def password() -> str:
    return secrets.token_urlsafe(24)


def hashed(password: str, salt: bytes | None = None) -> str:
    """The password in the form of mosquitto ≥ 2: `$7$iterations$salt$hash`, PBKDF2 with SHA-512."""
    salt = secrets.token_bytes(12) if salt is None else salt
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def parse_password_file(text: str) -> dict[str, str]:
    """user -> hash; other lines are left out."""
    lines = (line.partition(":") for line in text.splitlines() if ":" in line and not line.startswith("#"))
    return {user: hash for user, _, hash in lines}


def password_file(users: dict[str, str]) -> str:
    return "".join(f"{user}:{hash}\n" for user, hash in users.items())


def listen_address(text: str) -> tuple[str, int]:
    """'10.0.0.5', '10.0.0.5:1884', '[::]:1883', 'broker.local' -> (host, port). ConfigError otherwise."""
    match = re.fullmatch(r"\[([0-9A-Fa-f:.%\w]+)\](?::(\d+))?|([^:\s]+)(?::(\d+))?", text.strip())
    host, port = ("", "") if match is None else (match[1] or match[3], match[2] or match[4] or "1883")
    if match is None:
        host, port = text.strip(), "1883"  # a bare IPv6 address
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        if not _HOST.fullmatch(host) or re.fullmatch(r"[\d.]+", host):
            raise ConfigError(
                f"{text!r} is not an address to listen on; give an address of this machine such as 192.168.1.10[:1883], or 0.0.0.0 for all"
            ) from None
    if not 1 <= int(port) <= 65535:
        raise ConfigError(f"{text!r}: the port must be 1 to 65535")
    return host, int(port)


def reachable(host: str) -> str:
    """The address that other machines use: `host`, or for a wildcard this machine's address on its default route."""
    try:
        wildcard = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host
    if not wildcard:
        return host
    family, target = (socket.AF_INET6, "2001:db8::1") if ":" in host else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((target, 9))  # UDP: chooses the route, sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def configuration(host: str, port: int, password_path: str, acl_path: str) -> str:
    """mosquitto.conf, equal to deploy/mosquitto/lan.conf. Paths must be absolute, because mosquitto resolves others against its working directory."""
    return f"""\
# A broker for foglearn. Start: mosquitto -c <this file>. After adding users: kill -HUP <its pid>.
listener {port} {host}
allow_anonymous false
password_file {password_path}
acl_file {acl_path}
# No state needs to survive a restart: nodes announce themselves again, and messages on their way are repaired end to end.
persistence false
# Chunks are at most 256 KiB and control messages 1 MB; foglearn sends no larger packets.
max_packet_size 2000000
# Messages held for one subscriber that reads slowly; senders keep fewer than this on their way to it.
max_queued_messages 1000
set_tcp_nodelay true
log_dest stderr
log_type error
log_type warning
log_type notice
"""


def bridge(site: str, cloud: str) -> str:
    """Lines that bridge a site's broker to the cloud's at `cloud` (host:port): deploy/mosquitto/site.conf without users.

    `to` and `cast/all` cross the bridge; a site's own traffic (`d2d`, casts of the site) never does.
    """
    return f"""\
connection bridge-{site}
address {cloud}
remote_clientid bridge-{site}
topic fog/v1/+/to/# out 1
topic fog/v1/+/node/# out 1
topic fog/v1/+/ctl/# out 1
topic fog/v1/+/to/{site}/# in 1
topic fog/v1/+/cast/all/# both 1
try_private true
cleansession true
notifications false
keepalive_interval 15
restart_timeout 1
"""


def access_list(fleet: str, agents: list[str], operators: list[str]) -> str:
    """The access list: a user writes only as itself ({sender} is the connection's user) and reads only its own inbox; agents read casts."""
    sent = [topic.filter(fleet=fleet, sender="%u") for topic in (topics.D2D, topics.TO, topics.CAST)]
    inbox = [topic.filter(fleet=fleet, node="%u") for topic in (topics.D2D, topics.TO)]
    lines = [
        "# All users: write only as oneself, read one's own inbox.",
        *(f"pattern write {topic}" for topic in sent),
        *(f"pattern read {topic}" for topic in inbox),
        f"pattern readwrite {topics.PRESENCE.at(fleet=fleet, node='%u')}",
        "",
        "# The coordinator: reads presence and the requests of operators.",
        "user coordinator",
        f"topic read {topics.PRESENCE.filter(fleet=fleet)}",
        f"topic read {topics.REQUEST.filter(fleet=fleet)}",
    ]
    for agent in agents:
        lines += ["", f"user {agent}", f"topic read {topics.CAST.filter(fleet=fleet)}"]
    for operator in operators:
        lines += [
            "",
            "# An operator: may send requests to the coordinator.",
            f"user {operator}",
            f"topic write {topics.REQUEST.filter(fleet=fleet, sender=operator)}",
        ]
    return "\n".join(lines) + "\n"

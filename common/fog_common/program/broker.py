"""The broker's address on a command line."""

from __future__ import annotations

from fog_common.errors import ConfigError


def address(text: str) -> tuple[str, int]:
    """'host', 'host:port', '[::1]:port' -> (host, port). ConfigError for anything else."""
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon or (":" in host and not host.startswith("[")):
        host, port = text, "1883"  # no port, or a bare IPv6 address
    if not host or not port.isdigit() or not 1 <= int(port) <= 65535 or any(c.isspace() for c in host):
        raise ConfigError(f"--broker {text!r} is not an address; expected HOST or HOST:PORT, such as 192.168.1.10:1883")
    return host.strip("[]"), int(port)

"""Access to the broker from the `broker:` section: password, TLS context, largest payload."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

from fog_common.bus.base import BrokerConfig
from fog_common.errors import ConfigError

HEADER_ROOM: Final = 1024
"""Bytes of the broker's packet limit that are left for the topic and the MQTT header."""
MQTT_MAX_PAYLOAD: Final = 268_435_455 - HEADER_ROOM


def payload_limit(config: BrokerConfig, packet_bytes: int | None = None) -> int:
    """Largest payload in bytes: the broker's packet limit less the header, or the configured cap if that is smaller."""
    broker = MQTT_MAX_PAYLOAD if packet_bytes is None else max(1, min(packet_bytes - HEADER_ROOM, MQTT_MAX_PAYLOAD))
    return min(broker, config.max_payload_bytes) if config.max_payload_bytes > 0 else broker


def password(config: BrokerConfig) -> str | None:
    """The password from the configuration or its file; None without one. ConfigError if the file cannot be read."""
    if not config.password_file:
        return config.password or None
    path = Path(config.password_file).expanduser()
    if not path.is_absolute() and (folder := os.environ.get("CREDENTIALS_DIRECTORY")):
        path = Path(folder) / path
    try:
        return path.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"broker.password_file: cannot read {path}: {error}") from None


def tls_context(config: BrokerConfig) -> ssl.SSLContext | None:
    """None without tls_ca. ConfigError if the CA file cannot be read."""
    if not config.tls_ca:
        return None
    try:
        return ssl.create_default_context(cafile=str(Path(config.tls_ca).expanduser()))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"broker.tls_ca: cannot read {config.tls_ca} as a CA file: {error}") from None

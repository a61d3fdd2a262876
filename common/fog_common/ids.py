"""Ids and their alphabet: checked where they enter, trusted afterwards."""

from __future__ import annotations

import re
from typing import Annotated, Final, NewType

from msgspec import Meta

from fog_common.errors import ConfigError

NodeId = NewType("NodeId", str)
JobId = NewType("JobId", str)
TaskId = NewType("TaskId", str)

COORDINATOR: Final = "coordinator"
"""The coordinator's address as a node; its site is CLOUD_SITE."""
CLOUD_SITE: Final = "cloud"
TIERS: Final = ("thing", "edge", "fog", "cloud")

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
Id = Annotated[str, Meta(pattern=rf"^{_ID.pattern}\Z", description="1 to 32 of a-z, 0-9 and '-', beginning with a letter or digit")]
"""The type of ids in configuration files."""


def checked_id(text: str, what: str = "id") -> str:
    """`text` itself if it matches [a-z0-9][a-z0-9-]{0,31}; ConfigError otherwise (dots and slashes break brokers)."""
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise ConfigError(f"{what} {text!r} is not allowed: 1 to 32 of a-z, 0-9 and '-', beginning with a letter or digit")
    return text


def is_id(text: str) -> bool:
    """The same question about what a peer sent: no error, a decision."""
    return bool(_ID.fullmatch(text))

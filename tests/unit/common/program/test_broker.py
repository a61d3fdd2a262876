"""The broker's address on a command line."""

from __future__ import annotations

import pytest

from fog_common.errors import ConfigError
from fog_common.program.broker import address


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


@pytest.mark.parametrize("text", ["", ":1883", "h:port", "h:0", "h:65536", "my host"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"not an address; expected HOST or HOST:PORT, such as 192\.168\.1\.10:1883"):
        address(text)

"""What an agent's configuration adds to the facts that it announces."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fog_agent.config import load_config
from fog_agent.node import probes
from fog_common.errors import ConfigError
from fog_common.facts import Link
from fog_common.wire.messages import Announce, decode, encode


def config(folder: Path, links: str) -> Path:
    file = folder / "agent.yaml"
    file.write_text(f"node: pi-1\nlinks: {links}\n")
    return file


def test_declared_links_are_announced_with_the_facts(tmp_path: Path):
    known = load_config(config(tmp_path, "{pi-2: {latency_s: 0.0005, bytes_per_s: 12000000.0}}"))
    profile = probes.profile(known, tmp_path, [], "modelled")
    message = decode(encode(Announce("pi-1", "n", profile)))
    assert isinstance(message, Announce)
    assert message.profile.links == {"pi-2": Link(0.0005, 1.2e7)}
    assert msgspec.to_builtins(message.profile) == msgspec.to_builtins(profile)


@pytest.mark.parametrize("link", ["{latency_s: 0.1}", "{latency_s: 0.1, bytes_per_s: 0}", "{latency_s: 0.1, bytes_per_s: 1, rate: 3}"])
def test_a_link_that_cannot_be_is_a_mistake_in_the_file(tmp_path: Path, link: str):
    with pytest.raises(ConfigError, match="links"):
        load_config(config(tmp_path, f"{{pi-2: {link}}}"))

"""The conditions of a role, in words."""

from __future__ import annotations

from fog_learning.job.sections import Where


def described(rules: Where) -> str:
    """'of tier fog, with label gpu=yes': what `placement` asks for, for a person."""
    parts = [f"named {', '.join(rules.names)}"] if rules.names else []
    parts += [f"of tier {' or '.join(rules.tier)}"] if rules.tier else []
    parts += [f"of site {' or '.join(rules.site)}"] if rules.site else []
    parts += [f"with label {key}={wanted}" for key, wanted in rules.labels.items()]
    return ", ".join(parts) or "of any kind"

"""Drawings of a tree as text, Graphviz and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from fog_common.wire.api.fleet import TreeEntry
from fog_common.wire.api.states import ONLINE

FOLD: Final = 12
"""Largest number of equal leaves of one parent that the terminal shows one by one."""
COLOURS: Final = {"cloud": "#cfe2f3", "fog": "#d9ead3", "edge": "#fff2cc", "thing": "#f4f4f4"}
ROW, COLUMN, BOX_WIDTH, BOX_HEIGHT = 26, 230, 190, 20


def label(entry: TreeEntry) -> str:
    """'aggregator-1-1 on gate-1', or only the node for a data task."""
    node, role = entry.node, entry.role
    if entry.slot >= 0 or entry.id == node:
        return node
    return f"{entry.id} on {node}" if role else node


def remark(entry: TreeEntry) -> str:
    """'edge, site hall-1, offline'"""
    parts = [entry.tier or "unknown", f"site {entry.site}" if entry.site else "", entry.state if entry.state != ONLINE else ""]
    return ", ".join([part for part in parts if part])


def text(entries: Sequence[TreeEntry]) -> list[str]:
    """One line per entry, and one line for many equal leaves of one parent."""
    below = _below(entries)
    lines: list[str] = []

    def walk(entry: TreeEntry, before: str, mark: str, after: str) -> None:
        note = f"  {entry.note}" if entry.note else ""
        lines.append(f"{before}{mark}{label(entry)}  ({remark(entry)}){note}")
        children = _folded(below.get(entry.id, []), below)
        for index, child in enumerate(children):
            last = index == len(children) - 1
            if isinstance(child, str):
                lines.append(f"{before}{after}{'└─ ' if last else '├─ '}{child}")
            else:
                walk(child, before + after, "└─ " if last else "├─ ", "   " if last else "│  ")

    for root in below.get(None, []):
        walk(root, "", "", "")
    return lines


def _folded(children: list[TreeEntry], below: dict[str | None, list[TreeEntry]]) -> list[TreeEntry | str]:
    groups: dict[str, list[TreeEntry]] = {}
    for child in children:
        groups.setdefault(remark(child) if child.id not in below else child.id, []).append(child)
    folded: list[TreeEntry | str] = []
    for remarks, group in groups.items():
        if len(group) > FOLD:
            folded.append(f"{len(group)} nodes: {label(group[0])} … {label(group[-1])}  ({remarks})")
        else:
            folded += group
    return folded


def _below(entries: Sequence[TreeEntry]) -> dict[str | None, list[TreeEntry]]:
    below: dict[str | None, list[TreeEntry]] = {}
    for entry in entries:
        below.setdefault(entry.parent, []).append(entry)
    return below


def dot(entries: Sequence[TreeEntry], title: str) -> str:
    """The tree for Graphviz, e.g. `dot -Tpdf`."""
    lines = [f'digraph "{_quoted(title)}" {{', "  rankdir=LR;", '  node [shape=box, style=filled, fontname="sans-serif", fontsize=10];']
    for entry in entries:
        style = "" if entry.state == ONLINE else ", style=dashed"
        colour = COLOURS.get(entry.tier, "#ffffff")
        lines.append(f'  "{_quoted(entry.id)}" [label="{_quoted(label(entry))}\\n{_quoted(remark(entry))}", fillcolor="{colour}"{style}];')
    lines += [f'  "{_quoted(entry.id)}" -> "{_quoted(entry.parent)}";' for entry in entries if entry.parent is not None]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def svg(entries: Sequence[TreeEntry], title: str) -> str:
    """The tree as SVG: root at the left, leaves in rows at the right, each parent beside the middle of its children, a box around each cluster
    of one site."""
    below = _below(entries)
    depth: dict[str, int] = {}
    row: dict[str, float] = {}
    for entry in entries:  # parents come first
        depth[entry.id] = depth[entry.parent] + 1 if entry.parent in depth else 0
    leaves = 0.0
    for entry in _leaves_first(entries, below):
        children = below.get(entry.id, [])
        if children:
            row[entry.id] = sum(row[child.id] for child in (children[0], children[-1])) / 2
        else:
            row[entry.id], leaves = leaves, leaves + 1
    width = COLUMN * (max(depth.values(), default=0) + 1) + 20
    height = ROW * max(1.0, leaves) + 50

    def at(entry: TreeEntry) -> tuple[float, float]:
        return 20 + COLUMN * depth[entry.id], 40 + ROW * row[entry.id]

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}" '
        'font-family="sans-serif" font-size="11">',
        f"<title>{escape(title)}</title>",
        f'<text x="20" y="20" font-size="14">{escape(title)}</text>',
    ]
    for members in below.values():
        if len(members) > 1 and len({each.site for each in members}) == 1 and members[0].parent is not None:
            (x, top), (_, bottom) = at(members[0]), at(members[-1])
            parts.append(
                f'<rect x="{x - 6:g}" y="{top - 4:g}" width="{BOX_WIDTH + 12}" height="{bottom - top + BOX_HEIGHT + 8:g}" rx="6" fill="none" '
                f'stroke="#999999" stroke-dasharray="4 3"><title>site {escape(members[0].site)}</title></rect>'
            )
    by_id = {entry.id: entry for entry in entries}
    for entry in entries:
        if entry.parent in by_id:
            (x, y), (px, py) = at(entry), at(by_id[entry.parent])
            middle = BOX_HEIGHT / 2
            parts.append(
                f'<path d="M{px + BOX_WIDTH:g} {py + middle:g} C{x - 20:g} {py + middle:g} {px + BOX_WIDTH + 20:g} {y + middle:g} {x:g} {y + middle:g}" '
                'fill="none" stroke="#666666"/>'
            )
    for entry in entries:
        x, y = at(entry)
        dashed = "" if entry.state == ONLINE else ' stroke-dasharray="3 2"'
        parts.append(
            f'<g><title>{escape(remark(entry))}</title><rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="3" '
            f'fill="{COLOURS.get(entry.tier, "#ffffff")}" stroke="#444444"{dashed}/>'
            f'<text x="{x + 6:g}" y="{y + 14:g}">{escape(_short(label(entry)))}</text></g>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _short(text: str, most: int = 32) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _leaves_first(entries: Sequence[TreeEntry], below: dict[str | None, list[TreeEntry]]) -> list[TreeEntry]:
    """Entries with children before their parents, leaves from top to bottom."""
    ordered: list[TreeEntry] = []
    open_ = [(root, False) for root in below.get(None, [])[::-1]]
    while open_:
        entry, done = open_.pop()
        if done:
            ordered.append(entry)
        else:
            open_.append((entry, True))
            open_ += [(child, False) for child in below.get(entry.id, [])[::-1]]
    return ordered

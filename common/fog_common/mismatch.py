"""Mismatch between builtins and a type, in words for a person."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec.inspect as kinds

Path = tuple[str | int, ...]
"""Place of a value: mapping keys and list indices from the root."""


def problems(value: Any, type: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """(place, text) of each part of a value of builtins that does not fit the type, in the order of the file.

    path: place of the value itself. A value without problems may still fail to construct, e.g. in a __post_init__.
    """
    return _problems(value, kinds.type_info(type), path)


def suggest(found: str, allowed: list[str], what: str = "key") -> str:
    """'unknown key, did you mean 'rounds'? allowed: …' in one line, for a name that is not allowed."""
    close = difflib.get_close_matches(found, allowed, n=1, cutoff=0.6)
    hint = f", did you mean {close[0]!r}?" if close else "; "
    return f"unknown {what}{hint}{' ' if close else ''}allowed: {', '.join(sorted(allowed)) or 'none'}"


def describe(type: Any) -> str:
    """The values that a type allows, in plain words: 'an integer ≥ 1'."""
    return _words(kinds.type_info(type))


def _problems(value: Any, kind: kinds.Type, path: Path) -> Iterator[tuple[Path, str]]:
    match kind:
        case kinds.StructType(array_like=False, tag_field=None):
            if not isinstance(value, Mapping):
                yield path, f"expected {_words(kind)}, got {shown(value)}"
                return
            fields = {entry.encode_name: entry for entry in kind.fields}
            for key, item in value.items():
                if key in fields:
                    yield from _problems(item, fields[key].type, (*path, key))
                elif kind.forbid_unknown_fields:
                    yield (*path, str(key)), suggest(str(key), list(fields))
            for name, entry in fields.items():
                if entry.required and name not in value:
                    yield path, f"key {name!r} is missing; expected {_words(entry.type)}"
        case kinds.DictType():
            if not isinstance(value, Mapping):
                yield path, f"expected {_words(kind)}, got {shown(value)}"
                return
            for key, item in value.items():
                if not _fits(key, kind.key_type):
                    yield (*path, str(key)), f"as a key, expected {_words(kind.key_type)}"
                yield from _problems(item, kind.value_type, (*path, str(key)))
        case kinds.ListType() | kinds.VarTupleType() | kinds.SetType() | kinds.FrozenSetType():
            size = len(value) if isinstance(value, list | tuple) else -1
            if size < (kind.min_length or 0) or (kind.max_length is not None and size > kind.max_length):
                yield path, f"expected {_words(kind)}, got {shown(value)}"
                return
            for index, item in enumerate(value):
                yield from _problems(item, kind.item_type, (*path, index))
        case kinds.UnionType():
            tries = [list(_problems(value, option, path)) for option in kind.types]
            if all(tries):
                deep = [tried for tried in tries if tried[0][0] != path]  # the right kind of value with a problem inside
                yield from deep[0] if len(deep) == 1 else [(path, f"expected {_words(kind)}, got {shown(value)}")]
        case kinds.AnyType():
            yield from _not_finite(value, path)
        case kinds.Metadata() if not isinstance(kind.type, kinds.StrType | kinds.IntType | kinds.FloatType):
            yield from _problems(value, kind.type, path)
        case _:
            if not _fits(value, kind):
                yield path, f"expected {_words(kind)}, got {shown(value)}"


def _not_finite(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield path, f"expected a finite number, got {value}"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _not_finite(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_finite(item, (*path, index))


def _fits(value: Any, kind: kinds.Type) -> bool:
    match kind:
        case kinds.IntType():
            return isinstance(value, int) and not isinstance(value, bool) and _within(value, kind)
        case kinds.FloatType():
            return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and _within(value, kind)
        case kinds.BoolType():
            return isinstance(value, bool)
        case kinds.NoneType():
            return value is None
        case kinds.LiteralType():
            return any(value == option and type(value) is type(option) for option in kind.values)
        case kinds.StrType():
            if not isinstance(value, str) or len(value) < (kind.min_length or 0) or (kind.max_length is not None and len(value) > kind.max_length):
                return False
            return kind.pattern is None or re.search(kind.pattern, value) is not None
        case kinds.Metadata():
            return _fits(value, kind.type)
        case _:
            return True  # msgspec.convert checks it


def _within(value: float, kind: kinds.IntType | kinds.FloatType) -> bool:
    above = (kind.gt is None or value > kind.gt) and (kind.ge is None or value >= kind.ge)
    below = (kind.lt is None or value < kind.lt) and (kind.le is None or value <= kind.le)
    return above and below and (kind.multiple_of is None or value % kind.multiple_of == 0)


def _words(kind: kinds.Type) -> str:
    """A type in plain words, with its range."""
    match kind:
        case kinds.IntType() | kinds.FloatType():
            name = "an integer" if isinstance(kind, kinds.IntType) else "a number"
            bounds = [(">", kind.gt), ("≥", kind.ge), ("<", kind.lt), ("≤", kind.le)]
            return " ".join([name, " and ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)]).strip()
        case kinds.BoolType():
            return "true or false"
        case kinds.NoneType():
            return "null"
        case kinds.LiteralType():
            return f"one of {', '.join(str(option) for option in kind.values)}"
        case kinds.StrType():
            if kind.pattern is not None:
                return (
                    "1 to 32 of a-z, 0-9 and '-', beginning with a letter or digit"
                    if "a-z0-9-]{0,31}" in kind.pattern
                    else f"text like {kind.pattern}"
                )
            return "text that is not empty" if kind.min_length else "text"
        case kinds.ListType() | kinds.VarTupleType() | kinds.SetType() | kinds.FrozenSetType():
            items = _words(kind.item_type)
            inner = "values" if items == "a value" else f"({items})"
            return f"a list of {kind.min_length} or more {inner}" if kind.min_length else f"a list of {inner}"
        case kinds.StructType() | kinds.DictType():
            return "a mapping (key: value)"
        case kinds.UnionType():
            return " or ".join(_words(option) for option in kind.types)
        case kinds.Metadata():
            description = (kind.extra_json_schema or {}).get("description")
            return str(description) if description else _words(kind.type)
        case _:
            return "a value"


def shown(value: Any) -> str:
    """A value as an error shows it: at most 60 characters on one line."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"

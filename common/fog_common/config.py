"""Strict YAML to typed configuration. Every error is a ConfigError of one line: file, line, key, what was found, what is allowed.

    load(path, Job)                        # jobs/a.yaml:7: train.rounds: expected an integer ≥ 1, got -3
    convert(section, Plan, key="method")   # method.local_stepz: unknown key, did you mean 'local_steps'? …

Less than YAML on purpose: one document, a mapping at the root, no anchors, aliases, tags, merge keys, duplicate keys, NaN or
infinity. Plain scalars follow YAML 1.2 (`1e-3` is a number, `no` and `on` are text), so that a file means what it looks like.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Final, NoReturn, TypeVar

import msgspec
import msgspec.inspect as kinds
import yaml

from fog_common.errors import ConfigError

T = TypeVar("T")
Path = tuple[str | int, ...]
"""Where a value stands: mapping keys and list indices from the root."""

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 24
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: Final[dict[str, Any]] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS.update({"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False})


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file that still knows its lines."""

    root: dict[str, Any]
    source: str
    lines: dict[Path, int] = field(default_factory=dict)

    def error(self, path: Path, text: str) -> ConfigError:
        """`file:line: key: text`; the line of the nearest enclosing key that is in the file."""
        key = f"{dotted(path)}: " if path else ""
        line = self.line(path)
        place = "" if not self.source else f"{self.source}: " if line is None else f"{self.source}:{line}: "
        return ConfigError(_one_line(f"{place}{key}{text}"))

    def located(self, error: ConfigError) -> ConfigError:
        """The error with file and line, if its text begins with a key of this document (`model.hidden must …`)."""
        text = str(error)
        if not self.source or text.startswith(f"{self.source}:"):
            return error
        key = re.match(r"[A-Za-z_][\w-]*(\[\d+\]|\.[\w-]+)*", text)
        path = _undotted(key[0]) if key else ()
        line = self.line(path) if path and path[0] in self.root else None
        return ConfigError(f"{self.source}: {text}" if line is None else f"{self.source}:{line}: {text}")

    def line(self, path: Path) -> int | None:
        """The line of a key, or of the nearest enclosing one that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def to(self, type: type[T]) -> T:
        """The document as a `type`; ConfigError with file, line and key."""
        return _converted(self, self.root, type, ())


def load(path: str | FilePath, type: type[T]) -> T:
    """The file at `path` as a `type` (a msgspec struct)."""
    return read(path).to(type)


def parse(text: str, type: type[T], source: str = "text") -> T:
    return compose(text, source).to(type)


def convert(value: Any, type: type[T], source: str = "", key: str = "") -> T:
    """Builtins (a section, an argument, a decoded message) as a `type`, as strictly as a file. key: prefix of the keys in errors."""
    prefix = tuple(key.split(".")) if key else ()
    return _converted(Document({}, source), value, type, prefix)


def read(path: str | FilePath) -> Document:
    """The document in a file, not yet typed. ConfigError if it cannot be read or is no plain YAML mapping."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read: {error.strerror or error}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES // 1024} KiB, which is no configuration file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}:{raw[: error.start].count(10) + 1}: not UTF-8 text (byte {raw[error.start]:#04x})") from None
    return compose(text, str(path))


def compose(text: str, source: str = "text") -> Document:
    """The document in `text`, not yet typed."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source}: larger than {MAX_BYTES // 1024} KiB, which is no configuration file")
    return _Composer(source).compose(text)


def dotted(path: Path) -> str:
    """('nodes', 'names', 2) -> 'nodes.names[2]'."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def suggest(found: str, allowed: list[str], what: str = "key") -> str:
    """'unknown key, did you mean 'rounds'? allowed: …' in one line."""
    close = difflib.get_close_matches(found, allowed, n=1, cutoff=0.6)
    hint = f", did you mean {close[0]!r}?" if close else "; "
    return f"unknown {what}{hint}{' ' if close else ''}allowed: {', '.join(sorted(allowed)) or 'none'}"


def describe(type: Any) -> str:
    """What a type allows, in plain words: 'an integer ≥ 1'."""
    return _words(kinds.type_info(type))


# -- text to builtins ----------------------------------------------------------------------


class _Composer:
    """Builds builtins from parser events, so that what YAML can do beyond data is refused where it stands."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[Path, int] = {}

    def compose(self, text: str) -> Document:
        try:
            events = yaml.parse(text, Loader=yaml.SafeLoader)
            root = self._document(events)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self._error(mark, f"not YAML: {' '.join(str(error.problem or error.context).split())}") from None
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise ConfigError(f"{self.source}:{line}: not text: character {error.character!r} is not allowed") from None
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            raise ConfigError(f"{self.source}: not YAML: {' '.join(str(error).split())[:200]}") from None
        return Document(root, self.source, self.lines)

    def _document(self, events: Iterator[Any]) -> dict[str, Any]:
        root: Any = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error(event.start_mark, "a second document begins here; only one is allowed")
                first = next(events)
                if not isinstance(first, yaml.MappingStartEvent):
                    self._plain(first)
                    if self._kind(first) == "nothing":
                        break
                    raise self._error(first.start_mark, f"expected a mapping (key: value), got {self._kind(first)}")
                root = self._value(first, events, ())
        if root is None:
            raise ConfigError(f"{self.source}: the file is empty; expected a mapping (key: value)")
        return root  # type: ignore[no-any-return]

    def _value(self, event: Any, events: Iterator[Any], path: Path) -> Any:
        self._plain(event)
        self.lines.setdefault(path, event.start_mark.line + 1)
        if len(path) > MAX_DEPTH:
            raise self._error(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(events), yaml.SequenceEndEvent):
                items.append(self._value(event, events, (*path, len(items))))
            return items
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._key(event)
            inner = (*path, key)
            if key in mapping:
                raise self._error(event.start_mark, f"{dotted(inner)}: key given twice, first on line {self.lines[inner]}")
            self.lines[inner] = event.start_mark.line + 1
            mapping[key] = self._value(next(events), events, inner)
        return mapping

    def _key(self, event: Any) -> str:
        self._plain(event)
        if not isinstance(event, yaml.ScalarEvent):
            raise self._error(event.start_mark, f"a key must be text, got {self._kind(event)}")
        if event.value == "<<" and event.implicit[0]:
            raise self._error(event.start_mark, "merge keys (<<) are not allowed; write the values out")
        return str(event.value)

    def _scalar(self, event: Any, path: Path) -> Any:
        text = event.value
        if not event.implicit[0]:  # quoted: text as it stands
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
                raise self._error(event.start_mark, f"{dotted(path)}: integer of more than 64 bits")
            return int(text)
        if _FLOAT.fullmatch(text):
            value = float(text)
            if not math.isfinite(value):
                raise self._error(event.start_mark, f"{dotted(path)}: expected a finite number, got {text}")
            return value
        if _NOT_FINITE.fullmatch(text):
            raise self._error(event.start_mark, f"{dotted(path)}: expected a finite number, got {text}")
        return text

    def _plain(self, event: Any) -> None:
        """Refuse aliases, anchors and tags."""
        if isinstance(event, yaml.AliasEvent):
            raise self._error(event.start_mark, f"aliases (*{event.anchor}) are not allowed; write the value out")
        if event.anchor is not None:
            raise self._error(event.start_mark, f"anchors (&{event.anchor}) are not allowed; write the value out")
        if event.tag is not None:
            raise self._error(event.start_mark, f"tags ({event.tag}) are not allowed")

    @staticmethod
    def _kind(event: Any) -> str:
        if isinstance(event, yaml.ScalarEvent):
            return "nothing" if event.implicit[0] and event.value in ("", "~", "null") else f"the text {_shown(event.value)}"
        return "a list" if isinstance(event, yaml.SequenceStartEvent) else "a mapping"

    def _error(self, mark: Any, text: str) -> ConfigError:
        line = f":{mark.line + 1}" if mark is not None else ""
        return ConfigError(_one_line(f"{self.source}{line}: {text}"))


# -- builtins to types ---------------------------------------------------------------------


def _converted(document: Document, value: Any, type: type[T], path: Path) -> T:
    for where, text in _problems(value, kinds.type_info(type), path):
        raise document.error(where, text)
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as error:  # a __post_init__, or a type that _problems does not know
        text, _, at = str(error).rpartition(" - at `$")
        inner = tuple(part for part in at.rstrip("`").split(".") if part) if text else ()
        own = _undotted(text.partition(": ")[0]) if ": " in text else ()
        if own:  # the check named its key itself: 'alpha: …'
            _fail(document, (*path, *inner, *own), text.partition(": ")[2])
        _fail(document, (*path, *inner), text or str(error))
    except ConfigError as error:
        raise document.located(error) from None


def _fail(document: Document, path: Path, text: str) -> NoReturn:
    raise document.error(path, text) from None


def _problems(value: Any, kind: kinds.Type, path: Path) -> Iterator[tuple[Path, str]]:
    """What is wrong with builtins of a configuration, in the order of the file; not wrong does not mean constructible."""
    match kind:
        case kinds.StructType(array_like=False, tag_field=None):
            if not isinstance(value, Mapping):
                yield path, f"expected {_words(kind)}, got {_shown(value)}"
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
                yield path, f"expected {_words(kind)}, got {_shown(value)}"
                return
            for key, item in value.items():
                if not _fits(key, kind.key_type):
                    yield (*path, str(key)), f"as a key, expected {_words(kind.key_type)}"
                yield from _problems(item, kind.value_type, (*path, str(key)))
        case kinds.ListType() | kinds.VarTupleType() | kinds.SetType() | kinds.FrozenSetType():
            size = len(value) if isinstance(value, list | tuple) else -1
            if size < (kind.min_length or 0) or (kind.max_length is not None and size > kind.max_length):
                yield path, f"expected {_words(kind)}, got {_shown(value)}"
                return
            for index, item in enumerate(value):
                yield from _problems(item, kind.item_type, (*path, index))
        case kinds.UnionType():
            tries = [list(_problems(value, option, path)) for option in kind.types]
            if all(tries):
                deep = [found for found in tries if found[0][0] != path]  # the right kind of thing, wrong inside
                yield from deep[0] if len(deep) == 1 else [(path, f"expected {_words(kind)}, got {_shown(value)}")]
        case kinds.AnyType():
            yield from _not_finite(value, path)
        case kinds.Metadata() if not isinstance(kind.type, kinds.StrType | kinds.IntType | kinds.FloatType):
            yield from _problems(value, kind.type, path)
        case _:
            if not _fits(value, kind):
                yield path, f"expected {_words(kind)}, got {_shown(value)}"


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
            return True  # msgspec decides


def _within(value: float, kind: kinds.IntType | kinds.FloatType) -> bool:
    above = (kind.gt is None or value > kind.gt) and (kind.ge is None or value >= kind.ge)
    below = (kind.lt is None or value < kind.lt) and (kind.le is None or value <= kind.le)
    return above and below and (kind.multiple_of is None or value % kind.multiple_of == 0)


def _words(kind: kinds.Type) -> str:
    """A type as a person would say it, with its range."""
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
            said = (kind.extra_json_schema or {}).get("description")
            return str(said) if said else _words(kind.type)
        case _:
            return "a value"


def _shown(value: Any) -> str:
    """A value as it is shown in an error: short, one line."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _one_line(text: str) -> str:
    """Line breaks and control characters of a hostile file shown, not sent to the terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _undotted(head: str) -> Path:
    """'nodes.names[2]' -> ('nodes', 'names', 2); () if it does not look like a key."""
    if not re.fullmatch(r"[A-Za-z_][\w-]*(\[\d+\]|\.[\w-]+)*", head):
        return ()
    return tuple(int(part) if part.isdigit() else part for part in re.findall(r"[\w-]+", head))

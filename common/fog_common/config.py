"""Strict YAML to typed configuration. Every error is a ConfigError of one line: file, line, key, found value, allowed values.

    load(path, Job)                        # jobs/a.yaml:7: train.rounds: expected an integer ≥ 1, got -3
    convert(section, Plan, key="method")   # method.local_stepz: unknown key, did you mean 'local_steps'? …

The reader takes a part of YAML: one document, a mapping at the root, no anchors, aliases, tags, merge keys, duplicate keys, NaN
or infinity. Plain scalars follow YAML 1.2 (`1e-3` is a number, `no` and `on` are text).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Final, NoReturn, TypeVar

import msgspec
import yaml

from fog_common.errors import ConfigError
from fog_common.mismatch import Path, describe, problems, shown, suggest

__all__ = ["Document", "Path", "compose", "convert", "describe", "dotted", "load", "parse", "read", "suggest"]

T = TypeVar("T")

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 24
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: Final[dict[str, Any]] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS.update({"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False})


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file with the line of each key."""

    root: dict[str, Any]
    source: str
    lines: dict[Path, int] = field(default_factory=dict)

    def error(self, path: Path, text: str) -> ConfigError:
        """An error `file:line: key: text`, with the line of the nearest enclosing key that is in the file."""
        key = f"{dotted(path)}: " if path else ""
        line = self.line(path)
        place = "" if not self.source else f"{self.source}: " if line is None else f"{self.source}:{line}: "
        return ConfigError(_one_line(f"{place}{key}{text}"))

    def located(self, error: ConfigError) -> ConfigError:
        """The error with the file, and with the line if its text begins with a key of this document (`model.hidden must …`)."""
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
    """The file at `path` as a `type` (a msgspec struct). ConfigError as of read() and convert()."""
    return read(path).to(type)


def parse(text: str, type: type[T], source: str = "text") -> T:
    """YAML text as a `type`. source: name of the text in errors."""
    return compose(text, source).to(type)


def convert(value: Any, type: type[T], source: str = "", key: str = "") -> T:
    """Builtins (a section, an argument, a decoded message) as a `type`, as strictly as a file. key: prefix of the keys in a ConfigError."""
    prefix = tuple(key.split(".")) if key else ()
    return _converted(Document({}, source), value, type, prefix)


def read(path: str | FilePath) -> Document:
    """The untyped document in a file. ConfigError if the file cannot be read or is not a plain YAML mapping."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read: {error.strerror or error}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES // 1024} KiB, the limit of a configuration file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}:{raw[: error.start].count(10) + 1}: not UTF-8 text (byte {raw[error.start]:#04x})") from None
    return compose(text, str(path))


def compose(text: str, source: str = "text") -> Document:
    """The untyped document in `text`. ConfigError if the text is not a plain YAML mapping."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source}: larger than {MAX_BYTES // 1024} KiB, the limit of a configuration file")
    return _Composer(source).compose(text)


def dotted(path: Path) -> str:
    """('nodes', 'names', 2) -> 'nodes.names[2]'."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


# -- text to builtins ----------------------------------------------------------------------


class _Composer:
    """Builds builtins from parser events, and refuses at its line all YAML beyond plain data."""

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
        if not event.implicit[0]:  # quoted: always text
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
            return "nothing" if event.implicit[0] and event.value in ("", "~", "null") else f"the text {shown(event.value)}"
        return "a list" if isinstance(event, yaml.SequenceStartEvent) else "a mapping"

    def _error(self, mark: Any, text: str) -> ConfigError:
        line = f":{mark.line + 1}" if mark is not None else ""
        return ConfigError(_one_line(f"{self.source}{line}: {text}"))


# -- builtins to types ---------------------------------------------------------------------


def _converted(document: Document, value: Any, type: type[T], path: Path) -> T:
    for where, text in problems(value, type, path):
        raise document.error(where, text)
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as error:  # raised by a __post_init__, or by a type that problems() does not check
        text, _, at = str(error).rpartition(" - at `$")
        inner = tuple(part for part in at.rstrip("`").split(".") if part) if text else ()
        own = _undotted(text.partition(": ")[0]) if ": " in text else ()
        if own:  # the text of the check begins with its key: 'alpha: …'
            _fail(document, (*path, *inner, *own), text.partition(": ")[2])
        _fail(document, (*path, *inner), text or str(error))
    except ConfigError as error:
        raise document.located(error) from None


def _fail(document: Document, path: Path, text: str) -> NoReturn:
    raise document.error(path, text) from None


def _one_line(text: str) -> str:
    """The text with line breaks and control characters escaped, so that a hostile file cannot steer the terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _undotted(head: str) -> Path:
    """'nodes.names[2]' -> ('nodes', 'names', 2); () if the text is not a key."""
    if not re.fullmatch(r"[A-Za-z_][\w-]*(\[\d+\]|\.[\w-]+)*", head):
        return ()
    return tuple(int(part) if part.isdigit() else part for part in re.findall(r"[\w-]+", head))

"""Strict configuration: what a file means, and the one line that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from fog_common import config
from fog_common.errors import ConfigError
from fog_common.ids import Id


class Inner(Struct, frozen=True, forbid_unknown_fields=True):
    rounds: Annotated[int, Meta(ge=1)] = 1
    rate: Annotated[float, Meta(gt=0, le=1)] = 1.0
    kind: Literal["iid", "shards"] = "iid"
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.rounds == 13:
            raise ValueError("rounds: 13 brings bad luck")
        if self.rounds == 14:
            raise ValueError("this cannot be")


class Outer(Struct, frozen=True, forbid_unknown_fields=True):
    name: Id
    inner: Inner = Inner()
    names: list[Id] = []
    table: dict[Id, str] = {}
    free: dict[str, Any] = {}
    on: bool = False


def fault(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, Outer, "f.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_file_becomes_its_type() -> None:
    text = "name: a-1\ninner:\n  rounds: 3\n  rate: 1e-3\nnames: [b, 'c']\ntable: {x: 'on'}\nfree: {deep: [1, 2.5, no, null]}\non: true\n"
    got = config.parse(text, Outer)
    assert got == Outer("a-1", Inner(3, 0.001), ["b", "c"], {"x": "on"}, {"deep": [1, 2.5, "no", None]}, True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-0", 0),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("010", "010"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("yes", "yes"),
        ("~", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("2024-01-01", "2024-01-01"),
        ("12:30:00", "12:30:00"),
        ("True", True),
        ("", None),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    got = config.compose(f"x: {text}").root["x"]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f.yaml: the file is empty; expected a mapping (key: value)"),
        ("# only a comment\n", "f.yaml: the file is empty; expected a mapping (key: value)"),
        ("---\n", "f.yaml: the file is empty; expected a mapping (key: value)"),
        ("- a\n", "f.yaml:1: expected a mapping (key: value), got a list"),
        ("\nhello\n", "f.yaml:2: expected a mapping (key: value), got the text 'hello'"),
        ("name: a\n---\nname: b\n", "f.yaml:2: a second document begins here; only one is allowed"),
        ("name: a\nname: b\n", "f.yaml:2: name: key given twice, first on line 1"),
        ("name: a\ninner:\n  rounds: 1\n  rounds: 2\n", "f.yaml:4: inner.rounds: key given twice, first on line 3"),
        ("name: &n a\n", "f.yaml:1: anchors (&n) are not allowed; write the value out"),
        ("name: a\ninner: &n {}\n", "f.yaml:2: anchors (&n) are not allowed; write the value out"),
        ("name: *n\n", "f.yaml:1: aliases (*n) are not allowed; write the value out"),
        ("name: a\nfree:\n  <<: {b: 1}\n", "f.yaml:3: merge keys (<<) are not allowed; write the values out"),
        ("name: !!python/object/apply:os.system [id]\n", "f.yaml:1: tags (tag:yaml.org,2002:python/object/apply:os.system) are not allowed"),
        ("name: !x a\n", "f.yaml:1: tags (!x) are not allowed"),
        ("? [a]\n: 1\n", "f.yaml:1: a key must be text, got a list"),
        ("name: a\nfree: {x: .nan}\n", "f.yaml:2: free.x: expected a finite number, got .nan"),
        ("name: a\nfree: {x: -.inf}\n", "f.yaml:2: free.x: expected a finite number, got -.inf"),
        ("name: a\nfree: {x: 1e999}\n", "f.yaml:2: free.x: expected a finite number, got 1e999"),
        ("name: a\nfree: {x: 9223372036854775808}\n", "f.yaml:2: free.x: integer of more than 64 bits"),
        ("name: a\n\tinner: {}\n", "f.yaml:2: not YAML: found character '\\t' that cannot start any token"),
        ("name: [a\n", "f.yaml:2: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("name: a\x00\n", "f.yaml:1: not text: character 0 is not allowed"),
        ("name: a\ninner: {ronds: 3}\n", "f.yaml:2: inner.ronds: unknown key, did you mean 'rounds'? allowed: kind, limit, rate, rounds"),
        ("name: a\nzzz: 3\n", "f.yaml:2: zzz: unknown key; allowed: free, inner, name, names, on, table"),
        ("inner: {}\n", "f.yaml:1: key 'name' is missing; expected 1 to 32 of a-z, 0-9 and '-', beginning with a letter or digit"),
        ("name: a\ninner: 3\n", "f.yaml:2: inner: expected a mapping (key: value), got 3"),
        ("name: a\ninner:\n\n  rounds: -3\n", "f.yaml:4: inner.rounds: expected an integer ≥ 1, got -3"),
        ("name: a\ninner: {rounds: 2.0}\n", "f.yaml:2: inner.rounds: expected an integer ≥ 1, got 2.0"),
        ("name: a\ninner: {rounds: true}\n", "f.yaml:2: inner.rounds: expected an integer ≥ 1, got true"),
        ("name: a\ninner: {rounds: '2'}\n", "f.yaml:2: inner.rounds: expected an integer ≥ 1, got '2'"),
        ("name: a\ninner: {rate: nan}\n", "f.yaml:2: inner.rate: expected a number > 0 and ≤ 1, got 'nan'"),
        ("name: a\ninner: {kind: idd}\n", "f.yaml:2: inner.kind: expected one of iid, shards, got 'idd'"),
        ("name: a\ninner: {limit: x}\n", "f.yaml:2: inner.limit: expected an integer or null, got 'x'"),
        ("name: a\ninner: {rounds: 13}\n", "f.yaml:2: inner.rounds: 13 brings bad luck"),
        ("name: a\ninner: {rounds: 14}\n", "f.yaml:2: inner: this cannot be"),
        ("name: a\nnames: [b,\n C]\n", "f.yaml:3: names[1]: expected 1 to 32 of a-z, 0-9 and '-', beginning with a letter or digit, got 'C'"),
        ("name: a\nnames: b\n", "f.yaml:2: names: expected a list of (1 to 32 of a-z, 0-9 and '-', beginning with a letter or digit), got 'b'"),
        ("name: a\ntable: {A.b: x}\n", "f.yaml:2: table.A.b: as a key, expected 1 to 32 of a-z, 0-9 and '-', beginning with a letter or digit"),
        ("name: a\non: yes\n", "f.yaml:2: on: expected true or false, got 'yes'"),
        ('name: a\n"x\\n\\e": 1\n', "f.yaml:2: x\\n\\x1b: unknown key; allowed: free, inner, name, names, on, table"),
        ("name: a\nfree: !%0a [1]\n", "f.yaml:2: tags (!\\n) are not allowed"),
        ('name: "a\\n"\n', "f.yaml:1: name: expected 1 to 32 of a-z, 0-9 and '-', beginning with a letter or digit, got 'a\\n'"),
    ],
)
def test_a_fault_is_told_with_file_line_and_key(text: str, said: str) -> None:
    assert fault(text) == said


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    layers = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert fault("\n".join(layers)) == "f.yaml:1: anchors (&a0) are not allowed; write the value out"


def test_depth_and_size_have_limits() -> None:
    assert "nested deeper than 24 levels" in fault("free: " + "{a: " * 30 + "1" + "}" * 30)
    assert "nested deeper than 24 levels" in fault("free: " + "[" * 10_000)
    assert "larger than 256 KiB" in fault("name: " + "a" * 300_000)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=said) as caught:
            config.load(path, Outer)
        assert str(caught.value).startswith(f"{path}: cannot read: ")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: a\nfree: {x: \xe9}\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2: not UTF-8 text \(byte 0xe9\)"):
        config.load(latin, Outer)
    marked = tmp_path / "bom.yaml"
    marked.write_bytes(b"\xef\xbb\xbfname: a\r\ninner: {rounds: 2}\r\n")
    assert config.load(marked, Outer) == Outer("a", Inner(2))


def test_builtins_are_checked_like_a_file() -> None:
    assert config.convert({"rounds": 2}, Inner) == Inner(2)
    for value, said in (
        ({"rounds": 0}, "method.rounds: expected an integer ≥ 1, got 0"),
        ({"rate": float("nan")}, "method.rate: expected a number > 0 and ≤ 1, got nan"),
        ({"rate": float("inf")}, "method.rate: expected a number > 0 and ≤ 1, got inf"),
        ([], "method: expected a mapping (key: value), got an empty list"),
        (None, "method: expected a mapping (key: value), got nothing"),
    ):
        with pytest.raises(ConfigError) as caught:
            config.convert(value, Inner, key="method")
        assert str(caught.value) == said


def test_an_error_of_a_later_check_gets_its_line() -> None:
    document = config.compose("name: a\nfree:\n  hidden: [1]\n", "f.yaml")
    said = [
        str(document.located(ConfigError(text))) for text in ("free.hidden must be odd", "free.absent: unknown", "elsewhere: no", "f.yaml:9: done")
    ]
    assert said == ["f.yaml:3: free.hidden must be odd", "f.yaml:2: free.absent: unknown", "f.yaml: elsewhere: no", "f.yaml:9: done"]


def outcome(parse: Callable[[], Outer]) -> tuple[Outer | None, str]:
    try:
        return parse(), ""
    except ConfigError as error:
        return None, str(error)


LETTERS = "ab1-.:é\u2028 \n\x00"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(LETTERS, max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(LETTERS, min_size=1, max_size=6), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.thorough
@given(st.dictionaries(st.sampled_from(["name", "inner", "names", "table", "free", "on", "x"]), JSON, max_size=7))
def test_whatever_comes_is_a_struct_or_a_config_error(value: dict[str, Any]) -> None:
    got, said = outcome(lambda: config.convert(value, Outer))
    if got is None:
        assert said.isprintable() and said
    else:
        assert got.name == value["name"]
        assert got.inner.rounds >= 1


@given(st.text("a1:[]{}-&*!|>'\"#%@`,?\\xU \n\t\x07\x85\ufeff\U0001f600", max_size=60))
def test_any_text_is_a_mapping_or_a_config_error(text: str) -> None:
    got, said = outcome(lambda: config.parse(text, Outer))
    assert isinstance(got, Outer) or (said.isprintable() and said)

"""YAML text: parsed safely, and written so that old and new readers agree."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from vacc_files import COMPILE

from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.yaml_nodes import YamlError
from quantkit.vendors.vacc.yaml_text import dump, float_text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system [ls]", "line 1: the tag .*os.system is refused"),
        ("a: !house 3", "line 1: the tag !house is refused"),
        ("a: !!binary aGk=", "line 1: the tag .*binary is refused"),
        ("? !house a\n: b", "line 1: the tag !house is refused"),
        ("x:\n  y: &a [*a]", "line 2: an alias refers to a value that contains it"),
        ("{{name}}: 2", "line 1: a key must be a plain word; quote"),
        ("a:\n\tb: 1", "line 2: a tab instead of spaces"),
        ("a: [1, 2", "line 1: not YAML"),
        ("a: 1\n---\nb: 2", "line 2: not YAML .*another document"),
        ("a: b: c", "line 1: not YAML .*mapping values are not allowed"),
        ("a: \0", "not YAML"),
        ("a: 1" + "0" * 5000, "not YAML .*digits"),
        ("[" * 1000, "nested too deeply"),
        ('name: small\nfrontend: {shape: {in: "\\ud800\\udc00"}}', "line 2: lone surrogate in escape sequence"),
        ("a: " + "x" * (1 << 20), "too large for a build file"),
    ],
)
def test_document_refused_text_is_named_with_line(text: str, message: str) -> None:
    with pytest.raises(YamlError, match=f"f.yaml(, |: ).*{message}" if "line" not in message else f"f.yaml, {message}"):
        Document.parse(text, "f.yaml")


def test_document_multiplying_aliases_are_refused() -> None:
    rows = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    rows += [f"{new}: &{new} [{', '.join(['*' + old] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    with pytest.raises(YamlError, match="line 5: more than 50000 values with expanded aliases"):
        Document.parse("\n".join(rows))


def test_document_harmless_aliases_and_merges_are_read() -> None:
    document = Document.parse("base: &b {size: [2, 3], k: 1}\nother: {<<: *b, k: 2}\nlist: [*b]")
    assert document.data["other"] == {"k": 2, "size": [2, 3]}
    assert document.data["list"] == [{"size": [2, 3], "k": 1}]


def test_document_repeated_key_gives_last_value() -> None:
    document = Document.parse("a: 1\nb: {c: [2], 'c': [2]}\na: 3\n")
    assert document.data == {"a": 3, "b": {"c": [2]}}
    assert [(key.path, key.lines, key.equal) for key in document.repeated] == [
        (("a",), (1, 3), False),
        (("b", "c"), (2, 2), True),
    ]
    assert document.line_of(("a",)) == 3


def test_document_data_are_plain_values() -> None:
    document = Document.parse("a: 0x1F\nb: 1e-5\nc: 'x'\nd: 2023-04-07\ne: ~\nf: True\n1: .inf\nyes: no\n~: 3")
    assert document.data == {
        "a": 31, "b": 1e-5, "c": "x", "d": "2023-04-07", "e": None, "f": True, "1": math.inf, "yes": "no", "null": 3
    }  # fmt: skip
    kinds = {type(value) for value in document.data.values()}
    assert kinds == {int, float, str, type(None), bool}


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("name: 模型\n".encode(), "utf-8"),
        (b"\xef\xbb\xbfname: x\n", "utf-8-sig"),
        ("name: 模型\n".encode("gb18030"), "gb18030"),
        ("name: x\n".encode("utf-16"), "utf-16"),
        (b"name: x # \xff\xff\n", "latin-1"),
    ],
)
def test_document_encodings_are_read(tmp_path: Path, content: bytes, encoding: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    document = Document.load(path)
    assert document.encoding == encoding
    assert document.data["name"] in ("模型", "x")


def test_document_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"a: 1 # one\r\nb:\r\n  c: 2\r\n")
    document = Document.load(path)
    assert (document.data, document.line_of(("b", "c"))) == ({"a": 1, "b": {"c": 2}}, 3)


def test_document_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(YamlError, match=r"gone.yaml: cannot read the file \(no such file"):
        Document.load(tmp_path / "gone.yaml")


def test_document_values_are_found_by_dotted_path() -> None:
    document = Document.parse(COMPILE)
    assert document.get("frontend.shape.input.1") == [1, 3, 224, 224]  # the key holds a dot
    assert document.get("dataset.process_ops.2.crop_size.0") == 224
    assert document.get(("dataset", "process_ops", 1, "size")) == [256, 256]
    for missing in ("backend.none.at.all", "dataset.process_ops.9", "name.x", ("dataset", "process_ops", -1)):
        assert document.get(missing) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), VALUES, max_size=4))
@example({"a": ["?0"]})
@example({"a": [":0", "-0"]})
def test_dump_any_data_loads_back_the_same(data: dict[str, Any]) -> None:
    assert Document.parse(dump(data)).data == (data or {})


@settings(deadline=None)
@given(st.text("yesnoffYNOtrue~123.:e+-_ul", max_size=6) | st.floats(allow_nan=False, allow_infinity=False))
def test_dump_is_read_the_same_by_yaml_1_1(value: str | float) -> None:
    old = YAML(typ="safe", pure=True)
    old.version = (1, 1)
    assert old.load(dump({"k": value})) == {"k": value}


def test_dump_floats_have_point_and_sign() -> None:
    assert [float_text(x) for x in (1e-05, 1.5e300, 0.1, math.inf)] == ["1.0e-05", "1.5e+300", "0.1", ".inf"]

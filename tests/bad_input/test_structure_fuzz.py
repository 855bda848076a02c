"""Sound files with their structure damaged at random: every parser reads them or refuses them, and nothing else."""

import contextlib
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bad_input.doors import FUZZED, input_folder, prepare
from bad_input.sound import BUILD, COMPILE, PIPELINE, PROJECT, RECORD, SOUND, VDSP
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantkit.errors import QuantkitError

_WORDS = st.sampled_from(
    [
        "",
        "a",
        "model",
        "conv:0",
        "re:[",
        "*",
        "../x",
        "/",
        "\0",
        "é\u2028",
        "null",
        "nan",
        "1e999",
        "RGB",
        "onnx",
        "Resize",
    ]
)
_NUMBERS = st.one_of(
    st.integers(-3, 10),
    st.sampled_from([2**31, 2**63, -(2**63), 2**64, 10**30, 1e30, 1e-300, 1e300, 0.5, float("nan"), float("inf")]),
)
_LEAVES = st.one_of(st.none(), st.booleans(), _NUMBERS, _WORDS, st.text(max_size=8))
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS, inner, max_size=3), max_leaves=6
)


def _places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value within nested data."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way, *(place for step, item in inner for place in _places(item, (*way, step)))]


@st.composite
def damaged(draw: st.DrawFn, sound: Any) -> Any:
    """Return nested data with one to three values replaced, removed, or added."""
    value = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(1, 3))):
        way = draw(st.sampled_from(_places(value)))
        if not way:
            continue
        holder = value
        for step in way[:-1]:
            holder = holder[step]
        what = draw(st.sampled_from(["replace", "remove", "add", "repeat"]))
        if what == "remove":
            del holder[way[-1]]
        elif what == "replace":
            holder[way[-1]] = draw(_VALUES)
        elif isinstance(holder, dict):
            holder[draw(_WORDS)] = draw(_VALUES) if what == "add" else holder[way[-1]]
        else:
            holder.insert(way[-1], draw(_VALUES) if what == "add" else holder[way[-1]])
    return value


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    prepare(folder)
    return folder


def meet(kind: str, name: str, content: bytes, place: Path) -> None:
    """Send bytes through a door."""
    path = input_folder(kind, place) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with contextlib.suppress(QuantkitError):
        FUZZED[kind](path)


@pytest.mark.parametrize("item", SOUND, ids=lambda item: f"{item.kind}: {item.name}")
def test_fuzz_sound_input_is_read(item: Any, place: Path) -> None:
    FUZZED[item.kind](item.write(input_folder(item.kind, place)))


_often = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.mark.parametrize(
    ("kind", "name", "sound"),
    [
        ("project", "quantkit.yaml", PROJECT),
        ("pipeline", "p.yaml", PIPELINE),
        ("build file", "b.yaml", BUILD),
        ("build file", "b.yaml", COMPILE),
        ("vdsp_params", "v.json", VDSP),
        ("run record", "run.json", RECORD),
    ],
    ids=["project", "pipeline", "build", "compile", "vdsp_params", "run record"],
)
@_often
@given(data=st.data())
def test_fuzz_nested_settings_are_read_or_refused(
    kind: str, name: str, sound: Any, place: Path, data: st.DataObject
) -> None:
    meet(kind, name, json.dumps(data.draw(damaged(sound))).encode(), place)


def _sound(kind: str) -> bytes:
    content = next(item.content for item in SOUND if item.kind == kind)
    assert isinstance(content, bytes)
    return content


@pytest.mark.parametrize("kind", ["statistics", "cache entry"])
@_often
@given(data=st.data())
def test_fuzz_safetensors_header_is_read_or_refused(kind: str, place: Path, data: st.DataObject) -> None:
    content = _sound(kind)
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    [(key, text)] = header["__metadata__"].items()
    header["__metadata__"][key] = json.dumps(data.draw(damaged(json.loads(text))))
    if data.draw(st.booleans()):
        header = data.draw(damaged(header))
    said = json.dumps(header).encode()
    meet(kind, "s.safetensors", struct.pack("<Q", len(said)) + said + content[8 + length :], place)


_ARRAYS = st.builds(
    lambda shape, kind: np.zeros(shape, kind),
    st.lists(st.integers(0, 5), max_size=3),
    st.sampled_from(["f4", "f8", "i8", "u1", "?", "c8", "U3", "S2", "M8[s]", [("a", "f4")]]),
)


@pytest.mark.parametrize("kind", ["card result", "predictions"])
@_often
@given(data=st.data())
def test_fuzz_archive_arrays_are_read_or_refused(kind: str, place: Path, data: st.DataObject) -> None:
    with np.load(io.BytesIO(_sound(kind))) as archive:
        sound = dict(archive)
    arrays = dict(sound)
    for name in data.draw(st.lists(st.sampled_from(sorted(sound)), min_size=1, max_size=2)):
        match data.draw(st.sampled_from(["remove", "replace", "say"])):
            case "remove":
                arrays.pop(name, None)
            case "replace":
                arrays[name] = data.draw(_ARRAYS)
            case _ if "origin" in sound:
                said = json.loads(str(sound["origin"]))
                arrays["origin"] = np.array(json.dumps(data.draw(damaged(said))))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    meet(kind, "a.npz", buffer.getvalue(), place)


@pytest.mark.parametrize("kind", ["labels", "evaluation text", "datalist", "calibration set", "class names"])
@_often
@given(data=st.data())
def test_fuzz_lines_are_read_or_refused(kind: str, place: Path, data: st.DataObject) -> None:
    lines = _sound(kind).decode().split("\n")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        words = lines[at].replace(",", " , ").split(" ")
        words[data.draw(st.integers(0, len(words) - 1))] = str(data.draw(_LEAVES))
        change = data.draw(st.sampled_from([[" ".join(words).replace(" , ", ",")], [], [lines[at]] * 2]))
        lines = [*lines[:at], *change, *lines[at + 1 :]] or [""]
    meet(kind, "lines.txt", "\n".join(lines).encode(errors="surrogatepass"), place)


def _messages(message: Any) -> list[Any]:
    """Return a protobuf message and all within it."""
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                found += _messages(inner)
    return found


_INTEGERS = st.sampled_from([-1, 0, 1, 2, 7, 99, 2**31 - 1, -(2**31)])
_DRAWN: dict[type, Callable[[], st.SearchStrategy[Any]]] = {
    int: lambda: _INTEGERS,
    float: lambda: st.sampled_from([0.0, -1.0, float("nan"), float("inf")]),
    str: lambda: st.sampled_from(["", "image", "c", "g", "logits", "Conv", "Relu", "w", "axis", "nowhere"]),
    bytes: lambda: st.binary(max_size=8),
}


@settings(_often, max_examples=150)
@given(data=st.data())
def test_fuzz_graph_fields_are_read_or_refused(place: Path, data: st.DataObject) -> None:
    made = onnx.load_from_string(_sound("model"))
    for _ in range(data.draw(st.integers(1, 3))):
        message = data.draw(st.sampled_from(_messages(made)))
        field = data.draw(st.sampled_from(list(message.DESCRIPTOR.fields)))
        if field.message_type is not None:
            if data.draw(st.booleans()):
                message.ClearField(field.name)
            elif field.is_repeated:
                getattr(message, field.name).add()
            else:
                getattr(message, field.name).SetInParent()
            continue
        # What a field holds is known from what it accepts.
        for kind in data.draw(st.permutations(list(_DRAWN))):
            with contextlib.suppress(TypeError, ValueError):
                if field.is_repeated:
                    getattr(message, field.name).append(data.draw(_DRAWN[kind]()))
                else:
                    setattr(message, field.name, data.draw(_DRAWN[kind]()))
                break
    meet("model", "m.onnx", made.SerializeToString(), place)

"""The vendor's operations as pipelines, and pipelines as the vendor's operations."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from quantkit.config.pipeline import (
    PRESETS,
    CenterCrop,
    Decode,
    Normalize,
    Pad,
    Pipeline,
    Resize,
    ToTensor,
    imagenet_pipeline,
)
from quantkit.data.preprocess import normalize, transform
from quantkit.vendors.vacc.ops import ops_from_pipeline, pipeline_from_ops

ZOO: list[dict[str, Any]] = [
    {"type": "DecodeImage"},
    {"type": "Resize", "size": [256, 256]},
    {"type": "CenterCrop", "crop_size": [224, 224]},
    {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    {"type": "ToTensor"},
]


def test_pipeline_from_usual_ops_is_exact() -> None:
    reading = pipeline_from_ops(ZOO)
    assert reading.notes == ()
    assert reading.pipeline == Pipeline(
        ops=(
            Decode(),
            Resize(size=(256, 256), antialias=False),
            CenterCrop(size=(224, 224)),
            ToTensor(),
            Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        )
    )


def with_op(index: int, **keys: Any) -> list[dict[str, Any]]:
    """The usual list with one operation's keys changed."""
    return [{**op, **keys} if place == index else op for place, op in enumerate(ZOO)]


@pytest.mark.parametrize(
    ("ops", "index", "op"),
    [
        (with_op(0, cv2_flags=0), 0, Decode(mode="L")),
        ([ZOO[0], {"type": "CvtColor", "code": "COLOR_RGB2BGR"}, *ZOO[1:]], 0, Decode(mode="BGR")),
        ([ZOO[0], {"type": "CvtColor", "code": "cv2.COLOR_RGB2GRAY"}, ZOO[1], ZOO[4]], 0, Decode(mode="L")),
        (with_op(1, backend="pillow"), 1, Resize(size=(256, 256))),
        (
            with_op(1, interpolation="cv2.INTER_NEAREST"),
            1,
            Resize(size=(256, 256), interpolation="nearest", antialias=False),
        ),
        (with_op(1, interpolation="bicubic", backend="pillow"), 1, Resize(size=(256, 256), interpolation="bicubic")),
        (with_op(1, size=[256, -1], adaptive_side="short"), 1, Resize(size=256, antialias=False)),
        (with_op(3, div255=False), 3, ToTensor(divisor=1)),
        (with_op(3, div255=None), 3, ToTensor(divisor=1)),
        (with_op(3, div255="yes"), 3, ToTensor(divisor=255)),
        (with_op(2, type="Pad", pad_to_square=True), 2, Pad()),
    ],
)
def test_pipeline_from_ops_each_key_has_its_meaning(ops: list[dict[str, Any]], index: int, op: object) -> None:
    pipeline = pipeline_from_ops(ops).pipeline
    assert pipeline is not None
    assert pipeline.ops[index] == op


@pytest.mark.parametrize(
    ("ops", "channels"),
    [
        (
            [{"type": "DecodeImage"}, {"type": "Normalize", "div255": True, "norm_type": None}, {"type": "ToTensor"}],
            None,
        ),
        ([{"type": "DecodeImage"}, {"type": "Normalize", "div255": False, "mean": [0, 0, 0], "std": [1, 1, 1]}], None),
        ([{"type": "DecodeImage"}, {"type": "Normalize", "mean": [0.5]}, {"type": "ToTensor"}], 1),
    ],
)
def test_pipeline_from_ops_empty_and_half_normalizations_are_read(
    ops: list[dict[str, Any]], channels: int | None
) -> None:
    pipeline = pipeline_from_ops(ops).pipeline
    assert pipeline is not None
    last = pipeline.ops[-1]
    assert isinstance(last, Normalize) == (channels is not None)
    assert not isinstance(last, Normalize) or (last.mean, last.std) == ((0.5,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("ops", "note"),
    [
        (with_op(1, size=[640, -1], adaptive_side="long"), "keeps the aspect by the longer side"),
        (with_op(1, interpolation="magic"), "the interpolation magic is unknown"),
        (with_op(1, size=None), "Resize has no size"),
        (with_op(1, size="many"), "Resize has no equivalent"),
        ([*ZOO, {"type": "ChannelSplit", "index": 0}], "ChannelSplit has no equivalent"),
        ([*ZOO, {"type": "CustomFunc", "module_path": "/tmp/x.py", "func_name": "f"}], "CustomFunc has no equivalent"),
        ([ZOO[0], {"type": "CvtColor", "code": "COLOR_RGB2YCrCb"}], "CvtColor RGB2YCrCb has no equivalent"),
        (with_op(3, std=[0.2]), "mean and std have different lengths"),
        ([{}], "None has no equivalent"),
    ],
)
def test_pipeline_from_ops_without_equal_is_noted(ops: list[dict[str, Any]], note: str) -> None:
    reading = pipeline_from_ops(ops)
    assert reading.pipeline is None
    assert any(note in text for text in reading.notes)


def test_pipeline_from_ops_never_imports_custom_functions(tmp_path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    op = {"type": "CustomFunc", "module_path": str(tmp_path / "evil.py"), "func_name": "f", "input_shape": [1]}
    assert pipeline_from_ops([op]).pipeline is None
    assert not (tmp_path / "ran").exists()


def test_ops_from_pipeline_imagenet_squashes_with_note() -> None:
    writing = ops_from_pipeline(PRESETS["imagenet"])
    assert writing.ops[1] == {"type": "Resize", "size": [256, 256], "backend": "pillow"}
    assert writing.ops[3] == {
        "type": "Normalize", "div255": True, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]
    }  # fmt: skip
    assert len(writing.notes) == 1
    assert "Resize 256 keeps the aspect here, and [256, 256] does not" in writing.notes[0]


def test_ops_from_pipeline_inexpressible_is_noted() -> None:
    pipeline = Pipeline(ops=(Decode(exif=True), Resize(size=(9, 9), interpolation="lanczos"), Pad(value=7), ToTensor()))
    notes = " ".join(ops_from_pipeline(pipeline).notes)
    assert all(word in notes for word in ("EXIF", "lanczos", "the value 7"))


SIDES = st.tuples(st.integers(1, 400), st.integers(1, 400))
SIZES = st.one_of(
    st.builds(Resize, size=SIDES, antialias=st.booleans()), st.builds(CenterCrop, size=SIDES), st.builds(Pad)
)


@st.composite
def sayable_pipelines(draw: st.DrawFn) -> Pipeline:
    """Pipelines that both can say: fixed sizes, no rotation, pixels divided by 1 or 255."""
    mode = draw(st.sampled_from(["RGB", "BGR", "L"]))
    channels = 1 if mode == "L" else 3
    numbers = st.tuples(*[st.floats(-300, 300)] * channels)
    positive = st.tuples(*[st.floats(0.01, 300)] * channels)
    last = [Normalize(mean=draw(numbers), std=draw(positive))] if draw(st.booleans()) else []
    last = [op for op in last if any(op.mean) or any(value != 1 for value in op.std)]
    return Pipeline(
        ops=(
            Decode(mode=mode),
            *draw(st.lists(SIZES, max_size=4)),
            ToTensor(divisor=draw(st.sampled_from([1, 255]))),
            *last,
        )
    )


@given(sayable_pipelines())
def test_ops_from_pipeline_round_trips(pipeline: Pipeline) -> None:
    writing = ops_from_pipeline(pipeline)
    assert writing.notes == ()
    assert pipeline_from_ops(list(writing.ops)).pipeline == pipeline


@given(st.floats(0.5, 500), st.integers(0, 255))
def test_ops_from_pipeline_other_divisors_go_into_mean_and_std(divisor: float, value: int) -> None:
    """(x / d - m) / s = (x - m d) / (s d), up to float32 rounding."""
    pipeline = Pipeline(ops=(Decode(), ToTensor(divisor=divisor), Normalize(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))))
    read = pipeline_from_ops(list(ops_from_pipeline(pipeline).ops)).pipeline
    assert read is not None
    pixels = transform(Image.new("RGB", (1, 1), (value, value, value)), pipeline)
    results = [np.empty((3, 1, 1), np.float32) for _ in range(2)]
    for one, result in zip((pipeline, read), results, strict=True):
        normalize(pixels, one, result)
    np.testing.assert_allclose(results[0], results[1], rtol=2e-5, atol=2e-5 * max(1.0, 255 / divisor))


def test_ops_from_presets_are_executable() -> None:
    for pipeline in (*PRESETS.values(), imagenet_pipeline(resize=320, crop=299)):
        assert pipeline_from_ops(list(ops_from_pipeline(pipeline).ops)).pipeline is not None

"""The quantizer against onnxruntime's own operators, and the properties that docs/numerics.md promises."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantizers import fake_quantize

from quantkit.errors import UsageError
from quantkit.numerics import (
    SMALLEST_SCALE,
    QParams,
    Range,
    affine_qparams,
    dequantize,
    quantize,
    symmetric_qparams,
)
from quantkit.targets import ORT, TARGETS, TENSORRT, VACC, Target, parse_target

reals = st.floats(-1e30, 1e30, allow_nan=False)
ranges = st.tuples(reals, reals).map(lambda ends: Range.around(min(ends), max(ends)))
targets = st.sampled_from(list(TARGETS.values()))


@given(range_=ranges, target=targets, share=hnp.arrays(np.float64, 64, elements=st.floats(0, 1)))
@settings(max_examples=200)
def test_quantize_within_range_error_is_at_most_half_a_step(range_: Range, target: Target, share: np.ndarray) -> None:
    qparams = target.activations.qparams(range_)
    x = (range_.lo + share * (range_.hi - range_.lo)).astype(np.float32)
    scale = float(qparams.scale)
    error = np.abs(fake_quantize(x, qparams).astype(np.float64) - x)
    # Relay clips at 127 where its scale is threshold / 128: the last step is not covered, by definition.
    covered = np.abs(x) <= scale * 127.5 if target is VACC else np.ones(x.size, bool)
    ulp = np.spacing(np.abs(x)).astype(np.float64) + 256 * scale * 2.0**-24
    assert (error[covered] <= 0.5 * scale * (1 + 1e-6) + 2 * ulp[covered]).all()


@given(range_=ranges, target=targets)
def test_quantize_zero_is_exact(range_: Range, target: Target) -> None:
    assert fake_quantize(np.zeros(3, np.float32), target.activations.qparams(range_)).tolist() == [0.0, 0.0, 0.0]


@given(range_=ranges, target=targets, x=hnp.arrays(np.float32, 32, elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_quantize_twice_changes_nothing(range_: Range, target: Target, x: np.ndarray) -> None:
    qparams = target.activations.qparams(range_)
    once = quantize(x, qparams)
    np.testing.assert_array_equal(quantize(dequantize(once, qparams), qparams), once)
    assert once.min() >= qparams.qmin
    assert once.max() <= qparams.qmax


def onnxruntime_quantize(x: np.ndarray, qparams: QParams) -> tuple[np.ndarray, np.ndarray]:
    kind = onnx.helper.np_dtype_to_tensor_dtype(qparams.dtype)
    attributes: dict[str, Any] = {} if qparams.axis is None else {"axis": qparams.axis}
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, x.shape)],
        [onnx.helper.make_tensor_value_info("q", kind, x.shape), onnx.helper.make_tensor_value_info("y", 1, x.shape)],
        [onnx.numpy_helper.from_array(qparams.scale, "s"), onnx.numpy_helper.from_array(qparams.zero_point, "z")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    q, y = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    return q, y


@pytest.mark.parametrize("target", [ORT, TENSORRT], ids=lambda t: t.name)
def test_quantize_equals_onnxruntime(target: Target) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal(500) * 3, np.arange(-20, 20) * 0.5]).astype(np.float32)
    qparams = target.activations.qparams(Range(-6.35, 6.35))
    q, y = onnxruntime_quantize(x, qparams)
    ours = quantize(x, qparams)
    # Symmetric int8 uses -127..127 where the operator saturates at -128.
    np.testing.assert_array_equal(ours, np.maximum(q, qparams.qmin))
    np.testing.assert_array_equal(dequantize(q, qparams), y)


def test_quantize_per_channel_equals_onnxruntime() -> None:
    w = np.random.default_rng(0).standard_normal((6, 4, 3, 3)).astype(np.float32)
    w[2] = 0.0
    qparams = ORT.weights.qparams(np.abs(w).max(axis=(1, 2, 3)), axis=0)
    q, y = onnxruntime_quantize(w, qparams)
    np.testing.assert_array_equal(quantize(w, qparams), q)
    np.testing.assert_array_equal(dequantize(q, qparams), y)
    assert qparams.scale[2] == 1.0


@pytest.mark.parametrize(
    ("target", "scale"), [(TENSORRT, 2.0 / 127), (VACC, 2.0 / 128), (ORT, 3.0 / 255)], ids=lambda v: str(v)[:12]
)
def test_target_names_its_own_scale(target: Target, scale: float) -> None:
    assert float(target.activations.qparams(Range(-1.0, 2.0)).scale) == pytest.approx(scale, rel=1e-7)


def test_symmetric_scale_power_of_two_rounds_threshold_up() -> None:
    qparams = symmetric_qparams(np.array([3.0, 4.0, 0.0, 0.3]), divisor=128.0, axis=0, power_of_two=True)
    assert qparams.scale.tolist() == [4 / 128, 4 / 128, 1.0, 0.5 / 128]


@pytest.mark.parametrize("tiny", [0.0, 1e-45, 1e-40])
def test_affine_qparams_too_small_range_counts_as_zero(tiny: float) -> None:
    for target in TARGETS.values():
        qparams = target.activations.qparams(Range(0.0, tiny))
        assert float(qparams.scale) == 1.0
        assert int(qparams.zero_point) == 0
    for qmin, nearest_zero in ((-128, 0), (5, 5)):
        assert affine_qparams(Range(0.0, tiny), qmin=qmin, qmax=127, dtype="int8").zero_point == nearest_zero
    assert affine_qparams(Range(0, SMALLEST_SCALE * 300), qmin=0, qmax=255, dtype="uint8").scale > 0


def test_quantize_clips_before_cast() -> None:
    qparams = affine_qparams(Range(0.0, 1.0), qmin=0, qmax=255, dtype=np.uint8)
    assert quantize(np.array([-5.0, 2.0, 1e30], np.float32), qparams).tolist() == [0, 255, 255]


@pytest.mark.parametrize("ends", [(1.0, 2.0), (-2.0, -1.0), (0.0, np.inf), (np.nan, 1.0)])
def test_range_without_zero_or_not_finite_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="a range needs finite ends"):
        Range(*ends)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": np.zeros((), np.float32)}, "finite and a normal positive"),
        ({"scale": np.full((), np.inf, np.float32)}, "finite and a normal positive"),
        ({"scale": np.ones((), np.float64)}, "must be float32"),
        ({"axis": 0}, "a vector per channel"),
        ({"qmin": 5}, "zero_point must lie in"),
    ],
)
def test_qparams_that_break_an_invariant_are_refused(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "scale": np.ones((), np.float32),
        "zero_point": np.zeros((), np.uint8),
        "qmin": 0,
        "qmax": 255,
        "dtype": np.dtype(np.uint8),
    }
    with pytest.raises(ValueError, match=message):
        QParams(**{**good, **change})


def test_as_target_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no target 'tpu'; choose one of ort, tensorrt, vacc"):
        parse_target("tpu")

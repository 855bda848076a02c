"""Input that breaks quantizers: dead channels, constant tensors, one sign, denormals, biases that overflow."""

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_runs import minmax_ranges, optimized_ops, quantize, run, sqnr_db, tensors_of, text_model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantkit.errors import ModelError
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.weights import BIAS_LIMIT, quantize_bias, quantize_weight, weight_thresholds
from quantkit.graph.qdq.write import notes_of, write_qdq
from quantkit.numerics import Range, dequantize
from quantkit.targets import ORT, VACC, WeightScheme

RNG = np.random.default_rng(19)


def f32(*shape, scale=1.0):
    return (RNG.normal(size=shape) * scale).astype(np.float32)


def network(**weights):
    pool = {"w0": f32(8, 3, 3, 3, scale=0.4), "b0": f32(8), "w1": f32(8, 8, 1, 1, scale=0.4), "b1": f32(8)}
    return text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3, 10, 10] image) => (float[N, 4] logits) {
          c0 = Conv (image, w0, b0)
          r0 = Relu (c0)
          c1 = Conv (r0, w1, b1)
          s = Add (c1, r0)
          p = GlobalAveragePool (s)
          f = Flatten (p)
          logits = Gemm <transB = 1> (f, wf, bf)
        }""",
        **(pool | {"wf": f32(4, 8), "bf": f32(4)} | weights),
    )


X = f32(16, 3, 10, 10)


def with_channel(array, index, value):
    changed = array.copy()
    changed[index] = value
    return changed


DEGENERATE = {
    "dead channel": {"w0": with_channel(f32(8, 3, 3, 3, scale=0.4), 2, 0.0)},
    "dead channel with a bias": {
        "w0": with_channel(f32(8, 3, 3, 3, scale=0.4), 2, 0.0),
        "b0": np.full(8, 1.7, np.float32),
    },
    "all weights zero": {"w1": np.zeros((8, 8, 1, 1), np.float32), "b1": np.zeros(8, np.float32)},
    "all weights zero with biases": {"w1": np.zeros((8, 8, 1, 1), np.float32)},
    "denormal channel": {"w0": with_channel(f32(8, 3, 3, 3, scale=0.4), 1, 1e-41)},
    "tiny channel with a large bias": {
        "w0": with_channel(f32(8, 3, 3, 3, scale=0.4), 1, 1e-12),
        "b0": np.full(8, 3.0, np.float32),
    },
    "huge weights": {"w0": f32(8, 3, 3, 3, scale=1e12), "w1": f32(8, 8, 1, 1, scale=1e-12)},
    "every ReLU closed": {"b0": np.full(8, -100.0, np.float32)},
}


@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "per tensor"])
@pytest.mark.parametrize("weights", DEGENERATE.values(), ids=DEGENERATE)
def test_quantize_degenerate_weights_stay_near_fp32(weights, per_channel, tmp_path):
    model = network(**weights)
    int8, _, _ = quantize(model, X, target=ORT.with_options(per_channel=per_channel))
    onnx.checker.check_model(ir.to_proto(int8), full_check=True)
    left = optimized_ops(int8, tmp_path)
    assert left["QLinearConv"] == 2
    assert left["Conv"] == left["FusedConv"] == 0
    assert sqnr_db(run(model, X), run(int8, X)) > 25


@pytest.mark.parametrize(
    "image", [np.zeros_like(X), np.full_like(X, 3.0), np.full_like(X, -2.0), np.full_like(X, 1e-30)]
)
def test_quantize_constant_images_stay_near_fp32(image):
    """Zeros, one value of each sign, and a value whose range is too small for a scale."""
    model = network()
    int8, _, _ = quantize(model, image)
    assert sqnr_db(run(model, image), run(int8, image)) > 30


@pytest.mark.parametrize("sign", [1, -1])
def test_quantize_range_of_one_sign_uses_all_levels(sign):
    model = network()
    prepared = prepare(model).model
    made = plan(prepared, ORT)
    x = sign * np.abs(X)
    parameters = write_qdq(prepared, made, minmax_ranges(prepared, made.observed, x))
    zero_point = parameters.graph.initializers["image.zero_point"].const_value.numpy()
    assert int(zero_point) == (0 if sign > 0 else 255)


def test_quantize_relu_range_below_zero_is_cut_at_zero():
    """Absorbing a ReLU relies on it; a range from elsewhere must not undo it."""
    model = network()
    prepared = prepare(model).model
    made = plan(prepared, ORT)
    ranges = minmax_ranges(prepared, made.observed, X) | {"r0": Range(-5.0, 4.0)}
    int8 = write_qdq(prepared, made, ranges)
    assert int(int8.graph.initializers["r0.zero_point"].const_value.numpy()) == 0


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_write_qdq_non_finite_weight_is_refused_by_name(value):
    weight = f32(8, 8, 1, 1)
    weight[3, 2] = value
    prepared = prepare(network(w1=weight)).model
    made = plan(prepared, ORT)
    with pytest.raises(ModelError, match="the weight 'w1' contains NaN or infinity"):
        write_qdq(prepared, made, dict.fromkeys(made.observed, Range(-1.0, 1.0)))


def test_write_qdq_shared_weights_are_stored_once():
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4, 8, 8] image) => (float[N, 4] logits) {
          a = Conv (image, w)
          b = Conv (a, w)
          c = ConvTranspose (b, w)
          p = GlobalAveragePool (c)
          logits = Flatten (p)
        }""",
        w=f32(4, 4, 1, 1),
    )
    x = f32(8, 4, 8, 8)
    int8, _, _ = quantize(model, x)
    stored = [name for name, value in int8.graph.initializers.items() if value.const_value.shape == (4, 4, 1, 1)]
    assert stored == ["w.quantized", "w.quantized_2"]
    assert sqnr_db(run(model, x), run(int8, x)) > 25


def test_write_qdq_unlike_branches_are_noted_with_numbers():
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3, 8, 8] image) => (float[N, 4] logits) {
          box = Conv (image, w0)
          raw = Conv (image, w1)
          score = Sigmoid (raw)
          both = Concat <axis = 1> (box, score)
          out = Conv (both, w2)
          p = GlobalAveragePool (out)
          logits = Flatten (p)
        }""",
        w0=f32(4, 3, 1, 1, scale=300),
        w1=f32(4, 3, 1, 1),
        w2=f32(4, 8, 1, 1),
    )
    int8, _, _ = quantize(model, f32(8, 3, 8, 8))
    (note,) = notes_of(int8)
    assert re.match(r"both: 'score' reaches 0\.99\d+ and 'box' 1\.\d+e\+03; the first keeps 0\.2 of", note)


def test_quantize_twice_gives_same_bits():
    model = network()
    first, second = (ir.to_proto(quantize(model, X)[0]).SerializeToString() for _ in range(2))
    assert first == second


def test_quantize_vacc_least_integer_is_minus_127():
    """Relay clips to [-127, 127] at threshold / 128, where QuantizeLinear would give -128."""
    low = np.where(X < 0, -4.0, np.minimum(X, 2.0)).astype(np.float32)
    int8, _, _ = quantize(network(), low, target=VACC)
    integers = tensors_of(int8, ["image.quantized"], low)["image.quantized"]
    assert integers.dtype == np.int8
    assert integers.min() == -127
    scale = float(int8.graph.initializers["image.scale"].const_value.numpy())
    assert scale == pytest.approx(4.0 / 128)
    assert "r0.clipped" not in {value.name for node in int8.graph for value in node.outputs}


def test_quantize_vacc_least_integer_of_bounded_values_is_minus_127():
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3, 10, 10] image) => (float[N, 4] logits) {
          a = Conv (image, w0)
          t = Tanh (a)
          c = Conv (t, w1)
          p = GlobalAveragePool (c)
          logits = Flatten (p)
        }""",
        w0=f32(8, 3, 1, 1, scale=100),
        w1=f32(4, 8, 1, 1),
    )
    int8, _, _ = quantize(model, X, target=VACC)
    assert tensors_of(int8, ["t.quantized"], X)["t.quantized"].min() == -127


def test_quantize_pad_of_signed_values_fills_with_zero():
    """The integer of zero is the zero point, and not 0."""
    model = text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3, 10, 10] image) => (float[N, 4] logits) {
          a = Conv (image, w0)
          d = Pad (a, pads)
          c = Conv (d, w1)
          p = GlobalAveragePool (c)
          logits = Flatten (p)
        }""",
        w0=f32(8, 3, 1, 1),
        w1=f32(4, 10, 1, 1),
        pads=np.array([0, 1, 0, 0, 0, 1, 0, 0]),
    )
    int8, _, _ = quantize(model, X)
    (padded,) = (node for node in int8.graph if node.op_type == "Pad")
    assert padded.inputs[0].name == "a.quantized"
    assert sqnr_db(run(model, X), run(int8, X)) > 30


# Weights and biases --------------------------------------------------------------------------------------------------

MAGNITUDES = st.floats(-1e6, 1e6, width=32)
SCALES = st.floats(1e-6, 1e3)


@settings(max_examples=200, deadline=None)
@given(
    weight=hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e3, 1e3, width=32)),
    bias=hnp.arrays(np.float32, (3,), elements=MAGNITUDES),
    input_scale=SCALES,
    per_channel=st.booleans(),
    power_of_two=st.booleans(),
)
def test_quantize_weight_any_values_are_within_half_a_step(weight, bias, input_scale, per_channel, power_of_two):
    """No bias overflows, every weight is within half a step of what it was, every step is a normal float32."""
    scheme = WeightScheme(per_channel=per_channel, power_of_two=power_of_two)
    quantized = quantize_weight(weight, bias, scheme=scheme, axis=0, groups=1, input_scale=input_scale)
    scale = quantized.qparams.scale
    assert (scale >= np.finfo(np.float32).tiny).all()
    assert quantized.bias_scale.shape == ((3,) if per_channel else ())
    error = np.abs(weight - dequantize(quantized.values, quantized.qparams))
    assert (error <= 0.5001 * (scale[:, None] if per_channel else scale)).all()
    steps = quantize_bias(bias, np.broadcast_to(quantized.bias_scale, (3,)))
    assert (np.abs(steps.astype(np.int64)) <= BIAS_LIMIT * 1.0001).all()
    rounded = steps.astype(np.float64) * quantized.bias_scale.astype(np.float64)
    assert (np.abs(rounded - bias) <= 0.5001 * quantized.bias_scale).all()


@settings(max_examples=100, deadline=None)
@given(
    weight=hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e3, 1e3, width=32)),
    bias=hnp.arrays(np.float32, (3,), elements=MAGNITUDES),
    input_scale=SCALES,
)
def test_quantize_weight_widens_only_scales_that_are_too_small(weight, bias, input_scale):
    quantized = quantize_weight(weight, bias, scheme=WeightScheme(), axis=0, groups=1, input_scale=input_scale)
    plain = WeightScheme().qparams(weight_thresholds(weight, 0), 0).scale
    step = input_scale * plain.astype(np.float64)
    tiny = np.finfo(np.float32).tiny
    too_small = (np.abs(bias) / step > BIAS_LIMIT) | (step < tiny)
    dead = np.abs(weight).max(axis=1) < tiny
    for channel in range(3):
        if not dead[channel]:
            assert (channel in quantized.widened) == bool(too_small[channel])
            assert (quantized.qparams.scale[channel] > plain[channel]) == bool(too_small[channel])


def test_quantize_weight_widened_scales_never_exceed_the_limit_of_bias():
    """In float64, and not to within the rounding of a float32 scale."""
    bias = np.random.default_rng(0).uniform(1.0, 4.0, 500).astype(np.float32)
    weight = np.full((500, 2), 1e-12, np.float32)
    scale = quantize_weight(weight, bias, scheme=WeightScheme(), axis=0, groups=1, input_scale=0.37).qparams.scale
    assert (bias.astype(np.float64) / (0.37 * scale.astype(np.float64)) <= BIAS_LIMIT).all()


def test_quantize_weight_accumulator_scale_is_a_normal_number():
    weight = np.full((2, 2), 1e-35, np.float32)  # its scale is a normal number, a thousandth of it is none
    quantized = quantize_weight(weight, None, scheme=WeightScheme(), axis=0, groups=1, input_scale=1e-3)
    assert (quantized.bias_scale >= np.finfo(np.float32).tiny).all()


def test_quantize_weight_bias_of_any_group_widens_the_shared_channel():
    weight = np.full((4, 2, 1, 1), 1e-12, np.float32)  # a ConvTranspose of two groups with two output channels each
    bias = np.array([0.0, 0.0, 0.0, 3.0], np.float32)
    quantized = quantize_weight(weight, bias, scheme=WeightScheme(), axis=1, groups=2, input_scale=1.0)
    assert quantized.widened == (1,)
    assert (bias / quantized.bias_scale <= BIAS_LIMIT).all()


def test_write_qdq_widened_channel_is_noted():
    weight = with_channel(f32(8, 3, 3, 3, scale=0.4), 1, 1e-12)
    int8, _, _ = quantize(network(w0=weight, b0=np.full(8, 3.0, np.float32)), X)
    assert notes_of(int8) == ("c0: weight scale of one channel widened to fit the bias into int32",)


def test_quantize_weight_equals_hand_worked_example():
    """max |w| = 2.54 gives the scale 0.02: 1.0 is 50 steps, -2.54 is -127, 0.03 is 1.5 steps and rounds to even."""
    weight = np.array([[1.0, -2.54, 0.03]], np.float32)
    quantized = quantize_weight(weight, None, scheme=WeightScheme(), axis=0, groups=1, input_scale=0.5)
    assert quantized.values.tolist() == [[50, -127, 2]]
    assert quantized.bias_scale == pytest.approx([0.01])
    seven = quantize_weight(
        weight, None, scheme=ORT.with_options(weight_bits=7).weights, axis=0, groups=1, input_scale=0.5
    )
    assert seven.values.tolist() == [[25, -63, 1]]


def test_quantize_weight_in_blocks_equals_whole(monkeypatch):
    weight = f32(64, 33)
    whole = quantize_weight(weight, None, scheme=WeightScheme(), axis=1, groups=1, input_scale=1.0)
    monkeypatch.setattr("quantkit.graph.qdq.weights.BLOCK_ELEMENTS", 100)
    for axis in (0, 1):
        blocks = quantize_weight(weight, None, scheme=WeightScheme(), axis=axis, groups=1, input_scale=1.0)
        if axis == 1:
            np.testing.assert_array_equal(blocks.values, whole.values)
        assert np.abs(dequantize(blocks.values, blocks.qparams) - weight).max() <= blocks.qparams.scale.max() / 2 + 1e-7

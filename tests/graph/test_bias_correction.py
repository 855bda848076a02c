"""The mean shift of rounded weights: predicted as it is measured, and taken back."""

import numpy as np
import onnx_ir as ir
import pytest
from graph_runs import minmax_ranges, quantize, run, session, sqnr_db, tensors_of, text_model

from quantkit.graph.bias import channel_mean_model, rounding_shift
from quantkit.graph.plan import plan
from quantkit.graph.prepare import prepare
from quantkit.numerics import fake_quantize
from quantkit.targets import ORT

RNG = np.random.default_rng(12)


def f32(*shape):
    return RNG.normal(size=shape).astype(np.float32)


LAYERS = {
    "conv": ("c = Conv (x, w, b)", "N, 6, 9, 9", "N, 8, 7, 7", {"w": f32(8, 6, 3, 3), "b": f32(8)}),
    "grouped conv": ("c = Conv <group = 2> (x, w)", "N, 6, 9, 9", "N, 8, 7, 7", {"w": f32(8, 3, 3, 3)}),
    "depthwise conv": ("c = Conv <group = 6> (x, w)", "N, 6, 9, 9", "N, 6, 7, 7", {"w": f32(6, 1, 3, 3)}),
    "transposed conv": (
        "c = ConvTranspose <strides = [2, 2], group = 2> (x, w)",
        "N, 6, 9, 9",
        "N, 8, 18, 18",
        {"w": f32(6, 4, 2, 2)},
    ),
    "gemm": ("c = Gemm (x, w, b)", "N, 6", "N, 4", {"w": f32(6, 4), "b": f32(4)}),
    "transposed gemm": ("c = Gemm <transB = 1> (x, w, b)", "N, 6", "N, 4", {"w": f32(4, 6), "b": f32(4)}),
    "matmul": ("c = MatMul (x, w)", "N, 5, 6", "N, 5, 4", {"w": f32(6, 4)}),
}


@pytest.mark.parametrize(("body", "dims", "out", "constants"), LAYERS.values(), ids=LAYERS)
def test_prediction_equals_measurement(body, dims, out, constants):
    """On an input that is constant in each channel, the outputs of float and rounded weights differ by the shift."""
    model = text_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{dims}] x) => (float[{out}] c) {{ {body} }}', **constants
    )
    channels = np.linspace(-1, 1, 6).astype(np.float32)
    sizes = [4, *(int(size) for size in dims.split(", ")[1:])]
    x = np.broadcast_to(channels.reshape(-1, 1, 1) if "Conv" in body else channels, sizes).astype(np.float32)

    prepared = prepare(model).model
    made = plan(prepared, ORT)
    (layer,) = made.layers
    ranges = minmax_ranges(prepared, made.observed, x)
    (shift,) = rounding_shift(prepared, made, ranges, {layer.input: channels}).values()

    axis = layer.channel_axis
    weight = constants["w"]
    others = tuple(index for index in range(weight.ndim) if index != axis)
    rounded = fake_quantize(weight, ORT.weights.qparams(np.abs(weight).max(axis=others), axis))
    replaced = model.clone()
    replaced.graph.initializers["w"].const_value = ir.tensor(rounded, name="w")
    difference = run(model, x) - run(replaced, x)
    features = 1 if "Conv" in body else difference.ndim - 1
    measured = difference.mean(axis=tuple(index for index in range(difference.ndim) if index != features))
    np.testing.assert_allclose(shift, measured, atol=1e-4 * np.abs(shift).max())


def network():
    outliers = np.where(RNG.random((16, 16, 3, 3)) < 0.002, 20.0, 1.0)
    return text_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3, 16, 16] image) => (float[N, 10] logits) {
          c0 = Conv (image, w0, b0)
          r0 = Relu (c0)
          c1 = Conv <group = 16> (r0, w1, b1)
          r1 = Relu (c1)
          c2 = Conv (r1, w2, b2)
          r2 = Relu (c2)
          p = GlobalAveragePool (r2)
          f = Flatten (p)
          logits = Gemm <transB = 1> (f, wf, bf)
        }""",
        w0=f32(16, 3, 3, 3),
        b0=f32(16),
        w1=f32(16, 1, 3, 3) + 0.3,
        b1=f32(16),
        w2=(f32(16, 16, 3, 3) * outliers * 0.1).astype(np.float32),
        b2=f32(16),
        wf=f32(10, 16),
        bf=f32(10),
    )


def test_means_of_every_layer_input():
    model, x = network(), f32(4, 3, 16, 16)
    prepared = prepare(model).model
    made = plan(prepared, ORT)
    means, tensors = channel_mean_model(prepared, made)
    values = session(means).run(list(tensors), {"image": x})
    expected = tensors_of(prepared, [t for t in tensors.values() if t != "image"], x) | {"image": x}
    for tensor, value in zip(tensors.values(), values, strict=True):
        reference = expected[tensor]
        axes = tuple(axis for axis in range(reference.ndim) if axis != 1)
        np.testing.assert_allclose(value, reference.mean(axis=axes), rtol=1e-4, atol=1e-5)


def test_correction_brings_per_tensor_weights_closer():
    model, x = network(), f32(64, 3, 16, 16)
    target = ORT.with_options(per_channel=False)
    prepared = prepare(model).model
    made = plan(prepared, target)
    ranges = minmax_ranges(prepared, made.observed, x)
    means, tensors = channel_mean_model(prepared, made)
    values = dict(zip(tensors.values(), session(means).run(list(tensors), {"image": x}), strict=True))
    shift = rounding_shift(prepared, made, ranges, values)
    plain, _, _ = quantize(model, x, target=target)
    corrected, _, _ = quantize(model, x, target=target, bias_shift=shift)
    unseen = f32(64, 3, 16, 16)
    fp32 = run(model, unseen)
    assert sqnr_db(fp32, run(corrected, unseen)) > sqnr_db(fp32, run(plain, unseen)) + 1.0


def test_layers_without_means_are_left_out():
    model, x = network(), f32(4, 3, 16, 16)
    prepared = prepare(model).model
    made = plan(prepared, ORT)
    ranges = minmax_ranges(prepared, made.observed, x)
    assert list(rounding_shift(prepared, made, ranges, {"image": np.ones(3)})) == ["c0"]

"""What is handed to a compiler that calibrates by itself: rounding to the nearest finds what was mended."""

import numpy as np
import onnx_ir as ir
import pytest
from tune_models import minmax_ranges, mixed_model, model_of, planned, small_images, small_model, weights

from quantkit.engine.scores import scores_of
from quantkit.graph.analysis.selection import conv2d_nodes
from quantkit.graph.analysis.values import array, node_name, required
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.write import write_qdq
from quantkit.ptq.fp32_export import export_corrected_fp32, restore_batch_norms
from quantkit.ptq.reconstruction import reconstruct
from quantkit.targets import ORT, VACC

TARGETS = [VACC, VACC.with_options(per_channel=False), VACC.with_options(power_of_two=True), ORT]
IDS = ["vacc", "per tensor", "power2", "ort"]

# A batch norm behind a sum, which preparation makes a convolution.
NORMED = """
<ir_version: 8, opset_import: ["": 17]>
normed (float[N, 3, 12, 12] input) => (float[N, 5] logits) {
    a = Conv <pads = [1, 1, 1, 1]> (input, w1, b1)
    b = Conv <pads = [1, 1, 1, 1]> (input, w2, b2)
    s = Add(a, b)
    n = BatchNormalization (s, gamma, beta, mean, variance)
    r = Relu(n)
    g = GlobalAveragePool(r)
    f = Flatten(g)
    logits = Gemm <transB = 1> (f, w3)
}
"""


def integers(int8: ir.Model) -> dict[str, np.ndarray]:
    """Return the stored weights of every layer of an int8 model."""
    found = {}
    for node in int8.graph:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
            dequantize = required(node, 1).producer()
            if dequantize is not None:
                found[node_name(node)] = array(required(dequantize, 0))
    return found


@pytest.mark.parametrize("target", TARGETS, ids=IDS)
@pytest.mark.parametrize("build", [small_model, mixed_model])
def test_fp32_export_rounds_to_the_corrected_weights(build, target) -> None:
    model, images = build(), small_images(16)
    made, ranges = planned(model, images, target)
    mended = reconstruct(model, made, ranges, images, keep_largest=True, threads=1)
    corrected_fp32 = export_corrected_fp32(model, made, mended, target.weights.qmax)
    again = write_qdq(corrected_fp32, plan(corrected_fp32, target), ranges)
    wanted, found, plain = integers(mended), integers(again), integers(write_qdq(model, made, ranges))
    assert wanted.keys() == found.keys()
    for name, stored in wanted.items():
        np.testing.assert_array_equal(found[name], stored, err_msg=name)
    assert any((plain[name] != wanted[name]).any() for name in wanted), "nothing was rounded otherwise"


def test_fp32_export_includes_corrected_biases() -> None:
    model, images = small_model(), small_images(16)
    made, ranges = planned(model, images, VACC)
    mended = reconstruct(model, made, ranges, images, keep_largest=True, threads=1)
    corrected_fp32 = export_corrected_fp32(model, made, mended, VACC.weights.qmax)
    again = write_qdq(corrected_fp32, plan(corrected_fp32, VACC), minmax_ranges(model, made.observed, images))
    others = small_images(8, seed=7)
    one, other = (scores_of(each, others, threads=1) for each in (mended, again))
    # A bias is stored to a 32-bit step of its layer; what is left is that a sum may round to the next integer.
    assert np.abs(one - other).max() <= 0.02 * np.ptp(one)


def test_fp32_export_untouched_weights_keep_their_bits() -> None:
    model, images = small_model(), small_images(16)
    made, ranges = planned(model, images, VACC)
    corrected_fp32 = export_corrected_fp32(model, made, write_qdq(model, made, ranges), VACC.weights.qmax)
    for name in ("w1", "w2", "w3", "w4"):
        np.testing.assert_array_equal(
            corrected_fp32.graph.initializers[name].const_value.numpy(),
            model.graph.initializers[name].const_value.numpy(),
        )


def test_fp32_export_restores_batch_norm_with_same_values() -> None:
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 3, 3, 3), "b2": (8,), "w3": (5, 8)}
    norms = {"gamma": rng.normal(1, 0.5, 8), "beta": rng.normal(0, 1, 8), "mean": rng.normal(0, 1, 8)}
    norms["variance"] = rng.uniform(0.1, 2, 8)
    held = weights(rng, shapes) | {name: value.astype(np.float32) for name, value in norms.items()}
    prepared, images = model_of(NORMED, held), small_images(6)
    assert len(conv2d_nodes(prepared.graph)) == 2
    assert sum(node.op_type == "Conv" for node in prepared.graph) == 3
    restored = restore_batch_norms(prepared)
    assert [node.op_type for node in restored.graph].count("BatchNormalization") == 1
    assert sum(node.op_type == "Conv" for node in restored.graph) == 2
    one, other = (scores_of(each, images, threads=1) for each in (prepared, restored))
    assert np.abs(one - other).max() <= 1e-6 * np.ptp(one)
    again = prepare(restored).model
    for name in ("n.weight", "n.bias"):
        before, after = (
            next(v for k, v in each.graph.initializers.items() if k.startswith(name)).const_value.numpy()
            for each in (prepared, again)
        )
        np.testing.assert_allclose(after.reshape(-1), before.reshape(-1), rtol=2e-7)

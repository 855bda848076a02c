"""Coverage: worked out by hand for each kind of layer that can stay in float."""

import json
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_runs import optimized_ops, quantize, text_model

from quantkit.errors import CoverageError
from quantkit.graph.analysis.macs import layer_costs
from quantkit.graph.coverage import Coverage, coverage, percent
from quantkit.graph.model import read_model
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import PlanOptions, plan
from quantkit.targets import ORT, TARGETS, VACC

# 8 x 8: conv a makes 8 x 64 values of 3 x 9 products, conv b 4 x 64 of 8 products, the head 5 values of 4.
TEXT = """
<ir_version: 8, opset_import: ["": 17]>
g (float[N, 3, {size}, {size}] input) => (float[N, 5] logits) {{
    [name_a] a = Conv <pads = [1, 1, 1, 1]> (input, w1)
    r = Relu (a)
    {middle}
    p = GlobalAveragePool (b)
    f = Flatten (p)
    [name_h] logits = Gemm <transB = 1> (f, w3)
}}
"""
A, B, H = 8 * 64 * 27, 4 * 64 * 8, 5 * 4
PLAIN = "[name_b] b = Conv (r, w2)"
COMPUTED = "s = Tanh (input_weight)\n    [name_b] b = Conv (r, s)"


def network(middle: str = PLAIN, size: str = "8", **more: np.ndarray) -> ir.Model:
    weights = {"w1": np.ones((8, 3, 3, 3), np.float32), "w2": np.ones((4, 8, 1, 1), np.float32)}
    weights["w3"] = np.ones((5, 4), np.float32)
    text = TEXT.format(size=size, middle=middle)
    if "input_weight" in middle:
        text = text.replace("] input)", "] input, float[4, 8, 1, 1] input_weight)")
    return text_model(text, **weights, **more)


def covered(middle: str = PLAIN, *, size: str = "8", skip: tuple[str, ...] = (), target=ORT, shape=None) -> Coverage:
    model = prepare(network(middle, size)).model
    return coverage(plan(model, target, PlanOptions(skip=skip)), shape)


def test_coverage_plain_network_is_all_int8() -> None:
    found = covered()
    assert (found.layers, found.int8_layers, found.multiply_adds) == (3, 3, A + B + H)
    assert str(found) == "int8: 3 of 3 layers, 100 % of multiply-adds"
    assert not found.is_low
    found.require(100.0)


def test_coverage_computed_weights_stay_in_float_with_reason() -> None:
    found = covered(COMPUTED)
    assert (found.int8_layers, found.int8_multiply_adds) == (2, A + H)
    [layer] = found.float_layers
    assert (layer.name, layer.multiply_adds, layer.why) == ("name_b", B, "its weights are computed, not constant")
    share = (A + H) / (A + B + H)
    assert found.share == share
    assert str(found) == (
        f"int8: 2 of 3 layers, {percent(share)} of multiply-adds; "
        "float: name_b (its weights are computed, not constant)"
    )
    assert found.is_low == (share < 0.9)


def test_coverage_skipped_layer_names_the_rule() -> None:
    assert covered(skip=("name_b",)).float_layers[0].why == "left out by the rule 'name_b'"


def test_coverage_open_size_uses_the_given_shape() -> None:
    assert covered(size="S", shape=(1, 3, 8, 8)).multiply_adds == A + B + H


def test_coverage_open_size_unknown_is_not_counted_as_covered() -> None:
    found = covered(COMPUTED, size="S")
    assert found.uncounted == 2
    assert not found.is_certain
    assert found.is_low
    assert "multiply-adds of 2 are unknown" in str(found)
    with pytest.raises(CoverageError, match=r"50\.0 % of the multiply-adds in int8 are required; int8: 2 of 3 layers"):
        found.require(50.0)


def test_coverage_product_of_activations_is_a_layer() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3, 5, 7] input) => (float[N, 3, 5, 5] y) {
        c = Conv (input, w)
        t = Transpose <perm = [0, 1, 3, 2]> (c)
        y = MatMul (c, t)
    }
    """
    model = prepare(text_model(text, w=np.ones((3, 3, 1, 1), np.float32))).model
    conv, product = 3 * 35 * 3, 3 * 5 * 5 * 7
    by_target = {target.name: coverage(plan(model, target)) for target in TARGETS.values()}
    assert {(one.layers, one.multiply_adds) for one in by_target.values()} == {(2, conv + product)}
    assert by_target["ort"].int8_multiply_adds == conv + product
    assert by_target["vacc"].float_layers[0].why == "vacc quantizes layers with weights"


INTEGER_KERNELS = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")


@pytest.mark.parametrize("skip", [(), ("name_a",), ("name_b", "name_h")], ids=str)
@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("middle", [PLAIN, "[name_b] b = ConvTranspose (r, w4)"], ids=["conv", "transposed"])
def test_coverage_counts_the_integer_kernels_that_onnxruntime_runs(tmp_path, middle, activations, skip) -> None:
    model = network(middle, w4=np.ones((8, 4, 1, 1), np.float32))
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    target = ORT.with_options(activation_type=activations)
    int8, made, _ = quantize(model, x, target=target, options=PlanOptions(skip=skip))
    run = optimized_ops(int8, tmp_path)
    assert coverage(made).int8_layers == sum(run[kind] for kind in INTEGER_KERNELS)


@pytest.mark.shared
@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_coverage_of_resnet20_counts_the_integer_kernels_that_onnxruntime_runs(
    tmp_path, shared_assets, activations
) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    target = ORT.with_options(activation_type=activations)
    int8, made, _ = quantize(read_model(shared_assets / "cifar_resnet20.onnx"), x, target=target)
    run = optimized_ops(int8, tmp_path)
    assert coverage(made).int8_layers == sum(run[kind] for kind in INTEGER_KERNELS)


def test_coverage_batch_norm_made_a_convolution_is_no_layer() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3, 8, 8] input) => (float[N, 3, 8, 8] y) {
        c = Conv (input, w)
        r = Relu (c)
        n = BatchNormalization (r, s, s, s, s)
        q = Relu (n)
        y = Conv (q, w)
    }
    """
    model = prepare(text_model(text, w=np.ones((3, 3, 1, 1), np.float32), s=np.ones(3, np.float32))).model
    assert sum(node.op_type == "Conv" for node in model.graph) == 3
    for target in (ORT, VACC):
        assert str(coverage(plan(model, target))) == "int8: 2 of 2 layers, 100 % of multiply-adds"


def test_coverage_layer_inside_a_condition_is_float() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[1, 3, 8, 8] input, bool flag) => (float[1, 3, 8, 8] y) {
        c = Conv (input, w)
        y = If (flag) <
            then_branch = t () => (float[1, 3, 8, 8] u) { u = Conv (c, w) },
            else_branch = e () => (float[1, 3, 8, 8] v) { v = Relu (c) }
        >
    }
    """
    model = prepare(text_model(text, w=np.ones((3, 3, 1, 1), np.float32))).model
    found = coverage(plan(model, ORT))
    assert (found.layers, found.int8_layers) == (2, 1)
    assert found.float_layers[0].why == "nodes inside a condition are not quantized"
    assert found.share == 0.5


def test_coverage_json_has_every_float_layer() -> None:
    held = json.loads(json.dumps(covered(COMPUTED).to_json()))
    assert held["float_layers"][0]["name"] == "name_b"
    assert held["layers"] == 3


@pytest.mark.parametrize(("share", "text"), [(1.0, "100 %"), (0.99999, "99.9 %"), (0.5, "50.0 %"), (0.0, "0.0 %")])
def test_coverage_percent_never_rounds_up_to_all(share: float, text: str) -> None:
    assert percent(share) == text


def _single(op_type: str, inputs: dict[str, tuple[int, ...]], domain: str = "", **attributes: Any) -> ir.Model:
    """Return a model of one node whose inputs and output have the shapes given; ``y`` is the output."""
    values = {
        name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()
    }
    result = values.pop("y")
    node = onnx.helper.make_node(op_type, list(values), ["y"], "layer", domain=domain, **attributes)
    after = onnx.helper.make_node("Relu", ["y"], ["z"], "after")
    out = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph([node, after], "g", list(values.values()), [out], value_info=[result])
    imports = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=imports))


@pytest.mark.parametrize(
    ("model", "kind", "count"),
    [
        (
            _single("FusedConv", {"x": (2, 3, 8, 8), "w": (4, 3, 3, 3), "y": (2, 4, 6, 6)}, "com.microsoft"),
            "com.microsoft.FusedConv",
            4 * 36 * 27,
        ),
        (
            _single("FusedMatMul", {"x": (2, 5, 7), "w": (6, 7), "y": (2, 5, 6)}, "com.microsoft", transB=1),
            "com.microsoft.FusedMatMul",
            5 * 6 * 7,
        ),
        (
            _single("Einsum", {"x": (2, 5, 7), "w": (7, 6), "y": (2, 5, 6)}, equation="bnc, cd -> bnd"),
            "Einsum",
            5 * 6 * 7,
        ),
        (
            # 3 heads: queries 5 x 4 with 6 keys, and weights 5 x 6 with values of 4.
            _single("Attention", {"q": (2, 3, 5, 4), "k": (2, 3, 6, 4), "v": (2, 3, 6, 4), "y": (2, 3, 5, 4)}),
            "Attention",
            3 * (5 * 6 * 4 + 5 * 6 * 4),
        ),
        (
            _single("MultiHeadAttention", {"q": (2, 5, 12), "k": (2, 6, 12), "y": (2, 5, 12)}, "com.microsoft"),
            "com.microsoft.MultiHeadAttention",
            None,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layer_costs_of_rarer_layers(model: ir.Model, kind: str, count: int | None) -> None:
    [cost] = layer_costs(model)
    assert (cost.name, cost.op_type, cost.multiply_adds) == ("layer", kind, count)


def test_layer_costs_image_is_not_the_first_input() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N, 7] extra, float[N, 3, S, S] image) => (float[N, 5] y) {
        c = Conv (image, w)
        p = GlobalAveragePool (c)
        f = Flatten (p)
        h = Gemm (extra, v)
        y = Add (f, h)
    }
    """
    weights = {"w": np.ones((5, 3, 1, 1), np.float32), "v": np.ones((7, 5), np.float32)}
    costs = layer_costs(text_model(text, **weights), (2, 3, 4, 4))
    assert [cost.multiply_adds for cost in costs] == [5 * 16 * 3, 7 * 5]


def test_layer_costs_recurrent_layer() -> None:
    inputs = {"x": (1, 5, 7), "w": (1, 24, 7), "r": (1, 24, 6), "y": (1, 1, 5, 6)}
    [cost] = layer_costs(_single("LSTM", inputs, hidden_size=6))
    assert cost.multiply_adds == 5 * 24 * (7 + 6)

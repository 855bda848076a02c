"""Operators whose types ONNX does not infer hide no layer behind them."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph.builder import FLOAT, MICROSOFT, Builder, Outcome, assert_int8
from onnx import helper

from quantkit.graph.model import read_model
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import plan
from quantkit.targets import ORT


def group_norm(b, x):
    return b.op("GroupNormalization", x, b.const(np.ones(8)), b.const(np.zeros(8)), num_groups=2)


def sequence(b, x):
    return b.op("ConcatFromSequence", b.op("SplitToSequence", x, axis=1, keepdims=1), axis=1)


def condition(b, x):
    """A condition whose branches bear the names that the int8 model would make up."""
    name = f"{x}.quantized"
    branches = []
    for op_type, result in (("Relu", name), ("Sigmoid", f"{x}.dequantized")):
        node = helper.make_node(op_type, [x], [result], name=f"{x}.QuantizeLinear")
        branches.append(helper.make_graph([node], op_type, [], [helper.make_tensor_value_info(result, FLOAT, None)]))
    positive = b.op("Greater", b.op("ReduceMean", x, keepdims=0), b.const(0.0))
    return b.op("If", positive, then_branch=branches[0], else_branch=branches[1])


KINDS = {
    "com.microsoft.QuickGelu": lambda b, x: b.op("QuickGelu", x, domain=MICROSOFT, alpha=1.702),
    "com.microsoft.Pad": lambda b, x: b.op(
        "Pad", x, b.const([0, 0, 1, 1] * 2, np.int64), b.const(0.0), domain=MICROSOFT, mode="constant"
    ),
    "GroupNormalization": group_norm,
    "sequence": sequence,
    "optional": lambda b, x: b.op("OptionalGetElement", b.op("Optional", x)),
    "If": condition,
}


@pytest.mark.parametrize("between", KINDS.values(), ids=KINDS.keys())
def test_unknown_type_layers_behind_become_int8(between, tmp_path):
    b = Builder()
    x = between(b, b.conv("image", 3, 8))
    x = between(b, b.conv(x, 8, 8))
    proto = b.model(b.head(x, 8), opset=21, domains=[MICROSOFT], ir_version=10)
    assert_int8(Outcome(proto, tmp_path), ["Conv", "Conv", "Gemm"])


def test_unknown_operator_layers_behind_are_planned(tmp_path):
    """A custom operator without a library: onnxruntime cannot say its types, the weights behind it do."""
    b = Builder()
    x = b.op("Mystery", b.conv("image", 3, 8), domain="org.example")
    onnx.save(b.model(b.head(b.conv(x, 8, 8), 8), domains=["org.example"]), tmp_path / "model.onnx")
    prepared = prepare(read_model(tmp_path / "model.onnx")).model
    made = plan(prepared, ORT)
    assert [layer.op_type for layer in made.layers] == ["Conv", "Conv", "Gemm"]
    rows = {row.op_type: row for row in made.explain() if row.kind == "operator"}
    assert "org.example" in rows["Mystery"].why


def test_unknown_type_is_taken_from_value_info():
    b = Builder()
    x = b.op("Mystery", b.conv("image", 3, 8), domain="org.example")
    proto = b.model(b.head(b.op("Relu", x), 8), domains=["org.example"])
    proto.graph.value_info.append(helper.make_tensor_value_info(x, FLOAT, ["N", 8, 16, 16]))
    prepared = prepare(ir.from_proto(proto)).model
    values = {value.name: value for node in prepared.graph for value in node.outputs}
    assert values["relu_2_0"].dtype is ir.DataType.FLOAT
    assert list(values["relu_2_0"].shape)[1:] == [8, 16, 16]


def test_unknown_type_attention_keeps_outputs_of_its_past(tmp_path):
    b = Builder()
    past = [b.const(b.rng.normal(size=(2, 2, 3, 8))) for _ in range(2)]
    x = b.op("MatMul", "image", b.const(b.weights(16, 16)))
    y = b.op("Attention", x, x, x, "", *past, outputs=3, q_num_heads=2, kv_num_heads=2)[0]
    result = b.op("MatMul", y, b.const(b.weights(16, 4)))
    outcome = Outcome(b.model(result, image=(2, 4, 16), opset=23, ir_version=10), tmp_path)
    assert_int8(outcome, ["MatMul", "MatMul"])
    attention = next(node for node in outcome.int8.graph if node.op_type == "Attention")
    assert len(attention.outputs) == 3


@pytest.mark.parametrize(
    ("name", "build", "why"),
    [
        ("weights", lambda b, x: b.op("Conv", x, "fed"), "its weights are computed, not constant"),
        ("bias", lambda b, x: b.op("Conv", x, b.const(np.ones((8, 8, 1, 1))), "fed"), "its bias is computed"),
    ],
)
def test_layer_with_fed_operands_has_reason(name, build, why, tmp_path):
    b = Builder()
    shape = [8, 8, 1, 1] if name == "weights" else [8]
    result = b.head(build(b, b.op("Relu", b.conv("image", 3, 8))), 8)
    proto = b.model(result, inputs=[helper.make_tensor_value_info("fed", FLOAT, shape)])
    outcome = Outcome(proto, tmp_path, feeds={"fed": np.ones(shape, np.float32)})
    rows = [row for row in outcome.plan.explain() if row.op_type == "Conv" and row.kind == "operator"]
    assert [row.how for row in rows] == ["int8", "float"]
    assert why in rows[1].why


@pytest.mark.parametrize("shape", [(16,), (1, 16, 8), (8, 16, 8), (1, 8, 16, 8)])
def test_layer_matmul_with_constant_that_is_no_matrix_has_reason(shape, tmp_path):
    b = Builder()
    product = b.op("MatMul", b.op("Relu", b.conv("image", 3, 8)), b.const(b.weights(*shape)))
    x = b.op("Reshape", product, b.const([0, 8, -1, 1], np.int64))
    outcome = Outcome(b.model(b.head(x, 8)), tmp_path)
    assert outcome.row("MatMul") == ("float", "its constant operand is not a matrix")

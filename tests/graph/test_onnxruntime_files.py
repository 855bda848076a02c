"""Files that onnxruntime optimized, and files that it loads though they break a rule of the format."""

import math

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graph.builder import MICROSOFT, Builder, Outcome, assert_int8

from quantkit.errors import ModelError
from quantkit.graph.model import read_model
from quantkit.graph.passes.opset import newest_int8_opset
from quantkit.graph.prepare import prepare


def residual(b):
    x = b.op("Relu", b.conv("image", 3, 16))
    y = b.op("Relu", b.norm(b.conv(x, 16, 16), 16))
    return b.head(b.op("Relu", b.op("Add", b.norm(b.conv(y, 16, 16), 16), x)), 16)


def transformer(b, gelu):
    width, heads = 32, 4
    x = b.op("Conv", "image", b.const(b.weights(width, 3, 4, 4)), strides=[4, 4])
    x = b.op("Transpose", b.op("Reshape", x, b.const([0, width, -1], np.int64)), perm=[0, 2, 1])

    def linear(x, inputs, outputs):
        product = b.op("MatMul", x, b.const(b.rng.normal(0, inputs**-0.5, (inputs, outputs))))
        return b.op("Add", product, b.const(b.rng.normal(0, 0.1, outputs)))

    def norm(x):
        return b.op("LayerNormalization", x, b.const(b.rng.uniform(0.5, 1.5, width)), b.const(np.zeros(width)))

    split = b.const([0, 0, heads, width // heads], np.int64)
    normed = norm(x)
    q, k, v = (
        b.op("Transpose", b.op("Reshape", linear(normed, width, width), split), perm=order)
        for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    scores = b.op("Softmax", b.op("Div", b.op("MatMul", q, k), b.const(math.sqrt(width / heads))), axis=-1)
    mixed = b.op("Transpose", b.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    x = b.op("Add", linear(b.op("Reshape", mixed, b.const([0, 0, width], np.int64)), width, width), x)
    x = b.op("Add", linear(gelu(b, linear(norm(x), width, 64)), 64, width), x)
    return linear(b.op("ReduceMean", norm(x), axes=[1], keepdims=0), width, 10)


def erf_gelu(b, x):
    share = b.op("Add", b.op("Erf", b.op("Div", x, b.const(math.sqrt(2)))), b.const(1.0))
    return b.op("Mul", b.op("Mul", x, share), b.const(0.5))


def quick_gelu(b, x):
    return b.op("Mul", x, b.op("Sigmoid", b.op("Mul", x, b.const(1.702))))


NETWORKS = {
    "residual": residual,
    "transformer with GELU": lambda b: transformer(b, erf_gelu),
    "transformer with QuickGelu": lambda b: transformer(b, quick_gelu),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
def test_onnxruntime_optimized_file_gives_int8_model_of_original(network, level, tmp_path):
    b = Builder()
    proto = b.model(network(b))
    plain = Outcome(proto, tmp_path)
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    optimized = Outcome(onnx.load(tmp_path / "optimized.onnx"), tmp_path)
    assert_int8(optimized, plain.layers)
    assert not [node.op_type for node in optimized.prepared.graph if node.domain]
    assert abs(optimized.int8_db - plain.int8_db) < 3.0


def test_onnxruntime_file_for_one_processor_is_refused(tmp_path):
    b = Builder()
    x = b.op("Conv", "image", b.const(b.weights(16, 3, 3, 3)), domain="com.microsoft.nchwc")
    onnx.save(b.model(x, domains=["com.microsoft.nchwc"]), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"optimized by onnxruntime for one type of processor.*ORT_ENABLE_EXTENDED"):
        read_model(tmp_path / "model.onnx")


def fused(op_type, *extra, **attributes):
    return lambda b, x: b.op(op_type, x, *(one(b) for one in extra), domain=MICROSOFT, **attributes)


def channels(b):
    return b.const(b.rng.uniform(0.5, 1.5, 16))


ROWS = {
    "Gelu": fused("Gelu"),
    "BiasGelu": fused("BiasGelu", channels),
    "FastGelu": fused("FastGelu"),
    "FastGelu with bias": fused("FastGelu", channels),
    "QuickGelu": fused("QuickGelu", alpha=1.5),
    "SkipLayerNormalization": lambda b, x: b.op(
        "SkipLayerNormalization", x, "image", *(channels(b) for _ in range(3)), domain=MICROSOFT, epsilon=1e-5
    ),
    "Attention": lambda b, x: b.op(
        "Attention", x, b.const(b.rng.normal(0, 0.25, (16, 48))), b.const(np.ones(48)), domain=MICROSOFT, num_heads=2
    ),
    "MultiHeadAttention": lambda b, x: b.op(
        "MultiHeadAttention", x, "image", x, b.const(np.ones(48)), domain=MICROSOFT, num_heads=4
    ),
    "FusedMatMul": lambda b, x: b.op(
        "FusedMatMul", x, b.const(b.rng.normal(0, 0.25, (16, 16))), domain=MICROSOFT, transB=1, alpha=0.5
    ),
    "FusedMatMul, both transposed": lambda b, x: b.op(
        "FusedMatMul",
        b.op("Transpose", x, perm=[0, 2, 1]),
        b.const(b.weights(16, 16)),
        domain=MICROSOFT,
        transA=1,
        transB=1,
    ),
}


@pytest.mark.parametrize("build", ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("opset", [13, 17, 20])
def test_onnxruntime_fused_operator_is_taken_back(build, opset, tmp_path):
    b = Builder()
    x = build(b, b.op("MatMul", "image", b.const(b.rng.normal(0, 0.25, (16, 16)))))
    result = b.op("MatMul", x, b.const(b.rng.normal(0, 0.25, (16, 5))))
    outcome = Outcome(b.model(result, image=(2, 5, 16), opset=opset, domains=[MICROSOFT]), tmp_path)
    assert outcome.prepared_db > 100
    assert outcome.int8_db > 20
    assert not [node.op_type for node in outcome.prepared.graph if node.domain]


@pytest.mark.parametrize(
    ("activation", "numbers"),
    [
        ("Relu", []),
        ("Clip", [0.0, 1.0]),
        ("LeakyRelu", [0.1]),
        ("HardSigmoid", [0.2, 0.5]),
        ("Sigmoid", []),
        ("Tanh", []),
    ],
)
@pytest.mark.parametrize("addend", [False, True])
def test_onnxruntime_fused_conv_is_taken_back(activation, numbers, addend, tmp_path):
    b = Builder()
    others = [b.conv("image", 3, 8)] if addend else []
    more = {"activation_params": numbers} if numbers else {}
    weights = b.const(b.weights(8, 3, 3, 3)), b.const(np.ones(8))
    x = b.op("FusedConv", "image", *weights, *others, domain=MICROSOFT, pads=[1] * 4, activation=activation, **more)
    outcome = Outcome(b.model(b.head(x, 8), domains=[MICROSOFT]), tmp_path)
    assert_int8(outcome, ["Conv", *["Conv"] * addend, "Gemm"])


def small(**more):
    b = Builder()
    return b.model(b.head(b.op("Relu", b.conv("image", 3, 8)), 8), **more)


def unsorted(proto):
    nodes = list(reversed(proto.graph.node))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def no_output_type(proto):
    proto.graph.output[0].ClearField("type")


def no_graph_name(proto):
    proto.graph.ClearField("name")


def only_another_import(proto):
    proto.opset_import[0].domain, proto.opset_import[0].version = "ai.onnx.ml", 3


@pytest.mark.parametrize("damage", [unsorted, no_output_type, no_graph_name, only_another_import])
def test_read_model_that_onnxruntime_loads_is_read(damage, tmp_path):
    proto = small()
    damage(proto)
    assert_int8(Outcome(proto, tmp_path), ["Conv", "Gemm"])


def test_read_model_initializers_of_ir_3_need_not_be_inputs(tmp_path):
    b = Builder()
    x = b.op("Dropout", b.op("Relu", b.norm(b.conv("image", 3, 8), 8)), ratio=0.5)
    flat = b.op("Reshape", b.op("GlobalAveragePool", x), b.const([-1, 8], np.int64))
    result = b.op("Gemm", flat, b.const(b.weights(10, 8)), b.const(np.zeros(10)), transB=1)
    assert_int8(Outcome(b.model(result, opset=7, ir_version=3), tmp_path), ["Conv", "Gemm"])


def test_read_model_missing_microsoft_import_is_supplied(tmp_path):
    b = Builder()
    x = b.op("QuickGelu", b.conv("image", 3, 8), domain=MICROSOFT)
    assert_int8(Outcome(b.model(b.head(x, 8)), tmp_path), ["Conv", "Gemm"])


def test_read_model_onnxruntime_layer_norm_in_old_opset_is_read(tmp_path):
    b = Builder()
    scale = b.const(b.rng.uniform(0.5, 1.5, 16))
    x = b.op("LayerNormalization", b.conv("image", 3, 8), scale, axis=-1)
    outcome = Outcome(b.model(b.head(x, 8), opset=13), tmp_path)
    assert_int8(outcome, ["Conv", "Gemm"])
    assert prepare(read_model(tmp_path / "model.onnx")).notes == (
        "opset 13 raised to 17, the first that defines LayerNormalization",
    )


def test_read_model_circle_of_nodes_is_refused(tmp_path):
    proto = small()
    proto.graph.node[0].input[0] = proto.graph.node[1].output[0]
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="the graph has a cycle"):
        read_model(tmp_path / "model.onnx")


NEWEST = onnx.defs.onnx_opset_version()


@pytest.mark.skipif(newest_int8_opset() == NEWEST, reason="onnxruntime has kernels for every opset that onnx knows")
def test_prepare_opset_newer_than_kernels_is_lowered_or_refused(tmp_path):
    outcome = Outcome(small(opset=NEWEST, ir_version=13), tmp_path)
    assert outcome.prepared.opset_imports[""] == newest_int8_opset()
    assert_int8(outcome, ["Conv", "Gemm"])
    changed = next(
        schema.name
        for schema in onnx.defs.get_all_schemas()
        if schema.since_version == NEWEST and schema.domain == "" and schema.name in ("DepthToSpace", "Celu")
    )
    b = Builder()
    more = {"blocksize": 2} if changed == "DepthToSpace" else {}
    x = b.op(changed, b.conv("image", 3, 8), **more)
    with pytest.raises(ModelError, match=f"{changed}: has opset {NEWEST}.*has integer kernels up to"):
        prepare(ir.from_proto(b.model(x, opset=NEWEST)))


def test_prepare_missing_kernel_shape_is_written(tmp_path):
    outcome = Outcome(small(), tmp_path)
    convs = [node for node in outcome.int8.graph if node.op_type == "Conv"]
    assert [tuple(node.attributes["kernel_shape"].as_ints()) for node in convs] == [(3, 3)]


def test_prepare_new_names_do_not_collide(tmp_path):
    proto = small()
    names = {"conv_0_0": "image.quantized", "relu_1_0": "image.dequantized"}
    for node in proto.graph.node:
        for field in (node.input, node.output):
            for index, name in enumerate(field):
                field[index] = names.get(name, name)
    proto.graph.node[0].name, proto.graph.node[1].name = "image.QuantizeLinear", "c0.DequantizeLinear"
    outcome = Outcome(proto, tmp_path)
    assert_int8(outcome, ["Conv", "Gemm"])
    values = [value.name for node in outcome.int8.graph for value in node.outputs]
    assert len(values) == len(set(values))

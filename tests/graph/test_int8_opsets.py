"""One classifier in every opset from 9 to the newest that onnxruntime takes."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graph_runs import optimized_ops, quantize, run, sqnr_db
from onnx import TensorProto, helper, numpy_helper

from quantkit.errors import ModelError
from quantkit.graph.model import save_model
from quantkit.graph.passes.opset import PER_CHANNEL_OPSET
from quantkit.graph.prepare import prepare

RNG = np.random.default_rng(11)


def newest_opset():
    """Return the newest opset whose QuantizeLinear both onnx and onnxruntime know."""
    for opset in range(onnx.defs.onnx_opset_version(), 9, -1):
        scale = numpy_helper.from_array(np.asarray(0.1, np.float32), "scale")
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale"], ["y"]),
        ]
        graph = helper.make_graph(nodes, "g", [_info("x", ["N"])], [_info("y", ["N"])], [scale])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception:
            continue
        return opset
    raise AssertionError("onnxruntime takes no opset at all")


def _info(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


class Builder:
    """A graph whose operators take constants as attributes or as inputs, whichever the opset wants."""

    def __init__(self, opset):
        self.opset = opset
        self.nodes = []
        self.constants = []

    def constant(self, name, content):
        self.constants.append(numpy_helper.from_array(np.asarray(content), name))
        return name

    def node(self, op_type, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=f"{op_type}_{output}", **attributes))

    def with_constants(self, op_type, source, output, since, constants, **attributes):
        """Add a node whose constants became inputs in some opset."""
        if self.opset >= since:
            names = [self.constant(f"{output}_{name}", value) for name, value in constants.items()]
            self.node(op_type, [source, *names], output, **attributes)
        else:
            plain = {name: value.tolist() for name, value in constants.items()}
            self.node(op_type, [source], output, **plain, **attributes)


def classifier(opset, ir_version, *, initializers_as_inputs=False):
    def f32(*shape: int) -> np.ndarray:
        return RNG.normal(size=shape).astype(np.float32) * np.float32(0.4)

    b = Builder(opset)
    b.node("Conv", ["image", b.constant("w0", f32(8, 3, 3, 3))], "c0", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    statistics = [
        b.constant(n, v) for n, v in {"g": f32(8), "b": f32(8), "m": f32(8), "v": np.ones(8, np.float32)}.items()
    ]
    b.node("BatchNormalization", ["c0", *statistics], "n0")
    b.with_constants("Clip", "n0", "r0", 11, {"min": np.float32(0), "max": np.float32(6)})
    b.node("Dropout", ["r0"], "d0")
    b.with_constants("Pad", "d0", "p0", 11, {"pads": np.array([0, 0, 1, 0, 0, 0, 0, 1])}, mode="constant")
    b.node("Conv", ["p0", b.constant("w1", f32(8, 8, 3, 3)), b.constant("b1", f32(8))], "c1", kernel_shape=[3, 3])
    b.with_constants(
        "Slice", "c1", "s1", 10, {"starts": np.array([0, 0]), "ends": np.array([8, 8]), "axes": np.array([2, 3])}
    )
    b.node("MaxPool", ["s1"], "m1", kernel_shape=[2, 2], strides=[2, 2])
    scales = np.array([1, 1, 2, 2], np.float32)
    if opset < 10:
        b.node("Upsample", ["m1", b.constant("scales", scales)], "u1", mode="nearest")
    elif opset == 10:
        b.node("Resize", ["m1", b.constant("scales", scales)], "u1", mode="nearest")
    else:
        roi = b.constant("roi", np.zeros(0, np.float32))
        b.node("Resize", ["m1", roi, b.constant("scales", scales)], "u1", mode="nearest")
    b.with_constants("ReduceMean", "u1", "a1", 18, {"axes": np.array([2, 3])}, keepdims=1)
    b.with_constants("Squeeze", "a1", "q1", 13, {"axes": np.array([2, 3])})
    b.node("Gemm", ["q1", b.constant("wf", f32(10, 8)), b.constant("bf", f32(10))], "logits", transB=1)
    fed = [_info("image", ["N", 3, 8, 8])]
    if initializers_as_inputs:
        fed += [helper.make_tensor_value_info(c.name, c.data_type, list(c.dims)) for c in b.constants]
    graph = helper.make_graph(b.nodes, "classifier", fed, [_info("logits", ["N", 10])], b.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    model.metadata_props.add(key="classes", value="ten")
    onnx.checker.check_model(model, full_check=True)
    return ir.from_proto(model)


OPSETS = list(range(9, newest_opset() + 1))
IMAGES = RNG.normal(size=(8, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("opset", OPSETS)
def test_quantize_every_opset_is_all_integer(opset, tmp_path):
    model = classifier(opset, ir_version=4 if opset < 11 else 8)
    prepared = prepare(model)
    np.testing.assert_allclose(run(prepared.model, IMAGES), run(model, IMAGES), rtol=1e-4, atol=1e-5)
    int8, _, _ = quantize(model, IMAGES)
    save_model(int8, tmp_path / "int8.onnx")
    onnx.checker.check_model(str(tmp_path / "int8.onnx"), full_check=True)
    left = optimized_ops(int8, tmp_path)
    assert left["QLinearConv"] == 2
    assert left["QGemm"] == 1
    assert left["QuantizeLinear"] == 1
    assert left["DequantizeLinear"] == 0
    assert sqnr_db(run(model, IMAGES), run(int8, IMAGES)) > 25
    assert int8.opset_imports[""] == max(opset, PER_CHANNEL_OPSET)
    assert int8.metadata_props["classes"] == "ten"


@pytest.mark.parametrize("opset", [9, 12])
def test_prepare_opset_upgrade_is_noted_and_keeps_names(opset):
    model = classifier(opset, ir_version=8)
    prepared = prepare(model)
    assert prepared.notes[0] == f"opset {opset} raised to 13, the first with quantization per channel"
    names = {value.name for node in prepared.model.graph for value in node.outputs}
    assert {"r0", "c1", "s1", "m1", "a1", "q1", "logits"} <= names
    assert {node.name for node in prepared.model.graph} >= {"Conv_c0", "MaxPool_m1", "Gemm_logits"}


@pytest.mark.parametrize("opset", [13, 17])
def test_prepare_newer_opsets_are_left_alone(opset):
    prepared = prepare(classifier(opset, ir_version=8))
    assert prepared.model.opset_imports[""] == opset
    assert prepared.notes == ()


def test_prepare_initializers_that_are_also_inputs_become_constants():
    """IR versions before 4 list every weight among the inputs; only the image is fed."""
    model = classifier(9, ir_version=3, initializers_as_inputs=True)
    int8, _, prepared = quantize(model, IMAGES)
    assert [value.name for value in prepared.graph.inputs] == ["image"]
    assert [value.name for value in int8.graph.inputs] == ["image"]
    assert sqnr_db(run(prepared, IMAGES), run(int8, IMAGES)) > 25


def test_prepare_operator_without_conversion_is_named(monkeypatch):
    def refuse(*_):
        raise RuntimeError("No Adapter From Version 16 for Upsample")

    monkeypatch.setattr("quantkit.graph.passes.opset.version_converter.convert_version", refuse)
    with pytest.raises(ModelError, match=r"cannot raise the model from opset 11 to 13 \(.*Upsample"):
        prepare(classifier(11, ir_version=8))


def test_quantize_leaves_the_given_model_unchanged():
    model = classifier(9, ir_version=8)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    quantize(model, IMAGES)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before

"""Channels-last models: transpositions around layers cancel, and the graph is no larger than that of channels first."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph.builder import Builder, Outcome, assert_int8, image_of
from graph_runs import run, sqnr_db

from quantkit.graph.prepare import prepare

TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


class Last(Builder):
    """Writes each layer as an exporter from TensorFlow does; ``first=True`` gives the channels-first twin."""

    def __init__(self, first=False):
        super().__init__()
        self.first = first

    def around(self, x, layer):
        return (
            layer(x)
            if self.first
            else self.op("Transpose", layer(self.op("Transpose", x, perm=TO_FIRST)), perm=TO_LAST)
        )

    def per_channel(self, values):
        return self.const(np.reshape(values, (-1, 1, 1)) if self.first else values)

    def layer(self, x, inputs, outputs, size=3):
        weight = self.const(self.weights(outputs, inputs, size, size))
        y = self.around(x, lambda x: self.op("Conv", x, weight, pads=[size // 2] * 4))
        return self.op("Add", y, self.per_channel(self.rng.normal(0, 0.1, outputs)))

    def axis(self):
        return 1 if self.first else 3

    def space(self):
        return [2, 3] if self.first else [1, 2]


def relu6(b, x):
    return b.op("Min", b.op("Max", x, b.const(0.0)), b.const(6.0))


def swish(b, x):
    return b.op("Mul", x, b.op("Sigmoid", x))


def network(b, activation):
    x = activation(b, b.layer("image", 3, 16))
    x = b.around(x, lambda x: b.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
    y = activation(b, b.around(b.layer(x, 16, 16), lambda x: b.norm(x, 16)))
    x = b.op("Relu", b.op("Add", b.layer(y, 16, 16), x))
    halves = b.op("Split", x, axis=b.axis(), outputs=2)
    x = b.op("Concat", activation(b, b.layer(halves[0], 8, 8)), halves[1], axis=b.axis())
    pads = np.zeros((2, 4), np.int64)
    pads[:, b.space()] = 1
    x = b.layer(b.op("Pad", x, b.const(pads.reshape(-1), np.int64)), 16, 16)
    gate = b.layer(b.op("ReduceMean", x, axes=b.space(), keepdims=1), 16, 16, size=1)
    x = b.op("ReduceMean", b.op("Mul", x, b.op("Sigmoid", gate)), axes=b.space(), keepdims=0)
    return b.op("Add", b.op("MatMul", x, b.const(b.weights(16, 10))), b.const(np.zeros(10)))


ACTIVATIONS = {"Relu": lambda b, x: b.op("Relu", x), "relu6": relu6, "swish": swish}


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
@pytest.mark.parametrize("image", [("N", 16, 16, 3), ("N", 3, 16, 16)], ids=["NHWC input", "NCHW input"])
def test_layout_pass_channels_last_is_no_larger_than_its_twin(activation, image, tmp_path):
    last, first = Last(), Last(first=True)
    if image[-1] != 3:
        last.nodes = [onnx.helper.make_node("Transpose", ["image"], ["last"], name="door", perm=TO_LAST)]
    proto = last.model(network(last, activation), image=image, opset=13)
    if image[-1] != 3:
        readers = [node for node in proto.graph.node if node.name != "door"]
        for node in readers:
            node.input[:] = ["last" if name == "image" else name for name in node.input]
    twin = Outcome(first.model(network(first, activation), opset=13), tmp_path)
    outcome = Outcome(proto, tmp_path)
    assert_int8(outcome, twin.layers)
    door = ["Transpose"] if image[-1] == 3 else []
    assert sorted(outcome.ops()) == sorted(door + twin.ops())


def test_layout_pass_transposes_that_do_not_cancel_stay(tmp_path):
    """Layer norm over channels, as in ConvNeXt: nothing is saved, so nothing is moved."""
    b = Builder()
    x = b.op("Transpose", b.conv("image", 3, 8), perm=TO_LAST)
    x = b.op("LayerNormalization", b.op("Relu", x), b.const(np.ones(8)), axis=-1)
    x = b.op("Relu", b.op("Transpose", x, perm=TO_FIRST))
    outcome = Outcome(b.model(b.head(x, 8)), tmp_path)
    assert outcome.ops()[:6] == ["Conv", "Transpose", "Relu", "LayerNormalization", "Transpose", "Relu"]
    assert outcome.prepared_db > 100


REST = {
    "flatten": lambda b, x: b.op("Reshape", x, b.const([0, -1], np.int64)),
    "softmax": lambda b, x: b.op("ReduceMean", b.op("Softmax", x, axis=-1), axes=[1, 2], keepdims=0),
    "maximum": lambda b, x: b.op(
        "ReduceMax", b.op("PRelu", x, b.const([0.1, 0.2, 0.3, 0.4])), axes=[-2, -3], keepdims=0
    ),
    "squeeze": lambda b, x: b.op("Squeeze", b.op("ReduceMean", x, axes=[1, 2], keepdims=1), b.const([1, 2], np.int64)),
    "one by one": lambda b, x: b.op("Flatten", b.op("ReduceMean", x, axes=[1, 2], keepdims=1)),
    "result": lambda b, x: x,
}


@pytest.mark.parametrize("rest", REST.values(), ids=REST.keys())
def test_layout_pass_keeps_values(rest):
    b = Builder()
    x = b.op("Conv", b.op("Transpose", "image", perm=TO_FIRST), b.const(b.weights(8, 3, 3, 3)))
    x = b.op("Relu", b.op("Mul", b.op("Transpose", x, perm=TO_LAST), b.const(np.linspace(-1, 1, 8))))
    x = b.op("Conv", b.op("Transpose", x, perm=TO_FIRST), b.const(b.weights(4, 8, 3, 3)))
    proto = b.model(rest(b, b.op("Transpose", x, perm=TO_LAST)), image=(2, 8, 9, 3), opset=13)
    model = ir.from_proto(proto)
    prepared = prepare(model).model
    assert [node.op_type for node in prepared.graph].count("Transpose") <= 2
    image = image_of(proto)
    assert sqnr_db(run(model, image), run(prepared, image)) > 110


def test_layout_pass_mean_behind_channels_last_norm_becomes_pool():
    """Swin ends so: normalized with channels last, then averaged over height and width with channels first."""
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3, 8, 8] image) => (float[N, 4] scores)
    <float[4] scale = {1.0, 1.0, 1.0, 1.0}, int64[2] flat = {-1, 4}> {
        conv = Conv (image, w)
        last = Transpose <perm = [0, 2, 3, 1]> (conv)
        norm = LayerNormalization <axis = -1> (last, scale)
        first = Transpose <perm = [0, 3, 1, 2]> (norm)
        mean = ReduceMean <axes = [2, 3], keepdims = 1> (first)
        scores = Reshape (mean, flat)
    }"""
    proto = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).normal(size=(4, 3, 1, 1)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    prepared = prepare(ir.from_proto(proto)).model
    kinds = [node.op_type for node in prepared.graph]
    assert "GlobalAveragePool" in kinds
    assert "ReduceMean" not in kinds

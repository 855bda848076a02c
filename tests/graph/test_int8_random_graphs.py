"""Random convolutional graphs: branches, shared tensors and operators in combinations that nobody thought of."""

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_runs import optimized_ops, quantize, run, sqnr_db
from onnx import TensorProto, helper, numpy_helper

from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import PlanOptions
from quantkit.targets import ORT, TENSORRT, VACC

BATCH = 6


@dataclass
class Graph:
    """A graph in the making: its tensors with their shapes, and what may be done to them next."""

    rng: np.random.Generator
    nodes: list = field(default_factory=list)
    constants: list = field(default_factory=list)
    shapes: dict = field(default_factory=dict)

    def constant(self, content):
        name = f"k{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(content), name))
        return name

    def weights(self, *shape):
        fan_in = int(np.prod(shape[1:])) or 1
        return self.constant((self.rng.normal(size=shape) / fan_in**0.5).astype(np.float32))

    def vector(self, size, spread=0.3):
        return self.constant((self.rng.normal(size=size) * spread).astype(np.float32))

    def add(self, op_type, inputs, shape, outputs=1, **attributes):
        names = [f"{op_type.lower()}{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=names[0], **attributes))
        for name in names:
            self.shapes[name] = shape
        return names[0] if outputs == 1 else names

    def pick(self):
        return str(self.rng.choice(list(self.shapes)))

    def grow(self):
        steps = [
            self.conv,
            self.depthwise,
            self.activation,
            self.two,
            self.concat,
            self.pool,
            self.gate,
            self.move,
            self.norm,
        ]
        steps[self.rng.choice(len(steps))](self.pick())

    def conv(self, x):
        channels, height, width = self.shapes[x]
        out = int(self.rng.integers(2, 9))
        bias = [self.vector(out)] if self.rng.random() < 0.7 else []
        kernel = int(self.rng.choice([1, 3]))
        pads = [kernel // 2] * 4
        self.add("Conv", [x, self.weights(out, channels, kernel, kernel), *bias], (out, height, width), pads=pads)

    def depthwise(self, x):
        channels = self.shapes[x][0]
        self.add("Conv", [x, self.weights(channels, 1, 3, 3)], self.shapes[x], pads=[1, 1, 1, 1], group=channels)

    def activation(self, x):
        kind = str(self.rng.choice(["Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh"]))
        limits = [self.constant(np.float32(0)), self.constant(np.float32(1.5))] if kind == "Clip" else []
        self.add(kind, [x, *limits], self.shapes[x])

    def two(self, x):
        others = [name for name, shape in self.shapes.items() if shape == self.shapes[x]]
        operands = [x, str(self.rng.choice(others))]
        if self.rng.random() < 0.2:
            operands[1] = self.vector((self.shapes[x][0], 1, 1) if self.rng.random() < 0.5 else (1,))
        self.add(str(self.rng.choice(["Add", "Mul", "Sub"])), operands, self.shapes[x])

    def concat(self, x):
        size = list(self.shapes[x][1:])
        others = [name for name, shape in self.shapes.items() if list(shape[1:]) == size]
        chosen = [x, *(str(self.rng.choice(others)) for _ in range(self.rng.integers(1, 3)))]
        total = sum(self.shapes[name][0] for name in chosen)
        if total <= 24:
            self.add("Concat", chosen, (total, *size), axis=1)

    def pool(self, x):
        kind = str(self.rng.choice(["MaxPool", "AveragePool"]))
        channels, height, width = self.shapes[x]
        self.add(kind, [x], (channels, height, width), kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def gate(self, x):
        channels = self.shapes[x][0]
        mean = self.add("GlobalAveragePool", [x], (channels, 1, 1))
        self.shapes.pop(mean)
        scale = self.add("Conv", [mean, self.weights(channels, channels, 1, 1)], (channels, 1, 1))
        self.shapes.pop(scale)
        gate = self.add(str(self.rng.choice(["Sigmoid", "HardSigmoid"])), [scale], (channels, 1, 1))
        self.shapes.pop(gate)
        self.add("Mul", [x, gate], self.shapes[x])

    def move(self, x):
        channels, height, width = self.shapes[x]
        ints = lambda *values: self.constant(np.array(values, np.int64))  # noqa: E731
        kind = int(self.rng.integers(0, 5))
        if kind == 0 and channels % 2 == 0:
            self.add("Split", [x], (channels // 2, height, width), outputs=2, axis=1, num_outputs=2)
        elif kind == 1 and channels % 2 == 0:
            grouped = self.add("Reshape", [x, ints(0, 2, channels // 2, height, width)], None)
            turned = self.add("Transpose", [grouped], None, perm=[0, 2, 1, 3, 4])
            self.shapes.pop(grouped), self.shapes.pop(turned)
            self.add("Reshape", [turned, ints(0, channels, height, width)], (channels, height, width))
        elif kind == 2:
            self.add("Pad", [x, ints(0, 1, 0, 0, 0, 2, 0, 0)], (channels + 3, height, width))
        elif kind == 3 and channels > 2:
            self.add("Slice", [x, ints(1), ints(channels), ints(1)], (channels - 1, height, width))
        else:
            self.add("Mul", [x, self.constant(np.float32(self.rng.uniform(0.3, 3)))], self.shapes[x])

    def norm(self, x):
        channels = self.shapes[x][0]
        variance = self.constant(self.rng.uniform(0.3, 2, channels).astype(np.float32))
        parameters = [self.vector(channels, 1.0), self.vector(channels), self.vector(channels), variance]
        self.add("BatchNormalization", [x, *parameters], self.shapes[x])

    def model(self):
        """Join some of the tensors into class scores."""
        ends = [str(name) for name in self.rng.choice(list(self.shapes), size=min(3, len(self.shapes)), replace=False)]
        rows = []
        for end in ends:
            channels = self.shapes[end][0]
            y = self.add("Conv", [end, self.weights(5, channels, 1, 1), self.vector(5)], None)
            rows.append(self.add("Relu", [y], None))
        joined = self.add("Concat", rows, None, axis=1)
        mean = self.add("GlobalAveragePool", [joined], None)
        flat = self.add("Flatten", [mean], None)
        self.nodes.append(
            helper.make_node("Gemm", [flat, self.weights(7, 5 * len(ends)), self.vector(7)], ["logits"], transB=1)
        )
        info = [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 7]),
        ]
        graph = helper.make_graph(self.nodes, "random", info[:1], info[1:], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return ir.from_proto(model)


def random_model(seed):
    rng = np.random.default_rng(seed)
    graph = Graph(rng, shapes={"image": (3, 8, 8)})
    for _ in range(int(rng.integers(4, 16))):
        graph.grow()
    return graph.model(), rng.normal(size=(BATCH, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("seed", range(30))
def test_quantize_random_graph_stays_near_fp32(seed, tmp_path):
    model, x = random_model(seed)
    fp32 = run(model, x)
    scale = np.abs(fp32).max()
    assert np.abs(run(prepare(model).model, x) - fp32).max() <= 1e-4 * scale
    int8, plan, prepared = quantize(model, x)
    onnx.checker.check_model(ir.to_proto(int8), full_check=True)
    left = optimized_ops(int8, tmp_path)
    assert not [
        name for name in ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "BatchNormalization") if left[name]
    ]
    assert sqnr_db(fp32, run(int8, x)) > 15
    assert sqnr_db(run(int8, x, optimize=False), run(int8, x)) > 25
    assert all(row.why for row in plan.explain() if row.how in ("float", "absorbed"))
    names = [value.name for node in int8.graph for value in node.outputs]
    assert len(names) == len(set(names))

    for target in (VACC, TENSORRT, ORT.with_options(activation_type="int8", per_channel=False)):
        other, _, _ = quantize(model, x, target=target)
        assert sqnr_db(fp32, run(other, x)) > 8

    skipped = str(np.random.default_rng(seed).choice([node.name for node in prepared.graph]))
    partly, _, _ = quantize(model, x, options=PlanOptions(skip=(skipped,)))
    assert sqnr_db(fp32, run(partly, x)) > 15

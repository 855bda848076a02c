"""A small builder of ONNX models for tests of the operators that people bring."""

import numpy as np
import onnx
import onnx_ir as ir
from graph_runs import session, sqnr_db
from onnx import TensorProto, helper, numpy_helper

from quantkit.graph.model import read_model
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.write import write_qdq
from quantkit.numerics import Range
from quantkit.targets import ORT

FLOAT = TensorProto.FLOAT
MICROSOFT = "com.microsoft"


class Builder:
    """Collects nodes and constants; every method returns the name of what it adds."""

    def __init__(self, seed=0):
        self.nodes, self.constants, self.rng = [], [], np.random.default_rng(seed)

    def const(self, content, dtype=np.float32):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(content, dtype), name))
        return name

    def op(self, op_type, *inputs, outputs=1, **attributes):
        count = len(self.nodes)
        names = [f"{op_type.lower()}_{count}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=f"n{count}", **attributes))
        return names[0] if outputs == 1 else names

    def weights(self, *shape):
        return self.rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)

    def conv(self, x, inputs, outputs, size=3, weight=None, **attributes):
        weight = weight or self.const(self.weights(outputs, inputs, size, size))
        bias = self.const(self.rng.normal(0, 0.1, outputs))
        return self.op("Conv", x, weight, bias, **({"pads": [size // 2] * 4} | attributes))

    def norm(self, x, channels, dtype=np.float32):
        values = [self.rng.uniform(0.5, 1.5, channels), *self.rng.normal(0, 0.1, (2, channels))]
        return self.op(
            "BatchNormalization",
            x,
            *(self.const(one, dtype) for one in (*values, self.rng.uniform(0.5, 1.5, channels))),
        )

    def head(self, x, channels, classes=10):
        flat = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.op(
            "Gemm", flat, self.const(self.weights(classes, channels)), self.const(np.zeros(classes)), transB=1
        )

    def model(self, result, *, image=("N", 3, 16, 16), opset=17, domains=(), inputs=(), ir_version=8):
        self.nodes.append(helper.make_node("Identity", [result], ["logits"], name="last"))
        graph = helper.make_graph(
            self.nodes,
            "built",
            [helper.make_tensor_value_info("image", FLOAT, list(image)), *inputs],
            [helper.make_tensor_value_info("logits", FLOAT, None)],
            self.constants,
        )
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def image_of(model, seed=1):
    sizes = [size.dim_value or 2 for size in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).normal(size=sizes).astype(np.float32)


class Outcome:
    """What becomes of a model file: prepared, planned, written for onnxruntime, and how near both come to the original.

    Attributes:
        prepared_db: SQNR of the prepared model's result to that of the original in onnxruntime.
        int8_db: the same of the int8 model, calibrated with min and max on the very image.
    """

    def __init__(self, proto, folder, *, target=ORT, feeds=None):
        path = folder / "model.onnx"
        onnx.save(proto, path)
        feeds = {"image": image_of(proto)} | (feeds or {})
        expected = session(path, optimize=False).run(None, feeds)[0]
        self.prepared = prepare(read_model(path)).model
        self.plan = plan(self.prepared, target)
        self.prepared_db = sqnr_db(expected, session(self.prepared).run(None, feeds)[0])
        observed = self.prepared.clone()
        values = {value.name: value for node in observed.graph for value in node.outputs}
        wanted = [name for name in self.plan.observed if name in values]
        known = {value.name for value in observed.graph.outputs}
        observed.graph.outputs.extend(values[name] for name in wanted if name not in known)
        values = session(observed).run(wanted, feeds) if wanted else []  # no names would mean all outputs
        found = dict(zip(wanted, values, strict=True)) | feeds
        ranges = {name: Range.around(float(found[name].min()), float(found[name].max())) for name in self.plan.observed}
        self.int8 = write_qdq(self.prepared, self.plan, ranges)
        self.int8_db = sqnr_db(expected, session(self.int8).run(None, feeds)[0])

    @property
    def layers(self):
        return [layer.op_type for layer in self.plan.layers]

    def row(self, op_type):
        """Return how and why of the first operator of a type."""
        rows = [row for row in self.plan.explain() if row.kind == "operator" and row.op_type == op_type]
        return rows[0].how, rows[0].why

    def ops(self):
        return [node.op_type for node in self.prepared.graph]


def assert_int8(outcome, layers, db=20.0):
    """All layers are int8, the prepared model computes what the original does, and the int8 model is near."""
    assert outcome.layers == layers
    assert outcome.prepared_db > 100
    assert outcome.int8_db > db
    assert ir.to_proto(outcome.int8).SerializeToString()

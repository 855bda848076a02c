"""What the graph tests share: run a model, observe min and max, look at the graph onnxruntime makes of it."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes.common import ShapeInferencePass

from quantkit.graph.passes.names import name_nodes
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import PlanOptions, plan
from quantkit.graph.qdq.write import write_qdq
from quantkit.numerics import Range
from quantkit.targets import ORT


def text_model(text, **initializers):
    """Parse a model in ONNX text form, give it initializers, and name its nodes and infer its shapes."""
    model = onnx.parser.parse_model(text)
    for name, content in initializers.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(content), name))
    onnx.checker.check_model(model, full_check=True)
    parsed = ir.from_proto(model)
    name_nodes(parsed)
    ShapeInferencePass()(parsed)
    return parsed


def session(model, *, optimized_to=None, optimize=True):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized_to is not None:
        options.optimized_model_filepath = str(optimized_to)
    source = str(model) if isinstance(model, Path) else ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(model, x, *, optimize=True):
    """Return the first output of a model for one input."""
    runner = session(model, optimize=optimize)
    return runner.run(None, {runner.get_inputs()[0].name: x})[0]


def tensors_of(model, names, x):
    """Return the values of named tensors of a model for one input."""
    if not names:
        return {}
    proto = ir.to_proto(model)
    present = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    runner = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, runner.run(list(names), {runner.get_inputs()[0].name: x}), strict=True))


def minmax_ranges(model, names, x):
    fed = model.graph.inputs[0].name
    values = tensors_of(model, [name for name in names if name != fed], x) | {fed: x}
    return {name: Range.around(values[name].min(), values[name].max()) for name in names}


def quantize(model, x, *, target=ORT, options=None, **extras):
    """Prepare, plan, observe with min and max, write: the int8 model, its plan and the prepared model."""
    prepared = prepare(model).model
    made = plan(prepared, target, options or PlanOptions())
    ranges = minmax_ranges(prepared, made.observed, x)
    return write_qdq(prepared, made, ranges, **extras), made, prepared


def optimized_ops(model, folder):
    """Return how often each operator is in the graph that onnxruntime runs after all optimizations."""
    path = folder / "optimized.onnx"
    session(model, optimized_to=path)
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def sqnr_db(reference, other):
    assert reference.shape == other.shape
    reference = reference.astype(np.float64)
    noise = ((reference - other) ** 2).sum()
    return float("inf") if noise == 0 else 10 * np.log10((reference**2).sum() / noise)

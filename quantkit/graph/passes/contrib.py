"""Decomposes fused operators of onnxruntime into the ONNX operators that its optimizer fused.

A file saved by onnxruntime after optimization (``SessionOptions.optimized_model_filepath``, or its transformers
optimizer) contains fused operators of the domain com.microsoft. Each represents a few ONNX operators, and onnxruntime
fuses them again at load time; only in the decomposed form are layers detected, and is the file portable. Definitions of
the operators: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.analysis.values import (
    add_constant,
    dims,
    is_op,
    node_name,
    operand,
    rank,
    required,
    unused_name,
)
from quantkit.graph.passes.types import infer_types

DOMAIN = "com.microsoft"
# The first opset with Gelu.
_GELU_OPSET = 20
_ELEMENT = {ir.DataType.FLOAT: np.float32, ir.DataType.DOUBLE: np.float64, ir.DataType.FLOAT16: np.float16}


def plain_contrib(model: ir.Model) -> None:
    """Replace FusedConv, FusedGemm, FusedMatMul, the GELUs, SkipLayerNormalization and Attention by ONNX operators.

    Not changed: operands of unknown rank if the order of axes matters, attention with a mask, a past or other options,
    nodes with further outputs in use (except the sum of a SkipLayerNormalization), and all other operators of the
    domain.
    """
    modified = False
    opset = model.opset_imports.get("", 1)
    for node in list(model.graph):
        rewrite = _REWRITES.get(node.op_type) if node.domain == DOMAIN else None
        if rewrite is not None:
            modified |= rewrite(_Writer(model.graph, node, opset))
    if modified:
        infer_types(model)


class _Writer:
    """Writes ONNX nodes in place of a fused node.

    Attributes:
        node: the fused node.
        opset: version of the ONNX operator set.
    """

    def __init__(self, graph: ir.Graph, node: ir.Node, opset: int) -> None:
        self.node, self.opset = node, opset
        self._graph = graph
        self._nodes: list[ir.Node] = []
        self._name = node_name(node)

    def constant(self, content: npt.NDArray[np.generic] | float, part: str, like: ir.Value | None = None) -> ir.Value:
        """Add a constant with the element type of another value."""
        kind = None if like is None else _ELEMENT.get(like.dtype or ir.DataType.FLOAT)
        return add_constant(self._graph, f"{self._name}.{part}", np.asarray(content, kind))

    def op(self, op_type: str, *inputs: ir.Value | None, part: str, **attributes: Any) -> ir.Value:
        """Add a node with one output and return it."""
        return self.outputs(op_type, inputs, part, 1, attributes)[0]

    def outputs(
        self, op_type: str, inputs: Sequence[ir.Value | None], part: str, count: int, attributes: Mapping[str, Any]
    ) -> Sequence[ir.Value]:
        """Add a node with several outputs."""
        made = ir.convenience.convert_attributes(attributes)
        node = ir.Node("", op_type, list(inputs), made, num_outputs=count, name=f"{self._name}.{part}")
        for index, value in enumerate(node.outputs):
            value.name = unused_name(self._graph, f"{self._name}.{part}" + (f"_{index}" if count > 1 else ""))
        self._nodes.append(node)
        return node.outputs

    def finish(self, results: Mapping[int, ir.Value]) -> bool:
        """Replace the fused node by the new nodes; the results take over names and consumers of its outputs."""
        self._graph.insert_before(self.node, self._nodes)
        for index, value in results.items():
            old = self.node.outputs[index]
            if not old.name:  # an optional output that is left out
                continue
            name, value.type, value.shape = old.name, old.type, old.shape
            old.name = f"{name}.replaced"
            old.replace_all_uses_with(value, replace_graph_outputs=True)
            value.name = name
        maker = results[0].producer()
        self._graph.remove(self.node, safe=True)
        if maker is not None:
            maker.name = self._name
        return True


def _only_first_read(node: ir.Node, also: Sequence[int] = ()) -> bool:
    return not any(
        (value.uses() or value.is_graph_output())
        for index, value in enumerate(node.outputs)
        if index and index not in also
    )


# Activation functions that are fused into layers, with their number of parameters.
_ACTIVATIONS = {"": 0, "Relu": 0, "Sigmoid": 0, "Tanh": 0, "Softplus": 0, "LeakyRelu": 1, "HardSigmoid": 2, "Clip": 2}


def _activate(writer: _Writer, value: ir.Value, activation: str, numbers: Sequence[float]) -> ir.Value:
    """Append one of the fused activation functions."""
    match activation:
        case "":
            return value
        case "LeakyRelu":
            return writer.op(activation, value, part="activation", alpha=float(numbers[0]))
        case "HardSigmoid":
            return writer.op(activation, value, part="activation", alpha=float(numbers[0]), beta=float(numbers[1]))
        case "Clip":
            limits = [
                writer.constant(float(end), name, value) for end, name in zip(numbers, ("min", "max"), strict=False)
            ]
            return writer.op("Clip", value, *limits, part="activation")
        case _:
            return writer.op(activation, value, part="activation")


def _fused_conv(writer: _Writer) -> bool:
    node = writer.node
    given, activation = node.attributes.get("activation_params"), node.attributes.get_string("activation", "")
    numbers = [] if given is None else list(given.as_floats())
    if len(numbers) < _ACTIVATIONS.get(activation, 99):
        return False
    kept = {name: one.value for name, one in node.attributes.items() if not name.startswith("activation")}
    result = writer.op("Conv", *list(node.inputs)[:3], part="conv", **kept)
    if (addend := operand(node, 3)) is not None:
        result = writer.op("Add", result, addend, part="sum")
    return writer.finish({0: _activate(writer, result, activation, numbers)})


def _fused_gemm(writer: _Writer) -> bool:
    node = writer.node
    activation = node.attributes.get_string("activation", "")
    if activation not in _ACTIVATIONS:
        return False
    kept = {name: one.value for name, one in node.attributes.items() if not name.startswith("activation")}
    numbers = [node.attributes.get_float(f"activation_{part}", 0.0) for part in ("alpha", "beta", "gamma")]
    result = writer.op("Gemm", *node.inputs, part="gemm", **kept)
    return writer.finish({0: _activate(writer, result, activation, numbers)})


def _fused_matmul(writer: _Writer) -> bool:
    node = writer.node
    orders = {side: _operand_order(node, side, rank(required(node, index))) for index, side in enumerate("AB")}
    if None in orders.values():
        return False
    operands = []
    for index, (side, order) in enumerate(orders.items()):
        value = required(node, index)
        moved = order != sorted(order or [])
        operands.append(writer.op("Transpose", value, part=f"transposed_{side}", perm=order) if moved else value)
    result = writer.op("MatMul", *operands, part="product")
    if (factor := node.attributes.get_float("alpha", 1.0)) != 1.0:
        result = writer.op("Mul", result, writer.constant(factor, "alpha", operands[0]), part="scaled")
    return writer.finish({0: result})


def _operand_order(node: ir.Node, side: str, dimensions: int | None) -> list[int] | None:
    """Return the order of axes in which an operand is multiplied, None if its rank is needed and unknown."""
    last = node.attributes.get_int(f"trans{side}", 0)
    batch = node.attributes.get_int(f"transBatch{side}", 0)
    if not last and not batch:
        return []
    if dimensions is None or dimensions < 2:
        return None
    order = list(range(dimensions))
    if batch:  # the first axis is next to last: [K, batch..., M] for [batch..., K, M]
        order = [*order[1:-1], 0, order[-1]]
    if last:
        order[-2:] = order[:-3:-1]
    return order


def _gelu(writer: _Writer) -> bool:
    source = required(writer.node, 0)
    if (bias := operand(writer.node, 1)) is not None:
        source = writer.op("Add", source, bias, part="biased")
    return writer.finish({0: _erf_gelu(writer, source)})


def _erf_gelu(writer: _Writer, source: ir.Value) -> ir.Value:
    if writer.opset >= _GELU_OPSET:
        return writer.op("Gelu", source, part="gelu")
    like = required(writer.node, 0)
    inner = writer.op("Div", source, writer.constant(math.sqrt(2.0), "sqrt2", like), part="scaled")
    share = writer.op("Add", writer.op("Erf", inner, part="erf"), writer.constant(1.0, "one", like), part="share")
    return writer.op(
        "Mul", writer.op("Mul", source, share, part="twice"), writer.constant(0.5, "half", like), part="gelu"
    )


def _fast_gelu(writer: _Writer) -> bool:
    """``0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``."""
    source = like = required(writer.node, 0)
    if (bias := operand(writer.node, 1)) is not None:
        source = writer.op("Add", source, bias, part="biased")
    if writer.opset >= _GELU_OPSET:
        return writer.finish({0: writer.op("Gelu", source, part="gelu", approximate="tanh")})
    cube = writer.op("Pow", source, writer.constant(3.0, "three", like), part="cube")
    small = writer.op("Mul", cube, writer.constant(0.044715, "cubic", like), part="small")
    total = writer.op("Add", source, small, part="total")
    inner = writer.op("Mul", total, writer.constant(math.sqrt(2.0 / math.pi), "linear", like), part="inner")
    share = writer.op("Add", writer.op("Tanh", inner, part="tanh"), writer.constant(1.0, "one", like), part="share")
    halved = writer.op("Mul", source, writer.constant(0.5, "half", like), part="halved")
    return writer.finish({0: writer.op("Mul", halved, share, part="gelu")})


def _quick_gelu(writer: _Writer) -> bool:
    source = required(writer.node, 0)
    factor = writer.constant(writer.node.attributes.get_float("alpha", 1.702), "alpha", source)
    gate = writer.op("Sigmoid", writer.op("Mul", source, factor, part="scaled"), part="gate")
    return writer.finish({0: writer.op("Mul", source, gate, part="gelu")})


def _skip_layer_norm(writer: _Writer) -> bool:
    node = writer.node
    if not _only_first_read(node, also=(3,)) or rank(operand(node, 1)) not in (rank(operand(node, 0)), None):
        return False
    terms = [required(node, 0), required(node, 1)]
    if (bias := operand(node, 4)) is not None:  # the bias of a linear layer
        place = 1 if is_op(terms[1].producer(), "MatMul") else 0
        terms[place] = writer.op("Add", terms[place], bias, part="biased")
    total = writer.op("Add", *terms, part="sum")
    epsilon = node.attributes.get_float("epsilon", 1e-12)
    result = writer.op(
        "LayerNormalization", total, required(node, 2), operand(node, 3), part="norm", axis=-1, epsilon=epsilon
    )
    return writer.finish({0: result} | ({3: total} if len(node.outputs) > 3 else {}))


def _attention(writer: _Writer) -> bool:
    """``softmax(q k' scale) v`` for each head, with q, k and v from one matrix; weights ``[inputs, 3 hidden]``."""
    node = writer.node
    shape, options = dims(operand(node, 1)), ("unidirectional", "do_rotary", "past_present_share_buffer")
    plain = all(operand(node, index) is None for index in range(3, len(node.inputs))) and _only_first_read(node)
    if not plain or shape is None or None in shape or any(node.attributes.get_int(one, 0) for one in options):
        return False
    heads, hidden = node.attributes.get_int("num_heads", 1), int(shape[1] or 0) // 3
    if "qkv_hidden_sizes" in node.attributes or hidden % heads:
        return False
    source = required(node, 0)
    product = writer.op("MatMul", source, required(node, 1), part="qkv_product")
    if (bias := operand(node, 2)) is not None:
        product = writer.op("Add", product, bias, part="qkv")
    sizes = writer.constant(np.array([hidden] * 3, np.int64), "sizes")
    parts = writer.outputs("Split", [product, sizes], "split", 3, {"axis": -1})
    return writer.finish({0: _attend(writer, parts, heads, hidden // heads)})


def _attend(writer: _Writer, parts: Sequence[ir.Value], heads: int, size: int) -> ir.Value:
    scale = writer.node.attributes.get_float("scale", 0.0) or 1.0 / math.sqrt(size)
    split_shape = writer.constant(np.array([0, 0, heads, size], np.int64), "heads_shape")
    orders = {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3]}
    moved = []
    for value, (name, order) in zip(parts, orders.items(), strict=True):
        split = writer.op("Reshape", value, split_shape, part=f"{name}_heads")
        moved.append(writer.op("Transpose", split, part=name, perm=order))
    scores = writer.op("MatMul", moved[0], moved[1], part="scores")
    scaled = writer.op("Mul", scores, writer.constant(scale, "scale", required(writer.node, 0)), part="scaled")
    weights = writer.op("Softmax", scaled, part="softmax", axis=-1)
    context = writer.op(
        "Transpose", writer.op("MatMul", weights, moved[2], part="context"), part="rows", perm=[0, 2, 1, 3]
    )
    joined_shape = writer.constant(np.array([0, 0, heads * size], np.int64), "joined_shape")
    return writer.op("Reshape", context, joined_shape, part="attention")


def _multi_head_attention(writer: _Writer) -> bool:
    """As `_attention`, with given q, k and v ``[batch, sequence, hidden]``, and one bias for all three."""
    node = writer.node
    values = [operand(node, index) for index in range(3)]
    others = all(operand(node, index) is None for index in range(4, len(node.inputs))) and _only_first_read(node)
    shapes = [dims(value) for value in values]
    known = all(shape is not None and len(shape) == 3 and shape[2] == (shapes[0] or (0, 0, 0))[2] for shape in shapes)
    hidden, heads = (shapes[0] or (0, 0, None))[-1], node.attributes.get_int("num_heads", 1)
    if not others or not known or hidden is None or hidden % heads or node.attributes.get_int("unidirectional", 0):
        return False
    parts = [value for value in values if value is not None]
    if (bias := operand(node, 3)) is not None:
        sizes = writer.constant(np.array([hidden] * 3, np.int64), "sizes")
        biases = writer.outputs("Split", [bias, sizes], "biases", 3, {"axis": 0})
        pairs = enumerate(zip(parts, biases, strict=True))
        parts = [writer.op("Add", value, one, part=f"biased_{index}") for index, (value, one) in pairs]
    return writer.finish({0: _attend(writer, parts, heads, hidden // heads)})


_REWRITES: dict[str, Callable[[_Writer], bool]] = {
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "TransposeMatMul": _fused_matmul,
    "Gelu": _gelu,
    "BiasGelu": _gelu,
    "FastGelu": _fast_gelu,
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_layer_norm,
    "Attention": _attention,
    "MultiHeadAttention": _multi_head_attention,
}

"""Multiply-adds of each layer for one image.

This is the count that papers call MACs, or FLOPs if a multiply-add counts as one: ResNet-50 at 224 x 224 has 4.09
billion. Only products are counted, not biases, activation functions, pools and sums.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from quantkit.graph.analysis.ops import GEMMS, LAYERS
from quantkit.graph.analysis.values import dims, is_op, operand, rank

# onnxruntime's fused layers, which occur in optimized files.
_FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul", "TransposeMatMul": "MatMul"}
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_COUNTED = LAYERS | _RECURRENT | {"DeformConv", "Einsum", "Attention"}
# Layers of other domains with unknown multiply-adds.
_UNCOUNTED = frozenset(
    {
        "Attention",
        "MultiHeadAttention",
        "GroupQueryAttention",
        "PackedAttention",
        "PackedMultiHeadAttention",
        "NhwcConv",
        "NhwcFusedConv",
        "MatMulNBits",
        "MatMulBnb4",
        "MoE",
        "QMoE",
    }
)


@dataclass(frozen=True, kw_only=True)
class LayerOperations:
    """A layer: a node that computes multiply-adds.

    Attributes:
        name: name of the node, or of its first output if the node has none.
        op_type: operator type, prefixed with the domain if it is not ONNX's.
        within: name of the node of the main graph (If, Loop, Scan) that contains it; None in the main graph.
        multiply_adds: multiply-adds for one image, None if they do not follow from the shape of the input.
    """

    name: str
    op_type: str
    within: str | None
    multiply_adds: int | None


def layer_costs(model: ir.Model, input_shape: Sequence[int] | None = None) -> list[LayerOperations]:
    """Return every layer of a model in graph order.

    Layers are Conv, ConvTranspose, DeformConv, Gemm, MatMul (of two activations, too), Einsum, Attention, LSTM, GRU,
    RNN, and the fused ones of onnxruntime.

    Args:
        model: the model, prepared or not; not modified.
        input_shape: ``[N, C, H, W]`` for an input with free dimensions; by default that of the model for one image.
    """
    shaped = with_shapes(model, input_shape)
    batch = (dims(_image(shaped.graph)) or (1,))[0]
    costs = []
    for node, within in _nodes(shaped.graph):
        if _is_layer(node):
            count = _products(node)
            name = node.name or str(node.outputs[0].name)
            kind = node.op_type if node.domain == "" else f"{node.domain}.{node.op_type}"
            each = None if count is None else count // (batch or 1)
            costs.append(LayerOperations(name=name, op_type=kind, within=within, multiply_adds=each))
    return costs


def multiply_adds(prepared_model: ir.Model, input_shape: Sequence[int] | None = None) -> dict[str, int]:
    """Return the multiply-adds of each Conv, ConvTranspose, Gemm and MatMul for one image, in graph order.

    Matrix products of two activations are included. Nodes with unknown shapes are left out.

    Args:
        prepared_model: from `quantkit.graph.prepare.prepare`; not modified.
        input_shape: ``[N, C, H, W]`` for an input with free dimensions; by default that of the model for one image.
    """
    return {
        cost.name: cost.multiply_adds
        for cost in layer_costs(prepared_model, input_shape)
        if cost.multiply_adds is not None and cost.op_type in LAYERS and cost.within is None
    }


def with_shapes(model: ir.Model, input_shape: Sequence[int] | None) -> ir.Model:
    """Return a copy with all shapes inferred from one batch of known size.

    Sizes that cannot be inferred, such as those of operators unknown to ONNX, are kept from the model.
    """
    copy = model.clone()
    stored = {value: value.shape for node in copy.graph for value in node.outputs}
    for value in stored:
        value.shape = None
    sizes = _fix_image(copy.graph, input_shape)
    for value in copy.graph.outputs:
        value.shape = None
    infer = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
    infer(copy)
    changed = False
    for value, before in stored.items():
        known = _completed(value.shape, _resolved(before, sizes))
        changed |= known != value.shape
        value.shape = known
    if changed:
        infer(copy)
    return copy


def _completed(inferred: ir.Shape | None, stored: ir.Shape | None) -> ir.Shape | None:
    """Return the inferred shape, with the stored sizes where inference found none."""
    if inferred is None or stored is None or len(inferred) != len(stored):
        return stored if inferred is None else inferred
    return ir.Shape([size if isinstance(size, int) else kept for size, kept in zip(inferred, stored, strict=True)])


def _image(graph: ir.Graph) -> ir.Value | None:
    """Return the first input with four axes, else the first of all."""
    fed = [value for value in graph.inputs if not value.is_initializer()]
    return next((value for value in fed if rank(value) == 4), fed[0] if fed else None)


def _fix_image(graph: ir.Graph, input_shape: Sequence[int] | None) -> Mapping[str, int]:
    """Set the sizes of the image input, and those of other inputs that share its symbols.

    Returns:
        The size of each symbol.
    """
    image = _image(graph)
    if image is None:
        return {}
    open_shape = list(image.shape) if image.shape is not None else []
    if input_shape is not None:
        image.shape = ir.Shape(input_shape)
    elif open_shape and not isinstance(open_shape[0], int):
        image.shape = ir.Shape([1, *open_shape[1:]])
    fixed = list(image.shape) if image.shape is not None else []
    sizes = {
        str(symbol.value): size
        for symbol, size in zip(open_shape, fixed, strict=False)
        if isinstance(symbol, ir.SymbolicDim) and symbol.value is not None and isinstance(size, int)
    }
    for value in graph.inputs:
        value.shape = _resolved(value.shape, sizes)
    return sizes


def _resolved(shape: ir.Shape | None, sizes: Mapping[str, int]) -> ir.Shape | None:
    if shape is None:
        return None
    return ir.Shape([size if isinstance(size, int) else sizes.get(str(size.value), size.value) for size in shape])


def _nodes(graph: ir.Graph) -> Iterator[tuple[ir.Node, str | None]]:
    """Yield every node; nodes of subgraphs come with the name of the node of the main graph that contains them."""
    for node in graph:
        yield node, None
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from ((inner, node.name) for inner, _ in _nodes(attribute.as_graph()))


def _is_layer(node: ir.Node) -> bool:
    if node.domain == "":
        return node.op_type in _COUNTED
    return node.op_type in _FUSED or node.op_type in _UNCOUNTED


def _products(node: ir.Node) -> int | None:
    """Return the number of products of a node for the batch, None if a shape is unknown."""
    if node.domain != "" and node.op_type not in _FUSED:
        return None
    match _FUSED.get(node.op_type, node.op_type):
        case "Einsum":
            return _einsum(node)
        case "Attention":
            return _attention(node)
        case kind if kind in _RECURRENT:
            return _recurrent(node)
        case kind if kind in GEMMS:
            return _gemm(node)
        case _:
            weight = _sizes(operand(node, 1))
            # One set of weights per input position of a ConvTranspose, per output position of the others.
            moved = _sizes(operand(node, 0) if is_op(node, "ConvTranspose") else node.outputs[0])
            return None if weight is None or moved is None else prod(moved) * prod(weight[1:])


def _gemm(node: ir.Node) -> int | None:
    weight, result = _sizes(operand(node, 1)), _sizes(node.outputs[0])
    if weight is None or result is None:
        return None
    turned = node.attributes.get_int("transB", 0)
    return prod(result) * weight[-1 if turned or len(weight) == 1 else -2]


def _einsum(node: ir.Node) -> int | None:
    """Return the product of the sizes of all labels; 0 for a single operand."""
    terms = node.attributes.get_string("equation", "").replace(" ", "").split("->")[0].split(",")
    shapes = [_sizes(value) for value in node.inputs]
    if len(terms) != len(shapes) or "." in "".join(terms):
        return None
    sizes: dict[str, int] = {}
    for labels, shape in zip(terms, shapes, strict=True):
        if shape is None or len(labels) != len(shape):
            return None
        sizes |= {label: max(size, sizes.get(label, 1)) for label, size in zip(labels, shape, strict=True)}
    return prod(sizes.values()) * (len(terms) - 1)


def _attention(node: ir.Node) -> int | None:
    """Return the number of products of queries with keys, and of attention weights with values."""
    query, key, result = _sizes(operand(node, 0)), _sizes(operand(node, 1)), _sizes(node.outputs[0])
    if query is None or key is None or result is None or operand(node, 4) is not None:
        return None
    return (prod(query) + prod(result)) * key[-2]


def _recurrent(node: ir.Node) -> int | None:
    sequence, weight, state = (_sizes(operand(node, index)) for index in range(3))
    if sequence is None or weight is None or state is None or rank(operand(node, 0)) != 3:
        return None
    return sequence[0] * sequence[1] * (prod(weight) + prod(state))


def _sizes(value: ir.Value | None) -> tuple[int, ...] | None:
    shape = dims(value)
    return None if shape is None or None in shape else tuple(size for size in shape if size is not None)

"""An optimized graph cut into pieces that run one after the other.

A tensor that is read from a running model is best read while it lies in the cache, and its memory used again for the
next one. A session gives its tensors away all together at its end, so it is made of several, each computing some
megabytes of them. A cut changes no node: the pieces hold those of the optimized graph, in their order, and compute the
same bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

# The operators in this domain compute on blocks of channels, all of them in float32.
_BLOCKED = "com.microsoft.nchwc"


@dataclass(frozen=True)
class Piece:
    """Some consecutive nodes of a graph.

    Attributes:
        model: the nodes with their initializers; weights may lie in the file beside the whole model.
        inputs: what it reads of the model's input and of earlier pieces.
        outputs: what it computes for others: taps, results of the model, and what later pieces read.
        later: what of all that was computed so far is read by later pieces.
    """

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    later: frozenset[str]


def cut(model: onnx.ModelProto, elements: Mapping[str, int], limit: int) -> list[Piece]:
    """Cut a model into pieces that compute about as many elements of its taps as the limit allows.

    It is cut only where all that crosses is known to be float32, and not at all where nodes hold graphs of their own.

    Args:
        model: as onnxruntime optimized it, nodes in an order they can run in.
        elements: float32 outputs of the model, with how many elements each has.
        limit: elements of these in one piece; a single tensor may have more.
    """
    graph = model.graph
    reads = [list(dict.fromkeys(name for name in node.input if name)) for node in graph.node]
    makes = [[name for name in node.output if name] for node in graph.node]
    bounds = _bounds(model, reads, elements, limit)
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    entries = [value.name for value in graph.input if value.name not in initializers]
    results = dict.fromkeys(output.name for output in graph.output)
    if len(bounds) == 1:
        return [Piece(model, tuple(entries), tuple(results), frozenset())]
    pieces = []
    computed = set(entries)
    for start, end in zip(bounds, [*bounds[1:], len(reads)], strict=True):
        read = list(dict.fromkeys(name for names in reads[start:end] for name in names))
        made = [name for names in makes[start:end] for name in names]
        inputs = tuple(name for name in read if name in computed)
        computed.update(made)
        ahead = {name for names in reads[end:] for name in names}
        outputs = tuple(name for name in made if name in ahead or name in results)
        weights = [initializers[name] for name in read if name in initializers]
        piece = _model_of(model, graph.node[start:end], inputs, outputs, weights)
        pieces.append(Piece(piece, inputs, outputs, frozenset(computed & ahead)))
    return pieces


def _bounds(
    model: onnx.ModelProto, reads: Sequence[Sequence[str]], elements: Mapping[str, int], limit: int
) -> list[int]:
    """Return the first node of each piece."""
    if any(attribute.HasField("g") or attribute.graphs for node in model.graph.node for attribute in node.attribute):
        return [0]
    floats = _known_floats(model) | elements.keys()
    last_read = {name: index for index, names in enumerate(reads) for name in names}
    crossing: set[str] = set()
    bounds, held = [0], 0
    for index, node in enumerate(model.graph.node):
        more = sum(elements.get(name, 0) for name in node.output)
        crossing = {name for name in crossing if last_read[name] >= index}
        if more and held and held + more > limit and crossing <= floats:
            bounds.append(index)
            held = 0
        held += more
        crossing.update(name for name in node.output if name in last_read)
    return bounds


def _known_floats(model: onnx.ModelProto) -> set[str]:
    """Return the tensors whose type follows from the declared ones and from the operators that are onnx's own."""
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    blocked = [name for node in model.graph.node if node.domain == _BLOCKED for name in node.output]
    typed.graph.value_info.extend(_declare_float(name) for name in blocked)
    inferred = onnx.shape_inference.infer_shapes(typed).graph
    return {
        value.name
        for value in [*inferred.value_info, *inferred.output]
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }


def _declare_float(name: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def _model_of(
    whole: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[str],
    outputs: Sequence[str],
    weights: Sequence[onnx.TensorProto],
) -> onnx.ModelProto:
    declared = {value.name: value for value in [*whole.graph.input, *whole.graph.output]}

    def declare(name: str) -> onnx.ValueInfoProto:
        return declared.get(name) or _declare_float(name)

    graph = onnx.helper.make_graph(
        nodes, "piece", [declare(name) for name in inputs], [declare(name) for name in outputs], weights
    )
    return onnx.helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)

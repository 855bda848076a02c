"""Partitions an optimized graph into pieces that run one after the other.

A tapped tensor should be read while it is in the cache, and its memory reused for the next one. A session returns all
outputs at its end, so the model is split into several sessions, each of which computes some megabytes of outputs. The
pieces contain the unchanged nodes of the optimized graph in order, and their results are bit-identical.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

# The operators in this domain compute on blocks of channels, all of them in float32.
_BLOCKED = "com.microsoft.nchwc"


@dataclass(frozen=True)
class Piece:
    """A sequence of consecutive nodes of a graph.

    Attributes:
        model: the nodes with their initializers; weights may be in the external file of the original model.
        inputs: tensors read from the model's input and from earlier pieces.
        outputs: taps, outputs of the model, and tensors read by later pieces.
        later: all tensors computed so far that later pieces read.
    """

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    later: frozenset[str]


def cut(model: onnx.ModelProto, elements: Mapping[str, int], limit: int) -> list[Piece]:
    """Partition a model into pieces that compute at most about ``limit`` elements of taps each.

    A cut is made only if all crossing tensors are known to be float32, and never in a model with subgraphs.

    Args:
        model: model optimized by onnxruntime, with nodes in topological order.
        elements: number of elements of each float32 output of the model.
        limit: maximum number of these elements per piece; a single tensor may have more.
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
    """Return the float32 tensors, as far as types follow from declared ones and ONNX operators."""
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

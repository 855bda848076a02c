"""Compute before the model runs what does not depend on its input."""

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.analysis.values import array, is_constant, node_name, replace_by_constant

# Where folding would store more than this, and more than it read, the model is smaller unfolded (Tile, Expand).
GROWTH_LIMIT_BYTES = 1 << 20
_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


class FoldConstantsPass(ir.passes.InPlacePass):
    """Replace each node that reads only constants by its result, computed with ONNX's reference implementation.

    Left alone: random numbers, control flow, other domains, graph outputs, strings and sequences, and results that are
    large and larger than what they are made of.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold the main graph in its order, so that chains fold in one walk."""
        opset = model.opset_imports.get("", 1)
        folded = [node for node in list(model.graph) if _foldable(node) and _fold(model.graph, node, opset)]
        return ir.passes.PassResult(model, bool(folded))


def _foldable(node: ir.Node) -> bool:
    if node.domain != "" or node.op_type in _RANDOM or not node.inputs or len(node.outputs) != 1:
        return False
    if any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        return False
    return not node.outputs[0].is_graph_output() and all(value is None or is_constant(value) for value in node.inputs)


def _fold(graph: ir.Graph, node: ir.Node, opset: int) -> bool:
    operands = {f"input_{index}": array(value) for index, value in enumerate(node.inputs) if value is not None}
    result = _evaluate(node, operands, opset)
    if not isinstance(result, np.ndarray) or result.dtype.kind not in "fiub":
        return False
    if result.nbytes > max(GROWTH_LIMIT_BYTES, sum(np.asarray(operand).nbytes for operand in operands.values())):
        return False
    replace_by_constant(graph, node, result)
    return True


def _evaluate(node: ir.Node, operands: dict[str, np.ndarray | None], opset: int) -> object:
    # The reference implementation takes a second to import, and most models have nothing to fold.
    from onnx.reference import ReferenceEvaluator

    names = [f"input_{index}" if value is not None else "" for index, value in enumerate(node.inputs)]
    proto = onnx.helper.make_node(node.op_type, names, ["result"])
    proto.attribute.extend(ir.to_proto(attribute) for attribute in node.attributes.values())
    graph = onnx.helper.make_graph(
        [proto],
        "constant",
        [onnx.helper.make_empty_tensor_value_info(name) for name in operands],
        [onnx.helper.make_empty_tensor_value_info("result")],
    )
    single = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        results = ReferenceEvaluator(single).run(None, operands)
    except NotImplementedError:
        return None
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"the constant node {node_name(node)!r} ({node.op_type}) cannot be computed ({error})"
        ) from error
    return results[0] if isinstance(results, list) else None

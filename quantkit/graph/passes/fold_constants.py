"""Folds nodes that do not depend on the model's input."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.analysis.ops import LAYERS
from quantkit.graph.analysis.values import array, is_constant, is_op, node_name, release, replace_by_constant
from quantkit.graph.open_unoptimized import open_unoptimized

# Results above this size with more elements than the operands (Tile, Expand) are not folded, because the model would
# grow. Results with as many elements as the operands, such as weights stored in another type, are folded at any size.
GROWTH_LIMIT_BYTES = 1 << 20
_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def fold_constants(model: ir.Model) -> bool:
    """Replace each node with only constant inputs by its result, computed by onnxruntime, which also runs the model.

    Weights stored in another element type and cast, scaled or dequantized in the graph become plain constants.
    Not changed: random numbers, control flow, other domains, graph outputs, strings and sequences, and large results
    with more elements than the operands, unless they are the weights of a layer.
    """
    opset = model.opset_imports.get("", 1)
    folded = [node for node in list(model.graph) if _foldable(node) and _fold(model.graph, node, opset)]
    return bool(folded)


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
    if not isinstance(result, np.ndarray) or not _is_numeric(result.dtype):
        return False
    elements = sum(np.asarray(operand).size for operand in operands.values())
    if result.size > elements and result.nbytes > GROWTH_LIMIT_BYTES and not _is_weight(node.outputs[0]):
        return False
    for value in node.inputs:
        if value is not None:
            release(value)
    replace_by_constant(graph, node, result)
    return True


def _is_numeric(dtype: np.dtype[Any]) -> bool:
    """Return whether ONNX has the element type; bfloat16 and 4-bit integers are types of ml_dtypes."""
    try:
        return ir.DataType.from_numpy(dtype) not in (ir.DataType.STRING, ir.DataType.UNDEFINED)
    except (TypeError, ValueError):
        return False


def _is_weight(value: ir.Value) -> bool:
    return any(is_op(use.node, *LAYERS) and use.idx == 1 for use in value.uses())


def _evaluate(node: ir.Node, operands: dict[str, np.ndarray | None], opset: int) -> object:
    """Compute one node by onnxruntime, or, for types that it does not have in Python, by ONNX's reference."""
    single = _single(node, operands, opset)
    results = _run(single, operands)
    if results is None:
        from onnx.reference import ReferenceEvaluator  # takes a second to import

        try:
            results = ReferenceEvaluator(single).run(None, operands)
        except Exception as error:  # operators, and bugs of the implementation, raise any class
            if isinstance(error, RuntimeError | TypeError | ValueError | ArithmeticError):
                raise ModelError(
                    f"the constant node {node_name(node)!r} ({node.op_type}) cannot be computed ({error})"
                ) from error
    return results[0] if isinstance(results, list) else None


def _single(node: ir.Node, operands: dict[str, np.ndarray | None], opset: int) -> onnx.ModelProto:
    names = [f"input_{index}" if value is not None else "" for index, value in enumerate(node.inputs)]
    proto = onnx.helper.make_node(node.op_type, names, ["result"])
    proto.attribute.extend(ir.to_proto(attribute) for attribute in node.attributes.values())
    inputs = [
        onnx.helper.make_tensor_value_info(name, ir.DataType.from_numpy(content.dtype), content.shape)
        for name, content in operands.items()
        if content is not None
    ]
    result = onnx.helper.make_empty_tensor_value_info("result")
    graph = onnx.helper.make_graph([proto], "constant", inputs, [result])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)


def _run(single: onnx.ModelProto, operands: dict[str, np.ndarray | None]) -> object:
    """Run one node in onnxruntime; None if it fails."""
    try:
        return open_unoptimized(single).run(None, operands)
    except Exception:  # the exception classes of onnxruntime derive directly from Exception
        return None

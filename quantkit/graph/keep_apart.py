"""Keep onnxruntime from rewriting float operators between integers into what it has no kernel for.

Its integer convolutions keep channels last. It moves the transpositions between such layouts through whatever lies
between two convolutions, also through a Resize for which it has no kernel in the other layout, or whose axes it does
not renumber (onnxruntime/core/optimizer/transpose_optimization). And it fuses an AveragePool between integers into
its integer one, which has no dilations. Either way the model cannot be loaded (seen in 1.32). An Einsum that copies
its input keeps such an operator apart: no transposition moves through it and no pattern of a fusion holds it.
"""

import onnx_ir as ir

from quantkit.graph.analysis.values import (
    attribute_ints,
    attribute_str,
    is_op,
    node_name,
    rank,
    required,
    unused_name,
)
from quantkit.graph.qdq.edit import Edit

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def keep_apart(edit: Edit) -> None:
    """Put a copy before every float operator that onnxruntime must not rewrite, where it computes on integers."""
    if not edit.plan.target.integer_outputs:
        return
    for node in list(edit.graph):
        dilated = is_op(node, "AveragePool") and any(step != 1 for step in attribute_ints(node, "dilations") or ())
        if dilated or (is_op(node, "Resize") and not _runs_in_any_layout(node)):
            _copy_input(edit, node)


def _runs_in_any_layout(node: ir.Node) -> bool:
    """Tell whether a Resize may be run with its axes in another order."""
    return (
        attribute_str(node, "mode", "nearest") != "cubic"
        and attribute_ints(node, "axes") is None
        and attribute_str(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
    )


def _copy_input(edit: Edit, node: ir.Node) -> None:
    source = required(node, 0)
    letters = _LETTERS[: rank(source) or rank(node.outputs[0]) or 4]
    copy = edit.new_node(
        "Einsum", [source], f"{node_name(node)}.layout", unused_name(edit.graph, f"{source.name}.copy")
    )
    copy.attributes.add(ir.AttrString("equation", f"{letters}->{letters}"))
    copy.outputs[0].type, copy.outputs[0].shape = source.type, source.shape
    node.replace_input_with(0, copy.outputs[0])
    edit.graph.insert_before(node, copy)

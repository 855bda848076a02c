"""Prevents onnxruntime from rewriting float operators between integers into forms without a kernel.

Its integer convolutions use channels last. It moves the transpositions between layouts through all operators between
two convolutions, also through a Resize without a kernel for the other layout, or without renumbering its axes
(onnxruntime/core/optimizer/transpose_optimization). And it fuses an AveragePool between integers into its integer one,
which does not support dilations. In both cases the model cannot be loaded (seen in 1.32). An Einsum that copies its
input isolates such an operator: no transposition moves through it, and no fusion pattern contains it.
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
    """Insert a copy before every float operator that onnxruntime must not rewrite, if it is between integers."""
    if not edit.plan.target.integer_outputs:
        return
    for node in list(edit.graph):
        dilated = is_op(node, "AveragePool") and any(step != 1 for step in attribute_ints(node, "dilations") or ())
        if dilated or (is_op(node, "Resize") and not _runs_in_any_layout(node)):
            _copy_input(edit, node)


def _runs_in_any_layout(node: ir.Node) -> bool:
    """Return whether a Resize can run with its axes in another order."""
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

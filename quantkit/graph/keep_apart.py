"""Prevents onnxruntime from rewriting float operators between integers into forms without a kernel.

Its integer convolutions use channels last. It moves the transpositions between layouts through all operators between
two convolutions, also through a Resize without a kernel for the other layout, or without renumbering its axes
(onnxruntime/core/optimizer/transpose_optimization). It fuses an AveragePool between integers into its integer one,
which does not support dilations (in both cases the model cannot be loaded, seen in 1.32), and counts what is beyond the
padding if the size is rounded up. And it crashes on a moved value that only a condition or loop reads. An Einsum that
copies the value isolates such an operator: no transposition moves through it, and no fusion pattern contains it.
"""

from collections.abc import Sequence

import onnx_ir as ir

from quantkit.graph.analysis.ops import PASS_THROUGH
from quantkit.graph.analysis.roles import average_fault
from quantkit.graph.analysis.values import (
    is_op,
    name_of,
    node_name,
    rank,
    required,
    unused_name,
)
from quantkit.graph.qdq.edit import Edit

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def keep_apart(edit: Edit) -> None:
    """Insert a copy before every float operator that onnxruntime must not rewrite, if it is between integers."""
    for node in list(edit.graph):
        if edit.plan.target.integer_outputs and (
            average_fault(node) or (is_op(node, "Resize") and not _runs_in_any_layout(node))
        ):
            edit.graph.insert_before(node, _copy(edit, node, required(node, 0), [(node, 0)]))
        inner = [use for value in node.outputs for use in value.uses() if use.node.graph is not edit.graph]
        if inner and is_op(node, *PASS_THROUGH) and node.outputs[0].dtype is ir.DataType.FLOAT:
            edit.graph.insert_after(node, _copy(edit, node, node.outputs[0], inner))


def _runs_in_any_layout(node: ir.Node) -> bool:
    """Return whether a Resize can run with its axes in another order."""
    return (
        node.attributes.get_string("mode", "nearest") != "cubic"
        and node.attributes.get_ints("axes") is None
        and node.attributes.get_string("keep_aspect_ratio_policy", "stretch") == "stretch"
    )


def _copy(edit: Edit, node: ir.Node, value: ir.Value, uses: Sequence[tuple[ir.Node, int]]) -> ir.Node:
    """Return a node that copies an input or output of another one for some of its uses, not yet in the graph."""
    letters = _LETTERS[: rank(value) or rank(node.outputs[0]) or 4]
    name = unused_name(edit.graph, f"{name_of(value)}.copy")
    copy = edit.new_node("Einsum", [value], f"{node_name(node)}.layout", name)
    copy.attributes.add(ir.AttrString("equation", f"{letters}->{letters}"))
    copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
    for reader, place in uses:
        reader.replace_input_with(place, copy.outputs[0])
    return copy

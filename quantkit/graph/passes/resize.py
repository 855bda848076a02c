"""Rewrites Resize with a scale or size for every axis, as integer kernels and layout changes of onnxruntime need."""

import numpy as np
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.analysis.values import (
    add_constant,
    array,
    crops,
    dims,
    is_op,
    node_name,
    operand,
)
from quantkit.graph.passes.node_pass import NodePass
from quantkit.graph.passes.opset import MAY_SHRINK, PER_CHANNEL_OPSET


class PlainResizePass(NodePass):
    """Replace ``axes`` of a Resize by scales or sizes for all axes: scale 1, or the current size, for the others.

    Not changed: computed scales and sizes, sizes if an unlisted axis has no fixed size, an aspect ratio policy, and
    regions of interest.
    """

    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Rewrite a Resize.

        Raises:
            ModelError: no mode of opset 11 rounds positions as a Resize of opset 10 does.
        """
        if node.metadata_props.pop(MAY_SHRINK, None) is not None:
            return _round_as_before(node)
        return is_op(node, "Resize") and node.attributes.get_ints("axes") is not None and _write_out(graph, node)


def _round_as_before(node: ir.Node) -> bool:
    scales = array(operand(node, 2))
    if scales is None or scales.min() < 1.0 < scales.max():
        raise ModelError(
            f"cannot raise the opset: {node_name(node)!r} enlarges one axis and shrinks another, or has unknown scales",
            fix=f"export the model with opset {PER_CHANNEL_OPSET} or later",
        )
    if scales.min() < 1.0:
        node.attributes.add(ir.AttrString("nearest_mode", "ceil"))
    return True


def _write_out(graph: ir.Graph, node: ir.Node) -> bool:
    shape, axes = dims(operand(node, 0)), node.attributes.get_ints("axes") or ()
    policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    if shape is None or crops(node) or policy != "stretch":
        return False
    # scales are input 2, sizes input 3: exactly one of them is given
    for index, what in ((2, "scales"), (3, "sizes")):
        given = array(operand(node, index))
        if given is None or given.size != len(axes):
            continue
        kept: list[float | int | None] = [1.0] * len(shape) if what == "scales" else list(shape)
        for axis, entry in zip(axes, given.reshape(-1).tolist(), strict=True):
            kept[axis % len(shape)] = entry
        if None in kept:
            return False
        full = np.array(kept, given.dtype)
        node.replace_input_with(index, add_constant(graph, f"{node_name(node)}.{what}", full))
        del node.attributes["axes"]
        return True
    return False

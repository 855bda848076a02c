"""Rewrites paddings, pools, spatial means and resizes to the forms with integer kernels."""

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
    pads,
    rank,
    required,
    unused_name,
)
from quantkit.graph.passes.node_pass import each_node
from quantkit.graph.passes.opset import MAY_SHRINK, PER_CHANNEL_OPSET


@each_node("Pad")
def fold_pad(graph: ir.Graph, node: ir.Node) -> bool:
    """Move a Pad with zeros along the spatial axes into the pads of every following Conv or AveragePool.

    Not changed: other values and modes, cropping (negative pads), padded channels and weights, outputs with other
    consumers, convolutions with automatic padding, and average pools that already pad or round their size up.
    """
    extra, result = _spatial_zeros(node), node.outputs[0]
    uses = list(result.uses())
    padded = all(use.idx == 0 and _takes_pads(use.node) for use in uses)
    if extra is None or not uses or result.is_graph_output() or not padded:
        return False
    for reader, _ in uses:
        spatial = len(extra) // 2
        own = reader.attributes.get_ints("pads") or (0,) * (2 * spatial)
        reader.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, extra, strict=True)])
        if reader.op_type == "AveragePool":
            reader.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
    result.replace_all_uses_with(required(node, 0))
    graph.remove(node, safe=True)
    return True


def _spatial_zeros(node: ir.Node) -> list[int] | None:
    """Return begins and ends of the spatial axes, None if the node pads other axes or values."""
    dimensions = rank(operand(node, 0))
    pads, filling, axes = (array(operand(node, index)) for index in (1, 2, 3))
    if dimensions is None or pads is None or node.attributes.get_string("mode", "constant") != "constant":
        return None
    if operand(node, 2) is not None and (filling is None or np.any(filling)):
        return None
    if operand(node, 3) is not None and axes is None:
        return None
    chosen = range(dimensions) if axes is None else [int(axis) % dimensions for axis in axes]
    begin, end = [0] * dimensions, [0] * dimensions
    for position, axis in enumerate(chosen):
        begin[axis], end[axis] = int(pads[position]), int(pads[position + len(chosen)])
    if any(begin[:2]) or any(end[:2]) or min(begin + end) < 0:
        return None
    return begin[2:] + end[2:]


def _takes_pads(node: ir.Node) -> bool:
    if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return False
    if is_op(node, "AveragePool"):
        return not any(node.attributes.get_ints("pads") or ()) and not node.attributes.get_int("ceil_mode", 0)
    return is_op(node, "Conv")


@each_node("ReduceMean", "GlobalMaxPool", "AveragePool")
def global_pool(graph: ir.Graph, node: ir.Node) -> bool:
    """ReduceMean over exactly the spatial axes becomes GlobalAveragePool; GlobalMaxPool becomes ReduceMax.

    ``count_include_pad`` is removed from an AveragePool without padding, because if its size is rounded up, the integer
    kernel of onnxruntime would count what is beyond the input.
    Not changed: means over other or computed axes, inputs of unknown rank, and element types other than float32, for
    which these operators may have no kernels.
    """
    if node.outputs[0].dtype is not ir.DataType.FLOAT:
        return False
    match node.op_type:
        case "ReduceMean" if _reduces_space(node):
            _to_average_pool(graph, node)
        case "GlobalMaxPool" if (rank(operand(node, 0)) or 0) >= 3:
            _to_reduce_max(graph, node)
        case "AveragePool" if node.attributes.get_int("count_include_pad") and not pads(node):
            del node.attributes["count_include_pad"]
        case _:
            return False
    return True


def _reduces_space(node: ir.Node) -> bool:
    dimensions = rank(operand(node, 0)) or 0
    axes = node.attributes.get_ints("axes")
    if axes is None:
        given = array(operand(node, 1))
        axes = None if given is None else tuple(int(axis) for axis in given.reshape(-1).astype(np.int64))
    if axes is None or dimensions < 3:
        return False
    return sorted(axis % dimensions for axis in axes) == list(range(2, dimensions))


def _to_average_pool(graph: ir.Graph, node: ir.Node) -> None:
    keep = node.attributes.get_int("keepdims", 1)
    node.resize_inputs(1)
    node.op_type = "GlobalAveragePool"
    node.attributes.clear()
    if keep:
        return
    result = node.outputs[0]
    flat = ir.node("Flatten", [result], {"axis": 1}, name=f"{node.name}.flatten")
    flat.outputs[0].type, flat.outputs[0].shape = result.type, result.shape
    result.replace_all_uses_with(flat.outputs[0], replace_graph_outputs=True)
    flat.replace_input_with(0, result)
    name, result.shape = result.name, None
    result.name = unused_name(graph, f"{name}.pooled")
    flat.outputs[0].name = name
    graph.insert_after(node, flat)


def _to_reduce_max(graph: ir.Graph, node: ir.Node) -> None:
    axes = np.arange(2, rank(required(node, 0)) or 0, dtype=np.int64)
    node.op_type = "ReduceMax"
    if graph.opset_imports.get("", 0) >= 18:
        node.resize_inputs(2)
        node.replace_input_with(1, add_constant(graph, f"{node.name}.axes", axes))
    else:
        node.attributes.add(ir.AttrInt64s("axes", [int(axis) for axis in axes]))
    node.attributes.add(ir.AttrInt64("keepdims", 1))


def round_converted_resize(model: ir.Model) -> None:
    """Let each Resize that was converted from opset 10 read the pixels that it read before, also in subgraphs.

    Raises:
        ModelError: no mode of opset 11 rounds positions as a Resize of opset 10 does.
    """
    for node in model.graph.all_nodes():
        if node.metadata_props.pop(MAY_SHRINK, None) is None:
            continue
        scales = array(operand(node, 2))
        if scales is None or scales.min() < 1.0 < scales.max():
            raise ModelError(
                f"cannot raise the opset: {node_name(node)!r} enlarges one axis and shrinks another, or has unknown "
                "scales",
                fix=f"export the model with opset {PER_CHANNEL_OPSET} or later",
            )
        if scales.min() < 1.0:
            node.attributes.add(ir.AttrString("nearest_mode", "ceil"))


@each_node("Resize")
def plain_resize(graph: ir.Graph, node: ir.Node) -> bool:
    """Replace ``axes`` of a Resize by scales or sizes for all axes: scale 1, or the current size, for the others.

    Not changed: computed scales and sizes, sizes if an unlisted axis has no fixed size, an aspect ratio policy, and
    regions of interest.
    """
    return node.attributes.get_ints("axes") is not None and _write_out(graph, node)


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

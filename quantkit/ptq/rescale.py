"""Rescales channels of a model without changing its function."""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.analysis.values import array, name_of, node_name, operand, required, set_constant
from quantkit.ptq.channel_groups import ChannelGroups, rescalable_layers

Vector = npt.NDArray[np.float64]


def rescaled(model: ir.Model, groups: ChannelGroups, factors: Vector) -> ir.Model:
    """Return an equivalent copy of a model in which every channel is multiplied by the factor of its class.

    ``W'[o, i] = W[o, i] * factor(o) / factor(i)`` and ``b'[o] = b[o] * factor(o)``, in float64 and rounded once.

    Args:
        model: prepared.
        groups: its classes of channels, from `quantkit.ptq.channel_groups.find_channel_groups`.
        factors: float64 ``[classes]``, positive, one for the pinned class.
    """
    copy = model.clone()
    nodes = {node_name(node): node for node in copy.graph}
    for node in rescalable_layers(model):
        into = factors[groups.classes[name_of(required(node, 0))]]
        out = factors[groups.classes[name_of(node.outputs[0])]]
        _rescale(copy.graph, nodes[node_name(node)], into, out)
    return copy


def _rescale(graph: ir.Graph, node: ir.Node, into: Vector, out: Vector) -> None:
    weight = np.asarray(array(required(node, 1)), np.float64)
    groups = node.attributes.get_int("group", 1)
    if node.op_type == "Gemm":
        per_weight = np.outer(out, 1.0 / into)
        per_weight = per_weight if node.attributes.get_int("transB", 0) else per_weight.T
    else:
        per_weight = _per_group(into, out, groups)
        if node.op_type == "ConvTranspose":
            per_weight = np.concatenate(list(_per_group(into, out, groups, stacked=True).transpose(0, 2, 1)))
        per_weight = per_weight.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
    set_constant(graph, node, 1, weight * per_weight, f"{node_name(node)}.weight")
    if (bias := array(operand(node, 2))) is not None:
        set_constant(graph, node, 2, bias.astype(np.float64) * out, f"{node_name(node)}.bias")


def _per_group(into: Vector, out: Vector, groups: int, *, stacked: bool = False) -> Vector:
    """Return the factor of each weight, ``[out, in / groups]``, or ``[groups, out / groups, in / groups]``."""
    blocks = out.reshape(groups, -1, 1) / into.reshape(groups, 1, -1)
    return blocks if stacked else blocks.reshape(out.size, -1)

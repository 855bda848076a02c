"""Shift groups: channels that can be shifted by an offset if biases compensate it.

The output of a layer can be shifted by an offset for each channel: the offset is subtracted from the layer's bias, and
the layers that read the output add it, times their weights, to theirs. Pools and concatenations forward offsets; a sum
has the sum of its terms' offsets. Other consumers of a shifted tensor would compute other results: activation
functions, for example, or convolutions with zero padding, because zero is no longer zero of the original tensor. Such
not shifted, and neither are the outputs of the model.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import add

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy.sparse import csr_array, vstack

from quantkit.graph.analysis.values import (
    dims,
    name_of,
    node_name,
    operand,
    pads,
    rank,
    required,
)
from quantkit.ptq.channel_groups import channels_of, rescalable_layers
from quantkit.ptq.layers import add_to_bias
from quantkit.ptq.noise_model import layer_weights

Vector = npt.NDArray[np.float64]

# Operators that forward offsets channel by channel; an average does so only without padding.
_PASSING_ON = frozenset({"Identity", "Dropout", "MaxPool", "GlobalAveragePool", "GlobalMaxPool"})


@dataclass(frozen=True)
class ShiftGroups:
    """Channels that can be shifted, and the tensors that each offset reaches.

    Attributes:
        arriving: for each tensor with a channel axis, float64 ``[channels, count]``: its share of each offset.
        first: index of the first offset of each layer with offsets, by node name.
        free: bool ``[count]``: whether every layer that the offset reaches can compensate it.
    """

    arriving: Mapping[str, csr_array]
    first: Mapping[str, int]
    free: npt.NDArray[np.bool_]

    def offsets(self, tensor: str, shifts: Vector) -> Vector:
        """Return the offset of each channel of a tensor."""
        return np.asarray(self.arriving[tensor] @ np.where(self.free, shifts, 0.0))


def find_shift_groups(model: ir.Model) -> ShiftGroups:
    """Return the channels of a prepared model that can be shifted."""
    builder = _Builder(model)
    for node in model.graph:
        builder.follow(node)
    return builder.result(model.graph.outputs)


def shifted(model: ir.Model, found: ShiftGroups, shifts: Vector) -> ir.Model:
    """Return a copy of a model with offsets subtracted from the biases of some layers and added by their readers.

    ``b'[o] = b[o] - v[o] + sum over inputs i and taps of W[o, i, tap] m[i]``, in float64 and rounded once.

    Args:
        model: prepared.
        found: the channels that can be shifted.
        shifts: float64 ``[count]``, the offset of each channel.
    """
    copy = model.clone()
    nodes = {node_name(node): node for node in copy.graph}
    shifts = np.where(found.free, shifts, 0.0)
    for node in rescalable_layers(model):
        change = _taken_up(node, found.offsets(name_of(required(node, 0)), shifts))
        first = found.first[node_name(node)]
        change -= shifts[first : first + change.size]
        if change.any():
            add_to_bias(copy.graph, nodes[node_name(node)], change, f"{node_name(node)}.bias")
    return copy


def _taken_up(node: ir.Node, offsets: Vector) -> Vector:
    """Return the change of a layer's outputs by offsets of its inputs."""
    weights = layer_weights(node).sum(axis=2)
    groups = node.attributes.get_int("group", 1)
    per_group = weights.reshape(groups, -1, weights.shape[1]), offsets.reshape(groups, -1)
    return np.asarray(np.einsum("goi,gi->go", *per_group).reshape(-1))


class _Builder:
    """Follows the offsets of all layers through a model."""

    def __init__(self, model: ir.Model) -> None:
        self._layers = {node_name(node): node for node in rescalable_layers(model)}
        self._first: dict[str, int] = {}
        self._count = sum(channels_of(node.outputs[0]) or 0 for node in self._layers.values())
        self._next = 0
        self._graph = model.graph
        self._arriving: dict[str, csr_array] = {}
        self._pinned = np.zeros(self._count, np.bool_)
        for value in model.graph.inputs:
            self._give(value, None)

    def follow(self, node: ir.Node) -> None:
        """Record the offsets of a node's outputs, and pin those of inputs that it does not forward."""
        if node_name(node) in self._layers:
            self._layer(node)
            return
        passed = self._passed_on(node)
        if passed is None:
            for value in node.inputs:
                self._pin(value)
        for value in node.outputs:
            self._give(value, passed)

    def result(self, outputs: Iterable[ir.Value]) -> ShiftGroups:
        """Return the result; the outputs of the model are pinned."""
        for value in outputs:
            self._pin(value)
        return ShiftGroups(self._arriving, self._first, ~self._pinned)

    def _layer(self, node: ir.Node) -> None:
        if node.op_type == "ConvTranspose" or pads(node):
            self._pin(operand(node, 0))
        result = node.outputs[0]
        size = channels_of(result) or 0
        columns = np.arange(self._next, self._next + size)
        ones = csr_array((np.ones(size), (np.arange(size), columns)), shape=(size, self._count))
        self._first[node_name(node)] = self._next
        self._next += size
        self._give(result, ones)

    def _passed_on(self, node: ir.Node) -> csr_array | None:
        """Return the offsets of a node's only output; None if its inputs must not be shifted."""
        result = node.outputs[0]
        parts = [matrix for value in node.inputs if value is not None and (matrix := self._of(value)) is not None]
        if node.domain != "" or len(node.outputs) != 1 or not parts:
            return None
        # Operands of other ranks are broadcast from the last axis on, not channel by channel.
        whole = len(parts) == len(node.inputs) and len({rank(value) for value in node.inputs}) == 1
        if node.op_type in _PASSING_ON or (node.op_type == "AveragePool" and not pads(node)):
            return self._fitting(parts[0], result)
        if node.op_type in ("Add", "Sum") and whole and len({part.shape[0] for part in parts}) == 1:
            return self._fitting(reduce(add, parts), result)
        if node.op_type == "Concat" and whole and node.attributes.get_int("axis", 0) == 1:
            return self._fitting(csr_array(vstack(parts)), result)
        if _flattens(node):
            times, rest = divmod(channels_of(result) or 0, parts[0].shape[0])
            return None if rest or not times else csr_array(parts[0][np.repeat(np.arange(parts[0].shape[0]), times)])
        return None

    @staticmethod
    def _fitting(matrix: csr_array, result: ir.Value) -> csr_array | None:
        return matrix if matrix.shape[0] == channels_of(result) else None

    def _of(self, value: ir.Value) -> csr_array | None:
        return None if value.name is None else self._arriving.get(value.name)

    def _give(self, value: ir.Value, matrix: csr_array | None) -> None:
        channels = channels_of(value)
        if channels is None or value.name is None:
            return
        self._arriving[value.name] = csr_array((channels, self._count)) if matrix is None else matrix
        if any(use.node.graph is not self._graph for use in value.uses()):
            self._pin(value)  # read inside a condition or loop

    def _pin(self, value: ir.Value | None) -> None:
        matrix = None if value is None else self._of(value)
        if matrix is not None:
            self._pinned[np.unique(matrix.tocoo().coords[1])] = True


def _flattens(node: ir.Node) -> bool:
    """Return whether a node flattens each image: a Flatten, or a Reshape to ``[N, channels * positions]``."""
    if node.op_type == "Flatten":
        return node.attributes.get_int("axis", 1) == 1
    sizes, after = dims(operand(node, 0)), dims(node.outputs[0])
    if node.op_type != "Reshape" or sizes is None or after is None or len(after) != 2:
        return False
    row = sizes[1:]
    return None not in row and after[1] == prod(size for size in row if size is not None)

"""Channel groups: channels that can be rescaled, and channels that must have the same factor.

A layer can compensate any factor of its input channels in its weights, and can scale its output channels by any factor.
Operators between layers forward a factor: ReLU and the poolings are homogeneous (``f(s x) = s f(x)`` for ``s > 0``), a
sum needs the same factor in all its terms, a concatenation or a padding moves channels. All other operators pin the
factors of their tensors to one, as do the input and the outputs of the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from quantkit.graph.analysis.bounds import clip_bounds
from quantkit.graph.analysis.values import (
    array,
    crops,
    dims,
    is_constant,
    name_of,
    operand,
    padding_constant,
    rank,
    required,
)

IntVector = npt.NDArray[np.int64]

# f(s x) = s f(x) for s > 0, channel by channel.
HOMOGENEOUS = frozenset(
    {
        "Relu",
        "LeakyRelu",
        "PRelu",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Resize",
        "Identity",
        "Dropout",
    }
)
SUMS = frozenset({"Add", "Sub", "Sum", "Max", "Min"})
GATES = frozenset({"Sigmoid", "HardSigmoid"})
PINNED = 0


@dataclass(frozen=True)
class Cap:
    """The upper limit of a Clip: rescaled channels must stay below it where the original ones did.

    Attributes:
        tensor: input of the Clip.
        limit: the limit.
    """

    tensor: str
    limit: float


@dataclass(frozen=True)
class ChannelGroups:
    """Classes of channels that share one factor.

    Attributes:
        classes: int64 ``[channels]`` for each tensor with a channel axis; class 0 is pinned to factor one.
        count: number of classes, including the pinned one.
        caps: upper limits of Clips.
    """

    classes: dict[str, IntVector]
    count: int
    caps: tuple[Cap, ...]


def find_channel_groups(model: ir.Model) -> ChannelGroups:
    """Return the classes of a prepared model's channels."""
    builder = _Builder(model)
    for node in model.graph:
        builder.tie(node)
    return builder.result()


def rescalable_layers(model: ir.Model) -> list[ir.Node]:
    """Return the layers with unshared constant weights and one factor per input and output channel."""
    return [node for node in model.graph if _is_rescalable(node)]


def channels_of(value: ir.Value | None) -> int | None:
    """Return the size of axis 1, None if it is not fixed or there is no such axis."""
    sizes = dims(value)
    return sizes[1] if sizes is not None and len(sizes) > 1 else None


def _is_rescalable(node: ir.Node) -> bool:
    if node.domain != "" or node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return False
    constants = [value for value in list(node.inputs)[1:3] if value is not None]
    own = all(is_constant(value) and len(value.uses()) == 1 for value in constants)
    known = channels_of(operand(node, 0)) is not None and channels_of(node.outputs[0]) is not None
    return own and known and not node.attributes.get_int("transA", 0) and _has_channel_bias(node)


def _has_channel_bias(node: ir.Node) -> bool:
    """Return whether a layer's bias is per output channel; that of a Gemm may also differ by row."""
    bias = operand(node, 2)
    return bias is None or all(size == 1 for size in (dims(bias) or [None])[:-1])


class _Builder:
    """Numbers every channel of every tensor, and collects which have the same factor."""

    def __init__(self, model: ir.Model) -> None:
        self._first: dict[str, int] = {}
        self._size: dict[str, int] = {}
        self._edges: list[tuple[IntVector, IntVector]] = []
        self._caps: list[Cap] = []
        self._next = 1
        for value in (*model.graph.inputs, *(value for node in model.graph for value in node.outputs)):
            channels = channels_of(value)
            if channels is not None:
                self._first[name_of(value)], self._size[name_of(value)] = self._next, channels
                self._next += channels
                if any(use.node.graph is not model.graph for use in value.uses()):
                    self._pin(value)  # read inside a condition or loop
        for value in (*model.graph.inputs, *model.graph.outputs):
            self._pin(value)

    def tie(self, node: ir.Node) -> None:
        """Tie the factors of a node's input and output channels, or pin both."""
        if _is_rescalable(node):
            return
        groups = list(self._channel_groups(node))
        if not groups:
            for value in (*node.inputs, *node.outputs):
                self._pin(value)
        self._edges.extend(groups)

    def result(self) -> ChannelGroups:
        """Return the connected classes; the pinned one becomes 0."""
        sources = np.concatenate([edge[0] for edge in self._edges] or [np.zeros(0, np.int64)])
        targets = np.concatenate([edge[1] for edge in self._edges] or [np.zeros(0, np.int64)])
        links = coo_array((np.ones(sources.size, np.int8), (sources, targets)), shape=(self._next, self._next))
        count, labels = connected_components(links, directed=False)
        # Number 0 is the pin, not a channel, and components are numbered in order of occurrence.
        assert labels[0] == PINNED
        classes = {
            name: labels[first : first + self._size[name]].astype(np.int64) for name, first in self._first.items()
        }
        return ChannelGroups(classes, int(count), tuple(self._caps))

    def _channel_groups(self, node: ir.Node) -> Iterator[tuple[IntVector, IntVector]]:
        """Yield the channels to which a node gives the same factor; nothing if it pins them."""
        source, result = operand(node, 0), node.outputs[0]
        if node.domain != "" or source is None:
            return
        if node.op_type in HOMOGENEOUS and self._same_channels(source, result):
            if any(self._numbered(value) for value in node.inputs[1:]) or (node.op_type == "Resize" and crops(node)):
                return  # computed slopes of a PRelu, and a fill value, have no factor
            yield self._all(source), self._all(result)
        elif node.op_type == "Clip" and self._same_channels(source, result) and source.dtype == ir.DataType.FLOAT:
            limits = clip_bounds(node)
            if limits is not None and limits.lo == 0.0:
                self._caps.append(Cap(name_of(source), limits.hi))
                yield self._all(source), self._all(result)
        elif node.op_type in SUMS and all(self._same_channels(value, result) for value in node.inputs):
            for value in node.inputs:
                yield self._all(value), self._all(result)
        elif node.op_type == "Mul":
            yield from self._gated(node)
        elif node.op_type in ("Concat", "Split") and node.attributes.get_int("axis", 0) == 1:
            yield from self._side_by_side(node)
        elif node.op_type in ("Slice", "Pad"):
            yield from self._moved(node)
        elif node.op_type in ("Flatten", "Reshape", "Squeeze"):
            yield from self._flattened(source, result)

    def _gated(self, node: ir.Node) -> Iterator[tuple[IntVector, IntVector]]:
        """A product with a gate, whose operator pins it: the other operand's factor is the result's."""
        result = node.outputs[0]
        gates = [value for value in node.inputs if value is not None and _is_gate(value)]
        others = [value for value in node.inputs if value not in gates and self._same_channels(value, result)]
        if len(gates) == 1 and len(others) == 1:
            yield self._all(others[0]), self._all(result)

    def _side_by_side(self, node: ir.Node) -> Iterator[tuple[IntVector, IntVector]]:
        whole = node.outputs[0] if node.op_type == "Concat" else node.inputs[0]
        parts = node.inputs if node.op_type == "Concat" else node.outputs
        sizes = [channels_of(part) if self._numbered(part) else None for part in parts]
        if not self._numbered(whole) or None in sizes:
            return
        start = 0
        for part, size in zip(parts, sizes, strict=True):
            yield self._all(part), self._all(whole)[start : start + (size or 0)]
            start += size or 0

    def _moved(self, node: ir.Node) -> Iterator[tuple[IntVector, IntVector]]:
        """Spatial slices keep their channels; padding with zeros moves them."""
        source, result = required(node, 0), node.outputs[0]
        if not (self._numbered(source) and self._numbered(result)):
            return
        if node.op_type == "Slice":
            axes = array(operand(node, 3))
            size = rank(source)
            if axes is not None and size is not None and not {0, 1} & {int(axis) % size for axis in axes.reshape(-1)}:
                yield self._all(source), self._all(result)
            return
        pads, zeros = array(operand(node, 1)), padding_constant(node) == 0.0
        plain = "mode" not in node.attributes or node.attributes["mode"].as_string() == "constant"
        if pads is not None and zeros and plain and operand(node, 3) is None and int(pads.reshape(-1)[1]) >= 0:
            before, count = int(pads.reshape(-1)[1]), self._all(source).size
            if before + count <= self._all(result).size:
                yield self._all(source), self._all(result)[before : before + count]

    def _flattened(self, source: ir.Value, result: ir.Value) -> Iterator[tuple[IntVector, IntVector]]:
        """Flattening repeats each channel's factor for all its positions."""
        sizes, after = dims(source), dims(result)
        if not (self._numbered(source) and self._numbered(result)) or sizes is None or after is None:
            return
        positions = [size for size in sizes[2:] if size is not None]
        if len(after) == 2 and len(positions) == len(sizes) - 2 and after[1] == (sizes[1] or 0) * prod(positions):
            yield np.repeat(self._all(source), prod(positions)), self._all(result)

    def _same_channels(self, value: ir.Value | None, result: ir.Value) -> bool:
        same_axes = channels_of(value) == channels_of(result) and rank(value) == rank(result)
        return self._numbered(value) and self._numbered(result) and same_axes

    def _numbered(self, value: ir.Value | None) -> bool:
        return value is not None and not is_constant(value) and name_of(value) in self._first

    def _all(self, value: ir.Value | None) -> IntVector:
        assert value is not None
        first = self._first[name_of(value)]
        return np.arange(first, first + self._size[name_of(value)], dtype=np.int64)

    def _pin(self, value: ir.Value | None) -> None:
        if self._numbered(value):
            channels = self._all(value)
            self._edges.append((np.zeros_like(channels), channels))


def _is_gate(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type in GATES

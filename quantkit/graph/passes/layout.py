"""Removes transpositions around channels-first layers in a channels-last model.

Exporters from TensorFlow keep the layout of their source, [N, H, W, C], with a Transpose before and after every
convolution. Each Transpose is moved down through layout-independent operators until it cancels with the next one; one
remains at the input and, if the result has spatial axes, one at the output.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from quantkit.graph.analysis.values import (
    add_constant,
    array,
    dims,
    is_op,
    node_name,
    operand,
    rank,
    required,
    unused_name,
)
from quantkit.graph.passes.types import infer_types

_UNARY = (
    *("Abs", "Cast", "Celu", "Clip", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity"),
    *(
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Reciprocal",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Tanh",
    ),
)
_BROADCAST = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "PRelu", "Where")
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ArgMax")
_BY_AXIS = ("Concat", "Softmax", "LogSoftmax", "Split")
_DEFAULT_AXIS = {"Split": 0}

Order = tuple[int, ...]


def move_transposes(model: ir.Model) -> None:
    """Move each Transpose down through element-wise operators, concatenations, splits, pads and reductions.

    Not changed: the graph, if the number of transposes would not decrease; other operators; operands of another order
    or unknown rank; computed axes, pads and limits.
    """
    before = _count(model.graph)
    trial = model.clone().graph if before > 1 else None
    if trial is not None and _Mover(trial).move() and _count(trial) < before:
        _Mover(model.graph).move()
        infer_types(model)


def _count(graph: ir.Graph) -> int:
    return sum(is_op(node, "Transpose") for node in graph)


@dataclass(frozen=True)
class _View:
    """A value that is a transposition of another one: axis ``j`` is axis ``order[j]`` of the source."""

    source: ir.Value
    order: Order


class _Mover:
    """One walk over a graph that tracks which values are transpositions of others."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._views: dict[ir.Value, _View] = {}
        self._made: list[tuple[ir.Node, ir.Value]] = []  # transpositions inserted after moved nodes, with their sources

    def move(self) -> bool:
        """Move transpositions where possible; return whether the graph has changed."""
        moved = False
        for node in list(self._graph):
            if is_op(node, "Transpose"):
                self._compose(node)
            elif (order := self._order_of(node)) is not None:
                moved |= self._move_through(node, order)
        self._sweep()
        return moved

    def _compose(self, node: ir.Node) -> None:
        source, order = required(node, 0), tuple(node.attributes.get_ints("perm", ()))
        if not order:
            if (dimensions := rank(source)) is None:
                return
            order = tuple(reversed(range(dimensions)))
        if (view := self._views.get(source)) is not None:
            source, order = view.source, tuple(view.order[axis] for axis in order)
            node.replace_input_with(0, source)
            node.attributes.add(ir.AttrInt64s("perm", list(order)))
        result = node.outputs[0]
        if order == tuple(range(len(order))) and not result.is_graph_output():
            result.replace_all_uses_with(source)
        else:
            self._views[result] = _View(source, order)

    def _order_of(self, node: ir.Node) -> Order | None:
        """Return the order that all transposed operands of a node share, None if there is none."""
        views = [self._views[value] for value in node.inputs if value is not None and value in self._views]
        orders = {view.order for view in views}
        return orders.pop() if len(orders) == 1 else None

    def _move_through(self, node: ir.Node, order: Order) -> bool:
        if node.domain != "":
            return False
        if node.op_type in _UNARY:
            return self._rewrite(node, order, count=1)
        if node.op_type in (*_BROADCAST, "Concat"):
            if not all(self._fits(value, order, node) for value in node.inputs):
                return False
            if node.op_type == "Concat":
                self._set_axis(node, order)
            return self._rewrite(node, order, count=len(node.inputs))
        if node.op_type in _BY_AXIS:
            if node.op_type == "Split" and operand(node, 0) not in self._views:
                return False
            self._set_axis(node, order)
            return self._rewrite(node, order, count=1)
        if node.op_type == "Pad":
            return self._move_pad(node, order)
        if node.op_type in _REDUCTIONS:
            return self._move_reduction(node, order)
        if node.op_type in ("Reshape", "Flatten", "Squeeze"):
            return self._skip_reorder(node, order)
        return False

    def _fits(self, value: ir.Value | None, order: Order, node: ir.Node) -> bool:
        """Return whether an operand is available in the other order: it is transposed from it, or constant."""
        if value is None:
            return False
        if value in self._views:
            return True
        content = array(value)
        return content is not None and (
            content.ndim == len(order) if node.op_type == "Concat" else content.ndim <= len(order)
        )

    def _in_source_order(self, value: ir.Value, order: Order) -> ir.Value:
        if value in self._views:
            return self._views[value].source
        content = array(value)
        if content is None or content.size == 1:
            return value
        full = content.reshape((1,) * (len(order) - content.ndim) + content.shape)
        moved = np.ascontiguousarray(full.transpose(_inverse(order)))
        return add_constant(self._graph, f"{value.name}.transposed", moved)

    def _rewrite(self, node: ir.Node, order: Order, *, count: int, result_order: Order | None = None) -> bool:
        """Let a node read its first operands in source order, and insert a Transpose after each of its outputs."""
        for index, value in enumerate(list(node.inputs)[:count]):
            if value is not None:
                node.replace_input_with(index, self._in_source_order(value, order))
        result_order = order if result_order is None else result_order
        for result in node.outputs:
            if not result.name:
                continue
            restored = ir.node("Transpose", [result], {"perm": list(result_order)}, name=f"{node_name(node)}.layout")
            final, shape = restored.outputs[0], result.shape
            final.type, final.shape = result.type, shape
            result.replace_all_uses_with(final, replace_graph_outputs=True)
            restored.replace_input_with(0, result)
            final.name, result.name = result.name, unused_name(self._graph, f"{result.name}.source")
            result.shape = None if shape is None else ir.Shape([shape[axis] for axis in _inverse(result_order)])
            self._graph.insert_after(node, restored)
            if result_order == tuple(range(len(result_order))) and not final.is_graph_output():
                final.replace_all_uses_with(result)
            else:
                self._views[final] = _View(result, result_order)
            self._made.append((restored, result))
        return True

    def _set_axis(self, node: ir.Node, order: Order) -> None:
        axis = node.attributes.get_int("axis", _DEFAULT_AXIS.get(node.op_type, -1))
        node.attributes.add(ir.AttrInt64("axis", order[axis % len(order)]))

    def _move_pad(self, node: ir.Node, order: Order) -> bool:
        pads, axes = array(operand(node, 1)), array(operand(node, 3))
        if pads is None or (operand(node, 3) is not None and axes is None):
            return False
        chosen = range(len(order)) if axes is None else [int(axis) % len(order) for axis in axes]
        full = np.zeros((2, len(order)), np.int64)
        for position, axis in enumerate(chosen):
            full[:, order[axis]] = pads[position], pads[position + len(chosen)]
        node.replace_input_with(1, add_constant(self._graph, f"{node_name(node)}.pads", full.reshape(-1)))
        if axes is not None:
            node.resize_inputs(3)
        return self._rewrite(node, order, count=1)

    def _move_reduction(self, node: ir.Node, order: Order) -> bool:
        axes = self._axes(node)
        if not axes:
            return False
        axes = [axis % len(order) for axis in axes]
        moved = sorted(order[axis] for axis in axes)
        spatial = list(range(2, len(order)))
        if node.op_type == "ReduceMean" and sorted(axes) == spatial and moved != spatial:
            return False  # without an integer kernel over other axes; over these it becomes GlobalAveragePool
        if node.op_type == "ArgMax":
            node.attributes.add(ir.AttrInt64("axis", moved[0]))
        elif operand(node, 1) is not None:
            stored = add_constant(self._graph, f"{node_name(node)}.axes", np.array(moved, np.int64))
            node.replace_input_with(1, stored)
        else:
            node.attributes.add(ir.AttrInt64s("axes", moved))
        if node.attributes.get_int("keepdims", 1):
            return self._rewrite(node, order, count=1)
        kept = [order[axis] for axis in range(len(order)) if axis not in axes]
        return self._rewrite(node, order, count=1, result_order=tuple(sorted(kept).index(axis) for axis in kept))

    def _axes(self, node: ir.Node) -> Sequence[int] | None:
        """Return the axes of a reduction, None or empty if it reduces all or none, or they are computed."""
        if node.op_type == "ArgMax":
            return [node.attributes.get_int("axis", 0)]
        given = array(operand(node, 1))
        return node.attributes.get_ints("axes") if given is None else [int(axis) for axis in given.reshape(-1)]

    def _skip_reorder(self, node: ir.Node, order: Order) -> bool:
        """Let a reshaping node read the source, if the elements have the same order in both."""
        view = self._views.get(required(node, 0))
        shape = None if view is None else dims(view.source)
        if view is None or shape is None:
            return False
        long = [axis for axis in order if shape[axis] != 1]
        if long != sorted(long):
            return False
        if node.op_type == "Flatten" and (node.attributes.get_int("axis", 1) != 1 or order[0] != 0):
            return False
        if node.op_type == "Squeeze":
            axes = array(operand(node, 1))
            if axes is None:
                return False
            moved = sorted(order[int(axis) % len(order)] for axis in axes.reshape(-1))
            node.replace_input_with(1, add_constant(self._graph, f"{node_name(node)}.axes", np.array(moved, np.int64)))
        if node.op_type == "Reshape":
            target = array(operand(node, 1))
            if target is None or any(
                size == 0 and (index >= len(order) or order[index] != index) for index, size in enumerate(target)
            ):
                return False
        node.replace_input_with(0, view.source)
        return True

    def _sweep(self) -> None:
        """Remove unused transpositions; their sources take over their names."""
        for node in reversed(list(self._graph)):
            result = node.outputs[0]
            if is_op(node, "Transpose") and not result.uses() and not result.is_graph_output():
                self._graph.remove(node, safe=True)
        for node, source in self._made:
            if node.graph is None:
                source.name = node.outputs[0].name


def _inverse(order: Order) -> Order:
    return tuple(order.index(axis) for axis in range(len(order)))

"""Bounds on tensor values that follow from the operators alone."""

import math
from collections.abc import Container
from dataclasses import dataclass

import onnx_ir as ir

from quantkit.graph.analysis.ops import PASS_THROUGH
from quantkit.graph.analysis.values import (
    array,
    crops,
    is_op,
    operand,
    padding_constant,
)


@dataclass(frozen=True)
class Bounds:
    """A closed interval that contains every value of a tensor; its ends may be infinite."""

    lo: float = -math.inf
    hi: float = math.inf

    def contains(self, other: "Bounds") -> bool:
        """Return whether another interval is contained in this one."""
        return self.lo <= other.lo and other.hi <= self.hi

    def hull(self, other: "Bounds") -> "Bounds":
        """Return the smallest interval that contains both."""
        return Bounds(min(self.lo, other.lo), max(self.hi, other.hi))

    def intersection(self, other: "Bounds") -> "Bounds":
        """Return the intersection; this interval if they are disjoint."""
        lo, hi = max(self.lo, other.lo), min(self.hi, other.hi)
        return Bounds(lo, hi) if lo <= hi else self


UNBOUNDED = Bounds()
# The empty interval: the neutral element of `Bounds.hull`.
NOTHING = Bounds(math.inf, -math.inf)
_OF_OPERATOR = {
    "Relu": Bounds(0.0),
    "Sigmoid": Bounds(0.0, 1.0),
    "HardSigmoid": Bounds(0.0, 1.0),
    "Softmax": Bounds(0.0, 1.0),
    "Tanh": Bounds(-1.0, 1.0),
    "Softplus": Bounds(0.0),
    "Abs": Bounds(0.0),
    "Exp": Bounds(0.0),
}
# Their results are between the smallest and the largest input (except for padding, see `_padding`).
_WITHIN_INPUT = (PASS_THROUGH - {"Resize"}) | {"GlobalAveragePool", "AveragePool"}
# Beyond this limit a sigmoid is within a third of a step from 0 or 1, and so is rounded to it. The range of its input
# contains zero, so the range of its output is at least [0, 1/2], and its step at least half of 1/255.
SIGMOID_REACH = math.log(6.0 * 255.0 - 1.0)


def clip_bounds(node: ir.Node) -> Bounds | None:
    """Return the limits of a Relu or Clip; None for other operators and for computed limits."""
    if is_op(node, "Relu"):
        return Bounds(0.0)
    if not is_op(node, "Clip"):
        return None
    limits = [-math.inf, math.inf]
    for index in (1, 2):
        value = operand(node, index)
        if value is not None:
            content = array(value)
            if content is None or content.size != 1:
                return None
            limits[index - 1] = float(content.reshape(-1)[0])
    return Bounds(*limits) if limits[0] <= limits[1] else None


def value_bounds(graph: ir.Graph) -> dict[ir.Value, Bounds]:
    """Return bounds of every computed value of the graph, in one walk from the inputs."""
    known: dict[ir.Value, Bounds] = {}
    for node in graph:
        for value in node.outputs:
            known[value] = _result_bounds(node, known)
    return known


def _result_bounds(node: ir.Node, known: dict[ir.Value, Bounds]) -> Bounds:
    if node.domain != "":
        return UNBOUNDED
    inputs = [known.get(value, UNBOUNDED) for value in node.inputs if value is not None]
    if is_op(node, "Clip"):
        limits = clip_bounds(node) or UNBOUNDED
        lo, hi = max(limits.lo, inputs[0].lo), min(limits.hi, inputs[0].hi)
        return Bounds(lo, hi) if lo <= hi else limits
    if node.op_type in _OF_OPERATOR:
        return _OF_OPERATOR[node.op_type]
    if node.op_type == "Concat":
        hull = inputs[0]
        for other in inputs[1:]:
            hull = hull.hull(other)
        return hull
    nearest = is_op(node, "Resize") and node.attributes.get_string("mode", "nearest") == "nearest" and not crops(node)
    if node.op_type in _WITHIN_INPUT or nearest:
        return inputs[0].hull(_padding(node))
    return UNBOUNDED


def _padding(node: ir.Node) -> Bounds:
    """Return the bounds of padding values: zeros for averages, a constant, copies or wrapped values for Pad."""
    if is_op(node, "AveragePool"):
        return Bounds(0.0, 0.0)
    if not is_op(node, "Pad"):
        return NOTHING
    constant = padding_constant(node)
    return UNBOUNDED if constant is None else Bounds(constant, constant)


def effective_bounds(value: ir.Value, rounded: Container[ir.Value]) -> Bounds:
    """Return the interval to which a value can be clipped without an effect on its consumers.

    A gate (HardSigmoid, or Sigmoid with a result rounded to 8 bits) is 0 below one limit and 1 above another; a swish,
    ``x * gate(x)``, is zero below the lower limit. The integer range need not extend beyond these limits. The interval
    is unbounded for all other consumers.

    Args:
        value: the value.
        rounded: the quantized values.
    """
    readers = {use.node for use in value.uses()}
    limits = {node: found for node in readers if (found := _gate_limits(node, rounded)) is not None}
    if value.is_graph_output() or not limits:
        return UNBOUNDED
    gated = {
        node
        for node in readers
        if is_op(node, "Mul") and any(read.producer() in limits for read in node.inputs if read is not None)
    }
    if readers - limits.keys() - gated:
        return UNBOUNDED
    lo, hi = min(one.lo for one in limits.values()), max(one.hi for one in limits.values())
    return Bounds(lo, math.inf if gated else hi)


def _gate_limits(node: ir.Node, rounded: Container[ir.Value]) -> Bounds | None:
    """Return the limits below which a gate is 0 and above which it is 1; None for other operators."""
    if is_op(node, "Sigmoid") and node.outputs[0] in rounded:
        return Bounds(-SIGMOID_REACH, SIGMOID_REACH)
    if not is_op(node, "HardSigmoid"):
        return None
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    return Bounds(-beta / alpha, (1.0 - beta) / alpha) if alpha > 0.0 and 0.0 <= beta <= 1.0 else None

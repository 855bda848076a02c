"""Placement of integers: which nodes compute on integers, and which tensors are quantized.

Layers are integer unless the user skips them. Other operators are integer only if this saves work: their inputs must be
integers, and a following node must read integers. So a residual sum between two convolutions is integer; operators
between the last layer and the class scores stay in float, and so does the residual stream of a transformer, which only
layer norms read.
"""

from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from quantkit.graph.analysis import ops
from quantkit.graph.analysis.bounds import UNBOUNDED, Bounds, clip_bounds, value_bounds
from quantkit.graph.analysis.ops import Role
from quantkit.graph.analysis.roles import role_of
from quantkit.graph.analysis.values import is_constant, node_name, sole_consumer
from quantkit.targets import Target

STRONG = (Role.LAYER, Role.ACTIVATION_MATMUL)
# Roles with outputs that are moved or scaled input values.
MOVING = (Role.PASS, Role.CONCAT, Role.RESCALE)
NOT_WANTED = "no following node reads integers: rounding its result would only add error"
NOT_AVAILABLE = "its input is computed in float"


@dataclass(frozen=True)
class Placement:
    """The integer nodes and tensors of a graph for a target.

    Attributes:
        graph: main graph of the prepared model.
        target: runtime or compiler of the int8 model.
        roles: role of each node of the main graph.
        reasons: why a node is not integer, by node.
        integer: the nodes that compute on integers.
        attached: activation functions that belong to the preceding integer node.
        bounds: bounds of each value.
    """

    graph: ir.Graph
    target: Target
    roles: dict[ir.Node, Role]
    reasons: dict[ir.Node, str]
    integer: frozenset[ir.Node]
    attached: dict[ir.Node, ir.Node]
    bounds: dict[ir.Value, Bounds]

    def result(self, node: ir.Node) -> ir.Value:
        """Return the output of a node, after the activation functions attached to it."""
        value = node.outputs[0]
        while (consumer := sole_consumer(value)) is not None and self.attached.get(consumer) is node:
            value = consumer.outputs[0]
        return value

    def reads_integers(self, node: ir.Node, value: ir.Value) -> bool:
        """Return whether an integer node reads this value as an activation."""
        return (
            node in self.integer and value in activations(node, self.roles[node]) and not self._stays_wide(node, value)
        )

    def exists_as_integers_only(self, value: ir.Value) -> bool:
        """Return whether the kernel that computes a value rounds it, so that there is no float value."""
        maker = value.producer()
        head = None if maker is None else self.attached.get(maker, maker)
        return self.target.integer_outputs and head in self.integer

    @cached_property
    def quantized(self) -> frozenset[ir.Value]:
        """The computed values and inputs that are rounded to 8 bits."""
        chosen = {
            value
            for node in self.integer
            for value in activations(node, self.roles[node])
            if not is_constant(value) and not self._stays_wide(node, value)
        }
        if self.target.integer_outputs:
            for node in self.integer:
                if node.op_type not in ops.FLOAT_OUTPUT:
                    chosen.update([self.result(node)] if len(node.outputs) == 1 else node.outputs)
        return frozenset(chosen)

    def bounds_of(self, value: ir.Value) -> Bounds:
        """Return the bounds of a value that follow from the operators."""
        return self.bounds.get(value, UNBOUNDED)

    def _stays_wide(self, node: ir.Node, value: ir.Value) -> bool:
        """Return whether a value stays in float because a sum that reads it is fused into the layer before it."""
        if self.target.integer_outputs or self.roles[node] is not Role.ELEMENTWISE or node.op_type != "Add":
            return False
        fused = [
            operand
            for operand in node.inputs
            if operand is not None and _made_by_layer(operand, self.roles) and sole_consumer(operand) is node
        ]
        return bool(fused) and fused[0] is value


def activations(node: ir.Node, role: Role) -> list[ir.Value]:
    """Return the activation inputs of a node: not weights, biases, shapes or indices."""
    match role:
        case Role.RESCALE:
            return [value for value in node.inputs if value is not None and not is_constant(value)]
        case Role.LAYER | Role.PASS | Role.UNARY | Role.ACTIVATION:
            count = 1
        case Role.ACTIVATION_MATMUL | Role.ELEMENTWISE:
            count = 2
        case Role.CONCAT:
            count = len(node.inputs)
        case Role.FLOAT:
            count = 0
    return [value for value in list(node.inputs)[:count] if value is not None]


def place(graph: ir.Graph, target: Target, skipped: dict[str, str]) -> Placement:
    """Return which nodes of the main graph compute on integers."""
    roles: dict[ir.Node, Role] = {}
    reasons: dict[ir.Node, str] = {}
    for node in graph:
        role, reason = role_of(node, target)
        if node_name(node) in skipped and role is not Role.ACTIVATION:
            role, reason = Role.FLOAT, skipped[node_name(node)]
        roles[node] = role
        if reason:
            reasons[node] = reason
    attached = _attach_activations(graph, roles)
    for node, role in roles.items():
        if role is not Role.ACTIVATION or node in attached:  # an absorbed activation computes nothing
            continue
        if node_name(node) in skipped:
            roles[node], reasons[node] = Role.FLOAT, skipped[node_name(node)]
        elif not _saturates(node, target):
            roles[node], reasons[node] = Role.FLOAT, "symmetric integers cannot absorb it"
    integer = _settle(roles, attached, reasons)
    kept = {node: head for node, head in attached.items() if head in integer}
    return Placement(graph, target, roles, reasons, integer, kept, value_bounds(graph))


def _attach_activations(graph: ir.Graph, roles: dict[ir.Node, Role]) -> dict[ir.Node, ir.Node]:
    """Return each Relu or Clip that is the only consumer of a computing node, with that node."""
    attached: dict[ir.Node, ir.Node] = {}
    for node in graph:
        if roles[node] is not Role.ACTIVATION:
            continue
        source = node.inputs[0]
        producer = None if source is None else source.producer()
        if source is None or producer is None or sole_consumer(source) is not node:
            continue
        head = attached.get(producer, producer)
        limits = clip_bounds(node)
        computes = roles[head] in (*STRONG, Role.ELEMENTWISE) or (
            roles[head] is Role.UNARY and head.op_type in ops.UNARY_WITHOUT_TABLE
        )
        if computes and limits is not None and limits.contains(Bounds(0.0, 0.0)):
            attached[node] = head
    return attached


def _saturates(node: ir.Node, target: Target) -> bool:
    """Return whether the quantizer of its result can replace a Relu or Clip."""
    limits = clip_bounds(node)
    affine = target.integer_outputs and not target.activations.symmetric
    return affine and limits is not None and limits.contains(Bounds(0.0, 0.0))


def _settle(
    roles: dict[ir.Node, Role], attached: dict[ir.Node, ir.Node], reasons: dict[ir.Node, str]
) -> frozenset[ir.Node]:
    """Start with all possible integer nodes, and remove those without a benefit until nothing changes."""
    integer = {node for node, role in roles.items() if role is not Role.FLOAT and node not in attached}
    changed = True
    while changed:
        changed = False
        for node in [node for node in roles if node in integer and roles[node] not in STRONG]:
            fault = _fault(node, roles, integer, attached)
            if fault:
                integer.discard(node)
                reasons[node] = fault
                changed = True
    for node, head in attached.items():
        if head not in integer:
            reasons[node] = reasons.get(head, NOT_AVAILABLE)
    return frozenset(integer)


def _fault(node: ir.Node, roles: dict[ir.Node, Role], integer: set[ir.Node], attached: dict[ir.Node, ir.Node]) -> str:
    # Moving 8-bit integers is cheaper than moving floats, so values are rounded before they are moved.
    if roles[node] not in (Role.PASS, Role.CONCAT):
        makers = [value.producer() for value in activations(node, roles[node]) if not is_constant(value)]
        if not all(maker is not None and attached.get(maker, maker) in integer for maker in makers):
            return NOT_AVAILABLE
    return "" if _wanted(node, integer, attached) else NOT_WANTED


def _wanted(node: ir.Node, integer: set[ir.Node], attached: dict[ir.Node, ir.Node]) -> bool:
    readers = [use.node for value in node.outputs for use in value.uses()]
    return any(
        reader in integer or (attached.get(reader) is not None and _wanted(reader, integer, attached))
        for reader in readers
    )


def _made_by_layer(value: ir.Value, roles: dict[ir.Node, Role]) -> bool:
    producer = value.producer()
    return producer is not None and roles.get(producer) is Role.LAYER

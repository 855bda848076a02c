"""Which tensors share one range, and whose values that range must hold."""

from dataclasses import dataclass

import onnx_ir as ir

from quantkit.graph.bounds import Bounds
from quantkit.graph.ops import Role
from quantkit.graph.placement import Placement, activations
from quantkit.graph.values import is_constant, name_of


@dataclass(frozen=True)
class RangeGroup:
    """Tensors quantized with one scale and zero point.

    Attributes:
        tensors: the members, in graph order.
        observed: the tensors whose ranges are united to give the group's; some may belong to other groups.
        bounds: what the operators alone say about all members.
    """

    tensors: tuple[str, ...]
    observed: tuple[str, ...]
    bounds: Bounds


def range_groups(placement: Placement) -> tuple[RangeGroup, ...]:
    """Group the quantized tensors.

    What passes through unchanged keeps the range of its source. A concatenation shares the range of its output with
    each input that nothing but concatenations read and that has the same bounds; its kernel requantizes the others.
    The range of a concatenation is the union of its inputs' ranges, so it is never observed itself.
    """
    groups = _Groups(_in_graph_order(placement))
    for node in placement.graph:
        if node in placement.integer and placement.roles[node] is Role.PASS:
            for value in node.outputs:
                if value in placement.quantized:
                    groups.unite(activations(node, Role.PASS)[0], value)
    for value, output in _concat_ties(placement, groups):
        groups.unite(value, output)
    return tuple(_describe(members, placement) for members in groups.members())


def _in_graph_order(placement: Placement) -> list[ir.Value]:
    ordered = [*placement.graph.inputs, *(value for node in placement.graph for value in node.outputs)]
    return [value for value in ordered if value in placement.quantized]


def _concat_ties(placement: Placement, groups: "_Groups") -> list[tuple[ir.Value, ir.Value]]:
    ties = []
    for node in placement.graph:
        if node not in placement.integer or placement.roles[node] is not Role.CONCAT:
            continue
        output = placement.result(node)
        for value in activations(node, Role.CONCAT) if output in placement.quantized else ():
            same_bounds = placement.bounds_of(value) == placement.bounds_of(output)
            if not is_constant(value) and same_bounds and _only_concatenated(groups.of(value), placement):
                ties.append((value, output))
    return ties


def _only_concatenated(members: list[ir.Value], placement: Placement) -> bool:
    moved = (Role.PASS, Role.CONCAT)
    return all(
        use.node in placement.integer and placement.roles[use.node] in moved
        for member in members
        for use in member.uses()
    )


def _describe(members: list[ir.Value], placement: Placement) -> RangeGroup:
    bounds = placement.bounds_of(members[0])
    observed: dict[str, None] = {}
    for member in members:
        bounds = bounds.hull(placement.bounds_of(member))
        observed |= dict.fromkeys(name_of(source) for source in _sources(member, placement))
    return RangeGroup(tuple(name_of(member) for member in members), tuple(observed), bounds)


def _sources(value: ir.Value, placement: Placement) -> list[ir.Value]:
    """Return the values that were computed to make up this one, through everything that only moves values."""
    found: dict[ir.Value, None] = {}
    pending = [value]
    while pending:
        current = pending.pop()
        node = current.producer()
        role = placement.roles[node] if node is not None and node in placement.integer else Role.FLOAT
        if node is None or role not in (Role.PASS, Role.CONCAT):
            found[current] = None
        else:
            pending.extend(operand for operand in reversed(activations(node, role)) if not is_constant(operand))
    return list(found)


class _Groups:
    """Disjoint sets of values, kept in the order the values were given."""

    def __init__(self, values: list[ir.Value]) -> None:
        self._order = values
        self._group = {value: {value} for value in values}

    def unite(self, first: ir.Value, second: ir.Value) -> None:
        merged = self._group[first] | self._group[second]
        for value in merged:
            self._group[value] = merged

    def of(self, value: ir.Value) -> list[ir.Value]:
        return [member for member in self._order if member in self._group[value]]

    def members(self) -> list[list[ir.Value]]:
        done: set[ir.Value] = set()
        result = []
        for value in self._order:
            if value not in done:
                done |= self._group[value]
                result.append(self.of(value))
        return result

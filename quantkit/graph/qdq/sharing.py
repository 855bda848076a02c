"""Groups of tensors that share a scale, and the ranges of the groups."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.analysis.bounds import Bounds, clip_bounds, effective_bounds
from quantkit.graph.analysis.ops import Role
from quantkit.graph.analysis.roles import role_of
from quantkit.graph.analysis.values import array, is_constant, name_of
from quantkit.graph.qdq.placement import MOVING, Placement, activations
from quantkit.numerics import Range
from quantkit.targets import ORT


@dataclass(frozen=True)
class RangeGroup:
    """Tensors with a common zero point, and a common scale times the gain of each.

    Attributes:
        tensors: the members, in graph order.
        gains: ratio of each member's scale to the group's: 1, except after a multiplication by a constant.
        observed: the tensors with ranges that determine the range of the group.
        bounds: bounds of the members with gain 1 that follow from the operators and their consumers.
    """

    tensors: tuple[str, ...]
    gains: tuple[float, ...]
    observed: tuple[str, ...]
    bounds: Bounds


class Sharing:
    """The groups of a placement, and the range of each group for given observations.

    Unchanged values keep the scale of their source. A concatenation shares the scale of its output with each input that
    has no other consumer and the same bounds; its kernel requantizes the others. Inputs of several concatenations do
    not share a scale, because all scales of a dense block would be joined to the widest.
    Only computed tensors are observed: the range of a concatenation is the union of its inputs' ranges, and the range
    of a monotone function follows from the ends of its input's range.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._gain = _gains(placement)
        ordered = [*placement.graph.inputs, *(value for node in placement.graph for value in node.outputs)]
        self._sets = _DisjointSets([value for value in ordered if value in placement.quantized])
        for source, result in self._moves():
            self._sets.unite(source, result)
        for source, result in self._concat_groups():
            self._sets.unite(source, result)
        self._members = self._sets.members()
        self.groups = tuple(self._describe(members) for members in self._members)

    def ranges(self, observed: Mapping[str, Range]) -> dict[str, Range]:
        """Return the range of every group by its first tensor, in units of a member with gain 1.

        Args:
            observed: a range for each name in the ``observed`` of every group.
        """
        result = {}
        for group, members in zip(self.groups, self._members, strict=True):
            parts = [self._range_of(member, observed) for member in members if self._gain[member] == 1.0]
            lo, hi = min(part.lo for part in parts), max(part.hi for part in parts)
            result[group.tensors[0]] = _within(Range.around(lo, hi), group.bounds)
        return result

    def _moves(self) -> list[tuple[ir.Value, ir.Value]]:
        moves = []
        for node in self._placement.graph:
            role = self._placement.roles[node]
            if node in self._placement.integer and role in (Role.PASS, Role.RESCALE):
                source = activations(node, role)[0]
                moves += [(source, value) for value in node.outputs if value in self._placement.quantized]
        return moves

    def _concat_groups(self) -> list[tuple[ir.Value, ir.Value]]:
        shared = []
        placement = self._placement
        for node in placement.graph:
            if node not in placement.integer or placement.roles[node] is not Role.CONCAT:
                continue
            output = placement.result(node)
            for value in activations(node, Role.CONCAT) if output in placement.quantized else ():
                if is_constant(value) or self._gain[value] != 1.0:
                    continue
                same_bounds = placement.bounds_of(value) == placement.bounds_of(output)
                if same_bounds and self._only_read_by(node, self._sets.of(value)):
                    shared.append((value, output))
        return shared

    def _only_read_by(self, concatenation: ir.Node, members: list[ir.Value]) -> bool:
        readers = {use.node for member in members for use in member.uses()} - {concatenation}
        return all(node in self._placement.integer and self._placement.roles[node] is Role.PASS for node in readers)

    def _describe(self, members: list[ir.Value]) -> RangeGroup:
        plain = [member for member in members if self._gain[member] == 1.0]
        bounds = self._placement.bounds_of(plain[0])
        observed: dict[str, None] = {}
        for member in plain:
            bounds = bounds.hull(self._placement.bounds_of(member))
            observed |= dict.fromkeys(self._observed(member))
        if len(members) == 1:
            bounds = bounds.intersection(effective_bounds(members[0], self._placement.quantized))
        gains = tuple(self._gain[member] for member in members)
        return RangeGroup(tuple(name_of(member) for member in members), gains, tuple(observed), bounds)

    def _observed(self, value: ir.Value) -> list[str]:
        """Return the tensors that must be observed for the range of a tensor."""
        sources = self._sources(value)
        return [name_of(value)] if sources is None else [name for source in sources for name in self._observed(source)]

    def missing(self, available: Collection[str]) -> tuple[str, ...]:
        """Return the tensors with a range that is not ``available`` and does not follow from preceding tensors."""
        names = dict.fromkeys(name for group in self.groups for name in group.observed if name not in available)
        values = {name_of(value): value for value in self._gain}
        return tuple(name for name in names if not self._follows(values[name], available))

    def _follows(self, value: ir.Value, available: Collection[str]) -> bool:
        if name_of(value) in available:
            return True
        sources = _natural_sources(value)
        return sources is not None and all(self._follows(source, available) for source in sources)

    def _range_of(self, value: ir.Value, observed: Mapping[str, Range]) -> Range:
        sources = self._sources(value)
        if sources is None and name_of(value) in observed:
            return observed[name_of(value)]
        node, sources = value.producer(), sources or _natural_sources(value)
        if node is None or sources is None:
            raise ModelError(f"the tensor {name_of(value)!r} has no range", fix="calibrate this model again")
        parts = [self._range_of(source, observed) for source in sources] + _constant_parts(node)
        return _through(node, Range(min(part.lo for part in parts), max(part.hi for part in parts)))

    def _sources(self, value: ir.Value) -> list[ir.Value] | None:
        """Return the values with ranges that determine this one's, None if it must be observed."""
        node = value.producer()
        return _natural_sources(value) if node is not None and node in self._placement.integer else None


def _natural_sources(value: ir.Value) -> list[ir.Value] | None:
    """Return the values that determine the range of a value, None if its node computes new values."""
    node = value.producer()
    role = Role.FLOAT if node is None else role_of(node, ORT)[0]
    if node is None or not (role in (*MOVING, Role.ACTIVATION) or (role is Role.UNARY and node.op_type in _MONOTONE)):
        return None
    return [source for source in activations(node, role) if not is_constant(source)]


def factor_of(node: ir.Node) -> float:
    """Return the constant that a `Role.RESCALE` node multiplies by."""
    constant = next(content for content in map(array, node.inputs) if content is not None)
    return float(constant.reshape(-1)[0])


def _constant_parts(node: ir.Node) -> list[Range]:
    """Return the ranges of the constant inputs of a concatenation."""
    contents = [array(value) for value in node.inputs] if node.op_type == "Concat" else []
    return [Range.around(float(content.min()), float(content.max())) for content in contents if content is not None]


def _gains(placement: Placement) -> dict[ir.Value, float]:
    gains = dict.fromkeys(placement.graph.inputs, 1.0)
    for node in placement.graph:
        role = placement.roles[node]
        moved = node in placement.integer and role in (Role.PASS, Role.RESCALE)
        gain = gains.get(activations(node, role)[0], 1.0) if moved else 1.0
        if moved and role is Role.RESCALE:
            gain *= factor_of(node)
        gains |= dict.fromkeys(node.outputs, gain)
    return gains


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > -700.0 else 0.0


_MONOTONE = frozenset({"Sigmoid", "HardSigmoid", "LeakyRelu"})


def _through(node: ir.Node, range_: Range) -> Range:
    """Return the range of a node's result for the range of its input."""
    if node.op_type == "Mul":
        return Range(range_.lo * factor_of(node), range_.hi * factor_of(node))
    if (limits := clip_bounds(node)) is not None:
        return _within(range_, limits)
    if node.op_type == "Sigmoid":
        return Range.around(_sigmoid(range_.lo), _sigmoid(range_.hi))
    if node.op_type == "HardSigmoid":
        alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
        ends = (min(max(alpha * end + beta, 0.0), 1.0) for end in (range_.lo, range_.hi))
        return Range.around(*ends)
    if node.op_type == "LeakyRelu":
        slope = node.attributes.get_float("alpha", 0.01)
        return Range(min(range_.lo * slope, 0.0), max(range_.lo * slope, range_.hi))
    return range_


def _within(range_: Range, bounds: Bounds) -> Range:
    return Range.around(max(range_.lo, min(bounds.lo, 0.0)), min(range_.hi, max(bounds.hi, 0.0)))


class _DisjointSets:
    """Disjoint sets of values, in the order of the values."""

    def __init__(self, values: list[ir.Value]) -> None:
        self._position = {value: position for position, value in enumerate(values)}
        self._set = {value: [value] for value in values}

    def unite(self, first: ir.Value, second: ir.Value) -> None:
        if self._set[first] is self._set[second]:
            return
        merged = self._set[first] + self._set[second]
        for value in merged:
            self._set[value] = merged

    def of(self, value: ir.Value) -> list[ir.Value]:
        return sorted(self._set[value], key=self._position.__getitem__)

    def members(self) -> list[list[ir.Value]]:
        firsts = {id(members): members for members in self._set.values()}
        ordered = [sorted(members, key=self._position.__getitem__) for members in firsts.values()]
        return sorted(ordered, key=lambda members: self._position[members[0]])

"""The plan of an int8 model: how each operator and tensor is quantized, or why not, independent of ranges."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.analysis import ops
from quantkit.graph.analysis.bounds import clip_bounds
from quantkit.graph.analysis.ops import Role
from quantkit.graph.analysis.selection import conv2d_nodes, skipped_nodes
from quantkit.graph.analysis.values import name_of, node_name, operand, required
from quantkit.graph.qdq.placement import Placement, place
from quantkit.graph.qdq.sharing import RangeGroup, Sharing
from quantkit.targets import Target


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Layers to leave in float.

    Attributes:
        skip: node names, globs, or ``re:`` and a regular expression; each must match at least one node.
        skip_convs: indices of 2-D convolutions in graph order, from 0, as in VACC's ``skip_conv_layers``.
    """

    skip: tuple[str, ...] = ()
    skip_convs: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Layer:
    """An integer layer with constant weights.

    Attributes:
        node: name of the node.
        op_type: Conv, ConvTranspose, Gemm or MatMul.
        input: name of the input activation.
        output: name of the result before any activation function.
        weight: name of the weights.
        channel_axis: axis of the output channels in the weights.
        groups: groups of a ConvTranspose, with weights [in, out / groups, ...]; 1 otherwise.
        bias: name of the bias, or None.
    """

    node: str
    op_type: str
    input: str
    output: str
    weight: str
    channel_axis: int
    groups: int
    bias: str | None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One row of ``quantkit quantize --explain``.

    Attributes:
        kind: operator or tensor.
        name: name of the node or tensor.
        op_type: type of the node, or of the node that computes the tensor.
        how: how it is quantized.
        why: the reason, empty for plain int8.
    """

    kind: Literal["operator", "tensor"]
    name: str
    op_type: str
    how: str
    why: str


@dataclass(frozen=True)
class Plan:
    """How every operator and tensor of a prepared model is quantized for a target.

    Attributes:
        target: runtime or compiler of the model.
        layers: the integer layers, in graph order.
        absorbed: activation functions that the integer range replaces, with the node that absorbs them.
        conv_index: index of each 2-D convolution of the original model, by node name.
        placement: roles and reasons by node.
        sharing: groups of tensors that share a scale.
    """

    target: Target
    layers: tuple[Layer, ...]
    absorbed: Mapping[str, str]
    conv_index: Mapping[str, int]
    placement: Placement = field(repr=False)
    sharing: Sharing = field(repr=False)

    @property
    def groups(self) -> tuple[RangeGroup, ...]:
        """The quantized tensors grouped by shared scale, in graph order."""
        return self.sharing.groups

    @cached_property
    def observed(self) -> tuple[str, ...]:
        """The tensors with ranges that `quantkit.graph.qdq.write.write_qdq` needs, in graph order."""
        return tuple(dict.fromkeys(name for group in self.groups for name in group.observed))

    @cached_property
    def group_of(self) -> Mapping[str, RangeGroup]:
        """The group of each quantized tensor."""
        return {tensor: group for group in self.groups for tensor in group.tensors}

    def explain(self) -> list[Decision]:
        """Return one decision per operator and floating-point tensor of the prepared model, in graph order."""
        rows = [self._tensor_row(value, "input") for value in self.placement.graph.inputs]
        for node in self.placement.graph:
            results = [value for value in node.outputs if value.name and (value.dtype is None or _is_real(value.dtype))]
            if results:
                rows.append(self._operator_row(node))
                rows.extend(self._tensor_row(value, node.op_type) for value in results)
        return rows

    def _operator_row(self, node: ir.Node) -> Decision:
        name = node_name(node)
        head = self.placement.attached.get(node)
        how, why = "float", self.placement.reasons.get(node, "")
        if name in self.absorbed:
            how, why = "absorbed", f"replaced by the integer range of {self.absorbed[name]!r}"
        elif head is not None and self.target.integer_outputs:
            why = f"symmetric integers do not saturate at its limits: it and {node_name(head)!r} are computed in float"
        elif head is not None:
            why = f"{self.target.name} fuses it with {node_name(head)!r}"
        elif node in self.placement.integer:
            how, why = _integer_row(node, self.placement.roles[node])
        return Decision(kind="operator", name=name, op_type=node.op_type, how=how, why=why)

    def _tensor_row(self, value: ir.Value, op_type: str) -> Decision:
        name = name_of(value)
        group = self.group_of.get(name)
        if name in self._inner:
            how, why = "absorbed", f"inside {self._inner[name]!r}"
        elif group is None:
            how, why = "float", "no integer operator reads it"
        else:
            how = self.target.activations.dtype
            why = "" if group.observed == (name,) else f"range of {', '.join(group.observed)}"
        return Decision(kind="tensor", name=name, op_type=op_type, how=how, why=why)

    @cached_property
    def _inner(self) -> Mapping[str, str]:
        """The tensors between a node and the activation function it absorbs, with that node."""
        nodes = [node for node in self.placement.attached if node_name(node) in self.absorbed]
        return {name_of(required(node, 0)): self.absorbed[node_name(node)] for node in nodes}


def _is_real(dtype: ir.DataType) -> bool:
    return dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def plan(prepared_model: ir.Model, target: Target, options: PlanOptions | None = None) -> Plan:
    """Plan the int8 model of a prepared model.

    Args:
        prepared_model: from `quantkit.graph.prepare.prepare`.
        target: runtime or compiler of the int8 model.
        options: layers to leave in float.

    Raises:
        UsageError: a pattern or index matches nothing.
        ModelError: nothing is left to quantize.
    """
    options = options or PlanOptions()
    graph = prepared_model.graph
    placement = place(graph, target, skipped_nodes(graph, options.skip, options.skip_convs))
    layers = tuple(_layer(node) for node in graph if node in placement.integer and placement.roles[node] is Role.LAYER)
    if not layers and not any(placement.roles[node] is Role.ACTIVATION_MATMUL for node in placement.integer):
        raise _nothing_left(placement)
    sharing = Sharing(placement)
    indices = {name: index for index, name in enumerate(conv2d_nodes(graph))}
    return Plan(target, layers, _absorbed(placement, sharing.groups), indices, placement, sharing)


def _nothing_left(placement: Placement) -> ModelError:
    """Return the error if no layer becomes integer: each reason once, with its first layer."""
    why: dict[str, str] = {}
    for node in placement.graph:
        if node.op_type in ops.LAYERS and node in placement.reasons:
            why.setdefault(placement.reasons[node], f"{node.op_type} {node_name(node)!r} {placement.reasons[node]}")
    found = ", ".join(sorted({node.op_type for node in placement.graph})) or "nothing"
    if not why:
        return ModelError(
            "no operator is left to quantize", where=found, fix="give a network with convolutions or matrix products"
        )
    halves = any(reason.endswith("not float32") for reason in why)
    fix = "export the model in fp32" if halves else "skip fewer nodes, or export the model with constant weights"
    return ModelError(f"no operator is left to quantize: {'; '.join(why.values())}", fix=fix)


def _layer(node: ir.Node) -> Layer:
    weight, bias = required(node, 1), operand(node, 2)
    axis, groups = 0, 1
    if node.op_type == "ConvTranspose":
        axis, groups = 1, node.attributes.get_int("group", 1)
    elif node.op_type == "MatMul" or (node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)):
        axis = 1
    return Layer(
        node=node_name(node),
        op_type=node.op_type,
        input=name_of(required(node, 0)),
        output=name_of(node.outputs[0]),
        weight=name_of(weight),
        channel_axis=axis,
        groups=groups,
        bias=None if bias is None else name_of(bias),
    )


def _absorbed(placement: Placement, groups: tuple[RangeGroup, ...]) -> dict[str, str]:
    """Return the activation functions that saturation replaces, each with the node that absorbs it.

    uint8 integers of an affine range [lo, hi] cannot represent less than lo or more than hi. If the bounds of every
    tensor of the group are within the limits of the activation function, so is its quantized range.
    """
    if placement.target.activations.symmetric:
        return {}
    bounds = {tensor: group.bounds for group in groups for tensor in group.tensors}
    absorbed = {}
    for node, head in placement.attached.items():
        limits = clip_bounds(node)
        result = bounds.get(name_of(placement.result(head)))
        if limits is not None and result is not None and limits.contains(result):
            absorbed[node_name(node)] = node_name(head)
    return absorbed


def _integer_row(node: ir.Node, role: Role) -> tuple[str, str]:
    match role:
        case Role.PASS:
            return "passed on", "forwards the integers unchanged"
        case Role.RESCALE:
            return "int8", "the same integers at another scale"
        case Role.ACTIVATION:
            return "int8", "a sum with zero that saturates at its range"
        case Role.UNARY if node.op_type in ops.SATURATING:
            return "int8", "a sum with a constant that saturates at its range"
        case Role.LAYER if node.op_type == "ConvTranspose":
            return "int8", "weights and activations are int8; " + ops.NO_INTEGER_KERNEL
        case _:
            return "int8", ""

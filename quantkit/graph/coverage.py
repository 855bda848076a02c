"""Int8 coverage of a network: the share of its layers and of its multiply-adds."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Any

import onnx_ir as ir

from quantkit.errors import CoverageError
from quantkit.graph.analysis import ops
from quantkit.graph.analysis.macs import LayerOperations, layer_costs
from quantkit.graph.analysis.values import ORIGIN, node_name
from quantkit.graph.qdq.placement import STRONG, Placement
from quantkit.graph.qdq.plan import Plan
from quantkit.records import plain_fields

# Below this share of the multiply-adds int8 saves little, and the model is unusual.
LOW_COVERAGE = 0.9
_FLOAT_ACTIVATION = "symmetric integers do not saturate at the limits of its activation function"
_UNEXPLAINED = "quantkit does not support it on integers"
_NAMED_LAYERS = 2
# IR version of the temporary model for shape inference; the first with every opset from 13 to 17.
_IR_VERSION = 8
_NAMED_REASONS = 2


@dataclass(frozen=True, kw_only=True)
class FloatLayer:
    """A layer that stays in float.

    Attributes:
        name: name of the node.
        op_type: operator type, prefixed with the domain if it is not ONNX's.
        why: the reason.
        multiply_adds: multiply-adds for one image, None if unknown.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> options = quantkit.QuantizeOptions(skip=("conv:0",), bias_correction=False)
        >>> done = quantkit.quantize("run", options=options, out="skipped.onnx")
        >>> [layer.op_type for layer in done.coverage.float_layers]
        ['Conv']
    """

    name: str
    op_type: str
    why: str
    multiply_adds: int | None


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Int8 coverage of a network.

    A layer is an operator with multiply-adds: Conv, ConvTranspose, Gemm, MatMul, and their fused and rarer forms. It is
    int8 if the target computes it on integers, not if only its inputs and outputs are stored as integers.

    Attributes:
        layers: number of layers.
        int8_layers: number of int8 layers.
        multiply_adds: multiply-adds for one image of all layers with known counts.
        int8_multiply_adds: multiply-adds of the int8 layers among them.
        uncounted: number of layers with unknown multiply-adds.
        float_layers: the layers that stay in float, in graph order.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> quantkit.inspect("mini_iresnet.onnx").targets[0].coverage.layers
        28
    """

    layers: int
    int8_layers: int
    multiply_adds: int
    int8_multiply_adds: int
    uncounted: int
    float_layers: tuple[FloatLayer, ...]

    @property
    def share(self) -> float:
        """Share of the known multiply-adds in int8, 0 to 1; of the layers if none is known."""
        if self.multiply_adds:
            return self.int8_multiply_adds / self.multiply_adds
        return self.int8_layers / self.layers if self.layers else 0.0

    @property
    def is_certain(self) -> bool:
        """Whether the multiply-adds of all float layers are known, so that `share` is valid for the network."""
        return all(layer.multiply_adds is not None for layer in self.float_layers)

    @property
    def is_low(self) -> bool:
        """Whether the coverage is low enough for a warning."""
        return self.share < LOW_COVERAGE or (not self.is_certain and self.int8_layers < LOW_COVERAGE * self.layers)

    def meets(self, share: float) -> bool:
        """Return whether at least this share (0 to 1) of the multiply-adds is known to be int8."""
        return self.is_certain and self.share >= share

    def require(self, least: float | None) -> None:
        """Raise unless at least ``least`` percent of the multiply-adds are int8; None requires nothing.

        Raises:
            CoverageError: the coverage is lower, or a layer in float has an unknown number of multiply-adds.
        """
        if least is None or self.meets(least / 100.0):
            return
        raise CoverageError(
            f"{percent(least / 100.0)} of the multiply-adds in int8 are required; {self}",
            where="--require-coverage",
            fix="run without the requirement and with --verbose to list the layers in float",
        )

    def by_reason(self) -> dict[str, list[FloatLayer]]:
        """Return the layers in float by reason, the reason with the most multiply-adds first."""
        found: dict[str, list[FloatLayer]] = {}
        for layer in self.float_layers:
            found.setdefault(layer.why, []).append(layer)
        cost = {why: sum(layer.multiply_adds or 0 for layer in layers) for why, layers in found.items()}
        return dict(sorted(found.items(), key=lambda item: -cost[item[0]]))

    def __str__(self) -> str:
        """Return one line: layers, multiply-adds, and the layers in float with the reasons."""
        text = f"int8: {self.summary()}"
        return f"{text}; float: {self._float_text()}" if self.float_layers else text

    def summary(self) -> str:
        """Return the counts: ``53 of 54 layers, 99.8 % of multiply-adds``."""
        text = f"{self.int8_layers} of {self.layers} layers"
        if self.uncounted:
            return f"{text} (the multiply-adds of {self.uncounted} are unknown)"
        return f"{text}, {percent(self.share)} of multiply-adds" if self.multiply_adds else text

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; ``float_layers`` lists every layer."""
        return {**plain_fields(self), "share": self.share}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Coverage":
        """Return the coverage that `to_json` was called on."""
        counts = {name: plain[name] for name in ("layers", "int8_layers", "multiply_adds", "int8_multiply_adds")}
        layers = tuple(FloatLayer(**layer) for layer in plain["float_layers"])
        return cls(**counts, uncounted=plain["uncounted"], float_layers=layers)

    def _float_text(self) -> str:
        reasons = self.by_reason()
        parts = [f"{_names(layers)} ({why})" for why, layers in list(reasons.items())[:_NAMED_REASONS]]
        rest = sum(len(layers) for layers in list(reasons.values())[_NAMED_REASONS:])
        return ", ".join(parts) + (f", and {rest} more for other reasons" if rest else "")


def coverage(plan: Plan, input_shape: Sequence[int] | None = None) -> Coverage:
    """Return the int8 coverage of a prepared model.

    Args:
        plan: plan of the int8 model.
        input_shape: ``[N, C, H, W]`` for an input with free dimensions; by default that of the model for one image.
    """
    model = ir.Model(plan.placement.graph, ir_version=_IR_VERSION)
    return coverage_of(layer_costs(model, input_shape), plan.placement, plan.absorbed)


def coverage_of(costs: Sequence[LayerOperations], placement: Placement, absorbed: Collection[str]) -> Coverage:
    """Return the int8 coverage of a placement.

    Args:
        costs: multiply-adds of the layers.
        placement: the integer nodes, and the reasons for the others.
        absorbed: names of the activation functions that saturation replaces.
    """
    reasons = {node_name(node): why for node, why in placement.reasons.items()}
    reasons |= _computed_in_float(placement, absorbed)
    strong = {node_name(node) for node in placement.integer if placement.roles[node] in STRONG}
    integer = strong - set(reasons)
    kinds = {node_name(node): node.op_type for node in placement.graph}
    # A convolution that quantkit created from a batch norm is not a layer of the user's network.
    made = {node_name(node) for node in placement.graph if ORIGIN in node.metadata_props}
    costs = [cost for cost in costs if cost.within is not None or cost.name not in made]
    in_float = tuple(
        FloatLayer(
            name=cost.name, op_type=cost.op_type, why=_why(cost, reasons, kinds), multiply_adds=cost.multiply_adds
        )
        for cost in costs
        if cost.within is not None or cost.name not in integer
    )
    total = sum(cost.multiply_adds or 0 for cost in costs)
    return Coverage(
        layers=len(costs),
        int8_layers=len(costs) - len(in_float),
        multiply_adds=total,
        int8_multiply_adds=total - sum(layer.multiply_adds or 0 for layer in in_float),
        uncounted=sum(cost.multiply_adds is None for cost in costs),
        float_layers=in_float,
    )


def _computed_in_float(placement: Placement, absorbed: Collection[str]) -> dict[str, str]:
    """Return the quantized layers that onnxruntime computes in float because it has no kernel, with the reason."""
    if not placement.target.integer_outputs:
        return {}
    found = {
        node_name(head): _FLOAT_ACTIVATION
        for node, head in placement.attached.items()
        if head in placement.integer and node_name(node) not in absorbed
    }
    transposed = [node for node in placement.integer if node.op_type == "ConvTranspose"]
    return found | {node_name(node): ops.NO_INTEGER_KERNEL for node in transposed}


def percent(share: float) -> str:
    """Return a share as a percentage of one decimal, rounded down: 100 % means all."""
    return "100 %" if share >= 1.0 else f"{floor(1000.0 * share) / 10.0:.1f} %"


def _why(cost: LayerOperations, reasons: dict[str, str], kinds: dict[str, str]) -> str:
    if cost.within is not None:
        return ops.FLOAT_REASONS.get(kinds.get(cost.within, ""), "nodes inside another operator are not quantized")
    return reasons.get(cost.name) or _UNEXPLAINED


def _names(layers: Sequence[FloatLayer]) -> str:
    named = ", ".join(layer.name for layer in layers[:_NAMED_LAYERS])
    return named if len(layers) <= _NAMED_LAYERS else f"{named} and {len(layers) - _NAMED_LAYERS} more"

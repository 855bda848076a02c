"""Writes the int8 model of a plan with QuantizeLinear and DequantizeLinear."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.analysis.values import array, name_of, node_name, required
from quantkit.graph.keep_apart import keep_apart
from quantkit.graph.passes.clean import remove_unused
from quantkit.graph.qdq.block_ort_requantization import keep_float
from quantkit.graph.qdq.edit import Edit
from quantkit.graph.qdq.placement import activations
from quantkit.graph.qdq.plan import Plan
from quantkit.graph.qdq.weights import WeightIntegers
from quantkit.graph.qdq.write_activations import drop_absorbed, round_activations
from quantkit.graph.qdq.write_constants import write_constant_operands, write_layers
from quantkit.notes import Note, NoteKind, as_note
from quantkit.numerics import QParams, Range
from quantkit.types import FloatArray

TARGET_KEY = "quantkit.target"
SCHEME_KEY = "quantkit.scheme"
NOTES_KEY = "quantkit.notes"
# If the thresholds of two inputs of a sum or concatenation differ by more than this factor, the smaller one keeps fewer
# than 16 of 256 levels.
UNLIKE_RANGES = 16.0


def write_qdq(
    prepared_model: ir.Model,
    plan: Plan,
    ranges: Mapping[str, Range],
    *,
    bias_shift: Mapping[str, FloatArray] | None = None,
    weight_thresholds: Mapping[str, FloatArray] | None = None,
    known_weights: WeightIntegers | None = None,
) -> ir.Model:
    """Return the int8 model of a plan; the prepared model is not modified.

    The dequantized value of a tensor has the name of the tensor, so that tensors of both models can be compared by
    name. Graph inputs, graph outputs and tensors that are also read in float keep their names for the float value.

    Args:
        prepared_model: the model of the plan.
        plan: from `quantkit.graph.qdq.plan.plan`.
        ranges: ranges by tensor, at least for ``plan.observed``.
        bias_shift: float ``[output channels]`` to add to a layer's bias, by the layer's output tensor.
        weight_thresholds: clipping thresholds to use instead of ``max |w|``, by weight tensor.
        known_weights: integers of the plan's weights; give the same to all models of a plan.

    Raises:
        ModelError: a tensor has no range, a weight is not finite, or a written scale is not finite and positive.
    """
    parameters = activation_parameters(plan, ranges)
    model = prepared_model.clone()
    edit = Edit(model, plan, parameters)
    write_layers(edit, bias_shift or {}, weight_thresholds or {}, known_weights)
    write_constant_operands(edit)
    drop_absorbed(edit)
    round_activations(edit)
    keep_float(edit)
    keep_apart(edit)
    edit.notes.extend(_unlike_ranges(plan, parameters))
    _finish(model, plan, edit.notes)
    return model


def activation_parameters(plan: Plan, ranges: Mapping[str, Range]) -> dict[str, QParams]:
    """Return scale and zero point of every quantized tensor of a plan.

    Raises:
        ModelError: a tensor of ``plan.observed`` has no range, and none follows from preceding tensors.
    """
    missing = plan.sharing.missing(ranges)
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise ModelError(f"{len(missing)} tensors have no range", where=shown, fix="calibrate this model again")
    by_group = plan.sharing.ranges(ranges)
    scheme = plan.target.activations
    parameters = {}
    for group in plan.groups:
        for tensor, gain in zip(group.tensors, group.gains, strict=True):
            own = scheme.qparams(by_group[group.tensors[0]])
            scaled = np.asarray(own.scale * gain, np.float32)
            parameters[tensor] = own if gain == 1.0 else QParams(scaled, own.zero_point, own.qmin, own.qmax, own.dtype)
    return parameters


def notes_of(model: ir.Model) -> tuple[Note, ...]:
    """Return the notes on a written int8 model.

    The metadata of the file has their texts; kinds and counts are known only for a model that was just written.
    """
    held: tuple[Note, ...] | None = model.meta.get(NOTES_KEY)
    return held or tuple(map(as_note, model.metadata_props.get(NOTES_KEY, "").splitlines()))


def _unlike_ranges(plan: Plan, parameters: Mapping[str, QParams]) -> list[Note]:
    """Return notes on sums and concatenations in which an input keeps only a few levels."""
    notes = []
    placement = plan.placement
    for node in placement.graph:
        if node not in placement.integer or node.op_type not in ("Add", "Concat"):
            continue
        names = [name_of(value) for value in activations(node, placement.roles[node])]
        reach = {name: _reach(parameters[name]) for name in names if name in parameters}
        small, large = (choose(reach, key=reach.__getitem__, default="") for choose in (min, max))
        if small != large and reach[large] > UNLIKE_RANGES * reach[small]:
            levels = 255 * reach[small] / reach[large]
            text = (
                f"{node_name(node)}: {small!r} reaches {reach[small]:.3g} and {large!r} {reach[large]:.3g}; "
                f"the first keeps {levels:.1f} of 255 levels in the result"
            )
            notes.append(Note(text, NoteKind.UNLIKE_RANGES, severity=-levels))
    return notes


def _reach(qparams: QParams) -> float:
    """Return the largest magnitude that the parameters can represent."""
    steps = max(qparams.qmax - int(qparams.zero_point), int(qparams.zero_point) - qparams.qmin)
    return float(qparams.scale) * steps


def _finish(model: ir.Model, plan: Plan, notes: Sequence[Note]) -> None:
    """Remove unused fp32 weights, check every scale, and write the scheme to the metadata."""
    remove_unused(model)
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = array(required(node, 1))
            if scale is None or not np.all(np.isfinite(scale) & (scale.astype(np.float32) > 0)):
                raise ModelError(f"the scale of {node_name(node)!r} is not finite and positive")
    activation, weight = plan.target.activations, plan.target.weights
    model.metadata_props[TARGET_KEY] = plan.target.name
    model.metadata_props[SCHEME_KEY] = (
        f"activations {activation.dtype} {'symmetric' if activation.symmetric else 'affine'} "
        f"[{activation.qmin}, {activation.qmax}]; weights int8 symmetric [{-weight.qmax}, {weight.qmax}] "
        f"per {'channel' if weight.per_channel else 'tensor'}"
    )
    model.metadata_props[NOTES_KEY] = "\n".join(notes)
    model.meta[NOTES_KEY] = tuple(notes)

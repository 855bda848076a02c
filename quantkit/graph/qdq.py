"""Write the int8 model: QuantizeLinear and DequantizeLinear around what the plan makes integer."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.ops import Role
from quantkit.graph.placement import activations
from quantkit.graph.plan import Layer, Plan
from quantkit.graph.sharing import RangeGroup
from quantkit.graph.values import add_constant, array, is_constant, name_of, node_name, required
from quantkit.graph.weights import quantize_bias, quantize_weight
from quantkit.numerics import QParams, Range, quantize

TARGET_KEY = "quantkit.target"
SCHEME_KEY = "quantkit.scheme"
NOTES_KEY = "quantkit.notes"
# Two inputs of a sum or concatenation whose thresholds differ by more share a scale badly: the smaller one keeps
# fewer than 16 of 256 levels.
UNLIKE_RANGES = 16.0

FloatArray = npt.NDArray[np.floating]


def write_qdq(
    prepared_model: ir.Model,
    plan: Plan,
    ranges: Mapping[str, Range],
    *,
    bias_shift: Mapping[str, FloatArray] | None = None,
    weight_thresholds: Mapping[str, FloatArray] | None = None,
) -> ir.Model:
    """Return the int8 model of a plan; the prepared model is left as it is.

    A quantized tensor keeps its name for what DequantizeLinear gives, so tensors of both models compare by name. The
    graph's inputs, its outputs and what is also read in float keep theirs for the float value.

    Args:
        prepared_model: the model the plan was made for.
        plan: from `quantkit.graph.plan.plan`.
        ranges: at least one for every tensor of ``plan.observed``.
        bias_shift: float ``[output channels]`` to add to a layer's bias, by the layer's output tensor.
        weight_thresholds: clipping magnitudes in place of ``max |w|``, by weight tensor.

    Raises:
        ModelError: a tensor has no range, a weight is not finite, or a written scale is not finite and positive.
    """
    missing = [name for name in plan.observed if name not in ranges]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise ModelError(f"{len(missing)} tensors have no range", where=shown, fix="calibrate this model again")
    model = prepared_model.clone()
    writer = _Writer(model, plan, ranges)
    for layer in plan.layers:
        writer.quantize_layer(layer, bias_shift or {}, weight_thresholds or {})
    writer.quantize_constants()
    writer.drop_absorbed()
    for group in plan.groups:
        for tensor in group.tensors:
            writer.round_tensor(tensor)
    writer.note_unlike_ranges()
    _finish(model, plan, writer.notes)
    return model


def notes_of(model: ir.Model) -> tuple[str, ...]:
    """Return what was noted while an int8 model was written; the notes are kept in its metadata."""
    return tuple(model.metadata_props.get(NOTES_KEY, "").splitlines())


class _Writer:
    """The state of one write: the graph being edited, the parameters of each group, the notes."""

    def __init__(self, model: ir.Model, plan: Plan, ranges: Mapping[str, Range]) -> None:
        self.graph = model.graph
        self.plan = plan
        self.ranges = {tensor: _group_range(group, ranges) for group in plan.groups for tensor in group.tensors}
        self.nodes = {node_name(node): node for node in model.graph}
        self.values = {name_of(value): value for value in _all_values(model.graph)}
        self.planned = {node_name(node): node for node in plan.placement.graph}
        self.planned_values = {name_of(value): value for value in _all_values(plan.placement.graph)}
        self.notes: list[str] = []
        self._parameters: dict[RangeGroup, tuple[ir.Value, ir.Value]] = {}
        self._weights: dict[tuple[str, int, bytes], ir.Value] = {}

    def qparams(self, tensor: str) -> QParams:
        return self.plan.target.activations.qparams(self.ranges[tensor])

    def quantize_layer(
        self, layer: Layer, shifts: Mapping[str, FloatArray], thresholds: Mapping[str, FloatArray]
    ) -> None:
        """Store a layer's weights as int8 and its bias as the target wants it."""
        node = self.nodes[layer.node]
        weight = _finite(array(required(node, 1)), layer.weight)
        bias = None if layer.bias is None else _finite(array(required(node, 2)), layer.bias)
        if layer.output in shifts:
            shift = np.asarray(shifts[layer.output], np.float32)
            bias = shift if bias is None else (bias + shift).astype(np.float32)
        quantized = quantize_weight(
            weight,
            bias if self.plan.target.integer_bias else None,
            scheme=self.plan.target.weights,
            axis=layer.channel_axis,
            groups=layer.groups,
            input_scale=float(self.qparams(layer.input).scale),
            thresholds=thresholds.get(layer.weight),
        )
        if quantized.widened:
            count = len(quantized.widened)
            self.notes.append(f"{layer.node}: weight scale of {count} channels widened to make the bias fit int32")
        node.replace_input_with(1, self._stored_weight(layer, node, quantized.values, quantized.qparams))
        if bias is not None:
            self._store_bias(layer, node, bias, quantized.bias_scale)

    def _stored_weight(
        self, layer: Layer, node: ir.Node, values: npt.NDArray[np.integer], qparams: QParams
    ) -> ir.Value:
        """Return the dequantized weights; layers that share a weight and its scale share the integers too."""
        key = (layer.weight, layer.channel_axis, qparams.scale.tobytes())
        if key not in self._weights:
            old = self.values[layer.weight]
            self._weights[key] = self._constant(node, old, values, qparams.scale, qparams.zero_point, qparams.axis)
        return self._weights[key]

    def _store_bias(self, layer: Layer, node: ir.Node, bias: FloatArray, scale: npt.NDArray[np.float32]) -> None:
        name = layer.bias or f"{layer.node}.bias"
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        if not self.plan.target.integer_bias:
            node.replace_input_with(2, add_constant(self.graph, name, np.asarray(bias, np.float32)))
            return
        old = node.inputs[2] or ir.Value(name=name)
        vector = np.broadcast_to(scale, bias.shape).astype(np.float32)
        node.replace_input_with(2, self._constant(node, old, quantize_bias(bias, vector), vector, None, 0))

    def _constant(
        self,
        node: ir.Node,
        old: ir.Value,
        values: npt.NDArray[np.integer],
        scale: npt.NDArray[np.float32],
        zero_point: npt.NDArray[np.integer] | None,
        axis: int | None,
    ) -> ir.Value:
        """Store integers with a DequantizeLinear before ``node``, which takes over the name of the old constant."""
        name = name_of(old)
        inputs = [
            add_constant(self.graph, f"{name}.quantized", values),
            add_constant(self.graph, f"{name}.scale", scale),
        ]
        if zero_point is not None:
            inputs.append(add_constant(self.graph, f"{name}.zero_point", zero_point))
        attributes = {} if axis is None else {"axis": axis}
        dequantize = ir.node("DequantizeLinear", inputs, attributes, name=f"{name}.DequantizeLinear")
        result = dequantize.outputs[0]
        result.name = f"{name}.dequantized"
        result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(values.shape)
        self.graph.insert_before(self._first_reader(old, node), dequantize)
        return result

    def _first_reader(self, value: ir.Value, node: ir.Node) -> ir.Node:
        readers = {use.node for use in value.uses()}
        return next((candidate for candidate in self.graph if candidate in readers), node)

    def quantize_constants(self) -> None:
        """Store the constant operands of integer sums, products and concatenations as integers of their own range."""
        placement = self.plan.placement
        for name, planned in self.planned.items():
            if planned not in placement.integer or placement.roles[planned] is Role.LAYER:
                continue
            for value in activations(planned, placement.roles[planned]):
                if is_constant(value):
                    node = self.nodes[name]
                    content = _finite(array(value), name_of(value))
                    spread = Range.around(float(content.min(initial=0.0)), float(content.max(initial=0.0)))
                    qparams = self.plan.target.activations.qparams(spread)
                    old = self.values[name_of(value)]
                    stored = self._constant(
                        node, old, quantize(content, qparams), qparams.scale, qparams.zero_point, None
                    )
                    for index, read in enumerate(node.inputs):
                        if read is old:
                            node.replace_input_with(index, stored)

    def drop_absorbed(self) -> None:
        """Take away the activation functions that saturation does."""
        for name in self.plan.absorbed:
            node = self.nodes[name]
            source, result = required(node, 0), node.outputs[0]
            label = name_of(result)
            result.replace_all_uses_with(source, replace_graph_outputs=True)
            self.graph.remove(node, safe=True)
            source.name, self.values[label] = label, source

    def round_tensor(self, tensor: str) -> None:
        """Put QuantizeLinear and DequantizeLinear behind a tensor, for the readers that read integers."""
        value, planned = self.values[tensor], self.planned_values[tensor]
        producer = value.producer()
        origin = planned.producer()
        wide = not self._gives_integers(origin)
        readers = [
            use for use in value.uses() if not wide or self._reads_integers(node_name(use.node), planned, tensor)
        ]
        scale, zero_point = self._group_parameters(self.plan.group_of[tensor])
        kept = wide and (len(readers) < len(value.uses()) or value.is_graph_output() or producer is None)
        nodes = self._clip_nodes(value, tensor)
        source = nodes[-1].outputs[0] if nodes else value
        quantize_node = ir.node("QuantizeLinear", [source, scale, zero_point], name=f"{tensor}.QuantizeLinear")
        dequantize_node = ir.node(
            "DequantizeLinear", [quantize_node.outputs[0], scale, zero_point], name=f"{tensor}.DequantizeLinear"
        )
        rounded, result = quantize_node.outputs[0], dequantize_node.outputs[0]
        rounded.name = f"{tensor}.quantized"
        rounded.type, rounded.shape = (
            ir.TensorType(ir.DataType[self.plan.target.activations.dtype.upper()]),
            value.shape,
        )
        result.type, result.shape = value.type, value.shape
        for use in readers:
            use.node.replace_input_with(use.idx, result)
        if not wide and value.is_graph_output():
            outputs = self.graph.outputs
            outputs[:] = [result if output is value else output for output in outputs]
        if kept:
            result.name = f"{tensor}.dequantized"
        else:
            value.name, result.name = f"{tensor}.float", tensor
        self._insert(producer, [*nodes, quantize_node, dequantize_node])

    def _gives_integers(self, node: ir.Node | None) -> bool:
        """Tell whether a tensor exists as integers only: its kernel rounds it."""
        placement = self.plan.placement
        head = None if node is None else placement.attached.get(node, node)
        return self.plan.target.integer_outputs and head in placement.integer

    def _reads_integers(self, reader: str, planned: ir.Value, tensor: str) -> bool:
        del tensor
        node = self.planned.get(reader)
        return node is not None and self.plan.placement.reads_integers(node, planned)

    def _group_parameters(self, group: RangeGroup) -> tuple[ir.Value, ir.Value]:
        if group not in self._parameters:
            name = group.tensors[0]
            qparams = self.qparams(name)
            self._parameters[group] = (
                add_constant(self.graph, f"{name}.scale", qparams.scale),
                add_constant(self.graph, f"{name}.zero_point", qparams.zero_point),
            )
        return self._parameters[group]

    def _clip_nodes(self, value: ir.Value, tensor: str) -> list[ir.Node]:
        """Return a Clip that keeps the rounded values at or above a qmin greater than the least of its type."""
        qparams = self.qparams(tensor)
        bounds = self.plan.group_of[tensor].bounds
        if qparams.qmin <= np.iinfo(qparams.dtype).min or bounds.lo >= 0:
            return []
        least = add_constant(self.graph, f"{tensor}.least", np.asarray(qparams.qmin * qparams.scale, np.float32))
        clip = ir.node("Clip", [value, least], name=f"{tensor}.Clip")
        clip.outputs[0].name = f"{tensor}.clipped"
        clip.outputs[0].type, clip.outputs[0].shape = value.type, value.shape
        return [clip]

    def _insert(self, producer: ir.Node | None, nodes: Sequence[ir.Node]) -> None:
        if producer is None:
            self.graph.insert_before(self.graph[0], nodes)
        else:
            self.graph.insert_after(producer, nodes)

    def note_unlike_ranges(self) -> None:
        """Note the sums and concatenations in which one input leaves another few of the 256 levels."""
        placement = self.plan.placement
        for name, node in self.planned.items():
            if node not in placement.integer or node.op_type not in ("Add", "Concat"):
                continue
            thresholds = {
                name_of(value): self.ranges[name_of(value)].threshold
                for value in activations(node, placement.roles[node])
                if name_of(value) in self.ranges
            }
            small, large = min(thresholds, key=thresholds.__getitem__), max(thresholds, key=thresholds.__getitem__)
            if thresholds[large] > UNLIKE_RANGES * thresholds[small]:
                levels = 255 * thresholds[small] / thresholds[large]
                self.notes.append(
                    f"{name}: {small!r} reaches {thresholds[small]:.3g} and {large!r} {thresholds[large]:.3g}: "
                    f"at one scale the first keeps {levels:.1f} of 255 levels"
                )


def _all_values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _group_range(group: RangeGroup, ranges: Mapping[str, Range]) -> Range:
    """Unite the ranges of what a group observes, within what the operators alone allow."""
    lo = min(ranges[name].lo for name in group.observed)
    hi = max(ranges[name].hi for name in group.observed)
    return Range.around(max(lo, min(group.bounds.lo, 0.0)), min(hi, max(group.bounds.hi, 0.0)))


def _finite(content: npt.NDArray[np.generic] | None, name: str) -> npt.NDArray[np.float32]:
    if content is None or not np.isfinite(content.min(initial=0.0)) or not np.isfinite(content.max(initial=0.0)):
        raise ModelError(f"the weight {name!r} holds NaN or infinity", fix="repair or export the checkpoint again")
    return content.astype(np.float32, copy=False)


def _finish(model: ir.Model, plan: Plan, notes: Sequence[str]) -> None:
    """Drop the fp32 weights that nothing reads, check every scale, and name the scheme in the metadata."""
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]
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

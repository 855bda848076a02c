"""The isolated layer graph: every integer layer reads its inputs from the float model.

In addition to the float graph it contains a copy of each integer layer, from the quantizers of its inputs to the
dequantizer of its result. One run of this graph gives the isolated error of every layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from quantkit.graph.analysis import ops
from quantkit.graph.analysis.values import (
    forget_names,
    is_constant,
    is_op,
    name_of,
    required,
    sole_consumer,
    unused_name,
)
from quantkit.graph.qdq.edit import all_values
from quantkit.graph.qdq.read import DEQUANTIZED, FLOAT, clips_for_quantizer, node_qparams, rounded_value
from quantkit.numerics import QParams

_INTEGERS = (ir.DataType.INT8, ir.DataType.UINT8)
# They compute nothing: the error of their result is that of their input.
_MOVING = ops.PASS_THROUGH | {"QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True, kw_only=True)
class LocalLayer:
    """An integer layer in the joint graph.

    Attributes:
        tensor: name of the layer's result in the float graph, after a Relu or Clip that belongs to the layer.
        alone: name of the result of the integer layer with float inputs.
        op_type: operator type of the layer.
        qparams: quantization parameters of the result; None if the kernel returns float accumulators.
    """

    tensor: str
    alone: str
    op_type: str
    qparams: QParams | None


@dataclass(frozen=True)
class IsolatedLayerGraph:
    """The float graph joined with a copy of each integer layer.

    Attributes:
        model: computes the values of the prepared model, and those named in `layers`.
        layers: the layers in the order of the int8 graph.
    """

    model: ir.Model
    layers: tuple[LocalLayer, ...]


def local_graph(prepared_model: ir.Model, int8_model: ir.Model) -> IsolatedLayerGraph:
    """Join the float graph with every layer of the int8 graph that reads integers and multiplies or rounds.

    Tensors are matched by the names that `quantkit.graph.qdq.write.write_qdq` assigns. Layers with inputs or results
    that are not in the float graph are left out; in a model from another tool these may be all layers.

    Args:
        prepared_model: from `quantkit.graph.prepare.prepare`; not modified.
        int8_model: its int8 model; not modified.
    """
    joint = _Joint(prepared_model.clone())
    if int8_model.opset_imports.get("") != prepared_model.opset_imports.get(""):
        return IsolatedLayerGraph(joint.model, ())  # one graph cannot contain operators of two opsets
    layers = (joint.add_layer(node) for node in int8_model.graph if _computes_on_integers(node))
    return IsolatedLayerGraph(joint.model, tuple(layer for layer in layers if layer is not None))


class _Joint:
    """The joint graph under construction.

    Args:
        model: a copy of the float model, which is extended.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        forget_names(model.graph)
        self._float_values = {name_of(value): value for value in all_values(model.graph)}
        # Copied input values of the int8 graph; each value is copied once for all layers.
        self._feeds: dict[ir.Value, ir.Value] = {}

    def add_layer(self, layer: ir.Node) -> LocalLayer | None:
        """Copy a layer with its quantizers.

        Returns None if the float graph lacks one of its tensors, and for a float operator that only reads a rounded
        tensor, because it adds no error.
        """
        nodes, result = _layer_nodes(layer)
        tensor, rounds = self._counterpart(result), is_op(nodes[-1], "DequantizeLinear")
        if not rounds and layer.op_type not in ops.LAYERS:
            return None
        inside = {node.outputs[0] for node in nodes}
        outer = [value for node in nodes for value in node.inputs if value is not None and value not in inside]
        if tensor is None or any(self._counterpart(leaf) is None for value in outer for leaf in _leaves(value)):
            return None
        made: dict[ir.Value | None, ir.Value | None] = {None: None}
        for node in nodes:
            inputs = [made[value] if value is None or value in inside else self._feed(value) for value in node.inputs]
            made[node.outputs[0]] = self._copy(node, inputs).outputs[0]
        alone = made[nodes[-1].outputs[0]]
        assert alone is not None
        qparams = node_qparams(nodes[-1]) if rounds else None
        return LocalLayer(tensor=tensor, alone=name_of(alone), op_type=layer.op_type, qparams=qparams)

    def _counterpart(self, value: ir.Value) -> str | None:
        """Return the name of the float graph's tensor that a value of the int8 graph approximates."""
        name = name_of(value)
        return next((one for one in (name, name.removesuffix(FLOAT)) if one in self._float_values), None)

    def _feed(self, value: ir.Value | None) -> ir.Value | None:
        """Return an input of a layer: the float graph's value, rounded by copies of the int8 graph's nodes."""
        if value is None:
            return None
        if value not in self._feeds:
            producer = value.producer()
            if is_constant(value):
                self._feeds[value] = self._constant(value)
            elif producer is not None and _rounds(producer):
                copied = self._copy(producer, [self._feed(one) for one in producer.inputs])
                self._feeds.update(zip(producer.outputs, copied.outputs, strict=True))
            else:
                self._feeds[value] = self._float_values[str(self._counterpart(value))]
        return self._feeds[value]

    def _constant(self, value: ir.Value) -> ir.Value:
        tensor = ir.convenience.get_const_tensor(value)
        assert tensor is not None
        name = unused_name(self.model.graph, f"{value.name}.alone")
        shared = ir.Value(name=name, shape=value.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.model.graph.register_initializer(shared)
        return shared

    def _copy(self, node: ir.Node, inputs: list[ir.Value | None]) -> ir.Node:
        copied = ir.Node(node.domain, node.op_type, inputs, node.attributes, num_outputs=len(node.outputs))
        for old, new in zip(node.outputs, copied.outputs, strict=True):
            new.name, new.type, new.shape = unused_name(self.model.graph, f"{old.name}.alone"), old.type, old.shape
        copied.name = f"{copied.outputs[0].name}.{node.op_type}"
        self.model.graph.append(copied)
        return copied


def _computes_on_integers(node: ir.Node) -> bool:
    """Return whether a node reads a dequantized activation, and does more than move values."""
    if node.domain or node.op_type in _MOVING or len(node.outputs) != 1:
        return False
    makers = [value.producer() for value in node.inputs if value is not None]
    return any(
        maker is not None and is_op(maker, "DequantizeLinear") and not is_constant(required(maker, 0))
        for maker in makers
    )


def _layer_nodes(layer: ir.Node) -> tuple[list[ir.Node], ir.Value]:
    """Return the nodes from a layer to the dequantizer of its result, and the result before rounding."""
    nodes, result = [layer], layer.outputs[0]
    while True:
        if (rounding := _rounding_of(result)) is not None:
            return [*nodes, *rounding], result
        activation = sole_consumer(result)
        if activation is None or not is_op(activation, *ops.ACTIVATIONS):
            return nodes, result
        nodes.append(activation)
        result = activation.outputs[0]


def _rounding_of(value: ir.Value) -> list[ir.Node] | None:
    """Return the quantizer and dequantizer of a value, and the Clip before them if there is one."""
    for use in value.uses():
        clips = [use.node] if clips_for_quantizer(use.node) else []
        quantizer = sole_consumer(clips[0].outputs[0]) if clips else use.node
        if quantizer is None or not is_op(quantizer, "QuantizeLinear") or rounded_value(quantizer) is not value:
            continue
        if (dequantizer := _own_dequantizer(quantizer, name_of(value).removesuffix(FLOAT))) is not None:
            return [*clips, quantizer, dequantizer]
    return None


def _own_dequantizer(quantizer: ir.Node, tensor: str) -> ir.Node | None:
    """Return the dequantizer of a tensor, not that of the tensor times a constant, which shares the integers."""
    readers = [use.node for use in quantizer.outputs[0].uses() if is_op(use.node, "DequantizeLinear")]
    named = [reader for reader in readers if name_of(reader.outputs[0]) in (tensor, f"{tensor}{DEQUANTIZED}")]
    equal = [reader for reader in readers if node_qparams(reader) == node_qparams(quantizer)]
    return next(iter([*named, *equal]), None)


def _rounds(node: ir.Node) -> bool:
    """Return whether a node is between a float tensor and its rounded value in an integer layer."""
    rounding = is_op(node, "QuantizeLinear", "DequantizeLinear") or clips_for_quantizer(node)
    return rounding or node.outputs[0].dtype in _INTEGERS


def _leaves(value: ir.Value) -> Iterator[ir.Value]:
    """Yield the float tensors that a value is rounded from."""
    producer = value.producer()
    if is_constant(value):
        return
    if producer is None or not _rounds(producer):
        yield value
        return
    for one in producer.inputs:
        if one is not None:
            yield from _leaves(one)

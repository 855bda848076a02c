"""The int8 graph under construction: a copy of the prepared graph with its plan, matched by name."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.analysis.values import add_constant, forget_names, name_of, node_name, unused_name
from quantkit.graph.qdq.plan import Plan
from quantkit.notes import Note
from quantkit.numerics import QParams


class Edit:
    """An int8 graph under construction.

    Attributes:
        graph: the copy to modify.
        plan: plan of the prepared graph.
        parameters: quantization parameters of each quantized tensor.
        nodes: nodes of the copy by name.
        values: values of the copy by name.
        planned_nodes: nodes of the prepared graph by name.
        planned_values: values of the prepared graph by name.
        rounded: the integers of each tensor written so far.
        notes: remarks for the user.
    """

    def __init__(self, model: ir.Model, plan: Plan, parameters: Mapping[str, QParams]) -> None:
        self.graph = model.graph
        forget_names(self.graph)
        self.plan = plan
        self.parameters = parameters
        self.nodes = {node_name(node): node for node in model.graph}
        self.values = {name_of(value): value for value in all_values(model.graph)}
        self.planned_nodes = {node_name(node): node for node in plan.placement.graph}
        self.planned_values = {name_of(value): value for value in all_values(plan.placement.graph)}
        self.rounded: dict[str, ir.Value] = {}
        self._node_names = {node.name for node in model.graph.all_nodes()}
        self.notes: list[Note] = []

    def dequantized_constant(
        self,
        old: ir.Value | None,
        name: str,
        values: npt.NDArray[np.integer],
        scale: npt.NDArray[np.float32],
        zero_point: npt.NDArray[np.integer] | None = None,
        axis: int | None = None,
        before: ir.Node | None = None,
    ) -> ir.Value:
        """Store integers and return the output of a new DequantizeLinear.

        Args:
            old: the float constant to replace, None for a new one.
            name: name of the float constant.
            values: the integers.
            scale: scale of the integers.
            zero_point: zero point of the integers, None for zero.
            axis: axis of the channels, None for one scale.
            before: consumer of the new value; for an old constant, its first consumer is used.
        """
        parts = {"quantized": values, "scale": scale, "zero_point": zero_point}
        inputs = [add_constant(self.graph, f"{name}.{part}", held) for part, held in parts.items() if held is not None]
        node = self.new_node("DequantizeLinear", inputs, name, unused_name(self.graph, f"{name}.dequantized"))
        if axis is not None:
            node.attributes.add(ir.AttrInt64("axis", axis))
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(values.shape)
        readers = [] if old is None else [use.node for use in old.uses()]
        first = readers[0] if len(readers) == 1 else next((node for node in self.graph if node in readers), before)
        if first is None:
            raise ModelError(f"nothing reads the constant {name!r}")
        self.graph.insert_before(first, node)
        return node.outputs[0]

    def new_node(self, op_type: str, inputs: Sequence[ir.Value | None], stem: str, output: str) -> ir.Node:
        """Return a node named ``<stem>.<op_type>``, not yet in the graph; a number makes the name unique."""
        name, count = f"{stem}.{op_type}", 1
        while name in self._node_names:
            count += 1
            name = f"{stem}.{op_type}_{count}"
        node = ir.node(op_type, inputs, name=name)
        node.outputs[0].name = output
        self._node_names.add(name)
        self.nodes[name] = node
        return node


def all_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield every input, constant and computed value of a graph."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs

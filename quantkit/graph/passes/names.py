"""Give every node and value a name of its own, from the names that are there."""

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from quantkit.graph.analysis.values import forget_names


class NameNodesPass(ir.passes.InPlacePass):
    """Name each unnamed node after its first output, then make all names unique; good names are left alone.

    The names depend on the graph alone, so that patterns and statistics keyed by them keep their meaning.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Name the nodes and values of the model."""
        modified = False
        for node in model.graph.all_nodes():
            if not node.name and node.outputs and node.outputs[0].name:
                node.name = node.outputs[0].name
                modified = True
        result = NameFixPass()(model)
        forget_names(model.graph)
        return ir.passes.PassResult(model, modified or result.modified)

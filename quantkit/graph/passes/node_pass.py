"""The base of passes that rewrite single nodes."""

from abc import abstractmethod

import onnx_ir as ir


class NodePass(ir.passes.InPlacePass):
    """A pass that rewrites the nodes of the main graph one by one, in their order; subgraphs are not changed."""

    @abstractmethod
    def rewrite(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Rewrite one node if possible, and return whether the graph has changed."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite the nodes that the graph has before the pass."""
        changed = [self.rewrite(model.graph, node) for node in list(model.graph)]
        return ir.passes.PassResult(model, any(changed))

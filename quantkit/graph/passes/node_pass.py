"""Passes that rewrite single nodes."""

from collections.abc import Callable

import onnx_ir as ir

from quantkit.graph.analysis.values import is_op

# Rewrites a node of a graph if possible, and returns whether it did.
Rewrite = Callable[[ir.Graph, ir.Node], bool]


def each_node(*op_types: str) -> Callable[[Rewrite], Callable[[ir.Model], bool]]:
    """Make a pass of a function that rewrites one node of these operators.

    The pass rewrites the nodes that the main graph has before it, in their order, and returns whether the model has
    changed; subgraphs are not changed.
    """

    def make(rewrite: Rewrite) -> Callable[[ir.Model], bool]:
        def call(model: ir.Model) -> bool:
            changed = [rewrite(model.graph, node) for node in list(model.graph) if is_op(node, *op_types)]
            return any(changed)

        call.__doc__ = rewrite.__doc__
        return call

    return make

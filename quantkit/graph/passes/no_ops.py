"""Remove what does nothing when a model only infers."""

import onnx_ir as ir

from quantkit.graph.values import array, attribute_int, is_op, operand


class DropNoOpsPass(ir.passes.InPlacePass):
    """Turn Dropout outside of training, a Pad of nothing and a Cast to the same type into Identity.

    Left alone: a Dropout whose mask is read or whose training mode is on or not constant.
    `IdentityEliminationPass` of onnx_ir takes the Identity nodes away.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace the nodes that do nothing."""
        modified = False
        for node in list(model.graph.all_nodes()):
            if _does_nothing(node):
                _become_identity(node)
                modified = True
        return ir.passes.PassResult(model, modified)


def _does_nothing(node: ir.Node) -> bool:
    if is_op(node, "Dropout"):
        mask_read = len(node.outputs) > 1 and (bool(node.outputs[1].uses()) or node.outputs[1].is_graph_output())
        mode = operand(node, 2)
        training = array(mode)
        return not mask_read and (mode is None or (training is not None and not bool(training)))
    if is_op(node, "Pad"):
        pads = array(operand(node, 1))
        return pads is not None and not pads.any()
    if is_op(node, "Cast"):
        source = operand(node, 0)
        return source is not None and source.dtype is not None and source.dtype == attribute_int(node, "to", 0)
    return False


def _become_identity(node: ir.Node) -> None:
    node.op_type = "Identity"
    node.attributes.clear()
    node.resize_inputs(1)
    node.resize_outputs(1)

"""Adds the attribute ``kernel_shape`` to convolutions."""

import onnx_ir as ir

from quantkit.graph.analysis.values import dims, is_op, operand


def write_kernel_shapes(model: ir.Model) -> None:
    """Write ``kernel_shape`` on every Conv and ConvTranspose.

    The attribute is optional in ONNX, and torch's dynamo exporter omits it; parsers of TensorRT before version 10 need
    it. Not changed: weights of unknown shape.
    """
    for node in model.graph.all_nodes():
        shape = dims(operand(node, 1)) if is_op(node, "Conv", "ConvTranspose") else None
        if shape is not None and None not in shape and "kernel_shape" not in node.attributes:
            node.attributes.add(ir.AttrInt64s("kernel_shape", [size for size in shape[2:] if size is not None]))

"""Converts a batch norm without a preceding layer into a depthwise convolution.

Blocks that normalize a residual sum or a concatenation (iResNet, DenseNet, ResNet v2) have no layer to fold into.
``y = a x + b`` in each channel is a depthwise 1 x 1 convolution with weight ``a`` and bias ``b``. A single weight per
channel is exact in int8 (it is the channel's largest), and a ReLU after it fuses as after any convolution.
"""

import numpy as np
import onnx_ir as ir

from quantkit.graph.analysis.values import ORIGIN, add_constant, node_name, rank
from quantkit.graph.passes.fold_affine import affine_of
from quantkit.graph.passes.node_pass import each_node


@each_node("BatchNormalization")
def batch_norm_to_conv(graph: ir.Graph, node: ir.Node) -> bool:
    """Replace each remaining BatchNormalization over [N, C, ...] by a depthwise Conv.

    The new node keeps the name and output of the old one, and has the metadata `ORIGIN`.
    Not changed: inputs of unknown rank or rank below 3, and statistics that are not constant.
    """
    affine = affine_of(node) if (rank(node.inputs[0]) or 0) >= 3 else None
    if affine is None:
        return False
    spatial = (rank(affine.source) or 0) - 2
    channels = affine.scale.size
    weight = affine.scale.astype(np.float32).reshape(channels, 1, *([1] * spatial))
    name = node_name(node)
    node.resize_inputs(1)
    node.resize_outputs(1)
    inputs = [
        affine.source,
        add_constant(graph, f"{name}.weight", weight),
        add_constant(graph, f"{name}.bias", affine.shift.astype(np.float32)),
    ]
    node.resize_inputs(3)
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
    node.op_type = "Conv"
    node.attributes.clear()
    node.attributes.add(ir.AttrInt64("group", channels))
    node.attributes.add(ir.AttrInt64s("kernel_shape", [1] * spatial))
    node.metadata_props[ORIGIN] = "BatchNormalization"
    return True

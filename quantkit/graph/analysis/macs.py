"""How much each layer computes: multiply-adds for one image.

The count that papers give as MACs, or as FLOPs where a multiply-add is one: ResNet-50 at 224 x 224 has 4.09 billion.
Only products are counted; biases, activation functions, pools and sums are not.
"""

from collections.abc import Sequence
from math import prod

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from quantkit.graph.analysis.ops import GEMMS, LAYERS
from quantkit.graph.analysis.values import attribute_int, dims, is_op, node_name, required


def multiply_adds(prepared_model: ir.Model, input_shape: Sequence[int] | None = None) -> dict[str, int]:
    """Return the multiply-adds of each Conv, ConvTranspose, Gemm and MatMul for one image, in graph order.

    Matrix products of two activations are counted, too. A node whose shapes do not follow from that of the input is
    left out.

    Args:
        prepared_model: from `quantkit.graph.prepare.prepare`; left as it is.
        input_shape: ``[N, C, H, W]`` of an input whose sizes the model leaves open; absent, its own for one image.
    """
    model = _with_shapes(prepared_model, input_shape)
    batch = (dims(model.graph.inputs[0]) or (1,))[0] or 1
    counted = {node_name(node): _products(node) for node in model.graph if is_op(node, *LAYERS)}
    return {name: count // batch for name, count in counted.items() if count is not None}


def _with_shapes(model: ir.Model, input_shape: Sequence[int] | None) -> ir.Model:
    """Return a copy in which every shape is inferred anew from one batch of known size."""
    copy = model.clone()
    for node in copy.graph:
        for value in node.outputs:
            value.shape = None
    image = copy.graph.inputs[0]
    if input_shape is not None:
        image.shape = ir.Shape(input_shape)
    elif image.shape is not None and not isinstance(image.shape[0], int):
        image.shape = ir.Shape([1, *image.shape[1:]])
    for value in copy.graph.outputs:
        value.shape = None
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(copy)
    return copy


def _products(node: ir.Node) -> int | None:
    """Return the products of a node for the whole batch, None where a shape is not known."""
    weight = _sizes(required(node, 1))
    # Each input position of a ConvTranspose, and each output position of the others, takes one set of weights.
    moved = _sizes(required(node, 0) if node.op_type == "ConvTranspose" else node.outputs[0])
    if weight is None or moved is None:
        return None
    if node.op_type in GEMMS:
        inner = weight[1] if attribute_int(node, "transB", 0) else weight[-2 if len(weight) > 1 else 0]
        return prod(moved) * inner
    return prod(moved) * prod(weight[1:])


def _sizes(value: ir.Value) -> tuple[int, ...] | None:
    shape = dims(value)
    return None if shape is None or None in shape else tuple(size for size in shape if size is not None)

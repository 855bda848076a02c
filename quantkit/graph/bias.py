"""The mean shift that rounding the weights gives each layer's output, and its cure: a bias that takes it back.

Rounded weights ``W' = W - E`` give ``W' x = W x - E x``. In the mean over positions and images that is ``-E m`` with
``m`` the mean of the input in each channel, known from one pass over a few images. Adding ``E m`` to the bias removes
it and costs nothing at run time (Nagel et al. 2019, arXiv:1906.04721, section 4.2; Finkelstein et al. 2019,
arXiv:1906.03193). Padded zeros are not counted, so close to the border the correction is a little too large.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.plan import Layer, Plan
from quantkit.graph.qdq import activation_parameters
from quantkit.graph.values import add_constant, array, attribute_int, name_of, node_name, rank, required
from quantkit.graph.weights import QuantizedWeight, quantize_weight
from quantkit.numerics import Range, dequantize

FloatArray = npt.NDArray[np.floating]
Float64Array = npt.NDArray[np.float64]


def channel_mean_model(prepared_model: ir.Model, plan: Plan) -> tuple[ir.Model, dict[str, str]]:
    """Return a model whose outputs are the mean of each layer's input in each channel.

    Args:
        prepared_model: from `quantkit.graph.prepare.prepare`.
        plan: made for it.

    Returns:
        The model, whose new outputs are float32 ``[channels]``, means over the batch and all positions, behind its own
        outputs; and for each new output the tensor whose mean it is.
    """
    model = prepared_model.clone()
    graph = model.graph
    values = {name_of(value): value for value in [*graph.inputs, *(value for node in graph for value in node.outputs)]}
    channel_axis = {layer.input: 1 if layer.op_type in ("Conv", "ConvTranspose") else -1 for layer in plan.layers}
    outputs = {}
    for tensor, axis in channel_axis.items():
        value = values[tensor]
        dimensions = rank(value) or 0
        others = np.array([index for index in range(dimensions) if index != axis % dimensions], np.int64)
        mean = ir.node("ReduceMean", [value], name=f"{tensor}.ReduceMean")
        if model.opset_imports.get("", 0) >= 18:
            mean.resize_inputs(2)
            mean.replace_input_with(1, add_constant(graph, f"{tensor}.mean_axes", others))
        else:
            mean.attributes.add(ir.AttrInt64s("axes", [int(index) for index in others]))
        mean.attributes.add(ir.AttrInt64("keepdims", 0))
        result = mean.outputs[0]
        result.name, result.type = f"{tensor}.mean", ir.TensorType(ir.DataType.FLOAT)
        graph.append(mean)
        graph.outputs.append(result)
        outputs[f"{tensor}.mean"] = tensor
    return model, outputs


def rounding_shift(
    prepared_model: ir.Model,
    plan: Plan,
    ranges: Mapping[str, Range],
    input_means: Mapping[str, FloatArray],
    *,
    weight_thresholds: Mapping[str, FloatArray] | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Return what to add to the bias of each layer, for the ``bias_shift`` of `quantkit.graph.qdq.write_qdq`.

    Args:
        prepared_model: the model of the plan.
        plan: from `quantkit.graph.plan.plan`.
        ranges: as for `quantkit.graph.qdq.write_qdq`.
        input_means: ``[channels]`` for the input tensor of each layer to correct; layers without are left out.
        weight_thresholds: as for `quantkit.graph.qdq.write_qdq`.

    Returns:
        float32 ``[output channels]`` by the layer's output tensor.

    Raises:
        ModelError: a tensor has no range.
    """
    parameters = activation_parameters(plan, ranges)
    nodes = {node_name(node): node for node in prepared_model.graph}
    shifts = {}
    for layer in plan.layers:
        if layer.input not in input_means:
            continue
        node = nodes[layer.node]
        weight = np.asarray(array(required(node, 1)), np.float32)
        bias = None if layer.bias is None else np.asarray(array(required(node, 2)), np.float32)
        quantized = quantize_weight(
            weight,
            bias if plan.target.integer_bias else None,
            scheme=plan.target.weights,
            axis=layer.channel_axis,
            groups=layer.groups,
            input_scale=float(parameters[layer.input].scale),
            thresholds=(weight_thresholds or {}).get(layer.weight),
        )
        mean = np.asarray(input_means[layer.input], np.float64)
        shifts[layer.output] = _shift(layer, node, weight, quantized, mean).astype(np.float32)
    return shifts


def _shift(
    layer: Layer, node: ir.Node, weight: FloatArray, quantized: QuantizedWeight, mean: Float64Array
) -> Float64Array:
    error = weight.astype(np.float64) - dequantize(quantized.values, quantized.qparams)
    if layer.op_type in ("Gemm", "MatMul"):
        return np.asarray(mean @ error if layer.channel_axis == 1 else error @ mean, np.float64)
    taps = error.reshape(*error.shape[:2], -1).sum(axis=2)
    groups = attribute_int(node, "group", 1)
    per_group = mean.reshape(groups, -1)
    if layer.op_type == "Conv":
        by_group = taps.reshape(groups, -1, taps.shape[1])
        return np.asarray(np.einsum("goi,gi->go", by_group, per_group).reshape(-1), np.float64)
    # A transposed convolution puts each of its stride^2 output phases together from its own share of the taps.
    strides = node.attributes.get("strides")
    phases = float(np.prod(strides.as_ints())) if strides is not None else 1.0
    by_group = taps.reshape(groups, -1, taps.shape[1])
    return np.asarray(np.einsum("gio,gi->go", by_group, per_group).reshape(-1) / phases, np.float64)

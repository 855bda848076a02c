"""Rewrites the output of torch's exporters to a form that compilers and quantizers support, with equal results.

Batch norms are kept: the file contains the network as trained.
"""

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common
from onnxscript import optimizer

# Constants with more elements are not folded: folding pays for a transposed weight, not for a broadcast of gigabytes.
_FOLDED_ELEMENTS = 1 << 27

# Maximum number of elements of the constants that are compared in the search for equal nodes.
_COMPARED_ELEMENTS = 1 << 16

# Metadata key of the dynamo exporter for the module of a node; the value is the text of a list of paths.
_SCOPES = "pkg.torch.onnx.name_scopes"


def tidy(model: ir.Model, parameters: Collection[str]) -> None:
    """Fold constants, simplify pooling and flattening, and name nodes after their modules, in place.

    Args:
        model: output of an exporter.
        parameters: names of the network's parameters and buffers, which are not changed.
    """
    common.InlinePass()(model)
    _fold_constants(model)
    _plain_reshapes(model.graph)
    _global_pooling(model.graph)
    _drop_zero_biases(model.graph)
    for step in (
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.CommonSubexpressionEliminationPass(size_limit=_COMPARED_ELEMENTS),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedOpsetsPass(),
    ):
        step(model)
    _name_after_modules(model.graph)
    _name_after_readers(model.graph, parameters)
    common.NameFixPass()(model)
    # Stack traces contain folder names of the exporting machine.
    common.ClearMetadataAndDocStringPass()(model)
    _clear_value_metadata(model.graph)


def _fold_constants(model: ir.Model) -> None:
    """Fold constants in rounds, because shapes inferred in one round allow more folding in the next."""
    before = 0
    while before != len(model.graph):
        before = len(model.graph)
        common.ShapeInferencePass(data_prop=True)(model)
        optimizer.fold_constants(
            model, onnx_shape_inference=True, output_size_limit=_FOLDED_ELEMENTS, should_fold=lambda _: True
        )
        optimizer.remove_unused_nodes(model)


def _plain_reshapes(graph: ir.Graph) -> None:
    """Set a constant shape with -1 for each Reshape with only the batch dimension unknown."""
    for node in graph:
        shape = node.outputs[0].shape
        if node.op_type != "Reshape" or shape is None or 0 in tuple(shape):
            continue
        # It only matters for dimensions of size 0, and older compilers do not support it.
        node.attributes.pop("allowzero", None)
        if _constant(node, 1) is not None or sum(not isinstance(dim, int) for dim in shape) != 1:
            continue
        target = np.array([dim if isinstance(dim, int) else -1 for dim in shape], np.int64)
        name = f"{node.outputs[0].name}_shape"
        constant = ir.Value(name=name, const_value=ir.tensor(target, name=name))
        graph.register_initializer(constant)
        node.replace_input_with(1, constant)


def _global_pooling(graph: ir.Graph) -> None:
    """Replace a mean over height and width by GlobalAveragePool, which integer kernels and older compilers support."""
    for node in list(graph):
        if node.op_type != "ReduceMean" or not _is_mean_over_image(node):
            continue
        source, result = node.inputs[0], node.outputs[0]
        assert source is not None
        pooled = ir.node("GlobalAveragePool", [source], name=node.name, metadata_props=node.metadata_props)
        nodes = [pooled]
        assert source.shape is not None
        pooled.outputs[0].shape = ir.Shape([*source.shape[:2], 1, 1])
        pooled.outputs[0].type = result.type
        if node.attributes.get_int("keepdims", 1) == 0:
            pooled.outputs[0].name = f"{result.name}_pooled"
            nodes.append(ir.node("Flatten", [pooled.outputs[0]], metadata_props=node.metadata_props))
        last = nodes[-1].outputs[0]
        last.name, last.shape, last.type = result.name, result.shape, result.type
        ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [result], [last])


def _is_mean_over_image(node: ir.Node) -> bool:
    source = node.inputs[0]
    if source is None or source.shape is None or len(source.shape) != 4:
        return False
    constant = _constant(node, 1)
    axes = node.attributes.get_ints("axes", None) if constant is None else constant.tolist()
    return axes is not None and sorted(axis % 4 for axis in axes) == [2, 3]


def _drop_zero_biases(graph: ir.Graph) -> None:
    """Remove zero biases that the dynamo exporter adds to convolutions without bias."""
    for node in graph:
        bias = _constant(node, 2) if node.op_type == "Conv" else None
        if bias is not None and not bias.any():
            node.resize_inputs(2)


def _constant(node: ir.Node, index: int) -> NDArray[Any] | None:
    """Return a constant input of a node, None if it is not constant."""
    value = node.inputs[index] if index < len(node.inputs) else None
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def _name_after_modules(graph: ir.Graph) -> None:
    """Name each node ``<module>/<operator>``, and its outputs after it, if the exporter recorded the module."""
    seen: Counter[str] = Counter()
    outputs = set(graph.outputs)
    for node in graph:
        scopes = node.metadata_props.get(_SCOPES)
        if scopes is None:
            continue  # the tracing exporter already names nodes after their modules
        # "['', 'layer1', 'layer1.0', 'conv2d_1']": the second to last is the innermost module, '' is the network.
        module = [scope.strip(" '\"") for scope in scopes.strip("[]").split(",")][-2]
        base = f"{module}/{node.op_type}" if module and not module.startswith("_") else node.op_type
        node.name = base if seen[base] == 0 else f"{base}_{seen[base]}"
        seen[base] += 1
        for index, output in enumerate(node.outputs):
            if output not in outputs:
                output.name = f"{node.name}_output_{index}"


def _name_after_readers(graph: ir.Graph, parameters: Collection[str]) -> None:
    """Name each constant that is not a parameter after the first node that reads it."""
    for value in list(graph.initializers.values()):
        if value.name in parameters or not value.uses():
            continue
        node, index = min(value.uses(), key=lambda use: (use.node.name or "", use.idx))
        name = f"{node.name}_input_{index}"
        if name not in graph.initializers:
            value.name = name


def _clear_value_metadata(graph: ir.Graph) -> None:
    for node in graph:
        for value in (*node.inputs, *node.outputs):
            if value is not None:
                value.metadata_props.clear()
    for value in (*graph.inputs, *graph.outputs):
        value.metadata_props.clear()

"""Prepares an fp32 graph for quantization: rewrites it to operators with integer kernels, with equal results."""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import (
    InlinePass,
    LiftConstantsToInitializersPass,
    RemoveInitializersFromInputsPass,
)

from quantkit.graph.analysis.values import ORIGIN
from quantkit.graph.passes.arithmetic import order_gelu, plain_arithmetic
from quantkit.graph.passes.clean import remove_no_ops, remove_unused, write_kernel_shapes
from quantkit.graph.passes.contrib import plain_contrib
from quantkit.graph.passes.fold_affine import batch_norm_to_conv, fold_affine
from quantkit.graph.passes.fold_constants import fold_constants
from quantkit.graph.passes.layout import move_transposes
from quantkit.graph.passes.linear import linear_to_gemm, plain_gemm
from quantkit.graph.passes.names import name_nodes, name_sizes
from quantkit.graph.passes.opset import PER_CHANNEL_OPSET, fit_opset
from quantkit.graph.passes.shapes import constant_shapes
from quantkit.graph.passes.spatial import fold_pad, global_pool, plain_resize, round_converted_resize
from quantkit.graph.passes.types import infer_types


@dataclass(frozen=True)
class Prepared:
    """A prepared model.

    Attributes:
        model: equivalent to the original, up to the rounding of folded weights.
        notes: changes relevant to the user, one sentence each.
    """

    model: ir.Model
    notes: tuple[str, ...]


def prepare(model: ir.Model) -> Prepared:
    """Return a prepared copy of a model.

    Opsets below 13 are raised, functions inlined, constants lifted and folded, nodes without an effect removed, batch
    norms folded into the preceding layer or converted to a depthwise convolution; linear layers, pools and arithmetic
    are rewritten to operators with integer kernels, and shapes are inferred.
    Remaining tensors keep their names. The batch size is not changed.

    Raises:
        ModelError: the opset cannot be raised, or a batch norm is impossible.
    """
    opset = model.opset_imports.get("", 0)
    prepared = model.clone()
    for step in _PASSES:
        step(prepared)
    return Prepared(prepared, tuple(_notes(prepared, opset)))


def _fold(model: ir.Model) -> None:
    """Fold constants and shapes until nothing changes, because a known shape can make others known.

    Each round removes nodes, so the loop ends.
    """
    while any([fold_constants(model), constant_shapes(model)]):
        remove_unused(model)
        infer_types(model)


_PASSES: tuple[Callable[[ir.Model], object], ...] = (
    InlinePass(),
    RemoveInitializersFromInputsPass(),
    fit_opset,
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    name_nodes,
    name_sizes,
    infer_types,
    plain_contrib,
    remove_no_ops,
    _fold,
    move_transposes,
    order_gelu,
    plain_arithmetic,
    fold_pad,
    round_converted_resize,
    plain_resize,
    linear_to_gemm,
    plain_gemm,
    fold_affine,
    batch_norm_to_conv,
    fold_affine,
    global_pool,
    write_kernel_shapes,
    remove_unused,
    name_nodes,
    infer_types,
)


def _notes(prepared: ir.Model, opset: int) -> list[str]:
    notes = []
    raised = prepared.opset_imports.get("", 0)
    if raised > opset:
        why = "with quantization per channel" if raised == PER_CHANNEL_OPSET else "that defines LayerNormalization"
        notes.append(f"opset {opset} raised to {raised}, the first {why}")
    elif raised < opset:
        notes.append(f"opset {opset} lowered to {raised}, the newest for which onnxruntime has integer kernels")
    alone = [node.name for node in prepared.graph if node.metadata_props.get(ORIGIN) == "BatchNormalization"]
    if len(alone) == 1:
        notes.append(f"the batch norm {alone[0]!r} without a preceding layer became a depthwise convolution")
    elif alone:
        others = f"{alone[0]!r} and {len(alone) - 1} more"
        notes.append(f"batch norms without a preceding layer became depthwise convolutions: {others}")
    return notes

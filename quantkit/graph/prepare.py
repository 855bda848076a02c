"""Prepares an fp32 graph for quantization: rewrites it to operators with integer kernels, with equal results."""

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import (
    InlinePass,
    LiftConstantsToInitializersPass,
    RemoveInitializersFromInputsPass,
)

from quantkit.errors import ModelError, QuantkitError
from quantkit.graph.analysis.values import ORIGIN
from quantkit.graph.passes.arithmetic import PlainArithmeticPass
from quantkit.graph.passes.batchnorm_conv import BatchNormToConvPass
from quantkit.graph.passes.contrib import PlainContribPass
from quantkit.graph.passes.fold_affine import FoldAffinePass
from quantkit.graph.passes.fold_constants import FoldConstantsPass
from quantkit.graph.passes.fold_pad import FoldPadPass
from quantkit.graph.passes.gelu import GeluOrderPass
from quantkit.graph.passes.gemm import PlainGemmPass
from quantkit.graph.passes.global_pool import GlobalPoolPass
from quantkit.graph.passes.kernel_shape import KernelShapePass
from quantkit.graph.passes.layout import MoveTransposesPass
from quantkit.graph.passes.linear import LinearToGemmPass
from quantkit.graph.passes.names import NameNodesPass, NameSizesPass
from quantkit.graph.passes.no_ops import RemoveNoOpsPass
from quantkit.graph.passes.opset import PER_CHANNEL_OPSET, FitOpsetPass
from quantkit.graph.passes.resize import PlainResizePass
from quantkit.graph.passes.shapes import ConstantShapesPass
from quantkit.graph.passes.types import InferTypesPass
from quantkit.graph.passes.unused import RemoveUnusedPass


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
    try:
        _passes()(prepared)
    except ir.passes.PassError as error:
        # onnx_ir wraps exceptions of a pass; a QuantkitError is for the user, anything else is a bug.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, QuantkitError):
            cause = cause.__cause__
        if isinstance(cause, ModelError):
            raise cause from error
        raise
    return Prepared(prepared, tuple(_notes(prepared, opset)))


class FoldToFixpointPass(ir.passes.InPlacePass):
    """Fold constants and shapes until nothing changes, because a known shape can make others known."""

    def __init__(self, infer: ir.passes.PassBase) -> None:
        super().__init__()
        self._folds = (FoldConstantsPass(), ConstantShapesPass())
        self._sweep = RemoveUnusedPass()
        self._infer = infer

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold and infer in turn; each round removes nodes, so the loop ends."""
        modified = False
        while self._round(model):
            self._sweep(model)
            self._infer(model)
            modified = True
        return ir.passes.PassResult(model, modified)

    def _round(self, model: ir.Model) -> bool:
        folded = [fold(model).modified for fold in self._folds]
        return any(folded)


def _passes() -> ir.passes.Sequential:
    infer = InferTypesPass()
    return ir.passes.Sequential(
        InlinePass(),
        RemoveInitializersFromInputsPass(),
        FitOpsetPass(),
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        NameNodesPass(),
        NameSizesPass(),
        infer,
        PlainContribPass(infer),
        RemoveNoOpsPass(),
        FoldToFixpointPass(infer),
        MoveTransposesPass(infer),
        GeluOrderPass(),
        PlainArithmeticPass(),
        FoldPadPass(),
        PlainResizePass(),
        LinearToGemmPass(),
        PlainGemmPass(),
        FoldAffinePass(),
        BatchNormToConvPass(),
        FoldAffinePass(),
        GlobalPoolPass(),
        KernelShapePass(),
        RemoveUnusedPass(),
        NameNodesPass(),
        infer,
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

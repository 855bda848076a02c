"""Exports a torch network: translates it, checks it against torch, and writes the file."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantkit import files
from quantkit.errors import ModelError, UsageError
from quantkit.export.parity import Original, check_parity
from quantkit.export.result import Exported
from quantkit.export.translate import Exporter, first_line, translate
from quantkit.graph.model import model_files, save_model

# The oldest opset of torch's exporters.
OLDEST_OPSET = 9


def export_network(
    network: nn.Module,
    out: Path,
    *,
    input_size: tuple[int, int, int],
    input_name: str = "input",
    output_name: str = "logits",
    opset: int = 18,
    exporter: Exporter = "auto",
    images: Iterable[NDArray[np.float32]] = (),
    tolerance: float = 1e-4,
    metadata: dict[str, str] | None = None,
    description: str = "torch",
    reference: Original | None = None,
) -> Exported:
    """Write a torch classifier as ONNX with a dynamic batch, after checking that it is equivalent.

    Args:
        network: maps float32 ``[N, C, H, W]`` to logits ``[N, classes]``; it is put into evaluation mode.
        out: the file to write.
        input_size: ``(C, H, W)``.
        input_name: name of the model's input.
        output_name: name of the model's output.
        opset: version of the ONNX operator set.
        exporter: ``auto``, ``dynamo`` or ``torchscript``; see `quantkit.export.translate.translate`.
        images: preprocessed real images to compare the logits on, in addition to random input.
        tolerance: see `quantkit.export.parity.check_parity`.
        metadata: ``metadata_props`` of the file.
        description: description of the network in messages.
        reference: another implementation with the same weights, with which the written model must agree as well.

    Raises:
        UsageError: there is no such opset.
        ModelError: the network does not accept the input, does not return logits, cannot be translated, or the ONNX
            model differs from it.
        OutputError: the file cannot be written.
    """
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise UsageError(f"there is no opset {opset} to export to", where="--opset", fix=f"{OLDEST_OPSET} to {newest}")
    files.make_folder(out.parent)
    network.eval()
    example = example_input(input_size)
    classes = count_classes(network, example.clone())
    originals = [Original(description, network, "try the other --exporter, or look for layers left in training mode")]
    if reference is not None:
        _check_reference(reference, example.clone(), classes)
        originals.append(reference)
    translation = translate(
        network, example, input_name=input_name, output_name=output_name, opset=opset, exporter=exporter
    )
    model = translation.model
    model.graph.name = type(network).__name__
    model.metadata_props.update(metadata or {})
    with TemporaryDirectory() as folder:
        unchecked = Path(folder) / "model.onnx"
        save_model(model, unchecked)
        try:
            parities = check_parity(unchecked, originals, input_size, images=images, tolerance=tolerance)
        except ModelError as error:
            if translation.fallback_reason is None:
                raise
            before = f"the {translation.failed_exporter} exporter failed with {translation.fallback_reason}"
            what = f"{error.what} (before, {before})"
            raise ModelError(what, fix=error.fix) from error
    save_model(model, out)
    return Exported(
        path=out,
        exporter=translation.exporter,
        failed_exporter=translation.failed_exporter,
        fallback_reason=translation.fallback_reason,
        opset=opset,
        input_size=input_size,
        classes=classes,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        parity=parities[0],
        reference_parity=parities[1] if reference is not None else None,
        size_bytes=sum(path.stat().st_size for path in model_files(out)),
    )


def _check_reference(reference: Original, example: Tensor, classes: int) -> None:
    """Check before the export that a reference has the same outputs as the network."""
    reference.network.eval()
    try:
        found = count_classes(reference.network, example)
    except ModelError as error:
        raise ModelError(error.what, where=reference.description, fix=error.fix) from error
    if found != classes:
        raise ModelError(
            f"returns {found} classes, and the network returns {classes}",
            where=reference.description,
            fix="give both the same number of classes with --num-classes",
        )


def example_input(input_size: tuple[int, int, int]) -> Tensor:
    """Return reproducible random float32 ``[2, C, H, W]``."""
    return torch.randn((2, *input_size), generator=torch.Generator().manual_seed(0))


def count_classes(network: nn.Module, example: Tensor) -> int:
    """Return the number of classes of a network, after checking that it can be run and returns logits.

    Raises:
        ModelError: the network does not accept the input, or does not return logits.
    """
    size = "x".join(str(side) for side in example.shape[1:])
    try:
        with torch.inference_mode():
            logits = network(example)
    except Exception as error:  # of the network's code
        raise ModelError(
            f"the network does not run on input of size {size} ({first_line(error)})", fix="give its --input-size CxHxW"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(example):
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"the network returns {found}, not logits of shape [N, classes]",
            fix="wrap it in a module with a forward method that returns only the logits",
        )
    if not torch.isfinite(logits).all():
        raise ModelError("the network returns NaN or infinity on random input", fix="check its weights")
    return int(logits.shape[1])

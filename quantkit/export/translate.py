"""Translates a torch network to an ONNX graph, by torch's dynamo exporter or the older tracing exporter."""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import onnx_ir as ir
import torch
from onnx import version_converter
from torch import Tensor, nn

from quantkit.errors import ModelError
from quantkit.export.tidy import tidy

Exporter = Literal["auto", "dynamo", "torchscript"]

# The dynamo exporter supports this opset and later; models for older opsets are converted down.
_OLDEST_DYNAMO_OPSET = 18

# Oldest opset to which onnx's converter can convert BatchNormalization and Reshape.
_OLDEST_CONVERTED_OPSET = 14


class Translation(NamedTuple):
    """An ONNX graph with its exporter.

    Attributes:
        model: the graph, with tensors in memory.
        exporter: ``dynamo`` or ``torchscript``.
        failed_exporter: the exporter that failed first, None if the first one succeeded.
        fallback_reason: the error of that exporter.
    """

    model: ir.Model
    exporter: str
    failed_exporter: str | None = None
    fallback_reason: str | None = None


def translate(
    network: nn.Module, example: Tensor, *, input_name: str, output_name: str, opset: int, exporter: Exporter
) -> Translation:
    """Translate a network in evaluation mode, with a dynamic batch.

    Args:
        network: network from ``[N, C, H, W]`` to ``[N, classes]``.
        example: an input with a batch of at least 2 (1 would be treated as a constant).
        input_name: name of the graph's input.
        output_name: name of the graph's output.
        opset: version of the ONNX operator set.
        exporter: ``auto`` tries dynamo, then torchscript; the other way round for opsets that torchscript writes itself
            and dynamo reaches only without batch norms and Reshape.

    Raises:
        ModelError: no exporter can translate the network; the message has the error of each.
    """
    names = (input_name, output_name)
    failed: dict[str, str] = {}
    for name in _order(exporter, opset):
        # A copy each time, since networks may overwrite their input (as in-place ReLUs do).
        try:
            model = _EXPORTERS[name](network, example.clone(), names, opset)
        except Exception as error:
            # The exporters compile arbitrary code of networks, and can raise any exception. The dynamo exporter wraps
            # the original error.
            failed[name] = first_line((error.__cause__ if name == "dynamo" else None) or error)
            cause = error
        else:
            return Translation(model, name, *next(iter(failed.items()), (None, None)))
    said = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
    raise ModelError(
        f"torch cannot export the network ({said})",
        fix="rewrite Python code that branches on tensor values",
    ) from cause


def _order(exporter: Exporter, opset: int) -> tuple[str, ...]:
    if exporter != "auto":
        return (exporter,)
    return ("dynamo", "torchscript") if opset >= _OLDEST_CONVERTED_OPSET else ("torchscript", "dynamo")


def first_line(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _by_dynamo(network: nn.Module, example: Tensor, names: tuple[str, str], opset: int) -> ir.Model:
    with _quiet(), _contiguous_pooling(network):
        program = torch.onnx.export(
            network,
            (example,),
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_shapes=({0: "batch"},),
            opset_version=max(opset, _OLDEST_DYNAMO_OPSET),
            dynamo=True,
            optimize=False,  # optimization would fold the batch norms
            verbose=False,
        )
        model = program.model
        tidy(model, network.state_dict().keys())
        if opset < _OLDEST_DYNAMO_OPSET:
            model = _converted_down(model, opset)
    return _checked(model, opset)


def _converted_down(model: ir.Model, opset: int) -> ir.Model:
    try:
        return ir.from_proto(version_converter.convert_version(ir.to_proto(model), opset))
    except RuntimeError as error:
        said = str(error).rpartition("failed: ")[2]
        raise RuntimeError(f"opset {_OLDEST_DYNAMO_OPSET} cannot be converted to {opset}: {said}") from None


def _by_torchscript(network: nn.Module, example: Tensor, names: tuple[str, str], opset: int) -> ir.Model:
    with _quiet(), _no_native_output(), TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            network,
            (example,),
            path,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_axes={names[0]: {0: "batch"}, names[1]: {0: "batch"}},
            opset_version=opset,
            dynamo=False,
            verbose=False,
            training=torch.onnx.TrainingMode.PRESERVE,  # evaluation mode, but batch norms are kept
        )
        model = ir.load(path)
        ir.external_data.load_to_model(model)
        tidy(model, network.state_dict().keys())
    return _checked(model, opset)


_EXPORTERS = {"dynamo": _by_dynamo, "torchscript": _by_torchscript}


def _checked(model: ir.Model, opset: int) -> ir.Model:
    """Check the opset and the dynamic batch of an exporter's output."""
    found = model.opset_imports.get("")
    if found != opset:
        raise RuntimeError(f"it wrote opset {found}, not {opset}")
    shape = model.graph.inputs[0].shape
    if shape is None or isinstance(shape[0], int):
        raise RuntimeError("it fixed the batch size")
    return model


@contextlib.contextmanager
def _contiguous_pooling(network: nn.Module) -> Iterator[None]:
    """Make inputs of poolings contiguous, because torch exports pooling of other strides as a gather."""
    handles = [
        module.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
        for module in network.modules()
        if isinstance(module, nn.AdaptiveAvgPool2d)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress, hints and deprecation warnings of the exporters."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _no_native_output() -> Iterator[None]:
    """Suppress standard output of native code: the tracing exporter prints the complete graph when it fails."""
    sys.stdout.flush()
    try:
        saved = os.dup(1)
    except OSError:  # there is no standard output
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)

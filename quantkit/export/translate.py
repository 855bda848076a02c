"""From a torch network to an ONNX graph, by torch's current exporter or the older one that traces."""

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

# The dynamo exporter has its operators for this opset and later; an older one is reached by converting down.
_OLDEST_DYNAMO_OPSET = 18


class Translation(NamedTuple):
    """An ONNX graph and how it was made.

    Attributes:
        model: the graph, with tensors in memory.
        exporter: ``dynamo`` or ``torchscript``.
        fallback_reason: what the dynamo exporter said, where it was tried first and failed.
    """

    model: ir.Model
    exporter: str
    fallback_reason: str | None


def translate(
    network: nn.Module, example: Tensor, *, input_name: str, output_name: str, opset: int, exporter: Exporter
) -> Translation:
    """Translate a network in evaluation mode, with a dynamic batch.

    Args:
        network: takes ``[N, C, H, W]`` and returns ``[N, classes]``.
        example: an input with a batch of at least 2 (1 would be taken for a constant).
        input_name: name of the graph's input.
        output_name: name of the graph's output.
        opset: version of the ONNX operator set.
        exporter: ``auto`` tries dynamo, then torchscript.

    Raises:
        ModelError: no exporter can translate the network, with what the last one said.
    """
    names = (input_name, output_name)
    reason = None
    if exporter != "torchscript":
        # The exporters compile whatever code a network is made of: anything may come out of them.
        try:
            return Translation(_by_dynamo(network, example, names, opset), "dynamo", None)
        except Exception as error:
            # Its own errors wrap the one that says what was wrong.
            reason = first_line(error.__cause__ or error)
            if exporter == "dynamo":
                raise _untranslatable(f"dynamo: {reason}") from error
    try:
        return Translation(_by_torchscript(network, example, names, opset), "torchscript", reason)
    except Exception as error:
        said = [f"dynamo: {reason}"] if reason else []
        raise _untranslatable(*said, f"torchscript: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line it says."""
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
            optimize=False,  # it would fold the batch norms
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
        raise RuntimeError(f"opset {_OLDEST_DYNAMO_OPSET} cannot be converted to {opset}: {said}") from error


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
            training=torch.onnx.TrainingMode.PRESERVE,  # as evaluation mode, which it is in, but batch norms stay
        )
        model = ir.load(path)
        ir.external_data.load_to_model(model)
        tidy(model, network.state_dict().keys())
    return _checked(model, opset)


def _checked(model: ir.Model, opset: int) -> ir.Model:
    """Refuse what an exporter wrote otherwise than asked."""
    found = model.opset_imports.get("")
    if found != opset:
        raise RuntimeError(f"it wrote opset {found} where {opset} was asked for")
    shape = model.graph.inputs[0].shape
    if shape is None or isinstance(shape[0], int):
        raise RuntimeError("it fixed the batch size")
    return model


def _untranslatable(*said: str) -> ModelError:
    return ModelError(
        f"torch cannot export the network ({'; '.join(said)})",
        fix="a network whose Python code branches on values must be rewritten for export",
    )


@contextlib.contextmanager
def _contiguous_pooling(network: nn.Module) -> Iterator[None]:
    """Make pooling read contiguous input: for other strides torch writes a pooling as a gather by computed indices."""
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
    """Keep the exporters' progress, advice and deprecation notes off the terminal."""
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
    """Drop what native code writes to standard output: the tracing exporter prints the whole graph when it fails."""
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

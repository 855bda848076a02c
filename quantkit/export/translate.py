"""From a torch network to an ONNX graph, by torch's current exporter or the older one that traces."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

import onnx_ir as ir
import torch
from torch import Tensor, nn

from quantkit.errors import ModelError, UsageError
from quantkit.export.tidy import tidy

Exporter = Literal["auto", "dynamo", "torchscript"]

# The dynamo exporter has its operators for this opset; what it converts down from there often does not succeed.
OLDEST_DYNAMO_OPSET = 18


class Translation(NamedTuple):
    """An ONNX graph and how it was made.

    Attributes:
        model: the graph, with tensors in memory.
        exporter: ``dynamo`` or ``torchscript``.
        fallback_reason: why it was not the dynamo exporter although that was tried or could have been.
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
        UsageError: the dynamo exporter is asked for an opset that it does not write.
        ModelError: no exporter can translate the network, with what the last one said.
    """
    names = (input_name, output_name)
    if exporter == "dynamo" and opset < OLDEST_DYNAMO_OPSET:
        raise UsageError(
            f"the dynamo exporter writes opset {OLDEST_DYNAMO_OPSET} and later, not {opset}",
            where="--opset",
            fix="leave --exporter out, or raise the opset",
        )
    reason = f"opset {opset} is older than {OLDEST_DYNAMO_OPSET}"
    if exporter == "torchscript":
        reason = "asked for"
    elif opset >= OLDEST_DYNAMO_OPSET:
        # The exporters compile whatever code a network is made of: anything may come out of them.
        try:
            return Translation(_by_dynamo(network, example, names, opset), "dynamo", None)
        except Exception as error:
            if exporter == "dynamo":
                raise _untranslatable(error, "dynamo") from error
            reason = f"the dynamo exporter failed: {first_line(error)}"
    try:
        return Translation(_by_torchscript(network, example, names, opset), "torchscript", reason)
    except Exception as error:
        raise _untranslatable(error, "torchscript") from error


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _by_dynamo(network: nn.Module, example: Tensor, names: tuple[str, str], opset: int) -> ir.Model:
    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_shapes=({0: "batch"},),
            opset_version=opset,
            dynamo=True,
            optimize=False,  # it would fold the batch norms
            verbose=False,
        )
        tidy(program.model)
    return _checked(program.model, opset)


def _by_torchscript(network: nn.Module, example: Tensor, names: tuple[str, str], opset: int) -> ir.Model:
    with _quiet(), TemporaryDirectory() as folder:
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
            training=torch.onnx.TrainingMode.PRESERVE,  # as evaluation mode, which it is in, but batch norms stay
        )
        model = ir.load(path)
        ir.external_data.load_to_model(model)
        tidy(model)
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


def _untranslatable(error: Exception, exporter: str) -> ModelError:
    return ModelError(
        f"torch's {exporter} exporter cannot translate the network: {first_line(error)}",
        fix="a network whose Python code branches on values must be rewritten for export",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress, advice and deprecation notes off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

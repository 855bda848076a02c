"""Loads classifiers with their signatures: image input, output with the scores, and the core model."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from quantkit.config.pipeline import Pipeline
from quantkit.data.preprocess import check_pipeline
from quantkit.engine.session import open_session
from quantkit.errors import ModelError
from quantkit.graph.fixed_inputs import fixed_values
from quantkit.graph.image_input import ImageInput, find_image
from quantkit.graph.interface import from_core, to_core
from quantkit.graph.model import read_model, save_model
from quantkit.graph.prepare import Prepared, prepare
from quantkit.graph.score_output import PROBE_BATCH, undecided
from quantkit.graph.signature import Fixed, Signature, read_signature

# Image size to determine output shapes, if the model has free dimensions.
_SIDE = 224


@dataclass(frozen=True)
class ClassifierFile:
    """A classifier file.

    Attributes:
        path: the file.
        graph: the model with the types and axes of the file.
        signature: its inputs and outputs.
    """

    path: Path
    graph: ir.Model
    signature: Signature

    @cached_property
    def core(self) -> ir.Model:
        """The model with one float32 NCHW image input and the scores ``[N, classes]`` as first output."""
        return to_core(self.graph, self.signature)

    def check(self, pipeline: Pipeline) -> None:
        """Check that a pipeline fits the image input; see `quantkit.data.preprocess.check_pipeline`.

        Raises:
            ConfigError: it does not fit.
        """
        check_image(self.signature.image, pipeline)

    def prepared(self) -> "PreparedClassifier":
        """Return the prepared model.

        Raises:
            ModelError: see `quantkit.graph.prepare.prepare`.
        """
        made = prepare(self.core)
        return PreparedClassifier(
            made.model, (*self.signature.notes, *self.signature.conversion_notes, *made.notes), self.signature
        )


@dataclass(frozen=True)
class PreparedClassifier(Prepared):
    """A prepared model with the signature of its file.

    Attributes:
        signature: signature of the file.
    """

    signature: Signature

    def save(self, model: ir.Model, path: Path) -> None:
        """Write a model derived from this one, with the inputs and outputs of the file.

        Raises:
            OutputError: the file cannot be written.
        """
        save_model(from_core(model, self.signature), path)


def read_classifier(
    path: Path, *, output: str | None = None, inputs: Mapping[str, Any] | None = None, allow_quantized: bool = False
) -> ClassifierFile:
    """Load a classifier and detect its signature.

    Args:
        path: ONNX file.
        output: name of the output with the scores; detected by default.
        inputs: values of the other inputs: numbers, arrays, or paths of ``.npy`` files.
        allow_quantized: accept a model with quantized operators.

    Raises:
        ModelError: the file cannot be read; see also `quantkit.graph.signature.read_signature`.
        UsageError: a value does not fit its input.
    """
    graph = read_model(path, allow_quantized=allow_quantized)
    return ClassifierFile(path, graph, classifier_signature(graph, path, output=output, inputs=inputs))


def classifier_signature(
    graph: ir.Model, path: Path, *, output: str | None = None, inputs: Mapping[str, Any] | None = None
) -> Signature:
    """Return the signature of a loaded model; see `read_classifier`.

    If the file does not specify the shape of an output, the model is run once.
    """
    try:
        fixed = fixed_values(graph, inputs or {})
        shapes = {}
        image = find_image(graph, fixed)
        if undecided(graph, image):
            shapes = _inferred_shapes(graph, image) or _seen_shapes(path, image, fixed)
        return read_signature(graph, output=output, fixed=fixed, shapes=shapes)
    except ModelError as error:
        where = f"{path}: {error.where}" if error.where and str(path) not in error.where else (error.where or path)
        raise ModelError(error.what, where=where, fix=error.fix) from error


def check_image(image: ImageInput, pipeline: Pipeline) -> None:
    """Check that a pipeline fits an image input.

    Raises:
        ConfigError: it does not fit.
    """
    limits = None
    if image.dtype.is_integer():
        numbers = np.iinfo(image.dtype.numpy())
        limits = (int(numbers.min), int(numbers.max))
    check_pipeline(pipeline, image.channels, image.height, image.width, whole=limits)


def feed(image: ImageInput, x: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Return preprocessed images ``[N, C, H, W]`` in the type and layout of an image input."""
    if image.layout == "NHWC":
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    return x if image.dtype is ir.DataType.FLOAT else x.astype(image.dtype.numpy())


def _inferred_shapes(graph: ir.Model, image: ImageInput) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all outputs for one batch if shape inference determines all of them, else nothing."""
    copy = graph.clone()
    for value in copy.graph.inputs:
        if value.name == image.name:
            value.shape = ir.Shape(_shape(image))
    for value in copy.graph.outputs:
        value.shape = None
    try:
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(copy)
    except Exception:  # onnx_ir wraps any exception of the inference; the model is run instead
        return {}
    shapes = {str(value.name): list(value.shape) if value.shape is not None else [None] for value in copy.graph.outputs}
    known = {name: tuple(size for size in shape if isinstance(size, int)) for name, shape in shapes.items()}
    return known if all(len(known[name]) == len(shape) for name, shape in shapes.items()) else {}


def _seen_shapes(path: Path, image: ImageInput, fixed: Fixed) -> dict[str, tuple[int, ...]]:
    """Return the shapes of outputs for one batch of black images; nothing if the model cannot run on it."""
    try:
        session = open_session(path)
        names = [output.name for output in session.get_outputs()]
        x = np.zeros(_shape(image), np.float32)
        values = session.run(names, {image.name: feed(image, x), **fixed})
    except Exception:  # the error is reported when the model is used
        return {}
    return {name: np.shape(value) for name, value in zip(names, values, strict=True)}


def _shape(image: ImageInput) -> tuple[int, int, int, int]:
    """Return an NCHW shape that the model takes."""
    return image.batch or PROBE_BATCH, image.channels, image.height or _SIDE, image.width or _SIDE

"""Loads the inputs of workflows from a run: network, statistics and preprocessed images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.config.pipeline import Pipeline
from quantkit.data.item import ImageItem
from quantkit.data.parallel import map_in_order
from quantkit.data.preprocess import preprocess
from quantkit.engine.batches import Load, load_batch
from quantkit.engine.classifier import ClassifierFile, PreparedClassifier, classifier_signature, read_classifier
from quantkit.errors import ProvenanceError
from quantkit.files import sha256_json
from quantkit.graph.image_input import image_input
from quantkit.graph.model import read_model
from quantkit.runs.folder import RunFolder, RunRecord
from quantkit.stats.file import Statistics, load_statistics
from quantkit.types import Float32Array


def fp32_of_run(folder: RunFolder, record: RunRecord) -> ClassifierFile:
    """Return the fp32 classifier of a run, with inputs and output as in the calibration.

    Raises:
        ModelError: the model is missing or cannot be read.
        ProvenanceError: the model has changed since the calibration.
    """
    return read_classifier(folder.fp32(record), output=record.model.output, inputs=record.model.inputs)


def read_scored(
    path: Path, record: RunRecord | None, output: str | None, inputs: Mapping[str, Any] | None
) -> ClassifierFile:
    """Return a model to evaluate; its scores are the given output, else that of the run if the model has it.

    Args:
        path: ONNX file, quantized or not.
        record: record of the run.
        output: name of the output with the scores.
        inputs: values of the other inputs.

    Raises:
        ModelError: the model cannot be read, or its scores are not found.
    """
    if record is None:
        return read_classifier(path, output=output, inputs=inputs, allow_quantized=True)
    graph = read_model(path, allow_quantized=True)
    has = {value.name for value in (*graph.graph.inputs, *graph.graph.outputs)}
    output = output or (record.model.output if record.model.output in has else None)
    given = dict(inputs or {}) or {name: value for name, value in record.model.inputs.items() if name in has}
    return ClassifierFile(path, graph, classifier_signature(graph, path, output=output, inputs=given))


@dataclass(frozen=True)
class CalibratedRun:
    """A run after its pass: what int8 models are made from.

    Attributes:
        folder: its folder.
        record: its record.
        prepared: its fp32 model, prepared.
        statistics: of the tensors of the model.
    """

    folder: RunFolder
    record: RunRecord
    prepared: PreparedClassifier
    statistics: Statistics

    @property
    def identity(self) -> dict[str, Any]:
        """What its models depend on besides target and options, for the keys of cached results."""
        statistics = self.statistics
        return {
            "model": self.record.model.key,
            "output": self.record.model.output,
            "set": self.record.set.digest,
            "pipeline": self.record.pipeline.model_dump(mode="json"),
            # A pass that stopped when stable has fewer images than the set.
            "statistics": sha256_json([asdict(statistics.provenance), sorted(statistics.images)]),
        }


def calibrated(folder: RunFolder, record: RunRecord) -> CalibratedRun:
    """Read the fp32 model of a run and the statistics of its tensors.

    Raises:
        ModelError: the model is missing or cannot be read.
        ProvenanceError: model or statistics have changed since the calibration, or it had another arithmetic.
        StatisticsError: the statistics are damaged.
    """
    prepared = fp32_of_run(folder, record).prepared()
    statistics = load_statistics(folder.statistics)
    if statistics.provenance.model_sha256 != record.model.key:
        raise ProvenanceError(
            "the statistics are of another model than the run",
            where=folder.statistics,
            fix="run quantkit calibrate again",
        )
    statistics.provenance.require_current(folder.statistics)
    return CalibratedRun(folder, record, prepared, statistics)


def open_input_shape(record: RunRecord) -> tuple[int, ...] | None:
    """Return ``[N, C, H, W]`` if the images determine free dimensions of the model, else None."""
    batch, channels, height, width = record.model.shape
    size = record.image_size
    if (height is not None and width is not None) or size is None:
        return None
    return (batch or 1, channels or record.pipeline.channels, height or size[0], width or size[1])


class ModelInputs(Sequence[Float32Array]):
    """Images as a model takes them, ``[N, C, H, W]`` float32 each, made when they are asked for.

    Args:
        model: the model that takes the images; an image is repeated to fill a fixed batch.
        images: the images.
        load: reads an image; called each time one is asked for, from any thread.
    """

    def __init__(self, model: ir.Model, images: Sequence[ImageItem], load: Load) -> None:
        self._model, self._images, self._load = model, images, load
        self._batch = image_input(model).batch or 1

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    @overload
    def __getitem__(self, place: int) -> Float32Array: ...
    @overload
    def __getitem__(self, place: slice) -> "ModelInputs": ...
    def __getitem__(self, place: int | slice) -> "Float32Array | ModelInputs":
        """Return one input, or some of them.

        Raises:
            ImageError: an image cannot be decoded.
        """
        if isinstance(place, slice):
            return ModelInputs(self._model, self._images[place], self._load)
        return load_batch([self._images[place]], self._load, self._batch)


def model_inputs(
    model: ir.Model, images: Sequence[ImageItem], pipeline: Pipeline, threads: int, *, load: Load | None = None
) -> list[npt.NDArray[np.float32]]:
    """Return each image as ``[N, C, H, W]`` float32, repeated to fill a fixed batch.

    Args:
        model: the model that takes the images.
        images: the images.
        pipeline: preprocessing.
        threads: number of images read in parallel.
        load: reads an image instead of the pipeline, such as `quantkit.data.decoded.DecodedImages`.

    Raises:
        ImageError: an image cannot be decoded.
    """
    inputs = ModelInputs(model, images, load or partial(preprocess, pipeline=pipeline))
    return list(map_in_order(inputs.__getitem__, range(len(inputs)), threads))

"""Runs several models over images; each image is decoded once."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from quantkit.config.pipeline import Pipeline
from quantkit.data.item import ImageItem
from quantkit.data.preprocess import preprocess
from quantkit.engine.batches import Load, map_batches
from quantkit.engine.classifier import ClassifierFile, feed
from quantkit.engine.device import CPU, Device
from quantkit.engine.placement import placement_of
from quantkit.engine.session import first_line, open_session
from quantkit.errors import ModelError
from quantkit.graph.model import save_model
from quantkit.types import Float32Array


class Classifier:
    """An ONNX classifier on a device; thread-safe.

    The file is run in its own types and layout if onnxruntime has kernels for them; otherwise its float32 core is run
    (see `quantkit.graph.interface`).

    Args:
        file: the classifier; batches are padded to a fixed batch size.
        device: a device from `quantkit.engine.device.Device.resolved`.

    Attributes:
        file: the classifier.
        device: the device with the effective batch size.
        placement: the execution providers of its layers.
        notes: deviations from the file at run time, and the device unless it is the CPU, one sentence each.

    Raises:
        ModelError: onnxruntime cannot load the model.
        DeviceError: the device does not run the model.
    """

    def __init__(self, file: ClassifierFile, device: Device = CPU) -> None:
        self.file = file
        self.device = device
        self.notes: tuple[str, ...] = ()
        self._fixed = file.signature.image.batch
        if self._fixed is not None:
            self.device = replace(device, batch=self._fixed)
        self._as_file = _numpy_has(file)
        self._session = self._open()
        self.placement = placement_of(self._session, self.device)
        if not device.is_cpu:
            self.notes += (f"{self.path.name}: runs on {self.placement.describe()}",)

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.file.path

    def scores(self, x: Float32Array, *, fill: bool = True) -> Float32Array:
        """Return the scores ``[N, classes]`` of images ``[N, C, H, W]``, with N at most the batch size.

        Args:
            x: the images.
            fill: pad fewer images to a full batch even if the batch is dynamic, because devices compile or select
                kernels by shape.

        Raises:
            ModelError: onnxruntime cannot run the model on this input, or the output is not class scores.
        """
        images = len(x)
        as_given = self._fixed is None and (self.device.is_cpu or not fill)
        size = images if as_given else self.device.batch
        if images < size:
            x = np.concatenate([x, np.repeat(x[-1:], size - images, axis=0)])
        signature = self.file.signature
        try:
            if self._as_file:
                feeds = {signature.image.name: feed(signature.image, x), **signature.fixed}
                values: npt.NDArray[Any] = self._session.run([signature.scores.name], feeds)[0]
            else:
                output = self.file.core.graph.outputs[0].name
                values = self._session.run([output], {signature.image.name: x})[0]
        except Exception as error:  # the exception classes of onnxruntime derive directly from Exception
            raise ModelError(f"onnxruntime cannot run it ({first_line(error)})", where=self.path) from error
        return self._rows(values, size)[:images]

    def _open(self) -> ort.InferenceSession:
        if self._as_file:
            try:
                return open_session(self.path, device=self.device)
            except ModelError:
                if not self.file.signature.converted:
                    raise
                self._as_file = False
        types = " and ".join(self.file.signature.converted)
        self.notes = (f"{self.path.name}: onnxruntime has no {types} kernels here; the model is run in float32",)
        with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
            path = Path(folder) / "core.onnx"
            save_model(self.file.core, path)
            return open_session(path, device=self.device)

    def _rows(self, values: npt.NDArray[Any], batch: int) -> Float32Array:
        """Return the scores of each image; all axes except batch and classes have size 1."""
        wide = [size for size in values.shape if size != 1]
        classes = self.file.signature.scores.classes
        count = values.size // batch
        axes = 1 if batch == 1 or count == 1 else 2
        if values.size % batch or len(wide) > axes or (classes is not None and count != classes):
            raise ModelError(
                f"the output {self.file.signature.scores.name!r} has shape {list(values.shape)} for {batch} images, "
                "which is not a shape of class scores",
                where=self.path,
                fix="name the scores with --output" if self._fixed == batch or batch == 1 else "give --batch 1",
            )
        return values.reshape(batch, -1).astype(np.float32)


def _numpy_has(file: ClassifierFile) -> bool:
    """Return whether numpy supports the input and output types of a file; onnxruntime does not return bfloat16."""
    signature = file.signature
    scores = next(one for one in signature.outputs if one.name == signature.scores.name)
    return ir.DataType.BFLOAT16 not in (signature.image.dtype, scores.dtype, *(one.dtype for one in signature.inputs))


@dataclass(frozen=True)
class ModelScores:
    """Scores of all models for one image, ``[1, classes]`` each, in the order of the models."""

    index: int
    scores: list[Float32Array]


@dataclass(frozen=True)
class PartialScores:
    """Scores of some models for one image, ``[1, classes]`` each; None for models that were not run."""

    index: int
    scores: list[Float32Array | None]


# Yields the scores of images in order, of each image by the models that are wanted for it, if any are; takes of each
# image whether each model is to run on it.
Answer = Callable[[Sequence[Sequence[bool]]], Iterator[PartialScores]]


def evaluate(
    models: Sequence[Classifier],
    images: Sequence[ImageItem],
    pipeline: Pipeline,
    *,
    threads: int,
    load: Load | None = None,
    answer: Answer | None = None,
) -> Iterator[ModelScores]:
    """Yield the scores of all models, image by image in order.

    Images are decoded ahead and run in batches of the models' device (see `quantkit.engine.batches`), unless ``answer``
    runs the models elsewhere. ``load`` reads an image instead of the pipeline.

    Raises:
        ImageError: an image cannot be decoded.
        ModelError: a model cannot be run.
    """

    def read(index: int) -> Float32Array:
        return preprocess(images[index], pipeline) if load is None else load(images[index])

    every = [[True] * len(models)] * len(images)
    answered = answer_in_batches(models, every, read, threads=threads) if answer is None else answer(every)
    for answers in answered:
        yield ModelScores(answers.index, [scores for scores in answers.scores if scores is not None])


def answer_in_batches(
    models: Sequence[Classifier],
    wanted: Sequence[Sequence[bool]],
    load: Callable[[int], Float32Array],
    *,
    threads: int,
) -> Iterator[PartialScores]:
    """Yield the scores of images in order, by the models selected for each image.

    Args:
        models: the models, on one device.
        wanted: for each image, whether each model runs on it.
        load: returns the image of an index, ``[C, H, W]``; called from any thread.
        threads: number of loading threads.
    """
    device = models[0].device if len({model.device for model in models}) == 1 else replace(models[0].device, batch=1)

    def run(indexes: Sequence[int], images: Sequence[Float32Array]) -> list[PartialScores]:
        found: list[list[Float32Array | None]] = [[None] * len(models) for _ in indexes]
        for column, model in enumerate(models):
            rows = [row for row, index in enumerate(indexes) if wanted[index][column]]
            for group in _of_one_shape(rows, images):
                scores = model.scores(np.stack([images[row] for row in group]))
                for row, one in zip(group, scores, strict=True):
                    found[row][column] = one[None]
        return [PartialScores(index, scores) for index, scores in zip(indexes, found, strict=True)]

    jobs = [index for index, runs in enumerate(wanted) if any(runs)]
    for answered in map_batches(load, run, jobs, device=device, threads=threads):
        yield from answered


def _of_one_shape(rows: Sequence[int], images: Sequence[Float32Array]) -> list[list[int]]:
    """Return the rows grouped by image shape: pipelines without a fixed size keep the size of each image."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for row in rows:
        by_shape.setdefault(images[row].shape, []).append(row)
    return list(by_shape.values())


@dataclass(frozen=True)
class Latency:
    """Latency of one image on one thread, in milliseconds.

    Attributes:
        median: median of all runs.
        p10: 10th percentile.
        p90: 90th percentile.
    """

    median: float
    p10: float
    p90: float


def time_in_turn(models: Sequence[Classifier], x: Float32Array, rounds: int = 25) -> list[Latency]:
    """Return the latency of one image for each model on one thread.

    The models run alternately, so that a change in the speed of the machine affects all of them equally.
    """
    times = np.zeros((rounds + 1, len(models)))
    for turn in times:
        for index, model in enumerate(models):
            start_s = time.perf_counter()
            model.scores(x, fill=False)
            turn[index] = time.perf_counter() - start_s
    p10, median, p90 = np.quantile(times[1:] * 1000.0, (0.1, 0.5, 0.9), axis=0)
    return [Latency(*map(float, of_model)) for of_model in zip(median, p10, p90, strict=True)]

"""Models side by side over images: each image is decoded once, and every model runs on it."""

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
from quantkit.engine.batches import map_batches
from quantkit.engine.classifier import ClassifierFile, feed
from quantkit.engine.device import CPU, Device
from quantkit.engine.session import first_line, layers_on_cpu, open_session
from quantkit.errors import ModelError
from quantkit.graph.model import save_model
from quantkit.types import Float32Array


class Classifier:
    """An ONNX classifier on a device; several threads may run it at once.

    The file itself is run where onnxruntime has kernels for its types, fed in its own type and layout; otherwise its
    float32 core is (see `quantkit.graph.interface`).

    Args:
        file: the classifier; a fixed batch size is filled up.
        device: where it runs, from `quantkit.engine.device.Device.resolved`.

    Attributes:
        file: the same.
        device: the same, with the batch that is run.
        notes: what is run otherwise than the file says, one sentence each.

    Raises:
        ModelError: onnxruntime cannot load it.
        DeviceError: the device does not run it.
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
        if device.fallback:
            on_cpu, layers = layers_on_cpu(self._session)
            self.notes += (f"{self.path.name}: {layers - on_cpu} of {layers} layers run on {device.name}",)

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    def scores(self, x: Float32Array, *, fill: bool = True) -> Float32Array:
        """Return the scores ``[N, classes]`` of images ``[N, C, H, W]``, at most as many as the batch.

        Args:
            x: the images.
            fill: run fewer images as a whole batch, also where the model takes any number: devices compile or choose
                their kernels for a shape.

        Raises:
            ModelError: onnxruntime cannot run the model on this input, or gives something else than class scores.
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
        except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception alone
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
        self.notes = (f"{self.path.name}: onnxruntime runs no {types} layers here; the model is run in float32",)
        with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
            path = Path(folder) / "core.onnx"
            save_model(self.file.core, path)
            return open_session(path, device=self.device)

    def _rows(self, values: npt.NDArray[Any], batch: int) -> Float32Array:
        """Return the scores of each image; all axes but those of batch and classes have one entry."""
        wide = [size for size in values.shape if size != 1]
        classes = self.file.signature.scores.classes
        count = values.size // batch
        axes = 1 if batch == 1 or count == 1 else 2
        if values.size % batch or len(wide) > axes or (classes is not None and count != classes):
            raise ModelError(
                f"the output {self.file.signature.scores.name!r} has shape {list(values.shape)} for {batch} images, "
                "which are no class scores",
                where=self.path,
                fix="name the scores with --output" if self._fixed == batch or batch == 1 else "give --batch 1",
            )
        return values.reshape(batch, -1).astype(np.float32)


def _numpy_has(file: ClassifierFile) -> bool:
    """Tell whether numpy can hold what a file takes and gives; onnxruntime hands out no bfloat16."""
    signature = file.signature
    scores = next(one for one in signature.outputs if one.name == signature.scores.name)
    return ir.DataType.BFLOAT16 not in (signature.image.dtype, scores.dtype, *(one.dtype for one in signature.inputs))


@dataclass(frozen=True)
class ModelScores:
    """What all models said to one image: scores ``[1, classes]`` each, in the order of the models."""

    index: int
    scores: list[Float32Array]


@dataclass(frozen=True)
class PartialScores:
    """What some models said to one image: scores ``[1, classes]``, None of those that were not asked."""

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
    progress: Callable[[int], None] | None = None,
    answer: Answer | None = None,
) -> Iterator[ModelScores]:
    """Yield every model's scores, image by image in order.

    Images are decoded ahead and run in batches, as the models' device has it (see `quantkit.engine.batches`), unless
    ``answer`` runs the models elsewhere.

    Raises:
        ImageError: an image cannot be decoded.
        ModelError: a model cannot be run.
    """

    def load(index: int) -> Float32Array:
        return preprocess(images[index], pipeline)

    every = [[True] * len(models)] * len(images)
    answered = answer_in_batches(models, every, load, threads=threads) if answer is None else answer(every)
    for answers in answered:
        if progress is not None:
            progress(answers.index + 1)
        yield ModelScores(answers.index, [scores for scores in answers.scores if scores is not None])


def answer_in_batches(
    models: Sequence[Classifier],
    wanted: Sequence[Sequence[bool]],
    load: Callable[[int], Float32Array],
    *,
    threads: int,
) -> Iterator[PartialScores]:
    """Yield the scores of images in order, of each image by the models that are wanted for it, if any are.

    Args:
        models: the models, on one device.
        wanted: of each image, whether each model is to run on it.
        load: returns the image of an index, ``[C, H, W]``, to any thread.
        threads: workers that load.
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
    """Return the rows in groups of images of one shape: pipelines without a fixed size keep each image's own."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for row in rows:
        by_shape.setdefault(images[row].shape, []).append(row)
    return list(by_shape.values())


@dataclass(frozen=True)
class Latency:
    """Times of one image on one thread, in milliseconds.

    Attributes:
        median: of all runs.
        p10: 10th percentile.
        p90: 90th percentile.
    """

    median: float
    p10: float
    p90: float


def time_in_turn(models: Sequence[Classifier], x: Float32Array, rounds: int = 25) -> list[Latency]:
    """Return the time of one image for each model on one thread.

    The models take turns, so that a change in the speed of the machine affects all of them alike.
    """
    times = np.zeros((rounds + 1, len(models)))
    for turn in times:
        for index, model in enumerate(models):
            start_s = time.perf_counter()
            model.scores(x, fill=False)
            turn[index] = time.perf_counter() - start_s
    p10, median, p90 = np.quantile(times[1:] * 1000.0, (0.1, 0.5, 0.9), axis=0)
    return [Latency(*map(float, of_model)) for of_model in zip(median, p10, p90, strict=True)]

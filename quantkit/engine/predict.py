"""Models side by side over images: each image is decoded once and answered by every model."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from quantkit.config.pipeline import Pipeline
from quantkit.data.item import ImageItem
from quantkit.data.parallel import map_in_order
from quantkit.data.preprocess import preprocess
from quantkit.engine.classifier import ClassifierFile, feed
from quantkit.engine.session import first_line, open_session
from quantkit.errors import ModelError
from quantkit.graph.model import save_model

FloatArray = npt.NDArray[np.float32]


class Classifier:
    """An ONNX classifier that answers single images; several threads may ask at once.

    The file itself is run where onnxruntime has kernels for its types, fed in its own type and layout; otherwise its
    float32 core is (see `quantkit.graph.interface`).

    Args:
        file: the classifier; a fixed batch size is filled up.

    Attributes:
        file: the same.
        notes: what is run otherwise than the file says, one sentence each.

    Raises:
        ModelError: onnxruntime cannot load it.
    """

    def __init__(self, file: ClassifierFile) -> None:
        self.file = file
        self.notes: tuple[str, ...] = ()
        self._batch = file.signature.image.batch or 1
        self._as_file = _numpy_has(file)
        self._session = self._open()

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    def scores(self, x: FloatArray) -> FloatArray:
        """Return the scores ``[1, classes]`` of one image ``[1, C, H, W]``.

        Raises:
            ModelError: onnxruntime cannot run the model on this input, or gives something else than class scores.
        """
        if self._batch > 1:
            x = np.repeat(x, self._batch, axis=0)
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
        return self._first_row(values)

    def _open(self) -> ort.InferenceSession:
        if self._as_file:
            try:
                return open_session(self.path)
            except ModelError:
                if not self.file.signature.converted:
                    raise
                self._as_file = False
        types = " and ".join(self.file.signature.converted)
        self.notes = (f"{self.path.name}: onnxruntime runs no {types} layers here; the model is run in float32",)
        with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
            path = Path(folder) / "core.onnx"
            save_model(self.file.core, path)
            return open_session(path)

    def _first_row(self, values: npt.NDArray[Any]) -> FloatArray:
        """Return the scores of the first image; all axes but those of batch and classes have one entry."""
        wide = [size for size in values.shape if size != 1]
        batch, classes = self._batch, self.file.signature.scores.classes
        count = values.size // batch
        axes = 1 if batch == 1 or count == 1 else 2
        if values.size % batch or len(wide) > axes or (classes is not None and count != classes):
            raise ModelError(
                f"the output {self.file.signature.scores.name!r} has shape {list(values.shape)} for {batch} images, "
                "which are no class scores",
                where=self.path,
                fix="name the scores with --output",
            )
        return values.reshape(batch, -1)[:1].astype(np.float32)


def _numpy_has(file: ClassifierFile) -> bool:
    """Tell whether numpy can hold what a file takes and gives; onnxruntime hands out no bfloat16."""
    signature = file.signature
    scores = next(one for one in signature.outputs if one.name == signature.scores.name)
    return ir.DataType.BFLOAT16 not in (signature.image.dtype, scores.dtype, *(one.dtype for one in signature.inputs))


@dataclass(frozen=True)
class ModelScores:
    """What all models said to one image: scores ``[1, classes]`` each, in the order of the models."""

    index: int
    scores: list[FloatArray]


def evaluate(
    models: Sequence[Classifier],
    images: Sequence[ImageItem],
    pipeline: Pipeline,
    *,
    threads: int,
    progress: Callable[[int], None] | None = None,
) -> Iterator[ModelScores]:
    """Yield every model's scores, image by image in order.

    Each thread decodes an image and runs all models on it, so decoding and inference fill each other's gaps.

    Raises:
        ImageError: an image cannot be decoded.
        ModelError: a model cannot be run.
    """

    def answer(index: int) -> ModelScores:
        x = preprocess(images[index], pipeline)[None]
        return ModelScores(index, [model.scores(x) for model in models])

    for answers in map_in_order(answer, range(len(images)), threads):
        if progress is not None:
            progress(answers.index + 1)
        yield answers


def time_in_turn(models: Sequence[Classifier], x: FloatArray, rounds: int = 25) -> list[float]:
    """Return the median time of one image for each model, in milliseconds, one thread.

    The models take turns, so that a machine that speeds up or slows down does so for all of them.
    """
    times = np.zeros((rounds + 1, len(models)))
    for turn in times:
        for index, model in enumerate(models):
            start_s = time.perf_counter()
            model.scores(x)
            turn[index] = time.perf_counter() - start_s
    medians: list[float] = np.median(times[1:] * 1000.0, axis=0).tolist()
    return medians

"""Models side by side over images: each image is decoded once and answered by every model."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from quantkit.config.pipeline import Pipeline
from quantkit.data.item import ImageItem
from quantkit.data.parallel import map_in_order
from quantkit.data.preprocess import preprocess
from quantkit.engine.session import open_session
from quantkit.errors import ModelError
from quantkit.graph.model import ImageInput

FloatArray = npt.NDArray[np.float32]


class Classifier:
    """An ONNX classifier that answers single images; several threads may ask at once.

    Args:
        path: the model.
        image: its image input, whose fixed batch size is filled up where it has one.
    """

    def __init__(self, path: Path, image: ImageInput) -> None:
        self.path = path
        self._session: ort.InferenceSession = open_session(path)
        self._input, self._batch = image.name, image.batch or 1

    def scores(self, x: FloatArray) -> FloatArray:
        """Return the scores ``[1, classes]`` of one image ``[1, C, H, W]``.

        Raises:
            ModelError: onnxruntime cannot run the model on this input.
        """
        if self._batch > 1:
            x = np.repeat(x, self._batch, axis=0)
        try:
            scores: FloatArray = self._session.run(None, {self._input: x})[0]
        except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception alone
            raise ModelError(
                f"onnxruntime cannot run it ({str(error).splitlines()[0][:300]})", where=self.path
            ) from error
        return scores[:1].reshape(1, -1)


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

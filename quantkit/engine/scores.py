"""The scores of a model over a few images in memory, and how far those of another are from them."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.data.parallel import map_in_order
from quantkit.engine.session import first_line, open_session
from quantkit.errors import ModelError
from quantkit.graph.analysis.values import name_of
from quantkit.types import Float32Array

# Scores that are as near as this are the same but for the rounding of float32.
EXACT_DB = 120.0
# The least signal of an image, as a share of the mean.
FAINT = 1e-6


class ScoreSession:
    """A core model opened in onnxruntime for its scores, for images that come bit by bit.

    Args:
        model: to open; its scores are its first output.

    Raises:
        ModelError: onnxruntime cannot load the model.
    """

    def __init__(self, model: ir.Model) -> None:
        self._session = open_session(ir.serde.serialize_model(model).SerializeToString())
        self._input, self._output = self._session.get_inputs()[0].name, name_of(model.graph.outputs[0])

    def scores(self, images: Sequence[Float32Array], *, threads: int) -> Float32Array:
        """Return the scores of images; see `scores_of`.

        Raises:
            ModelError: onnxruntime cannot run the model.
        """
        return np.concatenate(list(map_in_order(self._scores, images, threads)))

    def _scores(self, image: Float32Array) -> Float32Array:
        try:
            scores: Float32Array = self._session.run([self._output], {self._input: image})[0]
        except Exception as error:  # onnxruntime raises classes of its own, all derived from Exception alone
            raise ModelError(f"onnxruntime cannot run the model ({first_line(error)})") from error
        return scores[:1].reshape(1, -1)


def scores_of(model: ir.Model, images: Sequence[Float32Array], *, threads: int) -> Float32Array:
    """Return the scores of a core model, ``[images, classes]``, for images ``[N, C, H, W]`` run one by one.

    The scores are its first output (see `quantkit.graph.interface`). Of an image that is repeated to fill a fixed
    batch, the first answer counts.

    Raises:
        ModelError: onnxruntime cannot run the model.
    """
    return ScoreSession(model).scores(images, threads=threads)


def score_sqnr_db(reference: Float32Array, other: Float32Array) -> float:
    """Return ``10 log10(sum reference^2 / sum (reference - other)^2)`` in dB; infinite where both are equal."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(reference.astype(np.float64) - other).sum())
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def sqnr_by_image_db(reference: Float32Array, other: Float32Array) -> npt.NDArray[np.float64]:
    """Return the SQNR of each image's scores in dB, float64 ``[images]``; arguments ``[images, classes]``.

    It counts up to where float32 arithmetic ends: between -120 and 120 dB. Equal scores have 120 dB, also where all of
    them are zero. An image whose scores are next to nothing is measured against a millionth of the mean signal of all
    images, so that no noise on silence outweighs every other image.
    """
    signal = np.square(reference, dtype=np.float64).sum(axis=1)
    noise = np.square(reference.astype(np.float64) - other).sum(axis=1)
    signal = np.maximum(signal, FAINT * signal.mean())
    least = np.finfo(np.float64).tiny  # where the scores of all images are zero
    ratio = (signal + least) / (noise + signal / 10.0 ** (EXACT_DB / 10.0) + least)
    return np.where(noise == 0.0, EXACT_DB, np.maximum(10.0 * np.log10(ratio), -EXACT_DB))

"""Scores of a model over a few images in memory, and their SQNR."""

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

# Scores with a smaller difference are equal up to float32 rounding.
EXACT_DB = 120.0
# The minimum signal of an image, as a share of the mean.
FAINT = 1e-6


def scores_of(model: ir.Model, images: Sequence[Float32Array], *, threads: int) -> Float32Array:
    """Return the scores of a core model, ``[images, classes]``, for images ``[N, C, H, W]`` run one by one.

    The scores are its first output (see `quantkit.graph.interface`). If an image is repeated to fill a fixed batch, the
    first result is used.

    Raises:
        ModelError: onnxruntime cannot run the model.
    """
    session = open_session(ir.serde.serialize_model(model).SerializeToString())
    name, output = session.get_inputs()[0].name, name_of(model.graph.outputs[0])

    def one(image: Float32Array) -> Float32Array:
        try:
            scores: Float32Array = session.run([output], {name: image})[0]
        except Exception as error:  # the exception classes of onnxruntime derive directly from Exception
            raise ModelError(f"onnxruntime cannot run the model ({first_line(error)})") from error
        return scores[:1].reshape(1, -1)

    return np.concatenate(list(map_in_order(one, images, threads)))


def score_sqnr_db(reference: Float32Array, other: Float32Array) -> float:
    """Return ``10 log10(sum reference^2 / sum (reference - other)^2)`` in dB; infinite if both are equal."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(reference.astype(np.float64) - other).sum())
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def sqnr_by_image_db(reference: Float32Array, other: Float32Array) -> npt.NDArray[np.float64]:
    """Return the SQNR of each image's scores in dB, float64 ``[images]``; arguments ``[images, classes]``.

    The result is clipped to -120..120 dB, the precision of float32 arithmetic. Equal scores have 120 dB, also if all of
    them are zero. The signal of an image is at least a millionth of the mean signal of all images, so that noise on
    near-zero scores does not dominate.
    """
    signal = np.square(reference, dtype=np.float64).sum(axis=1)
    noise = np.square(reference.astype(np.float64) - other).sum(axis=1)
    signal = np.maximum(signal, FAINT * signal.mean())
    least = np.finfo(np.float64).tiny  # if the scores of all images are zero
    ratio = (signal + least) / (noise + signal / 10.0 ** (EXACT_DB / 10.0) + least)
    return np.where(noise == 0.0, EXACT_DB, np.maximum(10.0 * np.log10(ratio), -EXACT_DB))

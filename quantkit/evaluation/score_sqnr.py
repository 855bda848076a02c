"""SQNR of the scores, the one figure of this name in all commands.

    SQNR = mean over the images of 10 log10(sum over the classes of y^2 / sum over the classes of e^2)

y are the logits of fp32, and e are those of the other model minus y. For a model that ends in a softmax, the logits are
the logarithms of the probabilities minus their mean over the classes: the softmax removes only a constant of each
image. Noise of the probabilities themselves would depend mostly on how certain an image is: confident ones have little.
"""

import math

import numpy as np
import numpy.typing as npt

from quantkit.evaluation.predictions import Scores, kind_of_scores, log_probabilities
from quantkit.types import Float32Array

Vector = npt.NDArray[np.float64]

# Scores with a smaller difference are equal up to float32 rounding.
EXACT_DB = 120.0
# The minimum signal of an image, as a share of the mean.
FAINT = 1e-6


def as_logits(reference: Float32Array, other: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Return scores of fp32 and of another model as logits, ``[images, classes]``; logits are returned unchanged."""
    if kind_of_scores(reference) is Scores.LOGITS:
        return reference, other
    wanted, found = (log_probabilities(one, Scores.PROBABILITIES) for one in (reference, other))
    return _centered(wanted), _centered(found)


def signal_and_noise(reference: Float32Array, other: Float32Array) -> tuple[Vector, Vector]:
    """Return the power of the logits of fp32 and of their error, float64 ``[images]`` each; see `as_logits`."""
    wanted, found = as_logits(reference, other)
    noise = np.square(wanted.astype(np.float64) - found).sum(axis=1)
    return np.square(wanted, dtype=np.float64).sum(axis=1), np.asarray(noise)


def ratio_by_image_db(signal: Vector, noise: Vector) -> Vector:
    """Return the ratio of each image in dB, float64 ``[images]``, from its power of signal and noise.

    The result is clipped to -120..120 dB, the precision of float32 arithmetic. Without noise it is 120 dB, also if
    there is no signal. The signal of an image is at least a millionth of the mean signal of all images, so that noise
    on near-zero scores does not dominate.
    """
    signal = np.maximum(signal, FAINT * signal.mean())
    least = np.finfo(np.float64).tiny  # if the scores of all images are zero
    ratio = (signal + least) / (noise + signal / 10.0 ** (EXACT_DB / 10.0) + least)
    return np.where(noise == 0.0, EXACT_DB, np.maximum(10.0 * np.log10(ratio), -EXACT_DB))


def mean_ratio_db(signal: Vector, noise: Vector) -> float:
    """Return the mean of the images' ratios in dB; infinite if no image has noise."""
    return float(ratio_by_image_db(signal, noise).mean()) if noise.any() else math.inf


def sqnr_by_image_db(reference: Float32Array, other: Float32Array) -> Vector:
    """Return the SQNR of each image's scores, ``[images, classes]``, in dB; see `ratio_by_image_db`."""
    return ratio_by_image_db(*signal_and_noise(reference, other))


def score_sqnr_db(reference: Float32Array, other: Float32Array) -> float:
    """Return the SQNR of the scores, ``[images, classes]``, in dB; infinite if all are equal."""
    return mean_ratio_db(*signal_and_noise(reference, other))


def _centered(rows: Vector) -> Float32Array:
    return np.asarray(rows - rows.mean(axis=1, keepdims=True), np.float32)

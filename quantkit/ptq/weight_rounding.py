"""Weight rounding that minimizes the error of the layer's output, instead of rounding each weight to nearest.

With ``S`` the covariance of a layer's inputs, rounding weights ``w`` to ``q`` integers of a step ``d`` adds noise of
power ``(d q - w) S (d q - w)'`` to an output with a mean that the bias corrects. Nearest rounding minimizes only the
diagonal part. It is minimized here in two steps, without training (the aim is that of Nagel et al., Up or Down?
Adaptive Rounding for Post-Training Quantization, ICML 2020):

1. weights are rounded one after the other, those with the strongest input first, and the error of each is compensated
   by those not yet rounded (Frantar et al., OPTQ, ICLR 2023; with the Cholesky factor U of S^-1, rounding weight k with
   error e changes weight j > k by ``-e U_kj / U_kk``);
2. single integers are then moved to the best one given all others, until none moves or the sweeps are over.
"""

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dtrtri

from quantkit.data.parallel import map_in_order
from quantkit.ptq.rounding_kernel import descend, round_block
from quantkit.types import Float64Array

# Added to the diagonal, as a share of its mean: inputs without variance would make S singular.
DAMPING = 0.01
# Number of weights between two updates of all following weights.
BLOCK = 64
SWEEPS = 12
# Minimum rows per part, and maximum number of parts, of the rows that are rounded in parallel.
LEAST_ROWS, MOST_PARTS = 32, 4


def round_weights(
    weight: Float64Array, covariance: Float64Array, step: Float64Array, *, qmax: int, threads: int = 1
) -> npt.NDArray[np.int8]:
    """Return integers in ``[-qmax, qmax]`` with minimal predicted noise, at most that of nearest rounding.

    Args:
        weight: float64 ``[groups, rows, columns]``, one row per output channel.
        covariance: float64 ``[groups, columns, columns]`` of the inputs.
        step: float64 ``[groups, rows]``, real units per integer.
        qmax: largest magnitude of an integer.
        threads: number of parts of the rows that are rounded in parallel; rows are independent.
    """
    damped = _damped(covariance)
    order = np.argsort(-np.diagonal(damped, axis1=1, axis2=2), axis=1, kind="stable")
    rows = order[:, None, :]
    factor = _factor_of_inverse(np.take_along_axis(np.take_along_axis(damped, order[:, :, None], 1), rows, 2))
    integers = weight / step[:, :, None]
    damping = (damped[:, 0, 0] - covariance[:, 0, 0])[:, None]

    def some(part: Float64Array) -> Float64Array:
        found, slope = _descend(_in_sequence(part, order, factor, qmax), part, damped, qmax)
        error, nearest = found - part, np.clip(np.rint(part), -qmax, qmax)
        # The product with the covariance is there already, but for the damping.
        found_noise = np.einsum("grk,grk->gr", slope, error) - damping * np.einsum("grk,grk->gr", error, error)
        worse = found_noise > noise(part, nearest, covariance)
        return np.where(worse[:, :, None], nearest, found)

    # The parts do not depend on the number of threads, and so neither does the result.
    parts = np.array_split(integers, min(max(integers.shape[1] // LEAST_ROWS, 1), MOST_PARTS), axis=1)
    return np.concatenate(list(map_in_order(some, parts, threads)), axis=1).astype(np.int8)


def noise(wanted: Float64Array, rounded: Float64Array, covariance: Float64Array) -> Float64Array:
    """Return ``(rounded - wanted) S (rounded - wanted)'`` for every row, ``[groups, rows]``."""
    error = rounded - wanted
    return np.asarray(np.einsum("grk,grk->gr", error @ covariance, error))


def _damped(covariance: Float64Array) -> Float64Array:
    size = covariance.shape[-1]
    mean = np.trace(covariance, axis1=1, axis2=2) / size
    ridge = np.where(mean > 0.0, DAMPING * mean, 1.0)
    return covariance + ridge[:, None, None] * np.eye(size)


def _in_sequence(wanted: Float64Array, order: npt.NDArray[np.int64], factor: Float64Array, qmax: int) -> Float64Array:
    """Round column by column in this order, compensating each error in the columns that follow."""
    weights = np.ascontiguousarray(np.take_along_axis(wanted, order[:, None, :], 2))
    rounded = np.empty_like(weights)
    size = weights.shape[2]
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        errors = np.empty((*weights.shape[:2], end - start))
        round_block(weights, factor, rounded, errors, start=start, end=end, qmax=qmax)
        weights[:, :, end:] -= errors @ factor[:, start:end, end:]
    return np.take_along_axis(rounded, np.argsort(order, axis=1)[:, None, :], 2)


def _factor_of_inverse(matrices: Float64Array) -> Float64Array:
    """Return upper triangular ``U`` with ``U' U = S^-1``, matrix by matrix.

    From the Cholesky factor ``L`` of ``S`` with its rows and columns in reverse order: ``L`` in reverse order is upper
    triangular, and its inverse is ``U``. That is a third of the work of inverting ``S``, and cannot fail halfway.
    """
    lower = np.linalg.cholesky(matrices[:, ::-1, ::-1])
    return np.ascontiguousarray([dtrtri(one[::-1, ::-1])[0] for one in lower])


def _descend(
    start: Float64Array, wanted: Float64Array, covariance: Float64Array, qmax: int
) -> tuple[Float64Array, Float64Array]:
    """Move single integers to their best value given all others; return them, and their error times the covariance."""
    rounded = np.ascontiguousarray(start)
    slope = (rounded - wanted) @ covariance
    descend(rounded, slope, covariance, qmax=qmax, sweeps=SWEEPS)
    return rounded, slope

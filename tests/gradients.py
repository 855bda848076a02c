"""Gradients against differences."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import check_grad

from quantkit.types import Float64Array


def gradient_error(objective: Callable[[Float64Array], tuple[float, Float64Array]], at: Float64Array) -> float:
    """Return how far an objective's gradient is from that of differences, relative to its norm where that exceeds 1."""

    def value(x: Float64Array) -> float:
        return objective(x)[0]

    def gradient(x: Float64Array) -> Float64Array:
        return objective(x)[1]

    error = check_grad(value, gradient, at)
    return float(error / max(1.0, float(np.linalg.norm(gradient(at)))))

"""Quantizers for tests, made of quantkit's own steps."""

import numpy as np

from quantkit.numerics import QParams, dequantize, quantize


def fake_quantize(x: np.ndarray, qparams: QParams) -> np.ndarray:
    """Quantize and dequantize: float32, the real number that each integer stands for."""
    return dequantize(quantize(x, qparams), qparams)

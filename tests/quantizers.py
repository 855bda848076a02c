"""Quantizers for tests: quantkit's own steps, and onnxruntime's quantizer."""

import logging
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from quantkit.numerics import QParams, dequantize, quantize


def fake_quantize(x: np.ndarray, qparams: QParams) -> np.ndarray:
    """Quantize and dequantize: float32, the real number that each integer stands for."""
    return dequantize(quantize(x, qparams), qparams)


class Reader(CalibrationDataReader):
    def __init__(self, x: np.ndarray) -> None:
        self._batches = iter([{"input": x[i : i + 1]} for i in range(len(x))])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def quantize_static_like_ours(path: Path, x: np.ndarray, folder: Path) -> Path:
    """Quantize a model with onnxruntime, one weight scale per channel; return the file."""
    logging.disable(logging.WARNING)
    try:
        quant_pre_process(str(path), str(folder / "preprocessed.onnx"))
        quantize_static(
            str(folder / "preprocessed.onnx"),
            str(folder / "static.onnx"),
            Reader(x),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    finally:
        logging.disable(logging.NOTSET)
    return folder / "static.onnx"

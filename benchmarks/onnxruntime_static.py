"""onnxruntime's own quantizer as its documentation recommends it for a CPU; needs nothing of quantkit."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def write_static(model: Path, feed: str, images: Iterable[np.ndarray], out: Path, method: str = "MinMax") -> None:
    """Write a QDQ model: uint8 activations, int8 weights per channel, after onnxruntime's own pre-processing.

    Args:
        model: the fp32 file.
        feed: name of its input.
        images: what is fed to it, one after the other.
        out: the int8 file.
        method: of `onnxruntime.quantization.CalibrationMethod`.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> Any:
            image = next(self.left, None)
            return None if image is None else {feed: image}

    before = out.with_suffix(".pre.onnx")
    try:
        quant_pre_process(str(model), str(before))
    except Exception:  # its symbolic shape inference does not take every transformer
        quant_pre_process(str(model), str(before), skip_symbolic_shape=True)
    quantize_static(
        str(before),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
    )

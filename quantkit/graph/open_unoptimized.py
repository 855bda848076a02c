"""Opens models in onnxruntime to learn what it makes of them."""

from pathlib import Path

import onnx
import onnxruntime as ort


def open_unoptimized(model: onnx.ModelProto, saved_to: Path | None = None) -> ort.InferenceSession:
    """Open a model on the CPU without optimization and without messages.

    Args:
        model: the model, with its weights.
        saved_to: file for the model as onnxruntime loads it.

    Raises:
        Exception: onnxruntime cannot load it; its exception classes derive directly from Exception.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if saved_to is not None:
        options.optimized_model_filepath = str(saved_to)
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

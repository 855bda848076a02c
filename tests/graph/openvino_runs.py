"""Run a model in OpenVINO on the CPU; also a program, so that a test can run it with other instructions.

python openvino_runs.py MODEL IMAGES.npy SCORES.npy
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import openvino


class OpenVinoModel:
    """A model compiled for one image at a time on one thread, its float parts in float32."""

    def __init__(self, path, shape):
        model = openvino.Core().read_model(path)
        model.reshape([1, *shape[1:]])
        settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        self.compiled = openvino.Core().compile_model(model, "CPU", settings)
        self._request = self.compiled.create_infer_request()

    def run(self, x):
        """Return the first output for each image, ``[images, ...]``."""
        outputs = []
        for image in x:
            self._request.infer([image[None]])
            outputs.append(self._request.get_output_tensor(0).data.copy())
        return np.concatenate(outputs)

    def executed(self):
        """Return how many nodes of each kind OpenVINO executes, by ``(kind, precision)``."""
        facts = [node.get_rt_info() for node in self.compiled.get_runtime_model().get_ordered_ops()]
        return Counter((fact["layerType"].astype(str), fact["runtimePrecision"].astype(str)) for fact in facts)


if __name__ == "__main__":
    model, images, scores = map(Path, sys.argv[1:])
    x = np.load(images)
    np.save(scores, OpenVinoModel(model, x.shape).run(x))

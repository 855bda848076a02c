"""A small classifier of colours, and pictures that it names right with one preprocessing only."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from PIL import Image

from quantkit.config.pipeline import IMAGENET_MEAN, IMAGENET_STD, Decode, Normalize, Pipeline, ToTensor
from quantkit.data.preprocess import preprocess
from quantkit.engine.classifier import read_classifier
from quantkit.engine.predict import Classifier

CLASSES = 16
IMAGENET = Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD)
_MODEL = """
<ir_version: 8, opset_import: ["": 17]>
colours (float[N, 3, 8, 8] image) => (float[N, 16] logits) {
    g = GlobalAveragePool (image)
    f = Flatten (g)
    logits = Gemm (f, w, b)
}
"""


def values(mode: str, divisor: float, *normalize: Normalize) -> Pipeline:
    """Return preprocessing that decodes and scales, and does not resize."""
    return Pipeline(ops=(Decode(mode=mode), ToTensor(divisor=divisor), *normalize))


def colours(folder: Path, right: Pipeline, images: int = 60) -> Path:
    """Write a model that tells sixteen colours apart, and pictures that it names right with one preprocessing.

    The model is ``colours.onnx``, the pictures are in ``images`` and their classes in ``labels.txt``.
    """
    rng = np.random.default_rng(3)
    made = onnx.parser.parse_model(_MODEL)
    for name, weights in (("w", rng.standard_normal((3, CLASSES))), ("b", 2 * rng.standard_normal(CLASSES))):
        made.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), name))
    onnx.save(made, folder / "colours.onnx")
    session = Classifier(read_classifier(folder / "colours.onnx"))
    (folder / "images").mkdir()
    lines = []
    for number in range(images):
        path = folder / "images" / f"{number:03d}.png"
        Image.fromarray(np.broadcast_to(rng.integers(0, 256, 3, np.uint8), (8, 8, 3)).copy()).save(path)
        lines.append(f"{path.name} {session.scores(preprocess(path, right)[None]).argmax()}\n")
    (folder / "labels.txt").write_text("".join(lines))
    return folder / "colours.onnx"

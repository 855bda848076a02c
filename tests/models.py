"""Small models and images for tests, made where they are needed."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

# Two convolutions, a residual sum, a pool: enough for every rule of tapping and quantizing. 16 channels fill blocks.
TEXT = """
<ir_version: 8, opset_import: ["": 17]>
tiny (float[{batch}, 3, 8, 8] input) => (float[{batch}, 4] logits) {{
    a = Conv <pads = [1, 1, 1, 1]> (input, w1, b1)
    ar = Relu(a)
    b = Conv <pads = [1, 1, 1, 1]> (ar, w2, b2)
    s = Add(b, ar)
    sr = Relu(s)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (sr)
    g = GlobalAveragePool(p)
    f = Flatten(g)
    logits = Gemm <transB = 1> (f, w3, b3)
}}
"""


def tiny_model(path: Path, *, batch: str = "N", seed: int = 0, gain: float = 1.0) -> Path:
    """Write a small classifier of 3 x 8 x 8 images into 4 classes."""
    model = onnx.parser.parse_model(TEXT.format(batch=batch))
    rng = np.random.default_rng(seed)
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,), "w3": (4, 16), "b3": (4,)}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape).astype(np.float32) * gain * 0.3
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, path)
    return path


def write_images(
    folder: Path, *, per_class: int = 4, classes: Sequence[str] = ("a", "b", "c", "d"), seed: int = 0
) -> Path:
    """Write class folders of random 8 x 8 PNG files, each with a colour of its class."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            pixels = rng.integers(0, 160, (8, 8, 3), np.uint8)
            pixels[..., label % 3] += 90
            Image.fromarray(pixels).save(folder / name / f"{index:03d}.png")
    return folder


def uneven_model(path: Path) -> Path:
    """Write the small model with one channel of its second convolution far larger than the others, and never open."""
    model = onnx.load(tiny_model(path, seed=11))
    for tensor in model.graph.initializer:
        if tensor.name in ("w2", "b2"):
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[0] = values[0] * 300.0 if tensor.name == "w2" else -1e5
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    return path


def copied_run(made: Path, into: Path) -> Path:
    """Copy a folder with a calibrated ``run``, and the paths that are recorded in it; return the run of the copy."""
    shutil.copytree(made, into, dirs_exist_ok=True)
    for path in (into / "run" / "run.json", into / "run" / "vamc.yaml"):
        path.write_text(path.read_text().replace(str(made), str(into)))
    return into / "run"

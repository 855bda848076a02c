"""Small networks for the tuning tests, with images that they see something in."""

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.engine.tap import TappedSession
from quantkit.graph.analysis.values import name_of
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import plan
from quantkit.numerics import Range
from quantkit.targets import ORT

# Strided conv, depthwise conv, a residual sum, a squeezing 1 x 1 conv without activation, and a classifier.
TEXT = """
<ir_version: 8, opset_import: ["": 17]>
small (float[N, 3, 12, 12] input) => (float[N, 5] logits) {
    a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (input, w1, b1)
    ar = Relu(a)
    d = Conv <pads = [1, 1, 1, 1], group = 8> (ar, w2, b2)
    dr = Relu(d)
    e = Conv (dr, w3)
    s = Add(e, ar)
    sr = Relu(s)
    g = GlobalAveragePool(sr)
    f = Flatten(g)
    logits = Gemm <transB = 1> (f, w4, b4)
}
"""
SHAPES = {
    "w1": (8, 3, 3, 3),
    "b1": (8,),
    "w2": (8, 1, 3, 3),
    "b2": (8,),
    "w3": (8, 8, 1, 1),
    "w4": (5, 8),
    "b4": (5,),
}


def weights(rng: np.random.Generator, shapes=SHAPES) -> dict[str, np.ndarray]:
    """Return random weights of a sensible size: the variance of a layer's result is about that of its input."""
    return {
        name: rng.normal(0, np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.3, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def model_of(text: str, initializers: dict[str, np.ndarray]) -> ir.Model:
    """Return the prepared model of a text with these initializers."""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(held, name) for name, held in initializers.items())
    onnx.checker.check_model(proto, full_check=True)
    return prepare(ir.from_proto(proto)).model


def small_model(seed: int = 0, **changed: np.ndarray) -> ir.Model:
    """Return the prepared network above."""
    return model_of(TEXT, weights(np.random.default_rng(seed)) | changed)


def small_images(count: int, seed: int = 1, size: int = 12) -> list[np.ndarray]:
    """Return smooth random images ``[1, 3, size, size]``."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 1, (count, 3, size // 3, size // 3)).astype(np.float32)
    return list(np.repeat(np.repeat(coarse, 3, axis=2), 3, axis=3)[:, None])


def minmax_ranges(model: ir.Model, tensors, images) -> dict[str, Range]:
    """Return the observed minimum and maximum of tensors."""
    session = TappedSession(model, [*tensors], ordered=True)
    seen: dict[str, list[np.ndarray]] = {}
    for image in images:
        for name, value in session.run(image)[1]:
            seen.setdefault(name, []).append(value)
    return {name: Range.around(min(v.min() for v in held), max(v.max() for v in held)) for name, held in seen.items()}


def planned(model: ir.Model, images, target=ORT, options=None):
    """Return the plan of a prepared model and ranges for it."""
    made = plan(model, target, options)
    return made, minmax_ranges(model, made.observed, images)


def values_of(model: ir.Model, tensors, image) -> dict[str, np.ndarray]:
    """Return tensors of a model for one image, by a session of their own."""
    return dict(TappedSession(model, [*tensors], ordered=True).run(image)[1])


def all_tensors(model: ir.Model) -> list[str]:
    """Return the names of all tensors that nodes of a model compute."""
    return [name_of(value) for node in model.graph for value in node.outputs]

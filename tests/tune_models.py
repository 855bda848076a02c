"""Small networks for the tuning tests, with images that they see something in."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from quantkit.engine.tap import TappedSession
from quantkit.evaluation.selection import SelectionMetric
from quantkit.graph.analysis.values import name_of
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import PlanOptions, plan
from quantkit.numerics import Range
from quantkit.ptq.shift_groups import find_shift_groups, shifted
from quantkit.search.candidate_builder import CandidateBuilder
from quantkit.stats.observed import Observed
from quantkit.stats.observer import Observer
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


def model_of(text: str, initializers: Mapping[str, npt.ArrayLike]) -> ir.Model:
    """Return the prepared model of a text with these initializers."""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(held), name) for name, held in initializers.items()
    )
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


MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

# What real checkpoints hold beside plain chains: a concatenation, channels padded with zeros (option-A shortcuts),
# a Clip, an average pool, a group convolution, a transposed convolution, a gate, a Gemm with untransposed weights.
MIXED = """
<ir_version: 8, opset_import: ["": 17]>
mixed (float[N, 3, 12, 12] input) => (float[N, 5] logits) <int64[8] pads = {0, 2, 0, 0, 0, 2, 0, 0}> {
    a = Conv <pads = [1, 1, 1, 1]> (input, w1, b1)
    ar = Relu(a)
    b = Conv <pads = [1, 1, 1, 1], group = 2> (ar, w2, b2)
    bc = Clip(b, zero, six)
    c = Concat <axis = 1> (ar, bc)
    p = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (c)
    d = Conv (p, w3, b3)
    dp = Pad(d, pads)
    t = ConvTranspose <strides = [2, 2], group = 2> (p, w4, b4)
    tm = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (t)
    s = Add(dp, tm)
    sr = Relu(s)
    e = Conv (sr, w5)
    gate = Sigmoid(e)
    m = Mul(sr, gate)
    g = GlobalAveragePool(m)
    f = Flatten(g)
    logits = Gemm (f, w6, b6)
}
"""
MIXED_SHAPES = {
    "w1": (4, 3, 3, 3),
    "b1": (4,),
    "w2": (6, 2, 3, 3),
    "b2": (6,),
    "w3": (8, 10, 1, 1),
    "b3": (8,),
    "w4": (10, 6, 2, 2),
    "b4": (12,),
    "w5": (12, 12, 1, 1),
    "w6": (12, 5),
    "b6": (5,),
}


def mixed_model(seed: int = 0, limit: float = 1000.0):
    """Return the network above, prepared; its Clip cuts at the limit."""
    limits = {"zero": np.float32(0), "six": np.float32(limit)}
    return model_of(MIXED, {**weights(np.random.default_rng(seed), MIXED_SHAPES), **limits})


def unlike_channels(seed: int = 0):
    """Return the small network with channels of its first two layers that reach from 1/30 to 30 times as far."""
    rng = np.random.default_rng(seed)
    held = weights(rng)
    factors = np.exp(rng.uniform(np.log(1 / 30), np.log(30), 8)).astype(np.float32)
    by_row = {"w2": factors[:, None, None, None], "b2": factors}
    by_column = {"w3": 1 / factors[None, :, None, None]}
    return small_model(
        **{name: (held[name] * factor).astype(np.float32) for name, factor in (by_row | by_column).items()}
    )


# Bottlenecks as in MobileNetV2 and ShuffleNet: 1 x 1 convolutions without activation, summed, joined, pooled; a layer
# that reads one of them with padding, a gate, a group convolution without bias, and one flattened with its positions.
LINEAR = """
<ir_version: 8, opset_import: ["": 17]>
linear (float[N, 3, 12, 12] input) => (float[N, 5] logits) {
    a = Conv (input, w1, b1)
    b = Conv <strides = [2, 2]> (a, w2)
    c = Conv <strides = [2, 2]> (a, w3, b3)
    s = Add(b, c)
    m = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (s)
    t = Concat <axis = 1> (m, c)
    e = Conv <group = 2> (t, w4)
    er = Relu(e)
    g = Conv (t, w5, b5)
    p = Conv <pads = [1, 1, 1, 1]> (g, w6, b6)
    q = AveragePool <kernel_shape = [3, 3], strides = [3, 3]> (p)
    u = Conv (er, w7, b7)
    gate = Sigmoid(u)
    v = Mul(p, gate)
    w = AveragePool <kernel_shape = [3, 3], strides = [3, 3]> (v)
    x = Conv (w, w8, b8)
    y = Add(x, q)
    f = Flatten(x)
    logits = Gemm <transB = 1> (f, w9, b9)
    unread = Relu(y)
}
"""
LINEAR_SHAPES = {
    "w1": (4, 3, 1, 1),
    "b1": (4,),
    "w2": (6, 4, 1, 1),
    "w3": (6, 4, 1, 1),
    "b3": (6,),
    "w4": (8, 6, 1, 1),
    "w5": (4, 12, 1, 1),
    "b5": (4,),
    "w6": (6, 4, 3, 3),
    "b6": (6,),
    "w7": (6, 8, 1, 1),
    "b7": (6,),
    "w8": (6, 6, 1, 1),
    "b8": (6,),
    "w9": (5, 24),
    "b9": (5,),
}


def linear_model(seed: int = 0, off: float = 0.0):
    """Return the network above, prepared; with its movable channels moved that far off, one way or the other."""
    rng = np.random.default_rng(seed)
    model = model_of(LINEAR, weights(rng, LINEAR_SHAPES))
    found = find_shift_groups(model)
    return shifted(model, found, off * rng.choice([-1.0, 1.0], found.free.size)) if off else model


def photographs(count: int, seed: int = 0) -> list[np.ndarray]:
    """Return 8-bit images as ImageNet preprocessing makes reals of them."""
    levels = np.random.default_rng(seed).integers(0, 256, (count, 1, 3, 12, 12))
    shape = (1, 3, 1, 1)
    return [((one / 255.0 - MEAN.reshape(shape)) / STD.reshape(shape)).astype(np.float32) for one in levels]


def builder_of(model, target=ORT, work=None, others=None, keep=False):
    """Return a candidate builder for a model, and its selection metric."""
    work, others = work or small_images(24), others or small_images(24, seed=5)
    selection = SelectionMetric(model, others, threads=2)

    def observe(one, images=None, before=None):
        names = [name for name in ["input", *all_tensors(one)] if name in float_names(one)]
        observers = {name: Observer() for name in names}
        session = TappedSession(one, names, ordered=True)
        seen = work[:images] if before is None else work[len(before.extremes) : images]
        extremes = np.zeros((len(seen), len(names), 2), np.float32)
        for image, rows in zip(seen, extremes, strict=True):
            for name, value in session.run(image)[1]:
                rows[names.index(name)] = observers[name].observe(value)[1:]
        found = Observed({name: observer.statistics() for name, observer in observers.items()}, extremes)
        return found if before is None else before.joined(found)

    builder = CandidateBuilder(
        model, observe(model), target, PlanOptions(), work, work, observe, selection.largest_change, keep, 2
    )
    return builder, selection


def float_names(model) -> set[str]:
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    return {value.name for value in values if value.dtype is not None and value.dtype.name == "FLOAT"}

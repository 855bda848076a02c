"""Input folding: the int8 model reads the levels of an 8-bit image as integers.

An image is decoded to 8 bits; preprocessing maps its levels ``p`` to real values ``x = lo + step * p`` with a different
step for each channel, and a quantizer with one scale for all channels rounds them a second time. Here a depthwise 1 x 1
convolution in float maps the real values back to the levels, ``p = (x - lo) / step``, which are quantized exactly with
scale one and zero point zero, and the first layer reads levels, with ``W'[o, c] = W[o, c] * step_c`` and
``b'[o] = b[o] + sum over c and taps of W[o, c, tap] * lo_c``. The 1 x 1 convolution also does the padding, since zero
is a different level in each channel. Other inputs are rounded as by an 8-bit quantizer with the range of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from quantkit.graph.analysis.values import (
    add_constant,
    array,
    required,
    set_constant,
    sole_consumer,
    unused_name,
)
from quantkit.numerics import Range
from quantkit.ptq.channel_groups import rescalable_layers
from quantkit.ptq.layers import add_to_bias
from quantkit.targets import Target
from quantkit.types import Float32Array

Vector = npt.NDArray[np.float64]

# Name of the convolution, and of its output.
LEVELS = "quantkit.levels"
# Range of that tensor for any image.
SPAN = Range(0.0, 255.0)
# Largest distance of a value from its level, in levels: float32 is accurate to 1e-4.
OFF = 0.01


@dataclass(frozen=True)
class Levels:
    """Mapping of 8-bit levels to real values by preprocessing.

    Attributes:
        lo: float64 ``[channels]``, the real value of level 0.
        step: float64 ``[channels]``, the distance between two levels.
    """

    lo: Vector
    step: Vector


def levels_of(images: Sequence[Float32Array]) -> Levels | None:
    """Return the levels of images, None if their values are not on 256 evenly spaced levels.

    The darkest and the brightest value of each channel are used as the levels 0 and 255, and every other value must be
    on a level between them.

    Args:
        images: preprocessed images, ``[N, C, H, W]`` each, enough to include black and white.
    """
    if not images or images[0].ndim != 4:
        return None
    lo = np.min([image.min(axis=(0, 2, 3)) for image in images], axis=0).astype(np.float64)
    hi = np.max([image.max(axis=(0, 2, 3)) for image in images], axis=0).astype(np.float64)
    if not (np.isfinite(lo) & np.isfinite(hi) & (hi > lo)).all():
        return None
    found = Levels(lo, (hi - lo) / 255.0)
    return found if all(_off(image, found) <= OFF for image in images) else None


def takes_levels(model: ir.Model, target: Target) -> bool:
    """Return whether the first layer of a prepared model can read levels, and the target can store them exactly."""
    stored = target.activations.qparams(SPAN)
    as_they_are = float(stored.scale) == 1.0 and int(stored.zero_point) == 0
    names = {name for node in model.graph for name in (node.name, *(value.name for value in node.outputs))}
    return as_they_are and LEVELS not in names and _first_layer(model) is not None


def holds_padding(model: ir.Model, levels: Levels) -> bool:
    """Return whether the zero padding of the first layer is within the levels, so that integers can represent it."""
    first = _first_layer(model)
    zeros = -levels.lo / levels.step
    return (
        first is None
        or not any(first.attributes.get_ints("pads") or ())
        or bool(((zeros >= 0.0) & (zeros <= 255.0)).all())
    )


def with_input_folding(model: ir.Model, levels: Levels) -> ir.Model:
    """Return a copy of a model with a first layer that reads levels; it is equivalent for 8-bit images.

    Args:
        model: a prepared model for which `takes_levels` is true.
        levels: levels of its images.
    """
    copy = model.clone()
    first = _first_layer(copy)
    assert first is not None
    _read_levels(copy.graph, first, levels)
    graph, source = copy.graph, copy.graph.inputs[0]
    shape = [levels.lo.size, 1, 1, 1]
    weight = add_constant(graph, f"{LEVELS}.weight", (1.0 / levels.step).reshape(shape).astype(np.float32))
    bias = add_constant(graph, f"{LEVELS}.bias", (-levels.lo / levels.step).astype(np.float32))
    pads = first.attributes.get_ints("pads") or (0, 0, 0, 0)
    back = ir.node(
        "Conv",
        [source, weight, bias],
        attributes={"group": levels.lo.size, "kernel_shape": [1, 1], "pads": list(pads)},
        name=LEVELS,
    )
    result = back.outputs[0]
    result.name = unused_name(graph, LEVELS)
    result.dtype = ir.DataType.FLOAT
    if source.shape is not None:
        result.shape = ir.Shape([source.shape[0], levels.lo.size, *_padded(source, pads)])
    graph.insert_before(first, back)
    first.replace_input_with(0, result)
    first.attributes.pop("pads", None)
    return copy


def _off(image: Float32Array, levels: Levels) -> float:
    shape = (1, -1, 1, 1)
    places = (image - levels.lo.reshape(shape)) / levels.step.reshape(shape)
    return float(np.abs(places - np.rint(places)).max())


def _first_layer(model: ir.Model) -> ir.Node | None:
    """Return the convolution that is the only consumer of the model's only input."""
    if len(model.graph.inputs) != 1:
        return None
    node = sole_consumer(model.graph.inputs[0])
    plain = (
        node is not None
        and node.op_type == "Conv"
        and node in rescalable_layers(model)
        and node.attributes.get_int("group", 1) == 1
        and node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    )
    return node if plain else None


def _read_levels(graph: ir.Graph, first: ir.Node, levels: Levels) -> None:
    weight = np.asarray(array(required(first, 1)), np.float64)
    offset = np.einsum("ocyx,c->o", weight, levels.lo)
    scaled = weight * levels.step.reshape(1, -1, 1, 1)
    set_constant(graph, first, 1, scaled, f"{LEVELS}.scaled")
    add_to_bias(graph, first, offset, f"{LEVELS}.offset")


def _padded(source: ir.Value, pads: Sequence[int]) -> list[int | ir.SymbolicDim]:
    assert source.shape is not None
    sizes = list(source.shape)[2:]
    before, after = pads[: len(sizes)], pads[len(sizes) :]
    return [
        size + one + other if isinstance(size, int) else ir.SymbolicDim(None)
        for size, one, other in zip(sizes, before, after, strict=True)
    ]

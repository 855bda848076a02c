"""Detects the image input of a model, its layout and its element type."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from quantkit.errors import ModelError
from quantkit.graph.analysis.ops import LAYERS
from quantkit.graph.analysis.values import array, dims, name_of

Layout = Literal["NCHW", "NHWC"]

TO_NCHW, TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
# Operators with channels on axis 1 of the input.
_CHANNELS_SECOND = frozenset(
    {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LRN", "InstanceNormalization", "SpaceToDepth"}
)
# Operators that keep the order of the axes.
_KEEPING = frozenset(
    {"Cast", "Identity", "Relu", "Clip", "Sqrt", "Neg", "Abs", "Pad", "Slice", "Concat", "Split", "Gather", "Resize"}
    | {"Add", "Sub", "Mul", "Div", "QuantizeLinear", "DequantizeLinear", "Dropout", "Upsample"}
)
# Those of them that may change the number of channels: a Focus stem slices 3 channels into 12.
_RESIZING = frozenset({"Pad", "Slice", "Concat", "Split"})
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
_INTEGERS = frozenset(
    {ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.UINT16, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64}
)
# Sizes of the last axis that identify an NHWC image if only the shape is known.
_COLOURS = (1, 3, 4)


@dataclass(frozen=True)
class ImageInput:
    """The image input of a classifier.

    Attributes:
        name: name of the input.
        channels: size of the channel axis.
        height: height in pixels, None if dynamic.
        width: width in pixels, None if dynamic.
        batch: size of axis 0, None if dynamic.
        dtype: element type; integer inputs take integer pixel values.
        layout: order of the axes in the file.
    """

    name: str
    channels: int
    height: int | None
    width: int | None
    batch: int | None
    dtype: ir.DataType = ir.DataType.FLOAT
    layout: Layout = "NCHW"

    @property
    def type_name(self) -> str:
        """The element type by its numpy name."""
        return str(self.dtype.numpy().name)


def free_inputs(model: ir.Model) -> list[ir.Value]:
    """Return the inputs without a default value."""
    return [value for value in model.graph.inputs if not value.is_initializer()]


def image_input(model: ir.Model) -> ImageInput:
    """Return the image input of a model without other required inputs.

    Raises:
        ModelError: see `find_image`.
    """
    return find_image(model, ())


def find_image(model: ir.Model, fixed: Collection[str]) -> ImageInput:
    """Return the image input of a model.

    Args:
        model: as read from its file.
        fixed: names of the inputs with fixed values.

    Raises:
        ModelError: there is no image input, there are several candidates, another input has no value, or the number of
            channels is unknown.
    """
    fed = free_inputs(model)
    found = ", ".join(describe(value) for value in fed) or "no input at all"
    names = [name_of(value) for value in fed]
    if unknown := [name for name in fixed if name not in names]:
        raise ModelError(f"the model has no input {unknown[0]!r}", where=found, fix="give --input one of these names")
    images = [value for value in fed if name_of(value) not in fixed and _may_be_image(value)]
    if len(images) > 1:
        images = [value for value in images if not _is_weight(value)] or images
    if not images:
        raise ModelError(
            "the model has no image input: none is a float or integer tensor [N, C, H, W]",
            where=found,
            fix="give a model that classifies images",
        )
    if len(images) > 1:
        raise ModelError(
            "several inputs could be the image", where=found, fix="fix all others with --input NAME=VALUE (or a .npy)"
        )
    others = [name for name in names if name not in fixed and name != name_of(images[0])]
    if others:
        raise ModelError(
            f"the input {others[0]!r} (not the image {name_of(images[0])!r}) has no value",
            where=found,
            fix=f"give --input {others[0]}=VALUE (a number, true, false, or a .npy file)",
        )
    return _described(images[0], found)


def describe(value: ir.Value) -> str:
    """Return a value as shown in messages: name, shape and element type."""
    return f"{value.name} {shape_text(value.shape)} {type_name(value.dtype)}"


def shape_text(shape: ir.Shape | None) -> str:
    """Return a shape as shown in messages, such as ``[N, 3, 224, 224]``."""
    if shape is None:
        return "of unknown shape"
    return f"[{', '.join(str(size) if isinstance(size, int) else (size.value or '?') for size in shape)}]"


def type_name(dtype: ir.DataType | None) -> str:
    """Return the numpy name of an element type."""
    if dtype is None:
        return "of unknown type"
    try:
        return str(dtype.numpy().name)
    except TypeError:
        return str(dtype).lower()


def _may_be_image(value: ir.Value) -> bool:
    if value.dtype not in _FLOATS | _INTEGERS:
        return False
    return (value.shape is None and _evidence(value) is not None) or (value.shape is not None and len(value.shape) == 4)


def _is_weight(value: ir.Value) -> bool:
    """Return whether an input is used only as the weight or bias of layers."""
    uses = value.uses()
    return bool(uses) and all(use.idx > 0 and use.node.op_type in LAYERS for use in uses)


def _described(value: ir.Value, found: str) -> ImageInput:
    evidence = _evidence(value)
    sizes = dims(value) or (None, None, None, None)
    layout = evidence[0] if evidence is not None else _by_shape(sizes)
    batch, second, third, fourth = sizes
    channels, height, width = (second, third, fourth) if layout == "NCHW" else (fourth, second, third)
    read = evidence[1] if evidence is not None else None
    channels = read if channels is None else channels
    if read is not None and channels != read and value.shape is not None and second is not None:
        raise ModelError(
            f"the image input has {channels} channels, and the first layer reads {read}",
            where=found,
            fix="export it as NCHW, or with a transpose after an NHWC input",
        )
    if value.dtype in _INTEGERS and any(use.node.op_type in LAYERS and use.node.domain == "" for use in value.uses()):
        raise ModelError(
            f"the image input is {type_name(value.dtype)}, and a layer reads it without a cast",
            where=found,
            fix="put a Cast to float before the layer",
        )
    if channels is None:
        raise ModelError(
            "the number of channels of the image input is unknown",
            where=found,
            fix="export the model with a fixed number of channels",
        )
    assert value.dtype is not None
    return ImageInput(name_of(value), channels, height, width, batch, value.dtype, layout)


def _by_shape(sizes: tuple[int | None, ...]) -> Layout:
    """Return the layout by the shape: NCHW, unless only the last axis has a valid number of channels.

    ``[1, 6, 3, 3]`` is a square NCHW image with six channels, not an NHWC image of 6 x 3 pixels.
    """
    _, second, third, fourth = sizes
    if fourth not in _COLOURS or second in _COLOURS:
        return "NCHW"
    square_planes = third == fourth and second != third
    return "NCHW" if square_planes else "NHWC"


def _evidence(image: ir.Value) -> tuple[Layout, int | None] | None:
    """Return the layout, and the number of channels if known, that the first layout-dependent operators imply."""
    pending, has_channels = deque([image]), {image: True}
    while pending:
        value = pending.popleft()
        for use in value.uses():
            node = use.node
            if node.domain not in ("", "ai.onnx"):
                continue
            if (found := _implied(node, use.idx)) is not None:
                layout, channels = found
                return layout, channels if has_channels[value] else None
            if node.op_type in _KEEPING:
                pending.extend(result for result in node.outputs if result not in has_channels)
                kept = has_channels[value] and node.op_type not in _RESIZING
                has_channels.update((result, kept) for result in node.outputs)
    return None


def _implied(node: ir.Node, place: int) -> tuple[Layout, int | None] | None:
    """Return the layout and channels that an operator implies for an operand."""
    if node.op_type in ("Conv", "ConvTranspose", "ConvInteger") and place == 0:
        weight = dims(node.inputs[1])
        if weight is None or len(weight) != 4:
            return "NCHW", None
        if node.op_type == "ConvTranspose":
            return "NCHW", weight[0]
        return "NCHW", None if weight[1] is None else weight[1] * node.attributes.get_int("group", 1)
    if node.op_type == "BatchNormalization" and place == 0:
        scale = dims(node.inputs[1])
        return "NCHW", None if scale is None else scale[0]
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm")
        if order == TO_NCHW:
            return "NHWC", None
        return ("NCHW", None) if order == TO_NHWC else None
    if node.op_type in _CHANNELS_SECOND and place == 0:
        return "NCHW", None
    if node.op_type in ("Add", "Sub", "Mul", "Div") and len(node.inputs) == 2:
        return _of_constant(array(node.inputs[1 - place]))
    return None


def _of_constant(content: object) -> tuple[Layout, int | None] | None:
    """Return the layout that a per-channel constant operand implies by its shape."""
    shape = getattr(content, "shape", ())
    if not 1 <= len(shape) <= 4:
        return None
    batch, second, third, last = (1,) * (4 - len(shape)) + tuple(shape)
    if second > 1 and (batch, third, last) == (1, 1, 1):
        return "NCHW", second
    return ("NHWC", last) if last in (3, 4) and (batch, second, third) == (1, 1, 1) else None

"""Executes preprocessing pipelines, from an image file to the float32 ``[C, H, W]`` input of a model.

With pillow's antialiased resize the result is bit-identical to torchvision's ``Resize CenterCrop ToTensor Normalize``
on PIL images; the rounding rules below are those of torchvision, even if some of them are unusual.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from quantkit.config.arguments import AnyPath, as_path
from quantkit.config.pipeline import CenterCrop, Decode, EvenSides, Normalize, Pad, Pipeline, Resize, ToTensor, even
from quantkit.config.project import as_pipeline
from quantkit.data.images import BGR_ORDER, MAX_PIXELS, Readable, content, open_image, place_of, to_mode
from quantkit.data.item import ImageItem
from quantkit.data.resize import resize_bilinear, resize_nearest
from quantkit.errors import ConfigError, ImageError

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


def preprocess(
    image: AnyPath | ImageItem, pipeline: Pipeline | AnyPath, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Read an image and run the pipeline on it; an array is returned unchanged.

    Args:
        image: an image file, or an image of a source.
        pipeline: the operations, the name of a preset, or a YAML file with ``ops``.
        out: C-contiguous float32 array ``[C, H, W]`` for the result; allocated by default.

    Returns:
        ``out``, or a new float32 array ``[C, H, W]``.

    Raises:
        ImageError: the image cannot be decoded, or the result has another size than ``out``.
        ConfigError: the pipeline cannot be executed (see `check_pipeline`).

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> image = quantkit.find_images("images/test").items[0]
        >>> quantkit.preprocess(image, "digits").shape
        (1, 8, 8)
    """
    source = image if isinstance(image, Readable) else as_path(image, "image")
    pipeline = as_pipeline(pipeline)
    where, data = place_of(source), content(source)
    if not isinstance(data, bytes):
        return _ready(data, out, where)
    pixels = pixels_of(data, pipeline, where)
    if out is None:
        out = np.empty((pipeline.channels, *pixels.shape[:2]), np.float32)
    elif out.shape[1:] != pixels.shape[:2]:
        found, wanted = (f"{height} x {width}" for height, width in (pixels.shape[:2], out.shape[1:]))
        raise ImageError(
            f"the image is {found} (height x width) after preprocessing, and {wanted} is needed",
            where=where,
            fix="add a resize or center_crop to the pipeline",
        )
    normalize(pixels, pipeline, out)
    return out


def pixels_of(data: bytes, pipeline: Pipeline, where: object) -> NDArray[np.uint8]:
    """Decode an image and run the operations before ``to_tensor``; see `transform` for the result.

    Args:
        data: the encoded image.
        pipeline: the operations.
        where: name of the image in messages.

    Raises:
        ImageError: the image cannot be decoded.
        ConfigError: the pipeline is that of arrays.
    """
    if not pipeline.ops:
        raise ConfigError(
            "the image needs preprocessing, and the run was calibrated on arrays without preprocessing",
            where=where,
            fix="give --preset, or arrays",
        )
    decode = pipeline.ops[0]
    assert isinstance(decode, Decode)
    image = to_mode(open_image(data, where), decode, where)
    try:
        return transform(image, pipeline)
    except ImageError as error:
        raise ImageError(error.what, where=where, fix=error.fix) from error


def _ready(array: NDArray[np.float32], out: NDArray[np.float32] | None, where: object) -> NDArray[np.float32]:
    if out is None:
        return array
    if out.shape != array.shape:
        raise ImageError(
            f"the array has shape {list(array.shape)}, and {list(out.shape)} is needed",
            where=where,
            fix="preprocess it to the size of the model's input",
        )
    out[:] = array
    return out


def transform(image: Image.Image, pipeline: Pipeline) -> NDArray[np.uint8]:
    """Run the geometric operations of a pipeline.

    Args:
        image: a pillow image of mode ``RGB`` or ``L``, or of either with alpha.
        pipeline: the operations.

    Returns:
        uint8 ``[H, W]`` or ``[H, W, C]``, with channels in RGB order for any decode mode.

    Raises:
        ImageError: a very long image would become larger than `MAX_PIXELS` with its aspect kept.
    """
    for op in pipeline.ops:
        match op:
            case Resize():
                image = _resize(image, op)
            case CenterCrop():
                image = _center_crop(image, *op.size)
            case Pad():
                image = _pad_to_square(image, op.value)
            case EvenSides():
                sides = (even(image.height), even(image.width))
                image = _resize(image, Resize(size=sides, antialias=False))
            case _:
                pass
    return np.asarray(image)


def normalize(pixels: NDArray[np.uint8], pipeline: Pipeline, out: NDArray[np.float32]) -> None:
    """Write ``(pixels / divisor - mean) / std`` per channel, each step rounded to float32 as torchvision does.

    A channel has only 256 values, so the arithmetic is done once, in a table.

    Args:
        pixels: uint8 ``[H, W]`` or ``[H, W, C]`` in RGB order.
        pipeline: the operations.
        out: float32 ``[C, H, W]``.

    Raises:
        ConfigError: see `check_pipeline`.
    """
    tables = value_tables(pipeline)
    stacked = pixels[np.newaxis] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)
    planes = [stacked[place] for place in BGR_ORDER[: len(stacked)]] if _is_bgr(pipeline) else list(stacked)
    for table, plane, target in zip(tables, planes, out, strict=True):
        # Indices are uint8 and the table has 256 entries; "clip" only avoids a check and a copy in numpy.
        table.take(plane, out=target, mode="clip")


@lru_cache(maxsize=64)
def value_tables(pipeline: Pipeline) -> NDArray[np.float32]:
    """Return float32 ``[C, 256]``: the result of each 8-bit value of each channel.

    Raises:
        ConfigError: see `check_pipeline`.
    """
    values = np.tile(np.arange(256, dtype=np.float32), (pipeline.channels, 1))
    with np.errstate(all="ignore"):  # overflows of float32 are rejected below
        for op in pipeline.ops:
            match op:
                case ToTensor():
                    values /= np.array(op.divisor).astype(np.float32)
                case Normalize():
                    _check_channels(op, pipeline)
                    values -= np.array(op.mean).astype(np.float32)[:, np.newaxis]
                    values /= np.array(op.std).astype(np.float32)[:, np.newaxis]
                case _:
                    pass
    if not np.isfinite(values).all():
        raise ConfigError("its numbers are too large or too small for float32", where="normalize")
    values.flags.writeable = False
    return values


def check_pipeline(
    pipeline: Pipeline,
    channels: int | None,
    height: int | None,
    width: int | None,
    *,
    whole: tuple[int, int] | None = None,
) -> None:
    """Check that a pipeline can be executed and fits a model.

    Args:
        pipeline: the operations.
        channels: channels of the model's input, None for any.
        height: height of the model's input in pixels, None for any.
        width: width of the model's input in pixels, None for any.
        whole: smallest and largest value of a model's integer input, None for a float input.

    Raises:
        ConfigError: an operation that cannot be executed, a result with other channels or size than the model's input,
            or values outside the range of an integer input. Pipelines with a variable size are checked image by image
            instead.
    """
    if not pipeline.ops:
        return
    for op in pipeline.ops:
        match op:
            case Normalize():
                _check_channels(op, pipeline)
            case Resize(antialias=False) if op.interpolation not in ("bilinear", "nearest"):
                raise ConfigError(
                    f"{op.interpolation} without antialias is not available",
                    where="resize",
                    fix="use bilinear or nearest, or antialias: true",
                )
            case _:
                pass
    values = value_tables(pipeline)
    if channels is not None and channels != pipeline.channels:
        modes = {1: "L", 2: "LA", 3: "RGB or BGR", 4: "RGBA or BGRA"}
        raise ConfigError(
            f"the model needs {channels} channels, and the pipeline gives {pipeline.channels}",
            where="--preset",
            fix=f"set the mode of decode to {modes[channels]}"
            if channels in modes
            else "image files have 1 to 4 channels; give a model with as many",
        )
    if whole is not None and not (np.array_equal(values, np.rint(values)) and _within(values, *whole)):
        fractions = "" if np.array_equal(values, np.rint(values)) else "fractions "
        raise ConfigError(
            f"the model needs integers from {whole[0]} to {whole[1]}, and the pipeline gives {fractions}"
            f"from {values.min():.4g} to {values.max():.4g}",
            where="--preset",
            fix="set the divisor of to_tensor to 1 and leave out normalize",
        )
    if pipeline.output_size is None:
        return
    for name, wanted, given in zip(("height", "width"), (height, width), pipeline.output_size, strict=True):
        if wanted is not None and wanted != given:
            raise ConfigError(
                f"the model needs {name} {wanted}, and the pipeline gives {given}",
                where="--preset",
                fix=f"set its last resize or center_crop to {wanted}",
            )


def _within(values: NDArray[np.float32], least: int, greatest: int) -> bool:
    return bool(values.min() >= least and values.max() <= greatest)


def _check_channels(op: Normalize, pipeline: Pipeline) -> None:
    if len(op.mean) != pipeline.channels:
        raise ConfigError(
            f"mean and std have {len(op.mean)} values for {pipeline.channels} channels",
            where="normalize",
            fix="give one value per channel",
        )


def _is_bgr(pipeline: Pipeline) -> bool:
    decode = pipeline.ops[0]
    return isinstance(decode, Decode) and decode.is_bgr


def _resize(image: Image.Image, op: Resize) -> Image.Image:
    height, width = _target_size(image, op)
    if (width, height) == image.size:
        return image
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"an image of {image.width} x {image.height} would be resized to {width} x {height}",
            fix="remove it, or resize to [height, width]",
        )
    if op.antialias:
        return image.resize((width, height), _FILTERS[op.interpolation])
    sample = resize_bilinear if op.interpolation == "bilinear" else resize_nearest
    return Image.fromarray(sample(np.asarray(image), height, width))


def _target_size(image: Image.Image, op: Resize) -> tuple[int, int]:
    """Return ``(height, width)``; the longer side is truncated, not rounded, as in torchvision."""
    if not isinstance(op.size, int):
        return op.size
    width, height = image.size
    if width <= height:
        return int(op.size * height / width), op.size
    return op.size, int(op.size * width / height)


def _center_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Crop; the offset is rounded half to even, and the odd pixel of padding is right and below, as in torchvision."""
    if width > image.width or height > image.height:
        missing_x, missing_y = max(width - image.width, 0), max(height - image.height, 0)
        border = (missing_x // 2, missing_y // 2, (missing_x + 1) // 2, (missing_y + 1) // 2)
        image = ImageOps.expand(image, border, fill=0)
    if (width, height) == image.size:
        return image
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def _pad_to_square(image: Image.Image, value: int) -> Image.Image:
    side = max(image.size)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    border = (left, top, side - image.width - left, side - image.height - top)
    opaque = tuple(255 if band == "A" else value for band in image.getbands())
    return ImageOps.expand(image, border, fill=value if image.mode == "L" else opaque)

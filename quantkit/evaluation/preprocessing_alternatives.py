"""Which other preprocessing a model may have been trained with: well-known choices, one dimension changed at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from quantkit.config.pipeline import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CenterCrop,
    Decode,
    EvenSides,
    Interpolation,
    Mode,
    Normalize,
    Pad,
    Pipeline,
    PipelineOp,
    Resize,
    ToTensor,
)
from quantkit.data.preprocess import value_tables

# Two scalings are the same where no value differs by more than this share of the range of values: (x - 127) / 128 and
# (x / 255 - 0.5) / 0.5, for example.
_SAME = 0.02
# Images of up to this side are mostly not cropped, and may be those of CIFAR.
SMALL_SIDE = 64
# Shorter sides relative to the crop, as timm writes them: 256 and 235 for 224.
_CROP_SHARES = (0.875, 0.95, 1.0)


class Dimension(StrEnum):
    """What an alternative changes."""

    SCALING = "scaling"
    ORDER = "channel order"
    GEOMETRY = "resize and crop"
    INTERPOLATION = "interpolation"


@dataclass(frozen=True)
class Alternative:
    """A preprocessing that differs from another one in one dimension.

    Attributes:
        dimension: what it changes.
        words: what it changes that to.
        pipeline: the whole preprocessing.
        near: it differs little from a commoner one, which is named in its place where the two cannot be told apart.
    """

    dimension: Dimension
    words: str
    pipeline: Pipeline
    near: bool = False


@dataclass(frozen=True)
class Scaling:
    """What 8-bit values become before a model reads them.

    Attributes:
        words: for users.
        divisor: of ``to_tensor``.
        mean: of ``normalize`` in the order red, green, blue, or one for all channels; None for no ``normalize``.
        std: likewise.
        small: used for small images only.
    """

    words: str
    divisor: float
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] = ()
    small: bool = False

    def normalize(self, decode: Decode) -> Normalize | None:
        """Return the operation for the channels that are decoded; None where there is none."""
        if self.mean is None:
            return None
        repeat = decode.channels // len(self.mean)
        mean, std = self.mean * repeat, self.std * repeat
        # The numbers belong to colours, not to positions.
        return Normalize(mean=mean[::-1], std=std[::-1]) if decode.is_bgr else Normalize(mean=mean, std=std)


# Values that differ much cost much, and a few dozen images show it.
SCALINGS = (
    Scaling("pixels from 0 to 255", 1.0),
    Scaling("pixels from 0 to 1", 255.0),
    Scaling("pixels from -1 to 1", 255.0, (0.5,), (0.5,)),
    Scaling("ImageNet's mean and std", 255.0, IMAGENET_MEAN, IMAGENET_STD),
    Scaling("ImageNet's mean subtracted from 0 to 255", 1.0, (123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),
)
# These are near one of the others, and are tried on request only.
NEAR_SCALINGS = (
    Scaling("CLIP's mean and std", 255.0, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    Scaling("CIFAR's mean and std", 255.0, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), small=True),
    Scaling("MNIST's mean and std", 255.0, (0.1307,), (0.3081,), small=True),
)

_OTHER_ORDER: dict[Mode, Mode] = {"RGB": "BGR", "BGR": "RGB", "RGBA": "BGRA", "BGRA": "RGBA"}
_FILTERS: tuple[tuple[str, Interpolation, bool], ...] = (
    ("bilinear", "bilinear", True),
    ("bicubic", "bicubic", True),
    ("bilinear without antialias (OpenCV)", "bilinear", False),
    ("nearest without antialias", "nearest", False),
)


def value_alternatives(pipeline: Pipeline, *, near: bool = False) -> Iterator[Alternative]:
    """Yield other channel orders and scalings behind the same decoding and geometry.

    Args:
        pipeline: the preprocessing; it has operations.
        near: yield scalings that differ little from others, too.
    """
    if pipeline.decode.mode in _OTHER_ORDER:
        swapped = _swapped(pipeline)
        yield Alternative(Dimension.ORDER, f"colours in the order {swapped.decode.mode}", swapped)
    given = value_tables(pipeline)
    tolerance = _SAME * float(given.max() - given.min())
    for scaling in (*SCALINGS, *(NEAR_SCALINGS if near else ())):
        if not _applies(scaling, pipeline):
            continue
        other = _scaled(pipeline, scaling)
        if np.abs(value_tables(other) - given).max() > tolerance:
            yield Alternative(Dimension.SCALING, scaling.words, other, scaling in NEAR_SCALINGS)
    known = _known_normalization(pipeline) if near else None
    if known is not None and known.normalize(pipeline.decode) == pipeline.ops[-1] != _reversed(pipeline).ops[-1]:
        # Trained on OpenCV's BGR images with the numbers of red, green and blue as they are listed: a common mistake.
        yield Alternative(Dimension.SCALING, f"{known.words} in the reverse order", _reversed(pipeline))


def geometry_alternatives(pipeline: Pipeline) -> Iterator[Alternative]:
    """Yield other ways to the same size: shorter sides with a centre crop, and squashing.

    None where the pipeline does not resize, or each image keeps a size of its own.
    """
    resizes = [op for op in pipeline.ops if isinstance(op, Resize)]
    if not resizes or pipeline.output_size is None:
        return
    height, width = pipeline.output_size
    seen = {_geometry(pipeline)}
    for words, ops in _geometries(height, width, resizes[0]):
        other = _with_geometry(pipeline, ops)
        if _geometry(other) not in seen:
            seen.add(_geometry(other))
            yield Alternative(Dimension.GEOMETRY, words, other)


def interpolation_alternatives(pipeline: Pipeline) -> Iterator[Alternative]:
    """Yield the same preprocessing with other filters for every resize; none where it does not resize."""
    for words, filter_, antialias in _FILTERS:
        update = {"interpolation": filter_, "antialias": antialias}
        ops = tuple(op.model_copy(update=update) if isinstance(op, Resize) else op for op in pipeline.ops)
        other = Pipeline(ops=ops)
        if other != pipeline:
            yield Alternative(Dimension.INTERPOLATION, words, other)


def starting_pipeline(channels: int, height: int, width: int, *, whole: bool = False) -> Pipeline:
    """Return the preprocessing to begin with where none is known: the commonest for images of this size.

    Args:
        channels: of the model's input, 1 to 4.
        height: of its input, in pixels.
        width: of its input, in pixels.
        whole: the input takes whole pixel values, or the model scales them itself.
    """
    modes: tuple[Mode, ...] = ("L", "LA", "RGB", "RGBA")
    decode = Decode(mode=modes[channels - 1])
    if height == width > SMALL_SIDE:
        geometry: tuple[PipelineOp, ...] = (
            Resize(size=math.floor(height / _CROP_SHARES[0])),
            CenterCrop(size=(height, width)),
        )
    else:
        geometry = (Resize(size=(height, width)),)
    if whole:
        return Pipeline(ops=(decode, *geometry, ToTensor(divisor=1.0)))
    scaling = SCALINGS[3] if channels == 3 else SCALINGS[2]
    normalize = scaling.normalize(decode)
    assert normalize is not None
    return Pipeline(ops=(decode, *geometry, ToTensor(), normalize))


def _applies(scaling: Scaling, pipeline: Pipeline) -> bool:
    if scaling.small and (pipeline.output_size is None or max(pipeline.output_size) > SMALL_SIDE):
        return False
    if scaling.mean is None:
        return True
    grey = pipeline.channels == 1
    return pipeline.channels % len(scaling.mean) == 0 and (not scaling.small or grey == (len(scaling.mean) == 1))


def _scaled(pipeline: Pipeline, scaling: Scaling) -> Pipeline:
    normalize = scaling.normalize(pipeline.decode)
    before = [op for op in pipeline.ops if not isinstance(op, ToTensor | Normalize)]
    return Pipeline(ops=(*before, ToTensor(divisor=scaling.divisor), *(() if normalize is None else (normalize,))))


def _reversed(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline with mean and std in the other order, and the channels as they are."""
    ops = (Normalize(mean=op.mean[::-1], std=op.std[::-1]) if isinstance(op, Normalize) else op for op in pipeline.ops)
    return Pipeline(ops=tuple(ops))


def _swapped(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline with red and blue swapped; a known mean and std stay with their colours."""
    decode = pipeline.decode.model_copy(update={"mode": _OTHER_ORDER[pipeline.decode.mode]})
    known = _known_normalization(pipeline)
    ops = [known.normalize(decode) if known and isinstance(op, Normalize) else op for op in pipeline.ops[1:]]
    return Pipeline(ops=(decode, *(op for op in ops if op is not None)))


def _known_normalization(pipeline: Pipeline) -> Scaling | None:
    """Return the well-known mean and std of a pipeline, in whichever order it lists them."""
    for op in pipeline.ops:
        if not isinstance(op, Normalize):
            continue
        for scaling in (*SCALINGS, *NEAR_SCALINGS):
            if scaling.mean is None or len(scaling.mean) != len(op.mean):
                continue
            known = (*scaling.mean, *scaling.std)
            if any(
                np.allclose((*mean, *std), known, rtol=_SAME)
                for mean, std in ((op.mean, op.std), (op.mean[::-1], op.std[::-1]))
            ):
                return scaling
    return None


def _geometries(height: int, width: int, first: Resize) -> Iterator[tuple[str, tuple[PipelineOp, ...]]]:
    crop = CenterCrop(size=(height, width))
    if height == width:
        for share in _CROP_SHARES:
            side = math.floor(height / share)
            yield f"shorter side {side}, centre crop {height}", (first.model_copy(update={"size": side}), crop)
    yield f"squashed to {height} x {width}", (first.model_copy(update={"size": (height, width)}),)
    taller, wider = (math.floor(side / _CROP_SHARES[0]) for side in (height, width))
    yield (
        f"squashed to {taller} x {wider}, centre crop {height} x {width}",
        (first.model_copy(update={"size": (taller, wider)}), crop),
    )


def _with_geometry(pipeline: Pipeline, geometry: tuple[PipelineOp, ...]) -> Pipeline:
    rest = (op for op in pipeline.ops[1:] if not isinstance(op, Resize | CenterCrop | Pad | EvenSides))
    return Pipeline(ops=(pipeline.decode, *geometry, *rest))


def _geometry(pipeline: Pipeline) -> tuple[PipelineOp, ...]:
    """Return the operations that move pixels; a crop to the size that a squash has already made does nothing."""
    ops = [op for op in pipeline.ops if isinstance(op, Resize | CenterCrop | Pad | EvenSides)]
    if len(ops) == 2 and isinstance(ops[0], Resize) and isinstance(ops[1], CenterCrop) and ops[0].size == ops[1].size:
        ops = ops[:1]
    return tuple(ops)


def geometry_key(pipeline: Pipeline) -> tuple[PipelineOp, ...]:
    """Return what the 8-bit pixels of an image depend on: two pipelines with the same key share them."""
    decode = pipeline.decode
    same_pixels: Mode = "RGB" if decode.mode == "BGR" else "RGBA" if decode.mode == "BGRA" else decode.mode
    return (decode.model_copy(update={"mode": same_pixels}), *_geometry(pipeline))

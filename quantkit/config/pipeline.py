"""Preprocessing as data: an ordered list of operations for calibration, evaluation and the vendor's files.

`quantkit.data.preprocess` executes a pipeline.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, field_validator, model_validator

from quantkit.errors import ConfigError

ORDER = "ops must be: decode; then resize, center_crop, pad or even_sides; then to_tensor; then at most one normalize"

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Mode = Literal["RGB", "BGR", "L", "RGBA", "BGRA", "LA"]


class _Op(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Decode(_Op):
    """Decode a file to 8-bit pixels.

    Attributes:
        mode: channels of the result: three colours, grey (``L``), or either followed by alpha (``RGBA``, ``BGRA``,
            ``LA``); a file without alpha is opaque, 255.
        exif: apply the EXIF orientation. Torchvision does not apply it; OpenCV, and so the vendor's ``image2npz`` step,
            does.

    Example:
        >>> import quantkit
        >>> quantkit.Decode(mode="BGR").channels
        3
    """

    op: Literal["decode"] = "decode"
    mode: Mode = "RGB"
    exif: bool = False

    @property
    def channels(self) -> int:
        """Number of channels of the result."""
        return len(self.mode)

    @property
    def pillow_mode(self) -> str:
        """The mode that pillow decodes to, with colours in RGB order."""
        return self.mode.replace("BGR", "RGB")

    @property
    def is_bgr(self) -> bool:
        """Whether the colours are in BGR order."""
        return self.mode.startswith("BGR")


class Resize(_Op):
    """Resize; a single number sets the shorter side and keeps the aspect, ``[height, width]`` does not keep it.

    Attributes:
        size: shorter side in pixels, or ``(height, width)``.
        interpolation: the filter, by its name in pillow and torchvision.
        antialias: widen the filter when shrinking, as pillow does; without antialias the filter keeps its width, as in
            OpenCV and on the card (bilinear and nearest only).

    Example:
        >>> import quantkit
        >>> quantkit.Resize(size=256, interpolation="bicubic").antialias
        True
    """

    op: Literal["resize"] = "resize"
    size: PositiveInt | tuple[PositiveInt, PositiveInt]
    interpolation: Interpolation = "bilinear"
    antialias: bool = True


class CenterCrop(_Op):
    """Crop ``(height, width)`` from the center; a smaller image is first padded with zeros, as in torchvision.

    Example:
        >>> import quantkit
        >>> quantkit.CenterCrop(size=224).size
        (224, 224)
    """

    op: Literal["center_crop"] = "center_crop"
    size: tuple[PositiveInt, PositiveInt]

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: object) -> object:
        return (value, value) if isinstance(value, int) else value


class Pad(_Op):
    """Pad to a square with a constant, with the image in the center (the vendor's ``pad_to_square``).

    Example:
        >>> import quantkit
        >>> quantkit.Pad(value=114).value
        114
    """

    op: Literal["pad"] = "pad"
    value: Annotated[int, Field(ge=0, le=255)] = 0


class EvenSides(_Op):
    """Shrink an odd height or width by one pixel, bilinear without antialias, as in the vendor's vsx script.

    Example:
        >>> import quantkit
        >>> quantkit.EvenSides().op
        'even_sides'
    """

    op: Literal["even_sides"] = "even_sides"


class ToTensor(_Op):
    """Convert ``[H, W, C]`` uint8 to ``[C, H, W]`` float32.

    Attributes:
        divisor: divisor of each value: 255 as in torchvision, 1 to keep 0..255.

    Example:
        >>> import quantkit
        >>> quantkit.ToTensor(divisor=1.0).divisor
        1.0
    """

    op: Literal["to_tensor"] = "to_tensor"
    divisor: Annotated[FiniteFloat, Field(gt=0)] = 255.0


class Normalize(_Op):
    """``(x - mean[c]) / std[c]`` for each channel, in float32; a single number applies to every channel.

    Example:
        >>> import quantkit
        >>> quantkit.Normalize(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).std
        (0.25, 0.25, 0.25)
    """

    op: Literal["normalize"] = "normalize"
    mean: tuple[FiniteFloat, ...]
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, values: Any) -> Any:
        """Accept a single number for all channels."""
        if not isinstance(values, dict):
            return values
        lengths = [len(one) for name in ("mean", "std") if isinstance(one := values.get(name), list | tuple)]
        channels = max(lengths, default=1)
        return {
            name: (value,) * channels if name in ("mean", "std") and _is_number(value) else value
            for name, value in values.items()
        }

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}; give one of each per channel")
        return self


PipelineOp = Annotated[Decode | Resize | CenterCrop | Pad | EvenSides | ToTensor | Normalize, Field(discriminator="op")]


class Pipeline(BaseModel):
    """Preprocessing from a file to the ``[C, H, W]`` float32 input of a model.

    The order is decode, then any number of resize, crop, pad and even_sides, then to_tensor, then at most one
    normalize. A pipeline without operations (`READY_ARRAYS`) is for arrays that need no preprocessing.

    Attributes:
        ops: the operations in order.

    Example:
        >>> import quantkit
        >>> ops = (quantkit.Decode(), quantkit.Resize(size=(224, 224)), quantkit.ToTensor())
        >>> quantkit.Pipeline(ops=ops).output_size
        (224, 224)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ops: tuple[PipelineOp, ...]

    @field_validator("ops", mode="after")
    @classmethod
    def _every_channel(cls, ops: tuple[PipelineOp, ...]) -> tuple[PipelineOp, ...]:
        """Repeat a single mean and std for every channel."""
        if not (ops and isinstance(ops[0], Decode)):
            return ops
        channels = ops[0].channels
        return tuple(
            Normalize(mean=op.mean * channels, std=op.std * channels)
            if isinstance(op, Normalize) and len(op.mean) == 1 < channels
            else op
            for op in ops
        )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        rank = {"decode": 0, "resize": 1, "center_crop": 1, "pad": 1, "even_sides": 1, "to_tensor": 2, "normalize": 3}
        ranks = [rank[op.op] for op in self.ops]
        if not ranks:
            return self
        if ranks != sorted(ranks) or ranks.count(0) != 1 or ranks.count(2) != 1 or ranks.count(3) > 1:
            raise ValueError(ORDER)
        return self

    @property
    def decode(self) -> Decode:
        """The first operation.

        Raises:
            ConfigError: there are no operations.
        """
        if not self.ops:
            raise ConfigError(
                "the images were arrays, and their preprocessing is unknown", fix="calibrate with --preset"
            )
        decode = self.ops[0]
        assert isinstance(decode, Decode)
        return decode

    def describe(self) -> str:
        """Return the operations in one line, with the values that differ from their defaults."""
        return ", ".join(_describe(op) for op in self.ops)

    def with_exif(self, exif: bool) -> "Pipeline":
        """Return the pipeline with the EXIF orientation applied, or ignored."""
        return Pipeline(ops=(self.decode.model_copy(update={"exif": exif}), *self.ops[1:]))

    @property
    def channels(self) -> int:
        """Number of channels of the result."""
        return self.decode.channels

    @property
    def output_size(self) -> tuple[int, int] | None:
        """``(height, width)`` of the result if it is fixed, None if it depends on the image."""
        size: tuple[int, int] | None = None
        for op in self.ops:
            match op:
                case Resize(size=(height, width)):
                    size = (height, width)
                case Resize(size=int(side)):
                    # If the aspect is kept, both sides are known only for squares.
                    size = (side, side) if size is not None and size[0] == size[1] else None
                case CenterCrop(size=crop):
                    size = crop
                case Pad() if size is not None:
                    size = (max(size), max(size))
                case EvenSides() if size is not None:
                    size = (even(size[0]), even(size[1]))
                case _:
                    pass
        return size


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _describe(op: PipelineOp) -> str:
    values = op.model_dump(exclude_defaults=True)
    shown = [f"{name} {_side(value)}" for name, value in values.items()]
    return " ".join((op.op, *([_side(values["size"])] if list(values) == ["size"] else shown)))


def _side(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def even(side: int) -> int:
    """Return the side in pixels after `EvenSides`; a side of one pixel is kept."""
    return max(side // 2 * 2, 1)


# For images that are float32 arrays and need no preprocessing.
READY_ARRAYS = Pipeline(ops=())

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def imagenet_pipeline(resize: int = 256, crop: int = 224, interpolation: Interpolation = "bilinear") -> Pipeline:
    """Torchvision's evaluation transform: ``Resize(resize) CenterCrop(crop) ToTensor Normalize``.

    Example:
        >>> import quantkit
        >>> quantkit.imagenet_pipeline(resize=232).output_size
        (224, 224)
    """
    return Pipeline(
        ops=(
            Decode(),
            Resize(size=resize, interpolation=interpolation),
            CenterCrop(size=(crop, crop)),
            ToTensor(),
            Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        )
    )


PRESETS: dict[str, Pipeline] = {
    "imagenet": imagenet_pipeline(),
    # The preprocessing of the VACC card for most of the vendor's ImageNet classifiers: a resize to 256 x 256 without
    # keeping the aspect, sampled as in OpenCV.
    "vacc": Pipeline(
        ops=(
            Decode(),
            Resize(size=(256, 256), antialias=False),
            CenterCrop(size=(224, 224)),
            ToTensor(),
            Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        )
    ),
    "cifar10": Pipeline(
        ops=(Decode(), Resize(size=(32, 32)), ToTensor(), Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD))
    ),
    "digits": Pipeline(ops=(Decode(mode="L"), Resize(size=(8, 8)), ToTensor(), Normalize(mean=(0.5,), std=(0.5,)))),
}

"""The card's fused preprocessing, ``vdsp_params.json``: reading, and conversion to and from a `Pipeline`.

The fused operation takes a decoded image, resizes it, changes the colour order, crops and normalizes. Mean and std are
stored in IEEE half precision. The vendor's spelling of the keys is kept (``IimageWidth``). Inferred, since it is not
documented: ``BILINEAR_CV`` samples as OpenCV does (no antialias), ``BILINEAR_PILLOW`` as pillow.
"""

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from quantkit.config.pipeline import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CenterCrop,
    Decode,
    EvenSides,
    Normalize,
    Pad,
    Pipeline,
    PipelineOp,
    Resize,
    ToTensor,
)
from quantkit.errors import VendorFileError
from quantkit.files import reason
from quantkit.vendors.vacc.ops import folded_scaling, scaling_of

CROP_OP = "FUSION_OP_RGB_RESIZE_CVTCOLOR_CROP_NORM_TENSOR"
RESIZE_OP = "FUSION_OP_RGB_RESIZE_CVTCOLOR_NORM_TENSOR"

_INDENT = 4
# Known statistics before rounding to half precision: ImageNet's, for pixels 0..1 and 0..255.
_KNOWN_STATISTICS = (
    *(IMAGENET_MEAN, IMAGENET_STD),
    tuple(round(value * 255, 4) for value in IMAGENET_MEAN),
    tuple(round(value * 255, 4) for value in IMAGENET_STD),
)


class OpConfig(BaseModel):
    """``OpConfig``: sizes in pixels; other keys are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    image_format: str = Field("RGB_PLANAR", alias="IimageFormat")
    image_width: int | None = Field(None, alias="IimageWidth")
    image_height: int | None = Field(None, alias="IimageHeight")
    output_width: int | None = Field(None, alias="OimageWidth", gt=0)
    output_height: int | None = Field(None, alias="OimageHeight", gt=0)
    crop_x: int = Field(0, alias="CropX", ge=0)
    crop_y: int = Field(0, alias="CropY", ge=0)
    resize_width: int | None = Field(None, alias="ResizeWidth", gt=0)
    resize_height: int | None = Field(None, alias="ResizeHeight", gt=0)
    mean: tuple[FiniteFloat, ...] = Field((), alias="Mean")
    std: tuple[FiniteFloat, ...] = Field((), alias="Std")
    norm_type: str = Field("EQUAL", alias="NormaType")
    color_code: str = Field("NO_CHANGE", alias="ColorCvtCode")
    resize_type: str = Field("BILINEAR_CV", alias="ResizeType")


@dataclass(frozen=True)
class VdspParams:
    """The content of a ``vdsp_params.json``.

    Attributes:
        op_type: the fused operation.
        config: its configuration, typed.
        data: the content of the file, in its order.
    """

    op_type: str
    config: OpConfig
    data: dict[str, Any]

    @classmethod
    def from_data(cls, data: Any) -> "VdspParams":
        """Read the values of a file.

        Raises:
            VendorFileError: required keys are missing.
        """
        if not isinstance(data, dict) or not isinstance(data.get("OpType"), str):
            raise VendorFileError("not a vdsp_params file: it has no OpType")
        try:
            config = OpConfig.model_validate(data.get("OpConfig"))
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            key = ".".join(map(str, ("OpConfig", *fault["loc"])))
            raise VendorFileError(f"not a vdsp_params file: {key}: {fault['msg']}") from error
        return cls(data["OpType"], config, data)

    def text(self) -> str:
        """Return the text of the file, in the format of the vendor's files."""
        return json.dumps(self.data, indent=_INDENT, ensure_ascii=False)


@dataclass(frozen=True)
class VdspReading:
    """The pipeline of a ``vdsp_params.json``.

    Attributes:
        pipeline: the equivalent pipeline, with mean and std of the card; None if there is none.
        nominal: the presumed original pipeline, with mean and std before rounding.
        notes: what was inferred, or why there is no pipeline.
    """

    pipeline: Pipeline | None
    nominal: Pipeline | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class VdspWriting:
    """A pipeline as ``vdsp_params.json``.

    Attributes:
        params: the file.
        notes: differences of the card from the pipeline.
    """

    params: VdspParams
    notes: tuple[str, ...]


def load_vdsp(path: Path) -> VdspParams:
    """Read a ``vdsp_params.json``.

    Raises:
        VendorFileError: the file cannot be read, is not JSON, or lacks required keys.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        fix = f"write it with quantkit vamc write --run RUN --vdsp {shlex.quote(str(path))}"
        raise VendorFileError("there is no such file", where=path, fix=fix) from error
    except OSError as error:
        raise VendorFileError(f"cannot read the file ({reason(error)})", where=path) from error
    except (ValueError, RecursionError) as error:
        raise VendorFileError(f"not JSON ({' '.join(str(error).split())})", where=path) from error
    try:
        return VdspParams.from_data(data)
    except VendorFileError as error:
        raise VendorFileError(error.what, where=path) from error


def recognise(params: VdspParams) -> VdspReading:
    """Return the pipeline of the card's fused operation."""
    config, notes = params.config, list[str]()
    mode = _mode(config, notes)
    geometry = _geometry(params, notes)
    normalization = _normalization(config, notes)
    if mode is None or geometry is None or normalization is None:
        return VdspReading(None, None, tuple(notes))
    divisor, normalize = normalization
    start = (Decode.model_validate({"mode": mode}), *geometry, ToTensor(divisor=divisor))
    if normalize is None:
        pipeline = Pipeline(ops=start)
        return VdspReading(pipeline, pipeline, tuple(notes))
    nominal = Normalize(mean=before_rounding(normalize.mean), std=before_rounding(normalize.std))
    return VdspReading(Pipeline(ops=(*start, normalize)), Pipeline(ops=(*start, nominal)), tuple(notes))


def describe(reading: VdspReading) -> str:
    """Return a description of a reading."""
    if reading.nominal is None:
        return "no equivalent pipeline"
    return ", ".join(filter(None, (_in_words(op) for op in reading.nominal.ops)))


def _in_words(op: PipelineOp) -> str:
    match op:
        case Decode(mode=mode):
            return mode
        case Resize(size=size, antialias=antialias):
            sides = f"{size[0]} x {size[1]}" if isinstance(size, tuple) else f"shorter side {size}"
            return f"resize {sides} ({'pillow' if antialias else 'OpenCV'} bilinear)"
        case CenterCrop(size=size):
            return f"crop {size[0]} x {size[1]}"
        case ToTensor(divisor=divisor):
            return "" if divisor == 1.0 else f"/ {divisor:g}"
        case Normalize(mean=mean, std=std):
            known = {IMAGENET_MEAN: " (ImageNet)", _KNOWN_STATISTICS[2]: " (ImageNet x 255)"}.get(mean, "")
            return f"mean {list(mean)}, std {list(std)}{known}"
        case _:
            return op.op


def vdsp_from_pipeline(pipeline: Pipeline) -> VdspWriting:
    """Return the card's fused operation for a pipeline.

    Raises:
        VendorFileError: the fused operation cannot run the pipeline.
    """
    geometry = [op for op in pipeline.ops if isinstance(op, Resize | CenterCrop | Pad)]
    match geometry:
        case [Resize() as resize]:
            crop = None
        case [Resize() as resize, CenterCrop(size=crop)]:
            pass
        case _:
            raise VendorFileError(
                "the card's fused preprocessing is one resize, then at most one crop",
                where=" ".join(op.op for op in geometry) or "pipeline",
                fix="change the pipeline, or use preprocessed tensors",
            )
    notes: list[str] = []
    if any(isinstance(op, EvenSides) for op in pipeline.ops):
        notes.append("even_sides cannot be expressed: only the vendor's runtime script does it")
    height, width = _resize_size(resize, notes)
    out_height, out_width = crop if crop is not None else (height, width)
    top, left = _floor_offset((height, width), (out_height, out_width))
    if out_height > height or out_width > width:
        raise VendorFileError(f"the crop {list(crop or ())} is larger than the resize [{height}, {width}]")
    if (top, left) != _torchvision_offset((height, width), (out_height, out_width)):
        notes.append(f"the crop starts at row {top}, column {left}, and torchvision rounds half to even")
    config = {
        "IimageFormat": "RGB_PLANAR",
        "IimageWidth": width,
        "IimageHeight": height,
        "OimageWidth": out_width,
        "OimageHeight": out_height,
        "CropX": left,
        "CropY": top,
        "ResizeWidth": width,
        "ResizeHeight": height,
        "IimageWidthPitch": width,
        "IimageHeightPitch": height,
        **_normalization_keys(pipeline),
        "ColorCvtCode": _color_code(pipeline),
        "ResizeType": "BILINEAR_PILLOW" if resize.antialias else "BILINEAR_CV",
    }
    op_type = RESIZE_OP if crop is None else CROP_OP
    return VdspWriting(VdspParams.from_data({"OpType": op_type, "OpConfig": config}), tuple(notes))


def in_half(values: Sequence[float]) -> list[float]:
    """Return the nearest IEEE half-precision numbers, as on the card; infinite if too large."""
    with np.errstate(over="ignore"):
        return [float(value) for value in np.asarray(values, np.float16)]


def before_rounding(values: tuple[float, ...]) -> tuple[float, ...]:
    """Return the numbers before rounding to half precision: known statistics, else the shortest decimals."""
    halves = in_half(values)
    if halves != list(values):
        return values
    for known in _KNOWN_STATISTICS:
        if in_half(known) == halves:
            return known
    return tuple(float(str(np.float16(value))) for value in values)


def _mode(config: OpConfig, notes: list[str]) -> str | None:
    """Return the order of the channels that the model sees, given RGB pictures as ``vamp inputs`` writes them."""
    if config.image_format not in ("RGB_PLANAR", "BGR888", "RGB888"):
        notes.append(f"IimageFormat {config.image_format} has no equivalent in a pipeline")
        return None
    given = "BGR" if config.image_format == "BGR888" else "RGB"
    if config.color_code == "NO_CHANGE":
        return given
    if config.color_code in ("BGR2RGB", "RGB2BGR"):
        return "RGB" if given == "BGR" else "BGR"
    notes.append(f"ColorCvtCode {config.color_code} has no equivalent in a pipeline")
    return None


def _geometry(params: VdspParams, notes: list[str]) -> list[PipelineOp] | None:
    config, op_type = params.config, params.op_type.removesuffix("_EXT")
    if op_type not in (CROP_OP, RESIZE_OP):
        notes.append(f"{params.op_type} has no equivalent in a pipeline")
        return None
    if config.resize_type == "BILINEAR":
        notes.append("ResizeType BILINEAR is interpreted as BILINEAR_CV")
    elif config.resize_type not in ("BILINEAR_CV", "BILINEAR_PILLOW"):
        notes.append(f"ResizeType {config.resize_type} has no equivalent in a pipeline")
        return None
    if config.output_height is None or config.output_width is None:
        notes.append("the file has no sizes: the program that runs the model sets them")
        return []
    output = (config.output_height, config.output_width)
    size = (config.resize_height or output[0], config.resize_width or output[1]) if op_type == CROP_OP else output
    resize = Resize(size=size, antialias=config.resize_type == "BILINEAR_PILLOW")
    if size == output:
        return [resize]
    offset = (config.crop_y, config.crop_x)
    if offset not in (_floor_offset(size, output), _torchvision_offset(size, output)):
        notes.append(f"the crop at row {offset[0]}, column {offset[1]} is not centered")
        return None
    if offset != _torchvision_offset(size, output):
        notes.append("the crop starts one pixel earlier than torchvision's, which rounds half to even")
    return [resize, CenterCrop(size=output)]


def _normalization(config: OpConfig, notes: list[str]) -> tuple[float, Normalize | None] | None:
    """Return the divisor and the normalization that follows it."""
    match config.norm_type:
        case "EQUAL":
            return 1.0, None
        case "DIV255":
            return 255.0, None
        case "DIV1275_MINUSONE":
            return 127.5, Normalize(mean=(1.0,) * 3, std=(1.0,) * 3)
        case "MINUSMEAN_DIVSTD" | "DIV255_MINUSMEAN_DIVSTD":
            divisor = 255.0 if config.norm_type.startswith("DIV255") else 1.0
            try:
                return divisor, Normalize(mean=config.mean, std=config.std)
            except ValidationError:
                notes.append("Mean and Std must be one number per channel, and Std above 0")
                return None
        case other:
            notes.append(f"NormaType {other} has no equivalent in a pipeline")
            return None


def _normalization_keys(pipeline: Pipeline) -> dict[str, Any]:
    divisor, mean, std = folded_scaling(pipeline)
    plain = divisor == scaling_of(pipeline)[0] and not any(isinstance(op, Normalize) for op in pipeline.ops)
    if divisor == 255.0:
        kind = "DIV255" if plain else "DIV255_MINUSMEAN_DIVSTD"
    else:
        kind = "EQUAL" if plain else "MINUSMEAN_DIVSTD"
    means, stds = in_half(mean), in_half(std)
    if not all(math.isfinite(value) for value in (*means, *stds)) or 0.0 in stds:
        raise VendorFileError(
            f"mean {list(mean)} and std {list(std)} do not fit into half precision", where="normalize", fix="scale them"
        )
    return {"Mean": means, "Std": stds, "NormaType": kind}


def _color_code(pipeline: Pipeline) -> str:
    decode = pipeline.ops[0]
    assert isinstance(decode, Decode)
    if decode.mode not in ("RGB", "BGR"):
        raise VendorFileError("the card's fused preprocessing supports only colour images", where="decode")
    return "NO_CHANGE" if decode.mode == "RGB" else "RGB2BGR"


def _resize_size(resize: Resize, notes: list[str]) -> tuple[int, int]:
    if resize.interpolation != "bilinear":
        raise VendorFileError(
            f"the card resizes by bilinear interpolation, not {resize.interpolation}",
            where="resize",
            fix="use bilinear",
        )
    if isinstance(resize.size, tuple):
        return resize.size
    notes.append(f"Resize {resize.size} keeps the aspect here; the card resizes to {resize.size} x {resize.size}")
    return resize.size, resize.size


def _floor_offset(size: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
    """Return the row and column at which crops of the zoo's files start."""
    return (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2


def _torchvision_offset(size: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
    """Return the row and column at which torchvision's CenterCrop starts: half the margin, rounded half to even."""
    return round((size[0] - crop[0]) / 2), round((size[1] - crop[1]) / 2)

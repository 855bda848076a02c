"""Conversion between the vendor's preprocessing operations and a `Pipeline`.

If there is no exact equivalent, the nearest one is used with a note. The following is inferred, because the vendor does
not document it: pixels are decoded to RGB, the default ``backend`` samples as OpenCV (no antialias), and ``ToTensor``
only reorders, since ``Normalize`` includes the division by 255.
"""

from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from quantkit.config.pipeline import (
    CenterCrop,
    Decode,
    EvenSides,
    Interpolation,
    Normalize,
    Pad,
    Pipeline,
    PipelineOp,
    Resize,
    ToTensor,
)
from quantkit.vendors.vacc.fields import ClosedSize, Flag, Numbers, PositiveNumbers, Size, Text, Whole, YamlSection


class DecodeImageOp(YamlSection):
    """``DecodeImage``: a file to 8-bit pixels; ``cv2_flags: 0`` decodes to grey."""

    type: Text = None
    backend: Text = None
    cv2_flags: Any = None


class ResizeOp(YamlSection):
    """``Resize``: ``[height, width]`` ignores the aspect; ``[side, -1]`` with ``adaptive_side`` keeps it."""

    type: Text = None
    size: Size = None
    interpolation: Any = None
    adaptive_side: Text = None
    backend: Text = None


class CenterCropOp(YamlSection):
    """``CenterCrop``."""

    type: Text = None
    crop_size: ClosedSize = None
    backend: Text = None


class PadOp(YamlSection):
    """``Pad``."""

    type: Text = None
    pad_to_square: Flag = None


class CvtColorOp(YamlSection):
    """``CvtColor``: an OpenCV code, starting from RGB."""

    type: Text = None
    code: Text = None


class ChannelSplitOp(YamlSection):
    """``ChannelSplit``: keep one channel."""

    type: Text = None
    index: Whole = None


class NormalizeOp(YamlSection):
    """``Normalize``: ``(x / 255 - mean) / std``, without the division if ``div255`` is false."""

    type: Text = None
    div255: Flag = None
    mean: Numbers = None
    std: PositiveNumbers = None
    norm_type: Any = None


class ToTensorOp(YamlSection):
    """``ToTensor``."""

    type: Text = None


class CustomFuncOp(YamlSection):
    """``CustomFunc``: the vendor's tools import and call it; quantkit does not."""

    type: Text = None
    module_path: Text = None
    func_name: Text = None
    input_shape: Any = None
    img_shape: Any = None


OPS: dict[str, type[YamlSection]] = {
    "DecodeImage": DecodeImageOp,
    "Resize": ResizeOp,
    "CenterCrop": CenterCropOp,
    "Pad": PadOp,
    "CvtColor": CvtColorOp,
    "ChannelSplit": ChannelSplitOp,
    "Normalize": NormalizeOp,
    "ToTensor": ToTensorOp,
    "CustomFunc": CustomFuncOp,
}


@dataclass(frozen=True)
class PipelineReading:
    """A list of vendor operations as a pipeline.

    Attributes:
        pipeline: the equivalent pipeline, or None.
        notes: what was inferred, or why there is no pipeline.
    """

    pipeline: Pipeline | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class OpsWriting:
    """A pipeline as vendor operations.

    Attributes:
        ops: the operations as in the file.
        notes: differences from the pipeline.
    """

    ops: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


def pipeline_from_ops(ops: list[dict[str, Any]]) -> PipelineReading:
    """Return the pipeline of ``process_ops`` or ``transform_ops``."""
    reader = _Reader()
    for op in ops:
        reader.read(op)
    return reader.result()


class _Reader:
    """Builds a pipeline operation by operation."""

    def __init__(self) -> None:
        self._mode: str = "RGB"
        self._geometry: list[PipelineOp] = []
        self._divisor = 1.0
        self._normalize: Normalize | None = None
        self._notes: list[str] = []
        self._possible = True

    def read(self, op: dict[str, Any]) -> None:
        name = op.get("type")
        kind = OPS.get(str(name))
        try:
            typed = kind.model_validate(op) if kind is not None else None
        except ValidationError:
            typed = None
        match typed:
            case DecodeImageOp(cv2_flags=flags):
                self._mode = "L" if flags == 0 and flags is not False else "RGB"
            case CvtColorOp(code=code):
                self._color(str(code).removeprefix("cv2.").removeprefix("COLOR_"))
            case ResizeOp():
                self._resize(typed)
            case CenterCropOp(crop_size=[height, width]):
                self._geometry.append(CenterCrop(size=(height, width)))
            case PadOp(pad_to_square=True):
                self._geometry.append(Pad())
                self._note("Pad: the position of the image in the square is not known; centered is assumed")
            case NormalizeOp():
                self._normalization(typed)
            case ToTensorOp():
                pass
            case _:
                self._refuse(f"{name} has no equivalent in a pipeline")

    def result(self) -> PipelineReading:
        if self._possible:
            decode = Decode.model_validate({"mode": self._mode})
            end = () if self._normalize is None else (self._normalize,)
            pipeline = Pipeline(ops=(decode, *self._geometry, ToTensor(divisor=self._divisor), *end))
            return PipelineReading(pipeline, tuple(self._notes))
        return PipelineReading(None, tuple(self._notes))

    def _note(self, text: str) -> None:
        self._notes.append(text)

    def _refuse(self, text: str) -> None:
        self._possible = False
        self._note(text)

    def _color(self, code: str) -> None:
        source, _, target = code.partition("2")
        if source == self._mode and target in ("RGB", "BGR"):
            self._mode = target
        elif source == self._mode == "RGB" and target == "GRAY":
            self._mode = "L"
        else:
            self._refuse(f"CvtColor {code} has no equivalent in a pipeline that decodes to {self._mode}")

    def _resize(self, op: ResizeOp) -> None:
        interpolation = _interpolation(op.interpolation)
        antialias = str(op.backend).lower() in ("pillow", "pil")
        if interpolation is None:
            self._refuse(f"Resize: the interpolation {op.interpolation} is unknown")
        elif op.size is None:
            self._refuse("Resize has no size")
        elif -1 not in op.size and op.adaptive_side is None:
            size = (op.size[0], op.size[1])
            self._geometry.append(Resize(size=size, interpolation=interpolation, antialias=antialias))
        elif op.adaptive_side == "short" and -1 in op.size:
            self._geometry.append(Resize(size=max(op.size), interpolation=interpolation, antialias=antialias))
            self._note("Resize: adaptive_side short is interpreted as the shorter side")
        else:
            self._refuse("Resize keeps the aspect by the longer side, which a pipeline does not support")

    def _normalization(self, op: NormalizeOp) -> None:
        # The default is true: the zoo's files omit it and have means below 1; null is treated as false, as in Python.
        divide = op.div255 is not False if "div255" in op.model_fields_set else True
        if "div255" in op.model_fields_set and op.div255 is None:
            divide = False
            self._note("Normalize: div255 without a value is treated as false")
        self._divisor = 255.0 if divide else 1.0
        if op.norm_type not in (None, "None"):
            self._note(f"Normalize: the effect of norm_type {op.norm_type} is not known")
        if op.mean is None and op.std is None:
            return
        channels = len(op.mean if op.mean is not None else op.std or ())
        mean = tuple(float(value) for value in op.mean or [0.0] * channels)
        std = tuple(float(value) for value in op.std or [1.0] * channels)
        if len(mean) != len(std):
            self._refuse("Normalize: mean and std have different lengths")
        elif any(mean) or any(value != 1.0 for value in std):
            self._normalize = Normalize(mean=mean, std=std)


def _interpolation(value: object) -> Interpolation | None:
    """Return pillow's name of an interpolation, given by the name in quantkit, cv2.INTER_ or PIL.Image."""
    if value is None:
        return "bilinear"
    word = str(value).lower().rpartition(".")[2].removeprefix("inter_")
    word = {"linear": "bilinear", "cubic": "bicubic", "lanczos4": "lanczos", "antialias": "lanczos"}.get(word, word)
    return next((known for known in get_args(Interpolation) if known == word), None)


def ops_from_pipeline(pipeline: Pipeline) -> OpsWriting:
    """Return a pipeline as vendor operations."""
    ops: list[dict[str, Any]] = []
    notes: list[str] = []
    for op in pipeline.ops:
        match op:
            case Decode():
                ops += _decode_ops(op)
                if op.mode.endswith("A"):
                    notes.append(f"the vendor's DecodeImage has no alpha: use npz calibration data for {op.mode}")
                if op.exif:
                    notes.append(
                        "DecodeImage has no option for the EXIF orientation (OpenCV applies it); to be sure, "
                        "rotate the images"
                    )
            case Resize():
                ops.append(_resize_op(op, notes))
            case CenterCrop(size=size):
                ops.append({"type": "CenterCrop", "crop_size": list(size)})
            case Pad(value=value):
                ops.append({"type": "Pad", "pad_to_square": True})
                if value:
                    notes.append(f"Pad: the value {value} cannot be expressed; the vendor's value is not known")
            case EvenSides():
                notes.append("even_sides cannot be expressed: only the vendor's runtime script does it")
    ops += [_normalize_op(pipeline), {"type": "ToTensor"}]
    return OpsWriting(tuple(ops), tuple(notes))


def _decode_ops(op: Decode) -> list[dict[str, Any]]:
    if op.mode.startswith("L"):
        return [{"type": "DecodeImage", "cv2_flags": 0}]
    decode: list[dict[str, Any]] = [{"type": "DecodeImage"}]
    return decode if not op.is_bgr else [*decode, {"type": "CvtColor", "code": "COLOR_RGB2BGR"}]


def _resize_op(op: Resize, notes: list[str]) -> dict[str, Any]:
    size = op.size if isinstance(op.size, tuple) else (op.size, op.size)
    if isinstance(op.size, int):
        notes.append(
            f"Resize {op.size} keeps the aspect here, and [{op.size}, {op.size}] does not; "
            "npz calibration data (suffix: npz) would have the pixels of this pipeline"
        )
    written: dict[str, Any] = {"type": "Resize", "size": list(size)}
    if op.interpolation != "bilinear":
        written["interpolation"] = op.interpolation
        notes.append(f"Resize: the vendor's name of {op.interpolation} is not known; check it")
    if op.antialias:
        written["backend"] = "pillow"
    return written


def _normalize_op(pipeline: Pipeline) -> dict[str, Any]:
    divisor, mean, std = folded_scaling(pipeline)
    if divisor == 255.0 and not any(isinstance(op, Normalize) for op in pipeline.ops):
        return {"type": "Normalize", "div255": True, "norm_type": None}
    return {"type": "Normalize", "div255": divisor == 255.0, "mean": list(mean), "std": list(std)}


def scaling_of(pipeline: Pipeline) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Return divisor, mean and std of a pipeline; 0 and 1 for each channel where it does not normalize."""
    divisor = next(op.divisor for op in pipeline.ops if isinstance(op, ToTensor))
    normalize = next((op for op in pipeline.ops if isinstance(op, Normalize)), None)
    unit = ((0.0,) * pipeline.channels, (1.0,) * pipeline.channels)
    return (divisor, *unit) if normalize is None else (divisor, normalize.mean, normalize.std)


def folded_scaling(pipeline: Pipeline) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Return divisor, mean and std as the vendor has them: (x/d - m)/s = (x - md)/(sd) where d is not 1 or 255."""
    divisor, mean, std = scaling_of(pipeline)
    if divisor in (1.0, 255.0):
        return divisor, mean, std
    return 1.0, tuple(m * divisor for m in mean), tuple(s * divisor for s in std)

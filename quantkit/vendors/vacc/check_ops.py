"""Checks preprocessing operations: keys, resulting sizes, and the scale of mean and std."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from quantkit.vendors.vacc.check_keys import check_fields
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.fields import YamlSection
from quantkit.vendors.vacc.findings import Finding, Severity, found, misspelt
from quantkit.vendors.vacc.ops import OPS, CenterCropOp, NormalizeOp, PadOp, ResizeOp
from quantkit.vendors.vacc.yaml_nodes import KeyPath

# A larger mean or std cannot belong to pixels of 0..1.
LARGEST_UNIT_MEAN = 1.0
LARGEST_UNIT_STD = 2.0


@dataclass(frozen=True)
class _Picture:
    """Known properties of the image between two operations; sides are None if they depend on the image."""

    height: int | None = None
    width: int | None = None
    # The longer side of an image that keeps its aspect.
    long_side: int | None = None


def check_ops(document: Document, path: KeyPath, ops: list[Any], shape: tuple[int, int, int] | None) -> list[Finding]:
    """Return findings on a list of operations.

    Args:
        document: the file.
        path: path of the list.
        ops: the list.
        shape: ``(channels, height, width)`` of the model's input, if it is a single image input of fixed size.
    """
    findings: list[Finding] = []
    picture = _Picture()
    geometry: KeyPath | None = None
    for index, op in enumerate(ops):
        where = (*path, index)
        if not isinstance(op, dict):
            continue  # the type check reports it
        typed = _check_one(document, where, op, findings)
        if isinstance(typed, ResizeOp | CenterCropOp | PadOp):
            geometry = where
            findings += _check_crop(document, where, typed, picture)
            picture = _after(typed, picture)
        elif isinstance(typed, NormalizeOp):
            findings += _check_normalize(document, where, typed, shape)
    findings += _check_result(document, geometry, picture, shape)
    return findings


def _check_one(document: Document, path: KeyPath, op: dict[str, Any], findings: list[Finding]) -> YamlSection | None:
    """Add findings on a single operation; return it typed, or None if it is invalid."""
    name = op.get("type")
    kind = OPS.get(name) if isinstance(name, str) else None
    if kind is None:
        findings.append(_unknown_op(document, path, name))
        return None
    findings += check_fields(document, kind, op, path)
    for key, fix in _MUST_HAVE_A_VALUE.items():
        if key in op and op[key] is None:
            findings.append(found(document, "warning", (*path, key), f"`{key}` has no value", fix))
    if op.get("norm_type") == "None":
        at = (*path, "norm_type")
        findings.append(found(document, "warning", at, "`norm_type: None` is the string None", "write `null`"))
    try:
        return kind.model_validate(op)
    except ValidationError:
        return None  # the check of the fields reports it


_MUST_HAVE_A_VALUE = {
    "div255": "write true or false",
    "size": "write [height, width]",
    "crop_size": "write [height, width]",
}


def _unknown_op(document: Document, path: KeyPath, name: object) -> Finding:
    known = ", ".join(OPS)
    if not isinstance(name, str):
        return found(document, "error", path, "an operation has no `type`", f"the known ones are {known}")
    meant = misspelt(name, OPS)
    severity: Severity = "warning" if meant is None else "error"
    fix = f"the known ones are {known}" if meant is None else f"write `{meant}`"
    return found(document, severity, (*path, "type"), f"the operation {name} is unknown", fix)


def _after(op: ResizeOp | CenterCropOp | PadOp, picture: _Picture) -> _Picture:
    """Return the image after an operation."""
    match op:
        case ResizeOp(size=[height, width], adaptive_side=None) if -1 not in (height, width):
            return _Picture(height, width)
        case ResizeOp(size=[*sides], adaptive_side="long"):
            return _Picture(long_side=max(sides))
        case CenterCropOp(crop_size=[height, width]):
            return _Picture(height, width)
        case PadOp(pad_to_square=True) if picture.height is not None and picture.width is not None:
            return _Picture(max(picture.height, picture.width), max(picture.height, picture.width))
        case PadOp(pad_to_square=True) if picture.long_side is not None:
            return _Picture(picture.long_side, picture.long_side)
        case PadOp(pad_to_square=None):
            return picture
        case _:
            return _Picture()


def _check_crop(
    document: Document, path: KeyPath, op: ResizeOp | CenterCropOp | PadOp, picture: _Picture
) -> Iterator[Finding]:
    if not isinstance(op, CenterCropOp) or op.crop_size is None or picture.height is None or picture.width is None:
        return
    height, width = op.crop_size
    if height > picture.height or width > picture.width:
        yield found(
            document,
            "error",
            (*path, "crop_size"),
            f"the crop [{height}, {width}] is larger than the image, [{picture.height}, {picture.width}]",
            "resize to at least the crop",
        )


def _check_normalize(
    document: Document, path: KeyPath, op: NormalizeOp, shape: tuple[int, int, int] | None
) -> Iterator[Finding]:
    mean, std = op.mean or [], op.std or []
    if op.mean is not None and op.std is not None and len(mean) != len(std):
        fault = f"mean has {len(mean)} values and std {len(std)}"
        yield found(document, "error", (*path, "std"), fault, "give one of each per channel")
        return
    channels = len(mean or std)
    at = (*path, "mean" if mean else "std")
    if shape is not None and channels not in (0, shape[0]):
        fault = f"mean and std have {channels} values for an input with {shape[0]} channels"
        yield found(document, "warning", at, fault, "give one of each per channel")
    # The default of div255 is true: nearly all files of the zoo omit it and have means below 1.
    divided = op.div255 is True or "div255" not in op.model_fields_set
    greatest_mean = max((abs(value) for value in mean), default=0.0)
    greatest_std = max(std, default=1.0)
    if divided and (greatest_mean > LARGEST_UNIT_MEAN or greatest_std > LARGEST_UNIT_STD):
        fault = f"mean and std (up to {max(greatest_mean, greatest_std):g}) are on the scale of pixels 0..255, "
        fix = "write `div255: false`, or divide both by 255"
        yield found(document, "error", at, fault + "but pixels are divided by 255 first", fix)
    small = 0 < greatest_mean <= LARGEST_UNIT_MEAN and greatest_std <= 1.0
    if not divided and (small or (greatest_mean == 0 and greatest_std < 1.0)):
        fault = f"mean and std (up to {max(greatest_mean, greatest_std):g}) are on the scale of pixels 0..1, "
        fix = "write `div255: true`, or multiply both by 255"
        yield found(document, "error", at, fault + "but pixels are not divided by 255", fix)


def _check_result(
    document: Document, path: KeyPath | None, picture: _Picture, shape: tuple[int, int, int] | None
) -> Iterator[Finding]:
    if path is None or shape is None or picture.height is None or picture.width is None:
        return
    if (picture.height, picture.width) != shape[1:]:
        given, wanted = f"[{picture.height}, {picture.width}]", f"[{shape[1]}, {shape[2]}]"
        yield found(
            document, "error", path, f"preprocessing gives {given}, the input is {wanted}", "resize or crop to it"
        )

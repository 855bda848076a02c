"""Checks that the mean of a known data set is in the channel order of the images."""

from collections.abc import Iterator
from typing import Any

from quantkit.config.pipeline import IMAGENET_MEAN
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.findings import Finding, found
from quantkit.vendors.vacc.yaml_nodes import KeyPath

# Channel means in RGB order, for pixels 0..1; they decrease from red to blue.
_KNOWN_MEANS = {"ImageNet": IMAGENET_MEAN, "CIFAR-10": (0.4914, 0.4822, 0.4465)}
# Covers the variants in use: Caffe's [123.68, 116.779, 103.939], the same as integers, CLIP's.
_TOLERANCE = 0.005


def check_channel_order(document: Document, path: KeyPath, ops: list[Any]) -> Iterator[Finding]:
    """Yield each `Normalize` with a mean in another channel order than the image.

    Means in BGR order are valid only for BGR images, means in a mixed order never. Means in RGB order with BGR images
    are not reported, because PaddleOCR trains its text detectors in this way.

    Args:
        document: the file.
        path: path of the list of operations.
        ops: the list.
    """
    for index, op in enumerate(ops):
        mean = op.get("mean") if isinstance(op, dict) and op.get("type") == "Normalize" else None
        data_set = _data_set(mean)
        mode = _mode(ops[:index])
        if mean is None or data_set is None or mode is None:
            continue
        rgb = sorted(mean, reverse=True)
        if mean == rgb or (mode == "BGR" and mean == rgb[::-1]):
            continue
        if mean == rgb[::-1]:
            fault = f"the mean {mean} is {data_set}'s in BGR order, and the image is {mode}"
            fix = f"insert `CvtColor` with `code: COLOR_RGB2BGR` if the model reads BGR, else write {rgb}"
        else:
            fault = f"the mean {mean} has {data_set}'s values in neither RGB nor BGR order"
            fix = f"write {rgb} for RGB, {rgb[::-1]} for BGR"
        yield found(document, "warning", (*path, index, "mean"), fault, fix)


def _data_set(mean: Any) -> str | None:
    """Return the data set of three channel means in any order, for pixels 0..1 or 0..255."""
    if not isinstance(mean, list) or len(mean) != 3:
        return None
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in mean):
        return None
    scale = 255.0 if max(mean) > 1 else 1.0
    falling = sorted((value / scale for value in mean), reverse=True)
    for name, known in _KNOWN_MEANS.items():
        if all(abs(value - wanted) <= _TOLERANCE for value, wanted in zip(falling, known, strict=True)):
            return name
    return None


def _mode(ops: list[Any]) -> str | None:
    """Return the channel order after the operations, or None if unknown."""
    mode: str | None = None
    for op in ops:
        match op:
            case {"type": "DecodeImage"}:
                mode = "RGB" if op.get("cv2_flags") in (None, 1) else None
            case {"type": "CvtColor"}:
                code = str(op.get("code")).rpartition(".")[2].removeprefix("COLOR_")
                mode = {"RGB2BGR": "BGR", "BGR2RGB": "RGB"}.get(code) if mode is not None else None
            case {"type": "Resize" | "CenterCrop" | "Pad" | "ToTensor"}:
                pass
            case _:
                mode = None
    return mode

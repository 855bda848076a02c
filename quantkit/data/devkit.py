"""Labels of ImageNet's validation set, the ILSVRC 2012 devkit's ground truth among them."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.data.classes import ilsvrc_order, imagenet_classes, imagenet_index
from quantkit.data.labels import LabelLine, check_labels_fit, read_label_file
from quantkit.data.textfile import read_lines
from quantkit.errors import LabelError
from quantkit.files import reason

VALIDATION_IMAGES = 50_000
CLASSES = 1000
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def read_ground_truth(path: Path, meta: Path | None = None) -> tuple[LabelLine, ...]:
    """Read the devkit's ground truth: line n is the ILSVRC id, 1 to 1000, of ``ILSVRC2012_val_{n:08d}.JPEG``.

    Args:
        path: ``ILSVRC2012_validation_ground_truth.txt``.
        meta: the devkit's ``meta.mat``, which says what the ids mean; absent, they mean what ILSVRC 2012 defined.

    Returns:
        Name and class index of each image: the position of its WordNet id in sorted order.

    Raises:
        LabelError: it does not hold 50,000 ids of 1 to 1000, or ``meta.mat`` is not the one of ILSVRC 2012.
    """
    order = read_meta(meta) if meta is not None else ilsvrc_order()
    lines = [line.strip() for line in read_lines(path)]
    if len(lines) != VALIDATION_IMAGES:
        raise LabelError(
            f"{len(lines)} lines where {VALIDATION_IMAGES} belong", where=path, fix="fetch the devkit again"
        )
    return tuple(_ground_truth_line(path, number, line, order) for number, line in enumerate(lines, start=1))


def read_meta(path: Path) -> tuple[str, ...]:
    """Return the WordNet ids that the devkit's ``meta.mat`` gives to the ILSVRC ids 1 to 1000, in that order.

    Raises:
        LabelError: the file cannot be read, or does not define the 1,000 classes of ILSVRC 2012.
    """
    from scipy.io import loadmat

    try:
        content: Any = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise LabelError(f"cannot read the file ({reason(error)})", where=path) from error
    try:
        synsets: Any = loadmat(content, squeeze_me=True)["synsets"]
        wnid_by_id = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets.ravel()}
    except Exception as error:  # scipy raises whatever a damaged file leads it to
        raise LabelError("not the meta.mat of the ILSVRC 2012 devkit", where=path, fix="fetch it again") from error
    order = tuple(wnid_by_id.get(number, "") for number in range(1, CLASSES + 1))
    if set(order) != set(imagenet_classes()):
        raise LabelError("its ids 1 to 1000 are not the classes of ILSVRC 2012", where=path, fix="fetch it again")
    return order


def read_imagenet_labels(path: Path) -> tuple[LabelLine, ...]:
    """Read a label file of ImageNet, or the devkit's ground truth with the ``meta.mat`` beside it.

    Raises:
        LabelError: the file is malformed, or a label is no class index of ImageNet-1k.
    """
    if path.name == GROUND_TRUTH:
        meta = path.with_name("meta.mat")
        return read_ground_truth(path, meta if meta.is_file() else None)
    lines = read_label_file(path)
    check_labels_fit(np.array([line.label for line in lines], np.int64), CLASSES, path)
    return lines


def _ground_truth_line(path: Path, number: int, text: str, order: Sequence[str]) -> LabelLine:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= CLASSES:
        raise LabelError(f"{text!r} is no ILSVRC id of 1 to {CLASSES}", where=f"{path}:{number}", fix="fetch it again")
    return LabelLine(f"ILSVRC2012_val_{number:08d}.JPEG", imagenet_index()[order[int(text) - 1]], number)

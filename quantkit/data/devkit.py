"""Labels of ImageNet's validation set, including the ground truth of the ILSVRC 2012 devkit."""

import io
import re
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
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
_META = "meta.mat"
# The expected files have a few hundred kilobytes.
_MAX_DEVKIT_BYTES = 1 << 24


def _numbered(path: Path, text: Sequence[str], order: Sequence[str]) -> tuple[LabelLine, ...]:
    lines = [line.strip() for line in text]
    if len(lines) != VALIDATION_IMAGES:
        raise LabelError(
            f"the file has {len(lines)} lines, not {VALIDATION_IMAGES}", where=path, fix="download the devkit again"
        )
    return tuple(_ground_truth_line(path, number, line, order) for number, line in enumerate(lines, start=1))


def _order(content: bytes, path: Path) -> tuple[str, ...]:
    """Return the WordNet ids of the ILSVRC ids 1 to 1000 in a ``meta.mat``."""
    from scipy.io import loadmat

    file: Any = io.BytesIO(content)
    try:
        synsets: Any = loadmat(file, squeeze_me=True)["synsets"]
        wnid_by_id = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets.ravel()}
    except Exception as error:  # scipy raises any class for a damaged file
        raise LabelError("not the meta.mat of the ILSVRC 2012 devkit", where=path, fix="download it again") from error
    order = tuple(wnid_by_id.get(number, "") for number in range(1, CLASSES + 1))
    if set(order) != set(imagenet_classes()):
        raise LabelError("its ids 1 to 1000 are not the classes of ILSVRC 2012", where=path, fix="download it again")
    return order


def is_devkit(path: Path) -> bool:
    """Return whether a label file is the devkit's archive, or its ground truth."""
    return path.name == GROUND_TRUTH or (path.name.startswith("ILSVRC2012_devkit") and path.suffix in (".gz", ".tar"))


def _read_devkit(path: Path) -> tuple[LabelLine, ...]:
    """Read the ground truth in the devkit's ``.tar.gz``, without unpacking to disk."""
    try:
        with tarfile.open(path) as archive:
            found = {PurePosixPath(member.name).name: member for member in archive if member.isfile()}
            contents = {
                name: file.read(_MAX_DEVKIT_BYTES)
                for name in (GROUND_TRUTH, _META)
                if name in found and (file := archive.extractfile(found[name])) is not None
            }
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
        raise LabelError(f"not the devkit's archive ({error})", where=path, fix="download it again") from error
    if GROUND_TRUTH not in contents:
        raise LabelError(f"it has no {GROUND_TRUTH}", where=path, fix="give ILSVRC2012_devkit_t12.tar.gz")
    order = _order(contents[_META], path) if _META in contents else ilsvrc_order()
    return _numbered(path, contents[GROUND_TRUTH].decode("ascii", "replace").split("\n")[:-1], order)


def read_imagenet_labels(path: Path) -> tuple[LabelLine, ...]:
    """Read a label file of ImageNet, the devkit's archive, or its ground truth.

    Line n of the ground truth is the ILSVRC id, 1 to 1000, of ``ILSVRC2012_val_{n:08d}.JPEG``. The ids are defined by
    ``meta.mat`` beside it, and without one as in ILSVRC 2012.

    Returns:
        Name and class index of each image: the position of its WordNet id in sorted order.

    Raises:
        LabelError: the file is malformed, a label is not a class index of ImageNet-1k, the ground truth does not have
            50,000 ids from 1 to 1000, or ``meta.mat`` is not that of ILSVRC 2012.
    """
    if path.name == GROUND_TRUTH:
        meta = path.with_name(_META)
        try:
            order = _order(meta.read_bytes(), meta) if meta.is_file() else ilsvrc_order()
        except OSError as error:
            raise LabelError(f"cannot read the file ({reason(error)})", where=meta) from error
        return _numbered(path, read_lines(path), order)
    if is_devkit(path):
        return _read_devkit(path)
    lines = read_label_file(path)
    check_labels_fit(np.array([line.label for line in lines], np.int64), CLASSES, path)
    return lines


def _ground_truth_line(path: Path, number: int, text: str, order: Sequence[str]) -> LabelLine:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= CLASSES:
        raise LabelError(f"{text!r} is not an ILSVRC id (1 to {CLASSES})", where=f"{path}:{number}")
    return LabelLine(f"ILSVRC2012_val_{number:08d}.JPEG", imagenet_index()[order[int(text) - 1]], number)

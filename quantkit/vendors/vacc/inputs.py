"""Inputs of the card's runner: un-resized pixels as ``.npz`` files, and the datalist.

``vamp`` reads uint8 ``[3, H, W]`` RGB under the key ``input_0`` and runs the card's own preprocessing on it. The folder
of each file identifies the true class for the evaluation: the vendor's ``eval_topk`` looks up a WordNet id. The
vendor's ``image2npz`` decodes with OpenCV, which applies the EXIF orientation; here it is optional.
"""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from quantkit.config.pipeline import Decode
from quantkit.data.classes import imagenet_classes
from quantkit.data.images import decode_image, encoded, exif_orientation
from quantkit.data.item import FileItem, ImageItem
from quantkit.data.parallel import map_in_order
from quantkit.data.source import ImageSource
from quantkit.errors import CalibrationSetError, ImageError, LabelError
from quantkit.files import TEMPORARY_SUFFIX, make_folder, write_text
from quantkit.vendors.vacc.tensors import npz_shape, write_npz

INPUT_KEY = "input_0"
DATALIST = "npz_datalist.txt"

_IMAGENET_VALIDATION = "ILSVRC2012_val_"


@dataclass(frozen=True)
class InputFile:
    """An image and its output file.

    Attributes:
        image: the image file.
        npz: the file to write.
    """

    image: ImageItem
    npz: Path


@dataclass(frozen=True)
class InputsReport:
    """Result of writing inputs.

    Attributes:
        files: all existing files, in the order of the datalist.
        written: number of files written by this run; the others existed.
        broken: images that cannot be decoded; they are not in ``files``.
        turned: number of images with a non-default EXIF orientation, applied or not.
    """

    files: tuple[InputFile, ...]
    written: int
    broken: tuple[ImageError, ...]
    turned: int = 0


def plan_inputs(found: ImageSource, out: Path) -> tuple[InputFile, ...]:
    """Return the output file of each labelled image, ``out/CLASS/NAME.npz``, in the order of the images' names.

    The class folder is the WordNet id for ImageNet-1k, else the image's own class folder, as in the vendor's
    ``image2npz``, else the class index. Class names are never folders: they need not be unique or valid folder names.

    Raises:
        CalibrationSetError: two images would have the same file, or a name contains a line break.
    """
    files: dict[Path, ImageItem] = {}
    for item, folder in zip(found.items, _class_folders(found), strict=True):
        name = item.id
        npz = out / folder / f"{PurePosixPath(name).stem}.npz"
        if npz in files:
            raise CalibrationSetError(
                f"{files[npz].id} and {name} would both be written to {npz}", where=found.root, fix="rename one of them"
            )
        if len(str(npz).splitlines()) != 1:
            raise CalibrationSetError("a datalist cannot contain a name with a line break", where=repr(name))
        files[npz] = item
    return tuple(InputFile(item, npz) for npz, item in files.items())


def write_inputs(
    files: Iterable[InputFile],
    *,
    exif: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> InputsReport:
    """Write all missing files, on threads. Resumable.

    A file is kept if it is complete, has the size of its image, and is not older. Images with an EXIF orientation are
    always written again, because the size does not show whether it was applied.

    Args:
        files: from `plan_inputs`.
        exif: apply the EXIF orientation, as OpenCV does.
        workers: number of threads; one per processor by default.
        progress: called with the number of images done and their total.

    Raises:
        OutputError: a file cannot be written.
    """
    planned = tuple(files)
    for folder in {file.npz.parent for file in planned}:
        _remove_remains(make_folder(folder))
    there: list[InputFile] = []
    broken: list[ImageError] = []
    written = turned = 0
    outcomes = map_in_order(partial(_write_one, Decode(exif=exif)), planned, workers)
    for done, (file, outcome) in enumerate(zip(planned, outcomes, strict=True), start=1):
        if isinstance(outcome, ImageError):
            broken.append(outcome)
        else:
            there.append(file)
            written += outcome.written
            turned += outcome.turned
        if progress is not None:
            progress(done, len(planned))
    return InputsReport(tuple(there), written, tuple(broken), turned)


def write_datalist(path: Path, files: Iterable[InputFile]) -> None:
    """Write the absolute paths of the files, one per line.

    Raises:
        OutputError: the list cannot be written.
    """
    write_text(path, "".join(f"{file.npz.absolute()}\n" for file in files))


def _class_folders(found: ImageSource) -> list[str]:
    assert found.labels is not None
    unnamed_validation = not found.class_names and all(_is_imagenet(name) for name in found.names)
    if found.numbering == "imagenet" or unnamed_validation:
        wnids = list(imagenet_classes())
        _check_imagenet_labels(found, len(wnids))
        return [wnids[label] for label in found.labels]
    if found.numbering == "folders":
        return [name.partition("/")[0] for name in found.names]
    return [str(label) for label in found.labels]


def _check_imagenet_labels(found: ImageSource, classes: int) -> None:
    assert found.labels is not None
    greatest = int(found.labels.max())
    if greatest >= classes:
        raise LabelError(
            f"the labels go up to {greatest}, and ImageNet has {classes} classes, counted from 0",
            where=found.root,
            fix="give labels that count from 0",
        )


def _is_imagenet(name: str) -> bool:
    return PurePosixPath(name).name.startswith(_IMAGENET_VALIDATION)


def _remove_remains(folder: Path) -> None:
    for remains in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        remains.unlink(missing_ok=True)  # left by a killed run


@dataclass(frozen=True)
class _Outcome:
    """Whether a file was written, and whether its image has an EXIF orientation."""

    written: bool
    turned: bool


@dataclass(frozen=True)
class _Header:
    """Header of an image: stored size, and whether it has an EXIF orientation."""

    height: int
    width: int
    turned: bool


def _write_one(decode: Decode, file: InputFile) -> _Outcome | ImageError:
    """Return the outcome, or the error."""
    header = _header(file.image)
    turned = header is not None and header.turned
    if header is not None and not turned and _is_current(file, header):
        return _Outcome(written=False, turned=False)
    try:
        pixels = decode_image(file.image, decode).pixels
    except ImageError as error:
        return error
    # Not synced individually: after a power failure the next run detects incomplete files.
    write_npz(file.npz, {INPUT_KEY: np.ascontiguousarray(pixels.transpose(2, 0, 1))}, durable=False)
    return _Outcome(written=True, turned=turned)


def _header(item: ImageItem) -> _Header | None:
    """Return the header of an image, or None if it cannot be read; decoding reports the error."""
    try:
        with Image.open(item.path if isinstance(item, FileItem) else io.BytesIO(encoded(item))) as image:
            return _Header(image.height, image.width, exif_orientation(image) != 1)
    except Exception:  # pillow's readers raise any class for a damaged file
        return None


def _is_current(file: InputFile, header: _Header) -> bool:
    try:
        changed_ns = file.image.modified_ns()
        if not file.npz.exists() or changed_ns is None or file.npz.stat().st_mtime_ns < changed_ns:
            return False
    except (OSError, ImageError):
        return False
    return npz_shape(file.npz, INPUT_KEY) == (3, header.height, header.width)

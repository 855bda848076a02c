"""Images for the card's runner: un-resized pixels as ``.npz`` files, and the list of them.

``vamp`` reads uint8 ``[3, H, W]`` RGB under the key ``input_0`` and runs the card's own preprocessing on it. The folder
of each file identifies its class, which is how the evaluation knows the truth: the vendor's ``eval_topk`` looks a
WordNet id up. The vendor's ``image2npz`` decodes with OpenCV, which applies the EXIF orientation; here it is a choice.
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
    """One image and the file it becomes.

    Attributes:
        image: the image file.
        npz: the file to write.
    """

    image: ImageItem
    npz: Path


@dataclass(frozen=True)
class InputsReport:
    """What became of the images.

    Attributes:
        files: every file that is there now, in the order of the datalist.
        written: how many were written by this run; the others were there.
        broken: images that cannot be decoded; they are not among the files.
        turned: images whose EXIF orientation is not upright, applied or not.
    """

    files: tuple[InputFile, ...]
    written: int
    broken: tuple[ImageError, ...]
    turned: int = 0


def plan_inputs(found: ImageSource, out: Path) -> tuple[InputFile, ...]:
    """Return the file that each labelled image becomes: ``out/CLASS/NAME.npz``, in the order of the images' names.

    The class folder is the WordNet id for ImageNet-1k, else the image's own class folder, as the vendor's ``image2npz``
    has it, else the class index. Class names are never folders: two classes can share one, and some are no folder name.

    Raises:
        CalibrationSetError: two images would become the same file, or a name holds a line break.
    """
    files: dict[Path, ImageItem] = {}
    for item, folder in zip(found.items, _class_folders(found), strict=True):
        name = item.id
        npz = out / folder / f"{PurePosixPath(name).stem}.npz"
        if npz in files:
            raise CalibrationSetError(
                f"{files[npz].id} and {name} would both become {npz}", where=found.root, fix="rename one of them"
            )
        if len(str(npz).splitlines()) != 1:
            raise CalibrationSetError("a name with a line break cannot stand in a datalist", where=repr(name))
        files[npz] = item
    return tuple(InputFile(item, npz) for npz, item in files.items())


def write_inputs(
    files: Iterable[InputFile],
    *,
    exif: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> InputsReport:
    """Write every file that is not there yet, on threads. An interrupted run goes on where it stopped.

    A file stays if it is whole, has the size of its image, and is not older than it. Images with an EXIF orientation
    are always written again: their size does not tell whether it was applied.

    Args:
        files: of `plan_inputs`.
        exif: apply the EXIF orientation, as OpenCV does.
        workers: number of threads; as many as there are processors when absent.
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
    """Write the absolute paths of the files, one a line.

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
            f"the labels go up to {greatest} and ImageNet has {classes} classes, counted from 0",
            where=found.root,
            fix="give labels that count from 0",
        )


def _is_imagenet(name: str) -> bool:
    return PurePosixPath(name).name.startswith(_IMAGENET_VALIDATION)


def _remove_remains(folder: Path) -> None:
    for remains in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        remains.unlink(missing_ok=True)  # of a run that was killed


@dataclass(frozen=True)
class _Outcome:
    """Whether a file was written, and whether its image has an EXIF orientation."""

    written: bool
    turned: bool


@dataclass(frozen=True)
class _Header:
    """What the first bytes of an image tell: its size as it is stored, and whether it has an EXIF orientation."""

    height: int
    width: int
    turned: bool


def _write_one(decode: Decode, file: InputFile) -> _Outcome | ImageError:
    """Return whether the file was written, or why it cannot be."""
    header = _header(file.image)
    turned = header is not None and header.turned
    if header is not None and not turned and _is_current(file, header):
        return _Outcome(written=False, turned=False)
    try:
        pixels = decode_image(file.image, decode).pixels
    except ImageError as error:
        return error
    # Not synced one by one: after a power failure the next run finds what is not whole.
    write_npz(file.npz, {INPUT_KEY: np.ascontiguousarray(pixels.transpose(2, 0, 1))}, durable=False)
    return _Outcome(written=True, turned=turned)


def _header(item: ImageItem) -> _Header | None:
    """Return what an image's header tells, or None where it cannot be read; decoding says why."""
    try:
        with Image.open(item.path if isinstance(item, FileItem) else io.BytesIO(encoded(item))) as image:
            return _Header(image.height, image.width, exif_orientation(image) != 1)
    except Exception:  # pillow's readers raise whatever a damaged file leads them to
        return None


def _is_current(file: InputFile, header: _Header) -> bool:
    try:
        changed_ns = file.image.modified_ns()
        if not file.npz.exists() or changed_ns is None or file.npz.stat().st_mtime_ns < changed_ns:
            return False
    except (OSError, ImageError):
        return False
    return npz_shape(file.npz, INPUT_KEY) == (3, header.height, header.width)

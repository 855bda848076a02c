"""Images for the card's runner: un-resized pixels as ``.npz`` files, and the list of them.

``vamp`` reads uint8 ``[3, H, W]`` RGB under the key ``input_0`` and runs the card's own preprocessing on it. The folder
of each file is named by its class, which is how the evaluation knows the truth.
"""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from quantkit.config.pipeline import Decode
from quantkit.data.classes import imagenet_classes
from quantkit.data.images import decode_image, encoded
from quantkit.data.item import ImageItem
from quantkit.data.parallel import map_in_order
from quantkit.data.source import ImageSource
from quantkit.errors import CalibrationSetError, ImageError
from quantkit.files import TEMPORARY_SUFFIX, make_folder, write_text
from quantkit.vendors.vacc.tensors import npz_shape, write_npz

INPUT_KEY = "input_0"
DATALIST = "npz_datalist.txt"

_IMAGENET_VALIDATION = "ILSVRC2012_val_"


@dataclass(frozen=True)
class InputFile:
    """One image and the file it becomes."""

    image: ImageItem
    npz: Path


@dataclass(frozen=True)
class InputsReport:
    """What became of the images.

    Attributes:
        files: every file that is there now, in the order of the datalist.
        written: how many were written by this run; the others were there.
        broken: images that cannot be decoded; they are not among the files.
    """

    files: tuple[InputFile, ...]
    written: int
    broken: tuple[ImageError, ...]


def plan_inputs(found: ImageSource, out: Path) -> tuple[InputFile, ...]:
    """Return the file that each labelled image becomes: ``out/CLASS/NAME.npz``, in the order of the images' names.

    The class folder is the WordNet id for ImageNet-1k, else the class' name, else its index.

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
    files: Iterable[InputFile], *, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> InputsReport:
    """Write every file that is not there yet, on threads. An interrupted run goes on where it stopped.

    A file stays if it is whole, has the size of its image, and is not older than it.

    Args:
        files: of `plan_inputs`.
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
    written = 0
    outcomes = map_in_order(_write_one, planned, workers)
    for done, (file, outcome) in enumerate(zip(planned, outcomes, strict=True), start=1):
        if isinstance(outcome, ImageError):
            broken.append(outcome)
        else:
            there.append(file)
            written += outcome
        if progress is not None:
            progress(done, len(planned))
    return InputsReport(tuple(there), written, tuple(broken))


def write_datalist(path: Path, files: Iterable[InputFile]) -> None:
    """Write the absolute paths of the files, one a line.

    Raises:
        OutputError: the list cannot be written.
    """
    write_text(path, "".join(f"{file.npz.absolute()}\n" for file in files))


def _class_folders(found: ImageSource) -> list[str]:
    assert found.labels is not None
    wnids = list(imagenet_classes())
    words = dict(enumerate(imagenet_classes().values()))
    names = found.class_names
    if names == words or (not names and all(_is_imagenet(name) for name in found.names)):
        return [wnids[label] for label in found.labels]
    return [_folder_name(names.get(int(label), str(label))) for label in found.labels]


def _is_imagenet(name: str) -> bool:
    return PurePosixPath(name).name.startswith(_IMAGENET_VALIDATION)


def _folder_name(name: str) -> str:
    """Return a class name that can be one folder."""
    return name.replace("/", "_").strip().strip(".") or "_"


def _remove_remains(folder: Path) -> None:
    for remains in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        remains.unlink(missing_ok=True)  # of a run that was killed


def _write_one(file: InputFile) -> bool | ImageError:
    """Return whether the file was written, or why it cannot be."""
    try:
        if _is_current(file):
            return False
        pixels = decode_image(file.image, Decode()).pixels
    except ImageError as error:
        return error
    # Not synced one by one: after a power failure the next run finds what is not whole.
    write_npz(file.npz, {INPUT_KEY: np.ascontiguousarray(pixels.transpose(2, 0, 1))}, durable=False)
    return True


def _is_current(file: InputFile) -> bool:
    try:
        changed_ns = file.image.modified_ns()
        if not file.npz.exists() or changed_ns is None or file.npz.stat().st_mtime_ns < changed_ns:
            return False
        with Image.open(io.BytesIO(encoded(file.image))) as image:
            size = (3, image.height, image.width)
    except (OSError, ImageError):
        return False
    return npz_shape(file.npz, INPUT_KEY) == size

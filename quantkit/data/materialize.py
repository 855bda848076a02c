"""Lay the images of a calibration set flat into one folder, as the vendor's ``dataset.path`` wants them."""

import os
from pathlib import Path, PurePosixPath

from quantkit.data.calibration_set import CalibrationImage, CalibrationSet
from quantkit.data.images import encoded
from quantkit.data.item import FileItem, ImageItem, content_digest
from quantkit.errors import CalibrationSetError, ImageError, OutputError
from quantkit.files import TEMPORARY_SUFFIX, make_folder, sha256_file, write_bytes
from quantkit.progress import Progress, as_progress


def materialize(chosen: CalibrationSet, folder: Path, *, link: bool = True, progress: Progress | None = None) -> None:
    """Copy or link every image of a set into a folder, under names that sort in the set's order.

    Sorted by name, the beginning of the folder is as balanced over the classes as the beginning of the set. Each file
    appears whole or not at all, and an interrupted run goes on where it stopped: what is there with the right digest
    stays.

    Args:
        chosen: the set.
        folder: where to; made when absent. It may hold nothing but files of this set.
        link: make hard links where the file system allows, which cost no space and, unlike symbolic links, can be read
            inside a container. Copies otherwise, as always of images in archives.
        progress: receives the progress.

    Raises:
        CalibrationSetError: an image is missing or is not the one of the set.
        OutputError: the folder holds other files, or cannot be written.
    """
    make_folder(folder)
    names = materialized_names(chosen)
    _refuse_strangers(folder, set(names))
    count = as_progress(progress).task("copying", "images")
    for done, (item, image, name) in enumerate(zip(chosen.items, chosen.images, names, strict=True), start=1):
        _place(item, image, folder / name, link)
        count(done, len(names))


def materialized_names(chosen: CalibrationSet) -> list[str]:
    """Return the file name each image has once materialized: its place in the set, then its own name."""
    digits = len(str(max(len(chosen) - 1, 0)))
    return [f"{place:0{digits}d}_{PurePosixPath(image.name).name}" for place, image in enumerate(chosen.images)]


def _refuse_strangers(folder: Path, names: set[str]) -> None:
    for entry in sorted(folder.iterdir()):
        if entry.name.endswith(TEMPORARY_SUFFIX):
            entry.unlink(missing_ok=True)  # of a run that was killed
        elif entry.name not in names:
            raise OutputError(
                f"the folder holds {entry.name}, which is no file of this set", where=folder, fix="give an empty folder"
            )


def _place(item: ImageItem, image: CalibrationImage, target: Path, link: bool) -> None:
    try:
        content = encoded(item)
    except ImageError as error:
        raise CalibrationSetError(error.what, where=item.where, fix="say where the images lie with --images") from error
    digest = content_digest(content)
    if image.sha256 and digest != image.sha256:
        raise CalibrationSetError(
            "the file is not the one of the set (other digest)", where=item.where, fix="build the set again"
        )
    if target.is_file() and sha256_file(target) == digest:
        return
    if link and isinstance(item, FileItem) and _linked(item.path, target):
        return
    write_bytes(target, content)


def _linked(source: Path, target: Path) -> bool:
    """Make a hard link of the file itself; False where the file system will not."""
    try:
        target.unlink(missing_ok=True)
        os.link(source.resolve(), target)
    except OSError:
        return False
    return True

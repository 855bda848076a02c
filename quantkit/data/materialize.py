"""Writes the images of a calibration set into one folder, the layout of the vendor's ``dataset.path``."""

import os
from pathlib import Path, PurePosixPath

from quantkit.data.calibration_set import CalibrationImage, CalibrationSet
from quantkit.data.images import encoded
from quantkit.data.item import FileItem, ImageItem, content_digest
from quantkit.errors import CalibrationSetError, ImageError, OutputError
from quantkit.files import TEMPORARY_SUFFIX, make_folder, sha256_file, write_bytes
from quantkit.progress import Progress, as_progress


def materialize(chosen: CalibrationSet, folder: Path, *, link: bool = True, progress: Progress | None = None) -> None:
    """Copy or link every image of a set into a folder, with names that sort in the set's order.

    Sorted by name, the first files of the folder are balanced over the classes like the first images of the set. Each
    file
    is created atomically, and an interrupted run can be resumed: existing files with the right digest are kept.

    Args:
        chosen: the set.
        folder: output folder; created if missing. It must contain only files of this set.
        link: create hard links if the file system supports them, which need no space and, unlike symbolic links, can be
            read inside a container. Otherwise, and for images in archives, copies are written.
        progress: receives the progress.

    Raises:
        CalibrationSetError: an image is missing or has changed.
        OutputError: the folder contains other files, or cannot be written.
    """
    make_folder(folder)
    names = materialized_names(chosen)
    refuse_strangers(folder, set(names))
    count = as_progress(progress).task("copying", "images")
    for done, (item, image, name) in enumerate(zip(chosen.items, chosen.images, names, strict=True), start=1):
        _place(item, image, folder / name, link)
        count(done, len(names))


def materialized_names(chosen: CalibrationSet) -> list[str]:
    """Return the file name of each materialized image: its position in the set, then its name."""
    digits = len(str(max(len(chosen) - 1, 0)))
    return [f"{place:0{digits}d}_{PurePosixPath(image.name).name}" for place, image in enumerate(chosen.images)]


def refuse_strangers(folder: Path, names: set[str]) -> None:
    """Remove what a killed run left in a folder of images.

    Raises:
        OutputError: the folder contains another file.
    """
    for entry in sorted(folder.iterdir()):
        if entry.name.endswith(TEMPORARY_SUFFIX):
            entry.unlink(missing_ok=True)  # left by a killed run
        elif entry.name not in names:
            raise OutputError(
                f"the folder contains {entry.name}, which is not in this set", where=folder, fix="give an empty folder"
            )


def _place(item: ImageItem, image: CalibrationImage, target: Path, link: bool) -> None:
    try:
        content = encoded(item)
    except ImageError as error:
        raise CalibrationSetError(error.what, where=item.where, fix="give their location with --images") from error
    digest = content_digest(content)
    if image.sha256 and digest != image.sha256:
        raise CalibrationSetError("the file has changed (other digest)", where=item.where, fix="build the set again")
    if target.is_file() and sha256_file(target) == digest:
        return
    if link and isinstance(item, FileItem) and _linked(item.path, target):
        return
    write_bytes(target, content)


def _linked(source: Path, target: Path) -> bool:
    """Create a hard link; return False if the file system does not support it."""
    try:
        target.unlink(missing_ok=True)
        os.link(source.resolve(), target)
    except OSError:
        return False
    return True

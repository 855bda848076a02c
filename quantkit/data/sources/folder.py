"""Images of a local folder, by suffix."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from quantkit.data.images import IMAGE_SUFFIXES
from quantkit.data.item import FileItem
from quantkit.data.source import ImageSource
from quantkit.errors import CalibrationSetError
from quantkit.files import reason


def list_folder(folder: Path) -> tuple[list[str], Counter[str]]:
    """Return the images below a folder, sorted, and the number of other files by suffix.

    Hidden files and folders are skipped. A folder reached twice through links is read once.

    Raises:
        CalibrationSetError: the folder cannot be listed.
    """
    names: list[str] = []
    others: Counter[str] = Counter()
    for name in _walk(folder):
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            names.append(name)
        else:
            others[suffix or "no suffix"] += 1
    return sorted(names), others


def folder_source(folder: Path, names: list[str]) -> ImageSource:
    """Return the images of a folder as a source."""
    return ImageSource(folder, tuple(FileItem(folder / name, name) for name in names))


def no_images(others: Counter[str], where: object) -> CalibrationSetError:
    """Return the error for a source without images, which lists its other files."""
    instead = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(3)) or "nothing"
    return CalibrationSetError(
        f"no images found (looked for {' '.join(sorted(IMAGE_SUFFIXES))}; there is {instead})", where=where
    )


def _walk(folder: Path) -> Iterator[str]:
    """Yield the path of every file below a folder, with forward slashes; links are followed, but not in cycles."""
    seen: set[tuple[int, int]] = set()
    pending = [(folder, "")]
    while pending:
        path, prefix = pending.pop()
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            raise CalibrationSetError(f"cannot list the folder ({reason(error)})", where=path) from error
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                folders.append((path / entry.name, f"{prefix}{entry.name}/"))
            else:
                yield prefix + entry.name
        pending.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False

"""The folder of calibration files for the vendor's compiler."""

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from quantkit.errors import CalibrationSetError

# Limit on files, because a build file may name any folder, such as the root of a disk.
MAX_LISTED = 200_000


@dataclass(frozen=True, kw_only=True)
class CalibrationFolder:
    """Calibration files for the vendor's compiler.

    Attributes:
        path: the folder, as written to the build file.
        suffix: suffix of the files, without a dot; ``npz`` for preprocessed tensors.
        count: number of files to use.
    """

    path: str
    suffix: str
    count: int


def calibration_folder(folder: Path, *, suffix: str | None = None, count: int | None = None) -> CalibrationFolder:
    """Return the suffix and number of the files of a calibration folder.

    Args:
        folder: the folder; files in subfolders are included.
        suffix: use only files with this suffix; by default all files must have the same.
        count: number of files to use; by default all.

    Raises:
        CalibrationSetError: no such folder, no such file, several suffixes, or fewer files than ``count``.
    """
    if not folder.is_dir():
        raise CalibrationSetError("no such folder", where=folder, fix="give the folder of calibration images")
    names = file_names(folder)
    suffixes = sorted({Path(name).suffix.removeprefix(".") for name in names})
    if suffix is None:
        if len(suffixes) != 1 or not suffixes[0]:
            there = ", ".join(suffixes) or "no files"
            raise CalibrationSetError(
                f"the calibration files must have one suffix (found: {there})",
                where=folder,
                fix="give --suffix, or `quantkit calib-set` with --materialize",
            )
        suffix = suffixes[0]
    matching = sum(name.endswith(f".{suffix}") for name in names)
    if matching < (count or 1):
        raise CalibrationSetError(
            f"{count or 1} files with the suffix .{suffix} are needed, and the folder has {matching}",
            where=folder,
            fix="give a smaller --count, or another folder",
        )
    return CalibrationFolder(path=str(folder), suffix=suffix, count=count or matching)


def file_names(folder: Path) -> list[str]:
    """Return the names of the files below a folder; hidden files, and folders that cannot be listed, are skipped."""
    names = (name for _, _, files in os.walk(folder) for name in files if not name.startswith("."))
    return list(islice(names, MAX_LISTED))

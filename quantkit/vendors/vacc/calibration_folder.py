"""The folder of files that the vendor's compiler finds ranges on."""

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from quantkit.errors import CalibrationSetError

# A build file may name any folder, the root of a disk among them; no calibration set is this large.
MAX_LISTED = 200_000


@dataclass(frozen=True, kw_only=True)
class CalibrationFolder:
    """The files that the vendor's compiler finds ranges on.

    Attributes:
        path: the folder, as it is to stand in the build file.
        suffix: of the files, without a dot; ``npz`` for tensors that are preprocessed already.
        count: how many are taken.
    """

    path: str
    suffix: str
    count: int


def calibration_folder(folder: Path, *, suffix: str | None = None, count: int | None = None) -> CalibrationFolder:
    """Look into a folder of calibration files for their suffix and number.

    Args:
        folder: the folder; files in folders below it count too.
        suffix: take these only; else all files must have the same.
        count: take so many; else all.

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
                f"the calibration files must have one suffix (there: {there})",
                where=folder,
                fix="give --suffix, or `quantkit calib-set` with --materialize",
            )
        suffix = suffixes[0]
    matching = sum(name.endswith(f".{suffix}") for name in names)
    if matching < (count or 1):
        raise CalibrationSetError(
            f"{count or 1} files that end in .{suffix} are wanted and the folder holds {matching}",
            where=folder,
            fix="give a smaller --count, or another folder",
        )
    return CalibrationFolder(path=str(folder), suffix=suffix, count=count or matching)


def file_names(folder: Path) -> list[str]:
    """Return the names of the files below a folder, hidden ones left out; what cannot be listed is passed over."""
    names = (name for _, _, files in os.walk(folder) for name in files if not name.startswith("."))
    return list(islice(names, MAX_LISTED))

"""Find images that are in both the calibration and the evaluation set."""

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.images import read_bytes
from quantkit.data.parallel import map_in_order


def overlap(chosen: CalibrationSet, paths: Sequence[Path], workers: int | None = None) -> list[int]:
    """Return the positions of images whose bytes are in a calibration set.

    Only files whose size occurs in the set are read, where the set's images can be found; and no file twice in one
    process while its size and time of change stay the same.

    Args:
        chosen: the calibration set.
        paths: the images to look up, an evaluation set say.
        workers: number of threads.

    Raises:
        ImageError: one of ``paths`` cannot be read.
        CalibrationSetError: the set was chosen from labels alone.
    """
    chosen.require_digests()
    digests = {image.sha256 for image in chosen.images}
    sizes = _sizes(chosen.paths)
    candidates = [
        position for position, path in enumerate(paths) if sizes is None or _size(path) is None or _size(path) in sizes
    ]
    found = map_in_order(digest_of, [paths[position] for position in candidates], workers)
    return [position for position, digest in zip(candidates, found, strict=True) if digest in digests]


def digest_of(path: Path) -> str:
    """Return the hex SHA-256 of an image file, remembered for this process.

    Raises:
        ImageError: the file cannot be read.
    """
    try:
        status = path.stat()
    except OSError:
        return hashlib.sha256(read_bytes(path)).hexdigest()
    return _digest(os.fspath(path.absolute()), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=200_000)
def _digest(path: str, size: int, time_ns: int) -> str:
    del size, time_ns  # part of the key only: a changed file is read again
    return hashlib.sha256(read_bytes(Path(path))).hexdigest()


def _sizes(paths: Sequence[Path]) -> set[int] | None:
    """Return the sizes in bytes of files, or None where one cannot be seen."""
    sizes = {_size(path) for path in paths}
    return None if None in sizes else {size for size in sizes if size is not None}


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None

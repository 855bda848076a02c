"""The bundled digits, unpacked into folders of PNG files."""

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantkit.errors import OutputError
from quantkit.files import TEMPORARY_SUFFIX, make_folder, reason

MODEL = "mini_iresnet.onnx"


@dataclass(frozen=True)
class Digits:
    """8 x 8 grey images of handwritten digits, divided into three parts.

    Attributes:
        images: uint8 ``[N, 8, 8]``.
        labels: uint8 ``[N]``, the digit.
        train: indices of the training images of the demo's network.
        calibration: indices of the calibration images.
        test: indices of the test images.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    train: NDArray[np.int16]
    calibration: NDArray[np.int16]
    test: NDArray[np.int16]


def load_digits() -> Digits:
    """Return the digits that ship in the package."""
    with (package_files("quantkit.demo") / "digits.npz").open("rb") as file, np.load(file) as archive:
        return Digits(**archive)


def unpack_digits(folder: Path) -> Path:
    """Write the calibration and test images as ``<folder>/<part>/<digit>/<index>.png``.

    The folder is created atomically. If it is already complete, nothing is done.

    Returns:
        The folder.

    Raises:
        OutputError: the folder cannot be written, or contains other files.
    """
    digits = load_digits()
    if _is_complete(folder, digits):
        return folder
    make_folder(folder.parent)
    try:
        temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
        try:
            _write(temporary, digits)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        # Another process may have created it.
        if _is_complete(folder, digits):
            return folder
        fix = "remove it, or choose another folder" if folder.exists() else None
        raise OutputError(f"cannot unpack the digits here ({reason(error)})", where=folder, fix=fix) from error
    return folder


def _files(digits: Digits) -> Iterator[tuple[str, int]]:
    """Yield the path of each image inside the folder, and its index."""
    for part, indices in (("calibration", digits.calibration), ("test", digits.test)):
        for index in indices.tolist():
            yield f"{part}/{digits.labels[index]}/{index:04d}.png", index


def _is_complete(folder: Path, digits: Digits) -> bool:
    return all((folder / name).is_file() for name, _ in _files(digits))


def _write(folder: Path, digits: Digits) -> None:
    for name, index in _files(digits):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[index]).save(path)

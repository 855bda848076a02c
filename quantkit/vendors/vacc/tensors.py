"""The vendor's tensor files: ``.npz`` archives, written reproducibly and read without pickle."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.errors import VendorFileError
from quantkit.files import reason, replacing

# The date of zip members: the earliest possible one, so that files are reproducible.
_NO_DATE = (1980, 1, 1, 0, 0, 0)
# Far larger than class scores and images; a damaged header may have any size.
MAX_BYTES = 1 << 30


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]], *, durable: bool = True) -> None:
    """Write arrays like ``numpy.savez``, uncompressed, atomically and reproducibly.

    Args:
        path: the file.
        arrays: arrays of any shape by key, without object arrays.
        durable: see `quantkit.files.replacing`.

    Raises:
        OutputError: the file cannot be written.
    """
    with replacing(path, durable=durable) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for key, array in arrays.items():
            entry = zipfile.ZipInfo(f"{key}.npy", _NO_DATE)
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def read_npz(path: Path, key: str) -> NDArray[Any]:
    """Read one array of an ``.npz`` file.

    Raises:
        VendorFileError: the file is missing or damaged, lacks the key, or contains objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if f"{key}.npy" not in names:
                keys = ", ".join(name.removesuffix(".npy") for name in names) or "nothing"
                raise VendorFileError(f"it has no `{key}` (found: {keys})", where=path)
            if archive.getinfo(f"{key}.npy").file_size > MAX_BYTES:
                raise VendorFileError(f"`{key}` is larger than {MAX_BYTES} bytes", where=path)
            with archive.open(f"{key}.npy") as member:
                array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
                return array
    except OSError as error:
        raise VendorFileError(f"cannot read the file ({reason(error)})", where=path) from error
    except VendorFileError:
        raise
    except Exception as error:  # zipfile, its decompressors and numpy raise any class for a damaged file
        raise VendorFileError(f"a damaged npz file ({' '.join(str(error).split())[:200]})", where=path) from error


def npz_shape(path: Path, key: str) -> tuple[int, ...] | None:
    """Return the shape of an array of an ``.npz`` file without reading it; None if the file is not complete."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as member:
            version = np.lib.format.read_magic(member)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, _ = read_header(member)
            return tuple(shape)
    except Exception:  # as in `read_npz`
        return None

"""The index of a zip archive, its central directory, for random access to members."""

import io
import stat
import struct
import zipfile
from collections.abc import Callable

from quantkit.data.sources.blob import Blob, BlobFile, one_line
from quantkit.data.sources.member import DEFLATED, STORED, Member, size_fault
from quantkit.errors import CalibrationSetError, ImageError

_ENCRYPTED = 0x1
_METHODS = (STORED, DEFLATED)


def zip_index(blob: Blob, wanted: Callable[[str], bool]) -> list[Member]:
    """Return the wanted members of a zip, in order; unusable ones have a fault.

    The directory is at the end of the file, so a truncated zip has none and cannot be read at all.

    Raises:
        CalibrationSetError: the file is not a zip, or its directory is missing or damaged.
    """
    try:
        with zipfile.ZipFile(io.BufferedReader(BlobFile(blob), blob.block)) as archive:
            found = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, EOFError, ImageError) as error:
        what = error.what if isinstance(error, ImageError) else one_line(error)
        raise CalibrationSetError(
            f"not a complete zip archive ({what})", where=blob.name, fix="download it again; the index is at its end"
        ) from error
    return [_member(info, blob) for info in found if wanted(info.filename) and not info.is_dir()]


def _member(info: zipfile.ZipInfo, blob: Blob) -> Member:
    fault = size_fault(info.file_size, info.compress_size)
    mode = info.external_attr >> 16
    if info.flag_bits & _ENCRYPTED:
        fault = "it is encrypted"
    elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        fault = "it is a link or a device"
    elif info.compress_type not in _METHODS:
        fault = f"it is compressed by method {info.compress_type}; only stored and deflated members are supported"
    elif info.header_offset + info.compress_size > blob.size or info.header_offset < 0:
        fault = "it is beyond the end of the archive according to the directory"
    elif info.compress_type == STORED and info.file_size != info.compress_size:
        fault = "the directory has contradictory sizes for it"
    return Member(
        info.filename,
        info.file_size,
        info.header_offset,
        info.compress_size,
        info.compress_type,
        info.CRC,
        fault,
    )

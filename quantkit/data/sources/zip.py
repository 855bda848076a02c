"""Zip archives: their index, the central directory, and the content of members."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache

from quantkit.data.sources.blob import Blob, BlobFile
from quantkit.data.sources.member import Member, size_fault
from quantkit.errors import CalibrationSetError, ImageError, one_line

_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Number of archives that are kept open in this process.
_OPEN = 64


def zip_index(blob: Blob, wanted: Callable[[str], bool]) -> list[Member]:
    """Return the wanted members of a zip, in order; unusable ones have a fault.

    The directory is at the end of the file, so a truncated zip has none and cannot be read at all.

    Raises:
        CalibrationSetError: the file is not a zip, or its directory is missing or damaged.
    """
    try:
        found = _opened(blob).infolist()
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
    elif info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        fault = "the directory has contradictory sizes for it"
    return Member(info.filename, info.file_size, info.header_offset, fault, zipped=True)


def zip_content(blob: Blob, member: Member) -> bytes:
    """Return the content of a member, with its checksum compared; thread-safe.

    Raises:
        ImageError: the archive cannot be read, or the content does not match the index.
    """
    try:
        return _opened(blob).read(member.name)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, struct.error, zlib.error) as error:
        raise ImageError(
            f"the member is damaged ({one_line(error)})", where=member.name, fix="download the archive again"
        ) from error


@lru_cache(maxsize=_OPEN)
def _opened(blob: Blob) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BufferedReader(BlobFile(blob), blob.block))

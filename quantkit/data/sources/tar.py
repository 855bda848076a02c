"""The index of a tar archive, from one pass over its headers by `tarfile`, for random access to members.

A compressed tar has no random access; its images are kept in memory.
"""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from quantkit.data.sources.blob import Blob, BlobFile
from quantkit.data.sources.faults import Faults
from quantkit.data.sources.member import Member, size_fault
from quantkit.errors import CalibrationSetError, ImageError, one_line

BLOCK = tarfile.BLOCKSIZE
# Maximum bytes of images of a compressed tar in memory.
MAX_IN_MEMORY = 1 << 30
# Maximum bytes of a header with a long name, which `tarfile` reads at once.
_MAX_HEADER_BYTES = 1 << 20

_KINDS = {
    tarfile.LNKTYPE: "a link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
_OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


class _DamagedError(Exception):
    """The archive cannot be read beyond this point."""


class _File(io.BufferedReader):
    """A tar as a file that refuses to read a header of any size, and knows the last one."""

    last = b""

    def read(self, size: int | None = -1) -> bytes:
        """Return the bytes of a header."""
        if size is None or not 0 <= size <= _MAX_HEADER_BYTES:
            raise _DamagedError(f"a header of {size} bytes at byte {self.tell()}")
        self.last = super().read(size)
        return self.last

    def content(self, info: tarfile.TarInfo) -> bytes:
        """Return the content of a member."""
        self.seek(info.offset_data)
        data = super().read(info.size)
        if len(data) < info.size:
            raise _DamagedError(f"the archive ends within {info.name}")
        return data


def tar_index(blob: Blob, faults: Faults, wanted: Callable[[str], bool]) -> list[Member]:
    """Return the wanted members of a tar, in order; unusable ones have a fault.

    Args:
        blob: the archive.
        faults: receives the position at which the archive is truncated or damaged.
        wanted: returns whether a name is wanted; other members are ignored.

    Raises:
        CalibrationSetError: the file is not a tar, or it is damaged and faults are not skipped.
    """
    start = blob.read_at(0, min(BLOCK, blob.size))
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    members: list[Member] = []
    try:
        members.extend(_members(blob, opener, wanted))
    except CalibrationSetError:
        raise
    except Exception as error:  # tarfile and the decompressors raise several classes
        if not members and opener is None and not is_tar(start):
            raise CalibrationSetError("not a tar archive", where=blob.name, fix="give an archive of images") from error
        what = error.what if isinstance(error, ImageError) else one_line(error)
        if opener is not None and isinstance(error, OSError | EOFError | zlib.error | lzma.LZMAError):
            what = f"its compression is damaged ({what})"
        faults.damaged(f"{what} (after {len(members)} images and labels)", blob.name)
    return members


def is_tar(start: bytes) -> bool:
    """Return whether a file with these first bytes is a tar archive."""
    try:
        tarfile.TarInfo.frombuf(start[:BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def is_compressed(start: bytes) -> bool:
    """Return whether a file with these first bytes is compressed."""
    return start.startswith(tuple(_OPENERS))


def _members(blob: Blob, opener: Callable[[Any], Any] | None, wanted: Callable[[str], bool]) -> Iterator[Member]:
    """Yield the wanted members: files, links and devices.

    The content of labels, and of all members of a compressed tar, is read with the index.

    Raises:
        _DamagedError: the archive is truncated or damaged.
        CalibrationSetError: the images of a compressed tar exceed the memory limit.
    """
    raw: Any = BlobFile(blob) if opener is None else opener(io.BufferedReader(BlobFile(blob), 1 << 18))
    kept, last = 0, "its first member"
    # Of a compressed tar that ends early, all there is can be read in small steps.
    with (
        _File(raw, BLOCK if opener else blob.block) as file,
        tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape") as archive,
    ):
        for info in archive:
            if info.size < 0:
                raise _DamagedError(f"{info.name} has an invalid size in its header")
            left = blob.size - info.offset_data
            if opener is None and not info.issparse() and info.isreg() and info.size > left:
                raise _DamagedError(
                    f"{info.name} has {info.size} bytes by its header, and {max(left, 0)} are left of the archive"
                )
            last = info.name
            if not (info.isreg() or info.type in _KINDS) or not wanted(info.name):
                continue
            member = Member(info.name, info.size, info.offset_data, _fault(info))
            if not member.fault and opener is not None:
                kept += info.size
                if kept > MAX_IN_MEMORY:
                    raise CalibrationSetError(
                        f"a compressed tar is read into memory, and this one has more than {MAX_IN_MEMORY >> 30} GiB "
                        "of images",
                        where=blob.name,
                        fix="decompress it first",
                    )
            if not member.fault and (opener is not None or (info.name.endswith(".cls") and info.size <= BLOCK)):
                member = replace(member, content=file.content(info))
            yield member
        if len(file.last) < BLOCK:
            raise _DamagedError(f"the archive has no end mark, so it is truncated after {last}")
        if any(file.last):
            raise _DamagedError(f"no header at byte {archive.offset}, after {last}")


def _fault(info: tarfile.TarInfo) -> str:
    if info.type in _KINDS:
        return f"it is {_KINDS[info.type]}"
    return "a sparse file" if info.issparse() else size_fault(info.size, info.size)

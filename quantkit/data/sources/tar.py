"""The index of a tar archive, from one pass over its headers, for random access to members.

The ustar, GNU and pax formats are supported. A compressed tar has no random access; its images are kept in memory.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Protocol

from quantkit.data.sources.blob import Blob, BlobFile, one_line
from quantkit.data.sources.faults import Faults
from quantkit.data.sources.member import Member, size_fault
from quantkit.errors import CalibrationSetError, ImageError

BLOCK = 512
# Maximum bytes of images of a compressed tar in memory.
MAX_IN_MEMORY = 1 << 30
# Maximum size of a pax header, which contains a few names.
_MAX_PAX_BYTES = 1 << 20
# Bytes per read when a part of a compressed tar is skipped.
_SKIP_BYTES = 1 << 20

_KINDS = {b"1": "a link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe"}
_FILES = (b"0", b"\0", b"7")
_OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


class _DamagedError(Exception):
    """The archive cannot be read beyond this point."""


class _Reader(Protocol):
    def at(self, offset: int, length: int) -> bytes:
        """Return the bytes at an offset, fewer at the end of the archive; offsets only increase."""


def tar_index(blob: Blob, faults: Faults, wanted: Callable[[str], bool]) -> list[Member]:
    """Return the wanted members of a tar, in order; unusable ones have a fault.

    Args:
        blob: the archive.
        faults: receives the position at which the archive is truncated or damaged.
        wanted: returns whether a name is wanted; other members are ignored.

    Raises:
        CalibrationSetError: the file is not a tar, or it is damaged and faults are not skipped.
    """
    opener = next((opener for start, opener in _OPENERS.items() if _start(blob).startswith(start)), None)
    members: list[Member] = []
    try:
        if opener is None:
            members.extend(_plain_members(blob, wanted))
        else:
            _unpack(blob, opener, wanted, members)
    except _DamagedError as error:
        if not members and _is_no_tar(blob, opener is not None):
            raise CalibrationSetError("not a tar archive", where=blob.name, fix="give an archive of images") from error
        faults.damaged(f"{error} (after {len(members)} images and labels)", blob.name)
    except ImageError as error:
        faults.damaged(f"{error.what} (after {len(members)} images and labels)", blob.name)
    return members


def is_tar(start: bytes) -> bool:
    """Return whether a file with these first bytes is a tar archive."""
    return len(start) >= BLOCK and _checksum_fits(start[:BLOCK])


def is_compressed(start: bytes) -> bool:
    """Return whether a file with these first bytes is compressed."""
    return start.startswith(tuple(_OPENERS))


def _plain_members(blob: Blob, wanted: Callable[[str], bool]) -> Iterator[Member]:
    reader = _BlockReader(blob)
    for member in _members(reader, blob.size):
        if not wanted(member.name):
            continue
        if member.name.endswith(".cls") and not member.fault:
            yield _with_content(member, reader.at(member.offset, min(member.size, BLOCK)))
        else:
            yield member


def _unpack(blob: Blob, opener: Callable[[Any], Any], wanted: Callable[[str], bool], members: list[Member]) -> None:
    """Add the wanted members of a compressed tar, with their content.

    Raises:
        _DamagedError: the archive is damaged; the members before the damage are added.
        CalibrationSetError: the images exceed the memory limit.
    """
    kept = 0
    with opener(io.BufferedReader(BlobFile(blob), 1 << 18)) as file:
        reader = _StreamReader(file)
        for member in _members(reader, None):
            if not wanted(member.name):
                continue
            if member.fault:
                members.append(member)
                continue
            kept += member.size
            if kept > MAX_IN_MEMORY:
                raise CalibrationSetError(
                    f"a compressed tar is read into memory, and this one has more than {MAX_IN_MEMORY >> 30} GiB of "
                    "images",
                    where=blob.name,
                    fix="decompress it first",
                )
            content = reader.at(member.offset, member.size)
            if len(content) < member.size:
                raise _DamagedError(f"the archive ends within {member.name}")
            members.append(_with_content(member, content))


def _members(reader: _Reader, size: int | None) -> Iterator[Member]:
    """Yield every member that is a file, a link or a device.

    Raises:
        _DamagedError: the archive is truncated, or a header is invalid.
    """
    offset, pax, long_name = 0, dict[str, str](), ""
    last = "its first member"
    while True:
        header = reader.at(offset, BLOCK)
        if header == bytes(BLOCK):
            return
        if len(header) < BLOCK:
            raise _DamagedError(f"the archive has no end mark, so it is truncated after {last}")
        if not _checksum_fits(header):
            raise _DamagedError(f"no header at byte {offset}, after {last}")
        length, data = _number(header[124:136], offset), offset + BLOCK
        kind = header[156:157]
        if kind in (b"L", b"K", b"x", b"g"):
            if length > _MAX_PAX_BYTES:
                raise _DamagedError(f"a header of {length} bytes at byte {offset}")
            text = reader.at(data, length)
            if len(text) < length:
                raise _DamagedError(f"the archive ends within a header, after {last}")
            if kind == b"L":
                long_name = text.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            elif kind == b"x":
                pax = _pax(text, offset)
        else:
            name = pax.get("path") or long_name or _name(header)
            if "size" in pax:
                length = _decimal(pax["size"], offset)
            if size is not None and data + length > size:
                left = max(size - data, 0)
                raise _DamagedError(f"{name} has {length} bytes by its header, and {left} are left of the archive")
            sparse = kind == b"S" or any(key.startswith("GNU.sparse") for key in pax)
            fault = _KINDS.get(kind, "") or ("a sparse file" if sparse else size_fault(length, length))
            if kind in _FILES or kind in _KINDS or sparse:
                yield Member(name, length, data, length, fault=fault and f"it is {fault}" if kind in _KINDS else fault)
            if kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
                length = 0  # these have no content, regardless of the header
            pax, long_name, last = {}, "", name
        offset = data + -(-length // BLOCK) * BLOCK


def _with_content(member: Member, content: bytes) -> Member:
    return Member(member.name, member.size, member.offset, member.packed, content=content)


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _number(field: bytes, offset: int) -> int:
    """Return a number of a header: octal digits, or base 256 if the first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] == 0xFF or value >= 1 << 62:
            raise _DamagedError(f"an invalid size in the header at byte {offset}")
        return value
    digits = field.replace(b"\0", b" ").strip()
    if digits and not all(48 <= digit <= 55 for digit in digits):
        raise _DamagedError(f"a size that is not a number in the header at byte {offset}")
    return int(digits or b"0", 8)


def _decimal(text: str, offset: int) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 20:
        raise _DamagedError(f"a size that is not a number in the header at byte {offset}")
    return int(text)


def _pax(text: bytes, offset: int) -> dict[str, str]:
    """Return the records of a pax header: lines ``LENGTH KEY=VALUE``."""
    records = {}
    while text.strip(b"\0"):
        digits, _, _ = text.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        key, equals, value = text[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or not len(digits) + 1 < length <= len(text):
            raise _DamagedError(f"a damaged extended header at byte {offset}")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        text = text[length:]
    return records


def _checksum_fits(header: bytes) -> bool:
    """Return whether a header's checksum is the sum of its bytes, with the checksum field as spaces."""
    digits = header[148:156].replace(b"\0", b" ").strip()
    if not digits or not all(48 <= digit <= 55 for digit in digits):
        return False
    return int(digits, 8) == sum(header[:148]) + 8 * 32 + sum(header[156:])


def _start(blob: Blob) -> bytes:
    return blob.read_at(0, min(BLOCK, blob.size))


def _is_no_tar(blob: Blob, compressed: bool) -> bool:
    return not compressed and not is_tar(_start(blob))


class _BlockReader:
    """Reads an archive block by block, and skips unneeded blocks."""

    def __init__(self, blob: Blob) -> None:
        self._blob, self._start, self._block = blob, 0, b""

    def at(self, offset: int, length: int) -> bytes:
        length = max(min(length, self._blob.size - offset), 0)
        if not self._start <= offset <= offset + length <= self._start + len(self._block):
            count = min(max(length, self._blob.block), self._blob.size - offset)
            self._start, self._block = offset, self._blob.read_at(offset, count) if count > 0 else b""
        return self._block[offset - self._start : offset - self._start + length]


class _StreamReader:
    """Reads a compressed archive sequentially."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._position = file, 0

    def at(self, offset: int, length: int) -> bytes:
        try:
            while self._position < offset:
                skipped = len(self._file.read(min(offset - self._position, _SKIP_BYTES)))
                self._position += skipped
                if not skipped:
                    return b""
            data = self._file.read(length)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise _DamagedError(f"its compression is damaged ({one_line(error)})") from error
        self._position += len(data)
        return data

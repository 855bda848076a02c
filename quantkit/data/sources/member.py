"""Members of archives: location, faults and content."""

import zlib
from dataclasses import dataclass

from quantkit.data.images import MAX_FILE_BYTES
from quantkit.data.sources.blob import Blob, BlobItem
from quantkit.errors import ImageError

STORED, DEFLATED = 0, 8
# Members above this size with a larger compression ratio are treated as compression bombs.
_BOMB_BYTES, _BOMB_FACTOR = 1 << 26, 200
_LOCAL_HEADER = 30
_LOCAL_SIGNATURE = b"PK\x03\x04"
# Usual maximum of the extra fields of a local header; longer ones need a second read.
_USUAL_EXTRA = 64


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an archive.

    Attributes:
        name: name in the archive, with forward slashes.
        size: size of the content in bytes.
        offset: offset of the content in the archive; in a zip, of the local header.
        packed: size in the archive in bytes.
        method: compression method: `STORED` or `DEFLATED`.
        crc: CRC-32 of the content, None in a tar.
        fault: why it cannot be used; empty if it can.
        content: the content, if the index had to read it.
    """

    name: str
    size: int
    offset: int
    packed: int
    method: int = STORED
    crc: int | None = None
    fault: str = ""
    content: bytes | None = None


class MemberItem(BlobItem):
    """An image in an archive.

    Args:
        blob: the archive.
        member: the member.
        id: name in the source.
    """

    __slots__ = ("member",)

    def __init__(self, blob: Blob, member: Member, id: str) -> None:
        super().__init__(blob, id, member.size)
        self.member = member

    @property
    def where(self) -> object:
        """Archive and member."""
        return f"{self.blob.name}: {self.member.name}"

    def read(self) -> bytes:
        """Return the content of the member."""
        return read_member(self.blob, self.member)

    @property
    def place(self) -> tuple[int, ...]:
        """Size and offset of the member."""
        return self.member.size, self.member.offset


def size_fault(size: int, packed: int) -> str:
    """Return why a member of these sizes is not read; empty if it is."""
    if size > MAX_FILE_BYTES:
        return f"it is too large for an image ({size} bytes)"
    if size > _BOMB_BYTES and size > _BOMB_FACTOR * max(packed, 1):
        return f"a compression bomb: {packed} bytes expand to {size}"
    return ""


def read_member(blob: Blob, member: Member) -> bytes:
    """Return the content of a member; that of a zip is unpacked and its checksum compared.

    Raises:
        ImageError: the archive cannot be read, or the content does not match the index.
    """
    where = f"{blob.name}: {member.name}"
    if member.content is not None:
        return member.content
    try:
        packed = blob.read_at(member.offset, member.size) if member.crc is None else _packed_bytes(blob, member, where)
    except ImageError as error:
        raise ImageError(error.what, where=where, fix=error.fix) from error
    if member.crc is None:
        return packed
    if member.method == STORED:
        data = packed
    else:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = unpacker.decompress(packed, member.size + 1)
        except zlib.error as error:
            raise ImageError(
                f"the member is damaged ({error})", where=where, fix="download the archive again"
            ) from error
    if len(data) != member.size:
        more = "more" if len(data) > member.size else f"{len(data)}"
        raise ImageError(
            f"the index declares {member.size} bytes, and the member has {more}",
            where=where,
            fix="download the archive again",
        )
    if zlib.crc32(data) != member.crc:
        raise ImageError("its checksum is wrong", where=where, fix="download the archive again")
    return data


def _packed_bytes(blob: Blob, member: Member, where: str) -> bytes:
    """Return the compressed bytes after a local header, usually by one read."""
    guess = _LOCAL_HEADER + len(member.name.encode(errors="surrogateescape")) + _USUAL_EXTRA + member.packed
    data = blob.read_at(member.offset, max(min(guess, blob.size - member.offset), 0))
    if data[:4] != _LOCAL_SIGNATURE or len(data) < _LOCAL_HEADER:
        raise ImageError("the index of the archive is wrong", where=where, fix="download the archive again")
    start = _LOCAL_HEADER + int.from_bytes(data[26:28], "little") + int.from_bytes(data[28:30], "little")
    if member.offset + start + member.packed > blob.size:
        raise ImageError("the archive is truncated within the member", where=where, fix="download the archive again")
    if len(data) < start + member.packed:
        return blob.read_at(member.offset + start, member.packed)
    return data[start : start + member.packed]

"""Members of archives: where each begins, what is wrong with it, and how its content is read."""

import zlib
from dataclasses import dataclass

from quantkit.data.images import MAX_FILE_BYTES
from quantkit.data.item import DIGESTS, ImageItem
from quantkit.data.sources.blob import Blob
from quantkit.errors import ImageError

STORED, DEFLATED = 0, 8
# A member that grows beyond this when unpacked, by more than this factor, is no picture of a camera.
_BOMB_BYTES, _BOMB_FACTOR = 1 << 26, 200
_LOCAL_HEADER = 30
_LOCAL_SIGNATURE = b"PK\x03\x04"
# Extra fields of a local header are mostly shorter; longer ones cost a second read.
_USUAL_EXTRA = 64


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive.

    Attributes:
        name: as the archive has it, with forward slashes.
        size: bytes of its content.
        offset: where its content begins in the archive; of a zip, where its local header does.
        packed: bytes it takes in the archive.
        method: how it is compressed: `STORED` or `DEFLATED`.
        crc: CRC-32 of the content, None in a tar.
        fault: why it cannot be used; empty where it can.
        content: its bytes where the index had to read them.
    """

    name: str
    size: int
    offset: int
    packed: int
    method: int = STORED
    crc: int | None = None
    fault: str = ""
    content: bytes | None = None


class MemberItem(ImageItem):
    """An image in an archive.

    Args:
        blob: the archive.
        member: its place there.
        id: name within the source.
    """

    __slots__ = ("blob", "id", "member", "size")

    def __init__(self, blob: Blob, member: Member, id: str) -> None:
        self.blob, self.member, self.id = blob, member, id
        self.size = member.size

    @property
    def where(self) -> object:
        """Archive and member."""
        return f"{self.blob.name}: {self.member.name}"

    def read(self) -> bytes:
        """Return the content of the member."""
        return read_member(self.blob, self.member)

    def digest(self) -> str:
        """Return the hex SHA-256 of the content, read once in this process."""
        return DIGESTS.get(self.blob.name, self)

    def fingerprint(self) -> str:
        """Return id, size, place and the version of the archive."""
        return f"{self.id}\0{self.member.size}\0{self.member.offset}\0{self.blob.size}\0{self.blob.version}"

    def portable(self) -> int | str:
        """Return the size of the content."""
        return self.member.size

    def modified_ns(self) -> int | None:
        """Return when the archive was last changed."""
        return self.blob.modified_ns()


def size_fault(size: int, packed: int) -> str:
    """Return why a member of such sizes is not read; empty where it is."""
    if size > MAX_FILE_BYTES:
        return f"it has {size} bytes, more than any picture"
    if size > _BOMB_BYTES and size > _BOMB_FACTOR * max(packed, 1):
        return f"a compression bomb: {packed} bytes that become {size}"
    return ""


def read_member(blob: Blob, member: Member) -> bytes:
    """Return the content of a member; a zip's is unpacked and its checksum compared.

    Raises:
        ImageError: the archive cannot be read there, or the content is not what the index says.
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
            raise ImageError(f"the member is damaged ({error})", where=where, fix="fetch the archive again") from error
    if len(data) != member.size:
        more = "more" if len(data) > member.size else f"{len(data)}"
        raise ImageError(
            f"the archive says {member.size} bytes and it has {more}", where=where, fix="fetch the archive again"
        )
    if zlib.crc32(data) != member.crc:
        raise ImageError("its checksum is wrong", where=where, fix="fetch the archive again")
    return data


def _packed_bytes(blob: Blob, member: Member, where: str) -> bytes:
    """Return the compressed bytes behind a local header, mostly by one read."""
    guess = _LOCAL_HEADER + len(member.name.encode(errors="surrogateescape")) + _USUAL_EXTRA + member.packed
    data = blob.read_at(member.offset, max(min(guess, blob.size - member.offset), 0))
    if data[:4] != _LOCAL_SIGNATURE or len(data) < _LOCAL_HEADER:
        raise ImageError("the index of the archive points to no member", where=where, fix="fetch the archive again")
    start = _LOCAL_HEADER + int.from_bytes(data[26:28], "little") + int.from_bytes(data[28:30], "little")
    if member.offset + start + member.packed > blob.size:
        raise ImageError("the archive ends within it", where=where, fix="fetch the archive again")
    if len(data) < start + member.packed:
        return blob.read_at(member.offset + start, member.packed)
    return data[start : start + member.packed]

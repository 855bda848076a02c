"""Members of archives: location and faults."""

from dataclasses import dataclass

from quantkit.data.images import MAX_FILE_BYTES

# Members above this size with a larger compression ratio are treated as compression bombs.
_BOMB_BYTES, _BOMB_FACTOR = 1 << 26, 200


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an archive.

    Attributes:
        name: name in the archive, with forward slashes.
        size: size of the content in bytes.
        offset: offset of the content in the archive; in a zip, of the local header.
        fault: why it cannot be used; empty if it can.
        content: the content, if the index had to read it.
        zipped: whether the archive is a zip.
    """

    name: str
    size: int
    offset: int
    fault: str = ""
    content: bytes | None = None
    zipped: bool = False


def size_fault(size: int, packed: int) -> str:
    """Return why a member of these sizes is not read; empty if it is."""
    if size > MAX_FILE_BYTES:
        return f"it is too large for an image ({size} bytes)"
    if size > _BOMB_BYTES and size > _BOMB_FACTOR * max(packed, 1):
        return f"a compression bomb: {packed} bytes expand to {size}"
    return ""

"""Images of a source, independent of their storage: id, content and digest."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np

from quantkit.data.images import read_bytes
from quantkit.errors import ImageError
from quantkit.files import reason
from quantkit.types import Float32Array

_MOST_DIGESTS = 200_000


class ImageItem(ABC):
    """An image of a source; its content is read on each request, from any thread.

    To support a new kind of storage, derive from this class, implement `read`, and pass the items to
    `quantkit.data.source.ImageSource`. The other methods have defaults that read the content.

    Attributes:
        id: unique name in the source, with forward slashes.
        size: bytes of the encoded image, None if unknown without reading it.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> item = quantkit.open_source("images/test").items[0]
        >>> isinstance(item, quantkit.ImageItem), len(item.read()) == item.size
        (True, True)
    """

    __slots__ = ()

    id: str
    size: int | None = None

    @abstractmethod
    def read(self) -> bytes | Float32Array:
        """Return the encoded image, or a float32 array ``[C, H, W]``, which is not preprocessed.

        Raises:
            ImageError: it cannot be read.
        """

    @property
    def where(self) -> object:
        """Name of the image in messages."""
        return self.id

    def digest(self) -> str:
        """Return the hex SHA-256 of the encoded image, or of shape and values of an array.

        Raises:
            ImageError: the image cannot be read.
        """
        return content_digest(self.read())

    def fingerprint(self) -> str:
        """Return a text that changes with the content, without reading it if possible.

        Raises:
            ImageError: the image is missing.
        """
        return self.digest()

    def portable(self) -> int | str:
        """Return a property other than the id that copies on other machines share.

        Raises:
            ImageError: the image is missing.
        """
        return self.digest() if self.size is None else self.size

    def exists(self) -> bool:
        """Return whether the image exists, without reading its content."""
        return True

    def modified_ns(self) -> int | None:
        """Return the modification time in nanoseconds, None if unknown."""
        return None


class FileItem(ImageItem):
    """An image file of a local folder.

    Args:
        path: the file.
        id: path below the folder; by default the file name.
    """

    __slots__ = ("id", "path")

    def __init__(self, path: Path, id: str | None = None) -> None:
        self.path = path
        self.id = path.name if id is None else id

    def read(self) -> bytes:
        """Return the bytes of the file."""
        return read_bytes(self.path)

    @property
    def where(self) -> object:
        """The path."""
        return self.path

    @property
    def size(self) -> int | None:  # type: ignore[override]
        """Bytes of the file, None if it cannot be accessed."""
        try:
            return self.path.stat().st_size
        except OSError:
            return None

    def digest(self) -> str:
        """Return the hex SHA-256 of the file, cached in this process by size and modification time."""
        try:
            status = self.path.stat()
        except OSError:
            return content_digest(self.read())
        return _file_digest(os.fspath(self.path.absolute()), status.st_size, status.st_mtime_ns)

    def fingerprint(self) -> str:
        """Return name, size and modification time."""
        status = self._status()
        return f"{self.id}\0{status.st_size}\0{status.st_mtime_ns}"

    def portable(self) -> int | str:
        """Return the size of the file."""
        return self._status().st_size

    def exists(self) -> bool:
        """Return whether there is such a file."""
        return self.path.is_file()

    def modified_ns(self) -> int | None:
        """Return the modification time of the file."""
        return self._status().st_mtime_ns

    def _status(self) -> os.stat_result:
        try:
            return self.path.stat()
        except OSError as error:
            raise ImageError(f"cannot be read ({reason(error)})", where=self.path) from error


class MissingItem(ImageItem):
    """An image of a calibration set that is missing in its source.

    Args:
        id: name of the image.
        where: the source, for messages.
        why: the fault, such as a missing member of an archive.
    """

    def __init__(self, id: str, where: object, why: str) -> None:
        self.id = id
        self._where, self._why = where, why

    @property
    def where(self) -> object:
        """Source and name."""
        return f"{self._where}: {self.id}"

    def read(self) -> bytes:
        """Raise the error."""
        raise ImageError(self._why, where=self.where)

    def portable(self) -> int | str:
        """Raise the error."""
        return self.digest()

    def exists(self) -> bool:
        """Return False."""
        return False


def as_item(image: Path | ImageItem) -> ImageItem:
    """Return an image as an item; a path is treated as an image file."""
    return FileItem(image) if isinstance(image, Path) else image


def content_digest(content: bytes | Float32Array) -> str:
    """Return the hex SHA-256 of an encoded image, or of dtype, shape and values of an array."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256(f"float32 {'x'.join(map(str, content.shape))}\n".encode())
    digest.update(np.ascontiguousarray(content, "<f4").tobytes())
    return digest.hexdigest()


class DigestCache:
    """Digests of images by fingerprint in this process; the least recently added are dropped."""

    def __init__(self, most: int = _MOST_DIGESTS) -> None:
        self._most, self._lock = most, Lock()
        self._digests: OrderedDict[tuple[str, str], str] = OrderedDict()

    def get(self, place: str, item: ImageItem) -> str:
        """Return the digest of an item of a source; it is read again only if its fingerprint changes."""
        key = (place, item.fingerprint())
        found = self._digests.get(key)
        if found is None:
            found = content_digest(item.read())
            with self._lock:
                self._digests[key] = found
                while len(self._digests) > self._most:
                    self._digests.popitem(last=False)
        return found


DIGESTS = DigestCache()


@lru_cache(maxsize=_MOST_DIGESTS)
def _file_digest(path: str, size: int, time_ns: int) -> str:
    del size, time_ns  # only part of the key, so that a changed file is read again
    return content_digest(read_bytes(Path(path)))

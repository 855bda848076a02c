"""One image of a source, wherever it is stored: an id, its content, and what identifies that content."""

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
    """One image of a source; its content is read each time it is asked for, by any thread.

    To read images from a new kind of storage, derive from this class, implement `read`, and give the items to
    `quantkit.data.source.ImageSource`. The other methods have defaults that read the content.

    Attributes:
        id: name within the source, with forward slashes; unique there.
        size: bytes of the encoded image, None where that is not known without reading it.

    Example:
        In the folder that ``quantkit demo`` makes:

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
        """Return the encoded image, or a ready float32 array ``[C, H, W]``, which is not preprocessed.

        Raises:
            ImageError: it cannot be read.
        """

    @property
    def where(self) -> object:
        """What to call the image in messages."""
        return self.id

    def digest(self) -> str:
        """Return the hex SHA-256 of the encoded image; of an array, of its shape and values.

        Raises:
            ImageError: the image cannot be read.
        """
        return content_digest(self.read())

    def fingerprint(self) -> str:
        """Return a text that changes when the content does, found without reading it where that is possible.

        Raises:
            ImageError: the image is gone.
        """
        return self.digest()

    def portable(self) -> int | str:
        """Return what a copy on another machine has in common with this image, beside its id.

        Raises:
            ImageError: the image is gone.
        """
        return self.digest() if self.size is None else self.size

    def exists(self) -> bool:
        """Return whether the image is there; its content is not read."""
        return True

    def modified_ns(self) -> int | None:
        """Return the time of the last change in nanoseconds, None where it is not known."""
        return None


class FileItem(ImageItem):
    """An image file of a local folder.

    Args:
        path: the file.
        id: name below the folder; the file's own name when absent.
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
        """Bytes of the file, None where it cannot be seen."""
        try:
            return self.path.stat().st_size
        except OSError:
            return None

    def digest(self) -> str:
        """Return the hex SHA-256 of the file, remembered in this process while size and time of change are the same."""
        try:
            status = self.path.stat()
        except OSError:
            return content_digest(self.read())
        return _file_digest(os.fspath(self.path.absolute()), status.st_size, status.st_mtime_ns)

    def fingerprint(self) -> str:
        """Return name, size and time of change."""
        status = self._status()
        return f"{self.id}\0{status.st_size}\0{status.st_mtime_ns}"

    def portable(self) -> int | str:
        """Return the size of the file."""
        return self._status().st_size

    def exists(self) -> bool:
        """Return whether there is such a file."""
        return self.path.is_file()

    def modified_ns(self) -> int | None:
        """Return the time of the file's last change."""
        return self._status().st_mtime_ns

    def _status(self) -> os.stat_result:
        try:
            return self.path.stat()
        except OSError as error:
            raise ImageError(f"cannot be read ({reason(error)})", where=self.path) from error


class MissingItem(ImageItem):
    """An image that a calibration set names and its source does not have.

    Args:
        id: its name.
        where: the source, for messages.
        why: what is wrong, such as that the archive has no member of that name.
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
    """Return an image as an item; a path is an image file."""
    return FileItem(image) if isinstance(image, Path) else image


def content_digest(content: bytes | Float32Array) -> str:
    """Return the hex SHA-256 of an encoded image; of an array, that of its dtype, shape and values."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256(f"float32 {'x'.join(map(str, content.shape))}\n".encode())
    digest.update(np.ascontiguousarray(content, "<f4").tobytes())
    return digest.hexdigest()


class DigestCache:
    """Digests of images by fingerprint, for this process; the least recently added are dropped."""

    def __init__(self, most: int = _MOST_DIGESTS) -> None:
        self._most, self._lock = most, Lock()
        self._digests: OrderedDict[tuple[str, str], str] = OrderedDict()

    def get(self, place: str, item: ImageItem) -> str:
        """Return the digest of an item of a place, read once while its fingerprint is the same."""
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
    del size, time_ns  # part of the key only: a changed file is read again
    return content_digest(read_bytes(Path(path)))

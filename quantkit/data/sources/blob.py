"""Local and remote files with thread-safe random access by offset and length."""

import io
import os
import secrets
import time
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from threading import Lock
from typing import Any

from quantkit.data.item import DIGESTS, ImageItem
from quantkit.errors import CalibrationSetError, ImageError, one_line
from quantkit.files import reason

# Attempts of one remote read, and the pause after the first failure, which doubles each time.
ATTEMPTS = 3
PAUSE_S = 0.5
# Keys of file systems for the version or modification time of a file.
_VERSION_KEYS = ("ETag", "etag", "Last-Modified", "LastModified", "mtime", "updated", "created")
# Version of a file without one on the server. Cached results of such a file are valid only in this process.
_UNKNOWN_VERSION = f"unknown {secrets.token_hex(8)}"
# Timeout of a remote read, plus one second per megabyte.
TIMEOUT_S = 60.0


class Blob(ABC):
    """A file with random access.

    Attributes:
        name: path or URL, for messages.
        size: size in bytes.
        version: text that changes with the file.
        block: number of bytes per read of an index.
    """

    name: str
    size: int
    version: str
    block: int

    @abstractmethod
    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes at an offset.

        Raises:
            ImageError: the bytes cannot be read, or there are fewer.
        """

    @property
    def file_name(self) -> str:
        """The last component of the name."""
        return self.name.rstrip("/").rpartition("/")[2]

    def modified_ns(self) -> int | None:
        """Return the modification time in nanoseconds, None if unknown."""
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blob) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, int, str]:
        return self.name, self.size, self.version


class LocalBlob(Blob):
    """A local file, opened on the first read and kept open.

    Args:
        path: the file.

    Raises:
        CalibrationSetError: the file cannot be accessed, or is not a regular file.
    """

    block = 1 << 14

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            status = path.stat()
        except OSError as error:
            raise CalibrationSetError(f"cannot be read ({reason(error)})", where=path) from error
        if not path.is_file():
            raise CalibrationSetError("not a regular file", where=path)
        self.name, self.size, self.version = str(path), status.st_size, str(status.st_mtime_ns)
        self._descriptor: int | None = None
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalBlob, (self.path,)  # another process opens the file again

    def modified_ns(self) -> int | None:
        """Return the modification time of the file."""
        return int(self.version)

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes at an offset, by one system call without a lock."""
        try:
            data = self._pread(offset, length)
        except OSError as error:
            raise ImageError(f"cannot be read ({reason(error)})", where=self.name) from error
        if len(data) != length:
            raise ImageError(f"truncated: {len(data)} of {length} bytes at byte {offset}", where=self.name)
        return data

    def _pread(self, offset: int, length: int) -> bytes:
        descriptor = self._opened()
        if hasattr(os, "pread"):
            return os.pread(descriptor, length, offset)
        with self._lock:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, length)

    def _opened(self) -> int:
        if self._descriptor is None:
            with self._lock:
                if self._descriptor is None:
                    self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
                    weakref.finalize(self, os.close, self._descriptor)
        return self._descriptor


class RemoteBlob(Blob):
    """A file of an fsspec file system.

    Args:
        fs: the file system.
        path: path in the file system.
        name: URL of the file.
        info: metadata of the file system; requested by default.

    Raises:
        CalibrationSetError: the file does not exist, or its size is unknown.
    """

    block = 1 << 20

    def __init__(self, fs: Any, path: str, name: str, info: dict[str, Any] | None = None) -> None:
        self._fs, self._path, self.name = fs, path, name
        try:
            info = info or fs.info(path)
        except Exception as error:  # file systems raise different classes
            raise CalibrationSetError(f"cannot be read ({one_line(error)})", where=name, fix="check the URL") from error
        if not isinstance(info.get("size"), int):
            raise CalibrationSetError("the server does not report the size", where=name, fix="download it first")
        self.size = int(info["size"])
        changed = (info.get(key) for key in _VERSION_KEYS)
        self.version = str(next((value for value in changed if value is not None), _UNKNOWN_VERSION))

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes at an offset, by one range request; repeated if the connection fails."""
        pause_s, fault = PAUSE_S, ""
        cause: Exception | None = None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                data = self._range(offset, length)
            except (FileNotFoundError, PermissionError) as error:
                raise ImageError(f"cannot be read ({one_line(error)})", where=self.name) from error
            except Exception as error:  # file systems raise different classes
                fault, cause = one_line(error), error
            else:
                if len(data) == length:
                    return data
                if len(data) == self.size > length:
                    raise ImageError(
                        "the server does not support range requests", where=self.name, fix="download it first"
                    )
                fault, cause = f"{len(data)} of {length} bytes received", None
            if attempt < ATTEMPTS:
                time.sleep(pause_s)
                pause_s *= 2
        raise ImageError(
            f"reading stopped at byte {offset} ({fault}; {ATTEMPTS} attempts)",
            where=self.name,
            fix="run the same command again when the server responds",
        ) from cause

    def _range(self, offset: int, length: int) -> bytes:
        if getattr(self._fs, "async_impl", False):
            from fsspec.asyn import sync

            limit_s = TIMEOUT_S + length / 1e6
            answer = sync(
                self._fs.loop, self._fs._cat_file, self._path, start=offset, end=offset + length, timeout=limit_s
            )
        else:
            answer = self._fs.cat_file(self._path, start=offset, end=offset + length)
        return bytes(answer)


class BlobItem(ImageItem):
    """An image that is a file with random access, and the base of images that are parts of one.

    Args:
        blob: the file.
        id: name in the source.
        size: bytes of the image, None if unknown.
    """

    __slots__ = ("blob", "id", "size")

    def __init__(self, blob: Blob, id: str, size: int | None) -> None:
        self.blob, self.id, self.size = blob, id, size

    @property
    def where(self) -> object:
        """Path or URL of the file."""
        return self.blob.name

    def read(self) -> bytes:
        """Return the bytes of the file."""
        return self.blob.read_at(0, self.blob.size)

    def digest(self) -> str:
        """Return the hex SHA-256 of the image, read once in this process."""
        return DIGESTS.get(self.blob.name, self)

    def fingerprint(self) -> str:
        """Return id, place and the version of the file."""
        return "\0".join(map(str, (self.id, *self.place, self.blob.size, self.blob.version)))

    @property
    def place(self) -> tuple[int, ...]:
        """The place of the image in the file."""
        return ()

    def modified_ns(self) -> int | None:
        """Return the modification time of the file."""
        return self.blob.modified_ns()


class BlobFile(io.RawIOBase):
    """A blob as a seekable binary file, for readers of indexes.

    Args:
        blob: the file.
        most: maximum bytes per read; a damaged index may request more.
    """

    def __init__(self, blob: Blob, most: int = 1 << 30) -> None:
        self._blob, self._most, self._position = blob, most, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._blob.size}[whence]
        if start + offset < 0:
            raise OSError("a seek before the beginning")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read bytes at the position, and return their number."""
        length = min(len(buffer), max(self._blob.size - self._position, 0))
        if length > self._most:
            raise OSError("an index of more than 1 GiB")
        data = self._blob.read_at(self._position, length) if length else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

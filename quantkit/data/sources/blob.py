"""Files that are read at random: by offset and length, from any thread, on this machine or behind a URL."""

import io
import os
import secrets
import time
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from threading import Lock
from typing import Any

from quantkit.errors import CalibrationSetError, ImageError
from quantkit.files import reason

# Attempts of one remote read, and the pause after the first that fails; it doubles.
ATTEMPTS = 3
PAUSE_S = 0.5
# Names under which file systems report the version or the modification time of a file.
_VERSION_KEYS = ("ETag", "etag", "Last-Modified", "LastModified", "mtime", "updated", "created")
# Version of a file whose server reports none. Cached results of such a file are valid in this process only.
_UNKNOWN_VERSION = f"unknown {secrets.token_hex(8)}"
# A remote read is given up after so long, and a second more for each megabyte.
TIMEOUT_S = 60.0


class Blob(ABC):
    """A file read by offset.

    Attributes:
        name: its path or URL, for messages.
        size: bytes.
        version: text that changes when the file does.
        block: bytes that an index reads at a time.
    """

    name: str
    size: int
    version: str
    block: int

    @abstractmethod
    def read_at(self, offset: int, length: int) -> bytes:
        """Return bytes from an offset.

        Raises:
            ImageError: they cannot be read, or there are fewer.
        """

    @property
    def file_name(self) -> str:
        """The last part of its name."""
        return self.name.rstrip("/").rpartition("/")[2]

    def modified_ns(self) -> int | None:
        """Return the time of the last change in nanoseconds, None where it is not known."""
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blob) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, int, str]:
        return self.name, self.size, self.version


class LocalBlob(Blob):
    """A local file, opened at the first read and kept open.

    Args:
        path: the file.

    Raises:
        CalibrationSetError: it cannot be seen, or is no regular file.
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
        return LocalBlob, (self.path,)  # another process opens the file anew

    def modified_ns(self) -> int | None:
        """Return the time of the file's last change."""
        return int(self.version)

    def read_at(self, offset: int, length: int) -> bytes:
        """Return bytes from an offset; one system call, no lock."""
        try:
            data = self._pread(offset, length)
        except OSError as error:
            raise ImageError(f"cannot be read ({reason(error)})", where=self.name) from error
        if len(data) != length:
            raise ImageError(
                f"{len(data)} of {length} bytes are there at byte {offset}: it was cut short", where=self.name
            )
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
        path: its path there.
        name: its URL.
        info: what the file system says of it; asked for when absent.

    Raises:
        CalibrationSetError: the file is not there, or does not say its size.
    """

    block = 1 << 20

    def __init__(self, fs: Any, path: str, name: str, info: dict[str, Any] | None = None) -> None:
        self._fs, self._path, self.name = fs, path, name
        try:
            info = info or fs.info(path)
        except Exception as error:  # every file system has errors of its own
            raise CalibrationSetError(f"cannot be read ({one_line(error)})", where=name, fix="check the URL") from error
        if not isinstance(info.get("size"), int):
            raise CalibrationSetError("the server does not say how large it is", where=name, fix="fetch it first")
        self.size = int(info["size"])
        changed = (info.get(key) for key in _VERSION_KEYS)
        self.version = str(next((value for value in changed if value is not None), _UNKNOWN_VERSION))

    def read_at(self, offset: int, length: int) -> bytes:
        """Return bytes from an offset, by one range request; repeated where the connection fails."""
        pause_s, fault = PAUSE_S, ""
        cause: Exception | None = None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                data = self._range(offset, length)
            except (FileNotFoundError, PermissionError) as error:
                raise ImageError(f"cannot be read ({one_line(error)})", where=self.name) from error
            except Exception as error:  # every file system has errors of its own
                fault, cause = one_line(error), error
            else:
                if len(data) == length:
                    return data
                if len(data) == self.size > length:
                    raise ImageError(
                        "the server sends whole files only (no range requests)", where=self.name, fix="fetch it first"
                    )
                fault, cause = f"{len(data)} of {length} bytes came", None
            if attempt < ATTEMPTS:
                time.sleep(pause_s)
                pause_s *= 2
        raise ImageError(
            f"reading stopped at byte {offset} ({fault}; {ATTEMPTS} attempts)",
            where=self.name,
            fix="run the same command again when the server answers",
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


class BlobFile(io.RawIOBase):
    """A blob as a seekable binary file, for readers of indexes.

    Args:
        blob: the file.
        most: bytes of one read; a damaged index that asks for more is refused.
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
        """Read bytes from the position on, and return how many."""
        length = min(len(buffer), max(self._blob.size - self._position, 0))
        if length > self._most:
            raise OSError("an index of more than 1 GiB")
        data = self._blob.read_at(self._position, length) if length else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def one_line(error: BaseException) -> str:
    """Return the text of an error on one line, its class where it has none."""
    text = " ".join(str(error).split())[:300]
    return text or type(error).__name__

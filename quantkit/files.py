"""Atomic file creation, and digests of file contents."""

import contextlib
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantkit.errors import OutputError

# A name that no reader takes for a result: hidden, and with an unused suffix.
TEMPORARY_SUFFIX = ".quantkit-tmp"
# The variable that names the folder of all caches of a user where it is not the usual one.
CACHE_HOME = "XDG_CACHE_HOME"


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Return the hex SHA-256 of a JSON-serialisable value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def user_cache_folder() -> Path:
    """Return the folder of results that belong to no run: ``quantkit`` in the user's cache folder.

    That is ``XDG_CACHE_HOME`` where it is set, else ``~/.cache``, ``~/Library/Caches`` on macOS, or ``LOCALAPPDATA`` on
    Windows.
    """
    given = os.environ.get(CACHE_HOME)
    if given and Path(given).is_absolute():
        return Path(given) / "quantkit"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/quantkit"
    local = os.environ.get("LOCALAPPDATA")
    if sys.platform == "win32" and local:
        return Path(local) / "quantkit/cache"
    return Path.home() / ".cache/quantkit"


_made: list[Path] = []


def made_folders() -> list[Path]:
    """Return the folders that were created since the last call: commands name those that they wrote into."""
    made = _made.copy()
    _made.clear()
    return made


def make_folder(path: Path) -> Path:
    """Create a folder and its parents.

    Raises:
        OutputError: the folder cannot be created; the message has the reason of the operating system.
    """
    try:
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            _made.append(path)
    except OSError as error:
        raise OutputError(f"cannot create the folder ({reason(error)})", where=path) from error
    return path


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success sync it to disk and rename it to ``path``.

    On failure the temporary file is removed, and an existing file at ``path`` is not changed.

    Args:
        path: the file to write.
        durable: wait until the file is on disk. Otherwise the file is still created atomically, but may be incomplete
            after a power failure; suitable for many small files that can be recreated.

    Raises:
        OutputError: the file cannot be written; the message has the reason of the operating system.
    """
    make_folder(path.parent)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError) and error.filename not in (
            None,
            str(temporary),
            str(path),
        ):
            raise
        raise OutputError(f"cannot write the file ({reason(error)})", where=path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically (see `replacing`)."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file with newline line ends atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON file atomically; keys keep their order, and non-finite numbers raise ValueError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def reason(error: OSError) -> str:
    """Return the operating system's message of an error, without errno and path."""
    return (error.strerror or str(error)).lower()


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, if the system can sync folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""Files that appear whole or not at all, and the digests that name their content."""

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

# A name no reader takes for a result: hidden, and with a suffix nothing looks for.
TEMPORARY_SUFFIX = ".quantkit-tmp"
# The variable that names the folder of all caches of a user where it is not the usual one.
CACHE_HOME = "XDG_CACHE_HOME"


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


def make_folder(path: Path) -> Path:
    """Create a folder and its parents.

    Raises:
        OutputError: the folder cannot be created, with the reason the system gave.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder ({reason(error)})", where=path) from error
    return path


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success sync it to disk and rename it over ``path``.

    On any failure the temporary file is removed and what stood at ``path`` is untouched.

    Args:
        path: the file to write.
        durable: wait until the disk has it. Without, the file still appears whole or not at all while the machine
            runs, which suffices for many small files that can be made again.

    Raises:
        OutputError: the file cannot be written, with the reason the system gave.
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
    """Write a whole file, or leave what was there (see `replacing`)."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a whole UTF-8 text file with newline line ends, or leave what was there."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, indented, keys in the order given, non-finite numbers refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def reason(error: OSError) -> str:
    """Return the system's own words for an error, without the errno and the path."""
    return (error.strerror or str(error)).lower()


def _sync_folder(folder: Path) -> None:
    """Make a rename durable where the system allows a folder to be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

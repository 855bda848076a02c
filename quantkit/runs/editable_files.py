"""Text files of a run that users may edit, such as build files.

The digest of each, as it was written, is in ``run.json``. A file with another digest was edited, and is renamed before
it is written anew.
"""

import hashlib
from itertools import count
from pathlib import Path

from quantkit.files import sha256_file, write_text
from quantkit.runs.folder import RunFolder


def is_written(folder: RunFolder, path: Path, text: str) -> bool:
    """Return whether a file was last written with this text, and is there, edited or not."""
    recorded = folder.read().written.get(path.name)
    return path.is_file() and (recorded or sha256_file(path)) == _digest(text)


def write_editable(folder: RunFolder, path: Path, text: str) -> list[str]:
    """Write a file, and return a note if an edited one was renamed.

    Raises:
        OutputError: the file cannot be written.
    """
    notes = _set_aside(folder, path)
    write_text(path, text)
    _record(folder, path, text)
    return notes


def remove_editable(folder: RunFolder, path: Path) -> list[str]:
    """Remove a file if it is there, and return a note if it was edited: then it is renamed instead."""
    notes = _set_aside(folder, path)
    path.unlink(missing_ok=True)
    return notes


def _set_aside(folder: RunFolder, path: Path) -> list[str]:
    """Rename a file that was edited, and return a note that says so; others are left as they are."""
    if not _is_edited(folder, path):
        return []
    names = (f"{path.name}.bak{number or ''}" for number in count())
    kept = next(one for name in names if not (one := path.with_name(name)).exists())
    path.rename(kept)
    return [f"{path.name} was edited by hand: the edited file is {kept.name} now"]


def update_written(folder: RunFolder, path: Path, text: str) -> None:
    """Replace the text of a file, which is edited afterwards if it was before.

    Raises:
        OutputError: the file cannot be written.
    """
    edited = _is_edited(folder, path)
    write_text(path, text)
    if not edited:
        _record(folder, path, text)


def _record(folder: RunFolder, path: Path, text: str) -> None:
    record, digest = folder.read(), _digest(text)
    if record.written.get(path.name) != digest:
        folder.write(record.model_copy(update={"written": {**record.written, path.name: digest}}))


def _is_edited(folder: RunFolder, path: Path) -> bool:
    recorded = folder.read().written.get(path.name)
    return recorded is not None and path.is_file() and sha256_file(path) != recorded


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

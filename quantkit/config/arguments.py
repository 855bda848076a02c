"""Validates and converts Python arguments."""

import os
from pathlib import Path
from typing import TypeVar, overload

from quantkit.errors import UsageError

AnyPath = str | os.PathLike[str]
_T = TypeVar("_T")


def as_path(value: object, name: str) -> Path:
    """Return a path given as a string or path-like object.

    Args:
        value: the argument.
        name: name of the argument, for the message.

    Raises:
        UsageError: the argument has another type, such as a list of files.
    """
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if isinstance(text, str):
            return Path(text)
    raise UsageError(f"takes a path, not {_kind(value)}", where=name, fix="give the path of one file or folder")


@overload
def optional_path(value: None, name: str) -> None: ...
@overload
def optional_path(value: object, name: str) -> Path | None: ...
def optional_path(value: object, name: str) -> Path | None:
    """Return a path as in `as_path`, None for None."""
    return None if value is None else as_path(value, name)


def path_or(kind: type[_T], value: object, name: str) -> _T | Path:
    """Return an object of the type unchanged, anything else as in `as_path`.

    Raises:
        UsageError: the argument has another type.
    """
    if isinstance(value, kind):
        return value
    if isinstance(value, str | os.PathLike):
        return as_path(value, name)
    raise UsageError(f"takes a path or {kind.__name__}, not {_kind(value)}", where=name)


def require(kind: type[_T], value: object, name: str) -> _T:
    """Return an object of the type.

    Raises:
        UsageError: the argument has another type.
    """
    if isinstance(value, kind):
        return value
    raise UsageError(
        f"takes {kind.__name__}, not {_kind(value)}", where=name, fix=f"give quantkit.{kind.__name__}(...)"
    )


def _kind(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r:.60}"

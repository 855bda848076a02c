"""Reads small text files: UTF-8, with or without a byte order mark, with any line ends."""

from pathlib import Path

from quantkit.errors import LabelError
from quantkit.files import reason

_MAX_BYTES = 1 << 28


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file of labels or names, without line ends.

    Raises:
        LabelError: the file cannot be read, or is not UTF-8 text.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise LabelError("too large for a list of labels or names", where=path, fix="give the right file")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise LabelError(f"cannot read the file ({reason(error)})", where=path) from error
    except UnicodeDecodeError as error:
        raise LabelError(f"not UTF-8 text (byte {error.start})", where=path, fix="save it as UTF-8") from error
    if "\0" in text:
        raise LabelError("not a text file (it contains zero bytes)", where=path)
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")

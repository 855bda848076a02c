"""One bad, or merely odd, input with its stated result."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import QuantkitError


@dataclass(frozen=True)
class BadInput:
    """One input.

    Attributes:
        kind: where it is met: image, labels, model, ... (see `doors`).
        name: of the file; unique within its kind.
        content: its bytes, or what writes it under a path.
        result: with ``error``, a pattern of the message; without, what is read, in the words of the door.
        error: class of the refusal, None where it is read.
    """

    kind: str
    name: str
    content: bytes | Callable[[Path], object]
    result: str
    error: type[QuantkitError] | None = None

    def write(self, folder: Path) -> Path:
        """Write it into a folder, and return its path."""
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(self.content):
            self.content(path)
        else:
            path.write_bytes(self.content)
        return path

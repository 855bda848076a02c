"""Notes for the user: text with a kind and a count; notes of the same kind are summarized in one line.

Workflows return every note; `grouped` decides how they are shown.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class NoteKind(StrEnum):
    """Kinds of notes that can occur many times for a model, and of warnings."""

    WIDENED = "weight-scale-widened"
    UNLIKE_RANGES = "unlike-ranges"
    UNKNOWN_KEY = "unknown-key"
    CUT_RANGE = "cut-range"
    CARD_PREPROCESSING = "card-preprocessing"


# Results on the card are wrong where such a note is overlooked.
_WARNINGS = frozenset({NoteKind.CARD_PREPROCESSING})


class Note(str):
    """A note: a string with the data that `grouped` needs to summarize notes of its kind.

    Plain strings are notes without a kind; each of them is shown.

    Attributes:
        kind: kind of the note, None if it is never summarized.
        number: number of affected items, such as channels; 1 or more.
        severity: importance among notes of its kind; larger is more important.
    """

    kind: NoteKind | None
    number: int
    severity: float

    def __new__(cls, text: str, kind: NoteKind | None = None, *, number: int = 1, severity: float = 0.0) -> "Note":
        """Create a note from its text."""
        note = super().__new__(cls, text)
        note.kind, note.number, note.severity = kind, number, severity
        return note

    def to_json(self) -> dict[str, Any]:
        """Return the note as JSON values."""
        return {"text": str(self), "kind": self.kind, "number": self.number, "severity": self.severity}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Note":
        """Return the note that `to_json` was called on."""
        kind = None if plain["kind"] is None else NoteKind(plain["kind"])
        return cls(plain["text"], kind, number=plain["number"], severity=plain["severity"])

    def with_prefix(self, prefix: str) -> "Note":
        """Return the note prefixed with a text, such as the name of a file."""
        return Note(f"{prefix}{self}", self.kind, number=self.number, severity=self.severity)


@dataclass(frozen=True)
class NoteGroup:
    """One displayed line.

    Attributes:
        text: the line: the note itself, or a summary of several.
        items: the notes that the line represents.
    """

    text: str
    items: tuple[str, ...]

    @property
    def is_summary(self) -> bool:
        """Whether the line summarizes several notes."""
        return len(self.items) > 1 and len(set(self.items)) > 1

    @property
    def is_warning(self) -> bool:
        """Whether the line is a warning, which is shown with ``--quiet`` too."""
        return as_note(self.items[0]).kind in _WARNINGS


def as_note(text: str) -> Note:
    """Return a note unchanged, or a plain string as a note without a kind."""
    return text if isinstance(text, Note) else Note(text)


def grouped(notes: Iterable[str]) -> list[NoteGroup]:
    """Return the lines to show: one per kind of notes, in order of first occurrence.

    Equal notes without a kind are one line with their number.
    """
    groups: dict[str, list[Note]] = {}
    for note in map(as_note, notes):
        groups.setdefault(note if note.kind is None else f"kind {note.kind}", []).append(note)
    return [NoteGroup(_text(items), tuple(items)) for items in groups.values()]


def _text(items: Sequence[Note]) -> str:
    first = items[0]
    if len(items) == 1:
        return first
    if first.kind is None:
        return f"{first} ({len(items)} times)"
    return _SUMMARIES[first.kind](items)


def _widened(items: Sequence[Note]) -> str:
    channels = sum(item.number for item in items)
    return f"weight scales widened for int32 biases: {channels} channels of {len(items)} layers"


def _unlike_ranges(items: Sequence[Note]) -> str:
    worst = max(items, key=lambda item: item.severity)
    return f"inputs of very different ranges share a scale in {len(items)} places; the worst is {worst}"


def _unknown_keys(items: Sequence[Note]) -> str:
    return f"{len(items)} keys are not known in this dialect, and are kept"


def _cut_ranges(items: Sequence[Note]) -> str:
    worst = max(items, key=lambda item: item.severity)
    return f"the ranges of {len(items)} tensors are cut too far; the worst: {worst}"


_SUMMARIES: Mapping[NoteKind, Callable[[Sequence[Note]], str]] = {
    NoteKind.WIDENED: _widened,
    NoteKind.CARD_PREPROCESSING: lambda items: f"{items[0]} ({len(items)} times)",
    NoteKind.UNLIKE_RANGES: _unlike_ranges,
    NoteKind.UNKNOWN_KEY: _unknown_keys,
    NoteKind.CUT_RANGE: _cut_ranges,
}

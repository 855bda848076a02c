"""Notes for the user: each has its text, a kind, and a number of things it is about; many of a kind are one line.

A step returns every note. `grouped` is the one place that decides how they are shown.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class NoteKind(StrEnum):
    """The kinds of notes that a model can have many of."""

    WIDENED = "weight-scale-widened"
    UNLIKE_RANGES = "unlike-ranges"
    UNKNOWN_KEY = "unknown-key"
    CUT_RANGE = "cut-range"


class Note(str):
    """One note: a string, with what `grouped` needs to summarize many of its kind.

    A step may return plain strings too; they are notes of no kind and each is shown.

    Attributes:
        kind: what it is about, None where it is the only one of its kind.
        number: of the things that it is about, such as channels; 1 or more.
        severity: the larger, the more it matters among notes of its kind.
    """

    kind: NoteKind | None
    number: int
    severity: float

    def __new__(cls, text: str, kind: NoteKind | None = None, *, number: int = 1, severity: float = 0.0) -> "Note":
        """Create a note from its text."""
        note = super().__new__(cls, text)
        note.kind, note.number, note.severity = kind, number, severity
        return note

    def with_prefix(self, prefix: str) -> "Note":
        """Return the note with a text in front, such as the name of a file."""
        return Note(f"{prefix}{self}", self.kind, number=self.number, severity=self.severity)


@dataclass(frozen=True)
class NoteGroup:
    """What is shown as one line.

    Attributes:
        text: the line: the note itself, or a summary of several.
        items: the notes it stands for.
    """

    text: str
    items: tuple[str, ...]

    @property
    def is_summary(self) -> bool:
        """Whether the line says less than its items."""
        return len(self.items) > 1 and len(set(self.items)) > 1


def as_note(text: str) -> Note:
    """Return a note as it is, or a plain string as a note of no kind."""
    return text if isinstance(text, Note) else Note(text)


def grouped(notes: Iterable[str]) -> list[NoteGroup]:
    """Return the lines to show: one for all notes of a kind, in the order of the first of each.

    Equal notes without a kind are one line, with their number.
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
    return f"{len(items)} keys are kept that no known file of this dialect has"


def _cut_ranges(items: Sequence[Note]) -> str:
    worst = max(items, key=lambda item: item.severity)
    return f"the ranges of {len(items)} tensors are cut too far; the worst: {worst}"


_SUMMARIES: Mapping[NoteKind, Callable[[Sequence[Note]], str]] = {
    NoteKind.WIDENED: _widened,
    NoteKind.UNLIKE_RANGES: _unlike_ranges,
    NoteKind.UNKNOWN_KEY: _unknown_keys,
    NoteKind.CUT_RANGE: _cut_ranges,
}

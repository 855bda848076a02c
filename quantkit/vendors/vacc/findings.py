"""Findings of a check, and suggestions for misspelt words."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from quantkit.vendors.vacc.dialects import dotted
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.yaml_nodes import KeyPath

# Minimum similarity (0 to 1) of a known word to suggest it.
SIMILAR = 0.75

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """A finding in a file.

    Attributes:
        severity: ``error``: the build fails or differs from the file; ``warning``: a suspected fault; ``note``: what
            was not checked, and why.
        line: line number from 1, if there is one.
        key: dotted path of the value concerned, empty for the file.
        message: the fault, in one sentence.
        fix: how to fix it.
    """

    severity: Severity
    line: int | None
    key: str
    message: str
    fix: str | None = None

    def __str__(self) -> str:
        text = f"{self.severity}: {self.message}"
        return text if self.fix is None else f"{text}; {self.fix}"


def found(document: Document, severity: Severity, path: KeyPath, message: str, fix: str | None = None) -> Finding:
    """Return a finding at the value of a path, or at the nearest enclosing value."""
    return Finding(severity, document.line_of(path), dotted(path), message, fix)


def misspelt(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that ``word`` is a misspelling of, or None.

    A misspelling has one edit (two from eight letters on): an inserted, missing, replaced or transposed letter. Words
    that differ only in their digits (int4, int8) are different words.
    """
    best: tuple[int, str] | None = None
    plain = _plain(word)
    for candidate in known:
        other = _plain(candidate)
        limit = 0 if min(len(plain), len(other)) < 4 else 1 if len(other) < 8 else 2
        if candidate == word or (plain != other and _letters(plain) == _letters(other)):
            continue
        distance = edit_distance(plain, other)
        if distance <= limit and (best is None or distance < best[0]):
            best = (distance, candidate)
    return None if best is None else best[1]


def abbreviated(word: str, known: Iterable[str]) -> str | None:
    """Return the known key that ``word`` abbreviates, or None.

    ``calib_mode`` and ``skip_layers`` abbreviate ``calibrate_mode`` and ``skip_conv_layers``: each of two or more words
    is a prefix of a word of the key, in the same order, and the key has at most twice as many words. Words that are
    only similar (``nsamples``, ``sampler``) are different keys.
    """
    parts = _plain(word).split("_")
    for candidate in known:
        others = _plain(candidate).split("_")
        if 2 <= len(parts) <= len(others) <= 2 * len(parts) and _begins_in_order(parts, others):
            return candidate
    return None


def _begins_in_order(parts: list[str], others: list[str]) -> bool:
    rest = iter(others)
    return all(len(part) > 1 and any(other.startswith(part) for other in rest) for part in parts)


def edit_distance(a: str, b: str) -> int:
    """Return the number of edits between two words.

    Optimal string alignment: insertions, deletions, substitutions and transpositions, each letter edited once
    (Damerau, Communications of the ACM 7:171-176, 1964).
    """
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        before, last, row = row, before, [i] + [0] * len(b)
        for j, right in enumerate(b, 1):
            row[j] = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (left != right))
            if i > 1 and j > 1 and left == b[j - 2] and right == a[i - 2]:
                row[j] = min(row[j], last[j - 2] + 1)
    return row[-1]


def _plain(word: str) -> str:
    return word.lower().replace("-", "_").strip()


def _letters(word: str) -> str:
    return "".join(letter for letter in word if not letter.isdigit())

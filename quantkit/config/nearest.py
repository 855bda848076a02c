"""Finds the known word nearest to a misspelt one."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], least: float = 0.6) -> str | None:
    """Return the known word most similar to ``word``, or None if no similarity (0 to 1) is at least ``least``."""
    by_folded = {one.lower(): one for one in known}
    matches = difflib.get_close_matches(word.lower(), by_folded, n=1, cutoff=least)
    return by_folded[matches[0]] if matches else None

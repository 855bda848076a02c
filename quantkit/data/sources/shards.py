"""Patterns of several files, such as ``data-{000000..000009}.tar`` or ``train-*.parquet``, and missing shards."""

import glob
import re
from collections.abc import Sequence

from quantkit.errors import UsageError

MOST_SHARDS = 100_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,12})\.\.(\d{1,12})")
_OF = re.compile(r"^(?P<head>.*-)(?P<number>\d+)-of-(?P<count>\d+)(?P<tail>.*)$")


def has_pattern(text: str) -> bool:
    """Return whether a text is a pattern of several files."""
    return bool(_BRACES.search(text)) or glob.has_magic(text)


def expand_braces(text: str) -> list[str]:
    """Return the names of a brace pattern: ``{3..5}`` is a range with leading zeros kept, ``{a,b}`` is a list.

    Raises:
        UsageError: a descending range, or more than `MOST_SHARDS` names.
    """
    found = _BRACES.search(text)
    if found is None:
        return [text]
    inner, range_ = found.group(1), _RANGE.fullmatch(found.group(1))
    if range_:
        first, last = range_.groups()
        if int(last) < int(first) or int(last) - int(first) >= MOST_SHARDS:
            raise UsageError(f"invalid range of shards {{{inner}}}", where=text, fix="write {000000..000009}")
        words = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        words = inner.split(",")
    names = [name for word in words for name in expand_braces(f"{text[: found.start()]}{word}{text[found.end() :]}")]
    if len(names) > MOST_SHARDS:
        raise UsageError(f"{len(names)} shards", where=text, fix=f"give at most {MOST_SHARDS}")
    return names


def absent_of_count(names: Sequence[str]) -> list[str]:
    """Return the missing shards according to names such as ``x-00000-of-00003``."""
    absent: list[str] = []
    parsed = [match for name in names if (match := _OF.match(name))]
    for key in {(match["head"], match["count"], match["tail"]) for match in parsed}:
        head, count, tail = key
        there = {int(match["number"]) for match in parsed if match.group("head", "count", "tail") == key}
        if int(count) <= MOST_SHARDS:
            absent += [
                f"{head}{number:0{len(count)}d}-of-{count}{tail}" for number in range(int(count)) if number not in there
            ]
    return sorted(absent)


def gaps(names: Sequence[str]) -> list[int]:
    """Return the missing numbers between names that differ only in one number."""
    parts = [re.fullmatch(r"(.*?)(\d+)(\D*)", name) for name in names]
    found = [part for part in parts if part is not None]
    if len(found) < 2 or len(found) < len(names) or len({part.group(1, 3) for part in found}) > 1:
        return []
    numbers = {int(part.group(2)) for part in found}
    if max(numbers) - min(numbers) > MOST_SHARDS:
        return []
    return [number for number in range(min(numbers), max(numbers)) if number not in numbers]

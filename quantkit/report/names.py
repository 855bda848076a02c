"""Shortens names of tensors, layers and models in terminal tables, such that they remain distinct.

Exporters name a tensor by its path (``/features/denseblock3/denselayer11/norm1/act/Relu_output_0``), and a network
repeats its blocks, so names often have equal ends and differ in the middle.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

CUT = "…"
_AFTER_SEPARATOR = re.compile(r"(?<=[/._:])")


@dataclass(frozen=True)
class Name:
    """A table cell that takes the width left by the other columns.

    Attributes:
        text: the name.
        among: all names of the column, from which it must remain distinct.
        least: minimum width.
    """

    text: str
    among: Collection[str] = ()
    least: int = 12

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return the minimum and maximum width for rich."""
        return Measurement(min(self.least, len(self.text)), len(self.text)).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the name in the width selected by rich."""
        yield Text(shortened(self.text, options.max_width, self.among), no_wrap=True)


def shortened(name: str, width: int, among: Collection[str] = ()) -> str:
    """Shorten a name to a width: in its middle, or around the part that differs from other names.

    Args:
        name: name to shorten.
        width: maximum number of characters, 2 or more.
        among: names to distinguish it from; if the differing part exceeds the width, results can be equal.
    """
    if len(name) <= width:
        return name
    return _cut_names(frozenset([name, *among]), width)[name]


@lru_cache(maxsize=32)
def _cut_names(names: frozenset[str], width: int) -> dict[str, str]:
    """Return the shortened form of each name that is too long."""
    groups = [[name] for name in sorted(names) if len(name) > width]
    while True:
        cut = {name: short for group in groups for name, short in _told_apart(group, width)}
        wider = _joined(groups, cut)
        if len(wider) == len(groups):
            return cut
        groups = wider


def _joined(groups: Sequence[Sequence[str]], cut: Mapping[str, str]) -> list[list[str]]:
    """Return the groups, merged if they contain names with equal shortened forms."""
    joined: dict[str, list[str]] = {}
    for group in groups:
        others = {id(joined[cut[name]]): joined[cut[name]] for name in group if cut[name] in joined}
        members = [*group, *(name for other in others.values() for name in other)]
        joined |= dict.fromkeys((cut[name] for name in members), members)
    return list({id(members): members for members in joined.values()}.values())


def _told_apart(group: Sequence[str], width: int) -> Iterator[tuple[str, str]]:
    """Yield each name of a group with a shortened form that differs from the others."""
    before = _common_length(group)
    after = _common_length([name[before:][::-1] for name in group])
    for name in group:
        alone = len(group) == 1
        yield name, _middle_cut(name, width) if alone else _around(name, before, len(name) - after, width)


def _middle_cut(name: str, width: int) -> str:
    tail = (width - 1) * 2 // 3
    return name[: width - 1 - tail] + CUT + name[len(name) - tail :]


def _common_length(texts: Sequence[str]) -> int:
    """Return the length of the common prefix of all texts."""
    columns = enumerate(zip(*texts, strict=False))
    return next((place for place, found in columns if len(set(found)) > 1), min(map(len, texts)))


def _around(name: str, start: int, end: int, width: int) -> str:
    """Return a part of a name around the range between two positions, from separator to separator if possible."""
    room = width - 2 * len(CUT)
    if room < 3:
        return _middle_cut(name, width)
    if end - start > room:
        return CUT + _middle_cut(name[start:end], room) + CUT
    ends = [0, *(found.start() for found in _AFTER_SEPARATOR.finditer(name)), len(name)]
    before, after = max(place for place in ends if place <= start), min(place for place in ends if place >= end)
    # The complete path component first, then as many others as fit.
    start = before if end - before <= room else start
    end = after if after - start <= room else end
    end = max((place for place in ends if place >= end and place - start <= room), default=end)
    start = min((place for place in ends if place <= start and end - place <= room), default=start)
    return (CUT if start else "") + name[start:end] + (CUT if end < len(name) else "")

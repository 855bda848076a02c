"""Names of tensors, layers and models in terminal tables: whole where there is room, cut where they differ least.

Exporters name a tensor by its path (``/features/denseblock3/denselayer11/norm1/act/Relu_output_0``), and a network
repeats its blocks, so both ends of many names are alike and what tells them apart is in the middle.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

CUT = "…"
_BEHIND_SEPARATOR = re.compile(r"(?<=[/._:])")


@dataclass(frozen=True)
class Name:
    """A cell of a table that takes the width the other columns leave.

    Attributes:
        text: the name.
        among: all names of the column, from which it is told apart.
        least: columns it takes where there are fewer.
    """

    text: str
    among: Collection[str] = ()
    least: int = 12

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Tell rich between which widths to choose."""
        return Measurement(min(self.least, len(self.text)), len(self.text)).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the name within the width that rich chose."""
        yield Text(shortened(self.text, options.max_width, self.among), no_wrap=True)


def shortened(name: str, width: int, among: Collection[str] = ()) -> str:
    """Cut a name to a width: in its middle, or where others would then look the same, before and behind what differs.

    Args:
        name: to cut.
        width: characters of the result at most, 2 or more.
        among: names it should be told apart from; two that differ in too much for the width can still look alike.
    """
    if len(name) <= width:
        return name
    return _cut_names(frozenset([name, *among]), width)[name]


@lru_cache(maxsize=32)
def _cut_names(names: frozenset[str], width: int) -> dict[str, str]:
    """Return what each name that is too long is cut to."""
    groups = [[name] for name in sorted(names) if len(name) > width]
    while True:
        cut = {name: short for group in groups for name, short in _told_apart(group, width)}
        wider = _joined(groups, cut)
        if len(wider) == len(groups):
            return cut
        groups = wider


def _joined(groups: Sequence[Sequence[str]], cut: Mapping[str, str]) -> list[list[str]]:
    """Return the groups, joined where they hold names that are cut alike."""
    joined: dict[str, list[str]] = {}
    for group in groups:
        alike = {id(joined[cut[name]]): joined[cut[name]] for name in group if cut[name] in joined}
        members = [*group, *(name for other in alike.values() for name in other)]
        joined |= dict.fromkeys((cut[name] for name in members), members)
    return list({id(members): members for members in joined.values()}.values())


def _told_apart(group: Sequence[str], width: int) -> Iterator[tuple[str, str]]:
    """Yield each name of a group, and what it is cut to so that it differs from the others."""
    before = _common_length(group)
    behind = _common_length([name[before:][::-1] for name in group])
    for name in group:
        alone = len(group) == 1
        yield name, _middle_cut(name, width) if alone else _around(name, before, len(name) - behind, width)


def _middle_cut(name: str, width: int) -> str:
    tail = (width - 1) * 2 // 3
    return name[: width - 1 - tail] + CUT + name[len(name) - tail :]


def _common_length(texts: Sequence[str]) -> int:
    """Return how many characters all texts begin with alike."""
    columns = enumerate(zip(*texts, strict=False))
    return next((place for place, found in columns if len(set(found)) > 1), min(map(len, texts)))


def _around(name: str, start: int, end: int, width: int) -> str:
    """Return a part of a name that holds what lies between two places, from one separator to the next if it can."""
    room = width - 2 * len(CUT)
    if room < 3:
        return _middle_cut(name, width)
    if end - start > room:
        return CUT + _middle_cut(name[start:end], room) + CUT
    ends = [0, *(found.start() for found in _BEHIND_SEPARATOR.finditer(name)), len(name)]
    before, behind = max(place for place in ends if place <= start), min(place for place in ends if place >= end)
    # The whole part of the path first, then as many others as fit.
    start = before if end - before <= room else start
    end = behind if behind - start <= room else end
    end = max((place for place in ends if place >= end and place - start <= room), default=end)
    start = min((place for place in ends if place <= start and end - place <= room), default=start)
    return (CUT if start else "") + name[start:end] + (CUT if end < len(name) else "")

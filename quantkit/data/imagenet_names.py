"""Checks whether a list of class names matches the classes of ImageNet-1k in their order."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from quantkit.data.classes import imagenet_classes
from quantkit.errors import LabelError

# Maximum number of lines reported individually.
_LINES_SHOWN = 20
# Minimum share of lines that name their class, for a list of ImageNet names.
_MOST = 0.9


def follows_imagenet(names: Sequence[str]) -> bool:
    """Return whether nearly all of 1,000 names are ImageNet's, in class-index order, in any spelling."""
    expected = tuple(imagenet_classes().values())
    if len(names) != len(expected):
        return False
    matching = sum(index in _classes_called(name) for index, name in enumerate(names))
    return matching >= _MOST * len(names)


def imagenet_remarks(names: Sequence[str], where: Path | None) -> tuple[str, ...]:
    """Return a remark for each line of a list of class names that differs from the classes of ImageNet-1k.

    Lists with mostly ImageNet's spelling must have exactly this spelling, since the vendor's evaluation compares names;
    in other lists a line differs if it has no word for its class. Lists in another language get one remark.

    Args:
        names: class names in class-index order.
        where: the file, for messages.

    Raises:
        LabelError: the names are those of ImageNet-1k in another order, or shifted by a class.
    """
    expected = tuple(imagenet_classes().values())
    called = [_classes_called(name) for name in names]
    own = [index for index, classes in enumerate(called) if index in classes]
    elsewhere = [index for index, classes in enumerate(called) if classes and index not in classes]
    if len(elsewhere) > len(own):
        first = elsewhere[0]
        raise LabelError(
            f"the class names are ImageNet's in another order: line {first + 1} is {names[first]!r}, the name of class "
            f"{min(called[first])}",
            where=where,
            fix="sort them by WordNet id",
        )
    remarks = []
    if len(names) != len(expected):
        remarks.append(f"{where}: {len(names)} class names, and ImageNet has {len(expected)} classes")
    if len(own) < len(names) / 10:
        return (*remarks, f"{where}: hardly any name is an English ImageNet name, so their order was not checked")
    pairs = list(enumerate(zip(names, expected, strict=False)))
    same_spelling = 2 * sum(name == words for _, (name, words) in pairs) >= len(pairs)
    wrong = [
        f"{where}:{index + 1}: {name!r}, but ImageNet's class {index} is {words!r}"
        for index, (name, words) in pairs
        if (name != words if same_spelling else index not in called[index])
    ]
    remarks += wrong[:_LINES_SHOWN]
    if len(wrong) > _LINES_SHOWN:
        remarks.append(f"{where}: {len(wrong) - _LINES_SHOWN} more lines differ from ImageNet")
    return tuple(remarks)


def _classes_called(name: str) -> frozenset[int]:
    """Return the classes of ImageNet with one of the comma-separated words of a name."""
    found = frozenset[int]()
    for word in _words(name):
        found |= _classes_by_word().get(word, frozenset())
    return found


@cache
def _classes_by_word() -> dict[str, frozenset[int]]:
    classes: dict[str, frozenset[int]] = {}
    for index, words in enumerate(imagenet_classes().values()):
        for word in _words(words):
            classes[word] = classes.get(word, frozenset()) | {index}
    return classes


def _words(name: str) -> list[str]:
    return [word.strip().casefold().replace("_", " ") for word in name.split(",") if word.strip()]

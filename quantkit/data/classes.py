"""The classes of ImageNet-1k, and files of class names."""

import re
from functools import cache
from importlib import resources
from pathlib import Path

from quantkit.data.textfile import read_lines
from quantkit.errors import LabelError

WNID = re.compile(r"n\d{8}")


@cache
def imagenet_classes() -> dict[str, str]:
    """Return the WordNet ids of ImageNet-1k in class-index order (sorted) with their words."""
    return {wnid: words for wnid, _, words in _imagenet_table()}


@cache
def ilsvrc_order() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet-1k in the order of the ids of the ILSVRC 2012 devkit, which count from 1."""
    return tuple(wnid for wnid, _, _ in sorted(_imagenet_table(), key=lambda row: row[1]))


@cache
def imagenet_index() -> dict[str, int]:
    """Return the class index of each WordNet id of ImageNet-1k: its position in sorted order."""
    return {wnid: index for index, wnid in enumerate(imagenet_classes())}


def leading_wnid(name: str) -> str | None:
    """Return the WordNet id that a file or folder name begins with, if it is one of ImageNet-1k's."""
    found = WNID.match(name)
    if found is None or found.group() not in imagenet_index() or name[found.end() : found.end() + 1].isalnum():
        return None
    return found.group()


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read a file of class names, one per line in class-index order (``imagenet.txt``, ``label.txt``).

    Raises:
        LabelError: the file cannot be read, is empty, or has an empty line between names, which would shift the
            following ones.
    """
    lines = [line.strip() for line in read_lines(path)]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise LabelError("the file of class names is empty", where=path)
    if "" in lines:
        raise LabelError("empty line between class names", where=f"{path}:{lines.index('') + 1}", fix="remove it")
    return tuple(lines)


def _imagenet_table() -> list[tuple[str, int, str]]:
    text = (resources.files("quantkit.data") / "imagenet_classes.txt").read_text(encoding="utf-8")
    rows = (line.split(" ", 2) for line in text.splitlines() if not line.startswith("#"))
    return [(wnid, int(ilsvrc_id), words) for wnid, ilsvrc_id, words in rows]

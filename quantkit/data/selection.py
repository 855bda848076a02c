"""Choose images by class: pure functions of names, labels and a seed.

An image's place in the queue of its class is the SHA-256 of seed, class and file name. So the choice does not depend on
the order of a file system, on where the images lie or in which folders, nor on which other images there are: a set can
be chosen from labels alone and found again in any copy of the data.
"""

import bisect
import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

Image = TypeVar("Image")

# Stands for the class of images that have no label.
NO_LABEL = -1


def queues_by_class(names: Sequence[str], labels: Sequence[int], seed: int) -> dict[int, list[int]]:
    """Return the positions of each class's images, the first to be taken first; classes in ascending order.

    Args:
        names: paths of the images with forward slashes; only the file name counts, the rest breaks ties.
        labels: class index of each, or `NO_LABEL`.
        seed: another seed gives another order.
    """
    queues: dict[int, list[int]] = {label: [] for label in sorted(set(labels))}
    for position, label in enumerate(labels):
        queues[label].append(position)
    for queue in queues.values():
        queue.sort(key=lambda position: (_lot(seed, labels[position], _file_name(names[position])), names[position]))
    return queues


def balanced_quotas(available: Mapping[int, int], count: int, seed: int) -> dict[int, int]:
    """Return how many images to take of each class: as equal as what is available allows.

    Every class gives the same number, or all it has where that is less; what then remains goes one each to classes
    drawn by the seed.

    Args:
        available: how many images each class has.
        count: how many to take in all; everything where fewer are available.
        seed: draws the classes that give one more.
    """
    levels = range(max(available.values(), default=0) + 1)
    level = bisect.bisect_right(levels, count, key=lambda level: sum(min(n, level) for n in available.values())) - 1
    quotas = {label: min(n, level) for label, n in available.items()}
    rest = count - sum(quotas.values())
    for label in classes_in_lot_order([label for label, n in available.items() if n > level], seed)[:rest]:
        quotas[label] += 1
    return quotas


def interleaved(taken: Mapping[int, Sequence[Image]], seed: int) -> list[Image]:
    """Return what was taken class by class in turn, so that every beginning of the list is balanced too."""
    order = classes_in_lot_order(list(taken), seed)
    longest = max((len(images) for images in taken.values()), default=0)
    return [taken[label][turn] for turn in range(longest) for label in order if turn < len(taken[label])]


def classes_in_lot_order(labels: Sequence[int], seed: int) -> list[int]:
    """Return the classes in the order that the seed draws them."""
    return sorted(labels, key=lambda label: (_lot(seed, label), label))


def _file_name(name: str) -> str:
    return name.rpartition("/")[2]


def _lot(seed: int, label: int, name: str = "") -> bytes:
    return hashlib.sha256(f"{seed}\0{label}\0{name}".encode(errors="surrogateescape")).digest()

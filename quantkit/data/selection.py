"""Selects images by class, as pure functions of names, labels and a seed.

The position of an image in the queue of its class follows from the SHA-256 of seed, class and file name. So the
selection
does not depend on the order of a file system, on the location and folders of the images, or on other images: a set can
be selected from labels alone and found in any copy of the data.
"""

import bisect
import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

Image = TypeVar("Image")

# Number of images where none is given.
DEFAULT_COUNT = 1000
# The class of images without a label.
NO_LABEL = -1


def queues_by_class(names: Sequence[str], labels: Sequence[int], seed: int) -> dict[int, list[int]]:
    """Return the positions of each class's images in order of selection; classes in ascending order.

    Args:
        names: paths of the images with forward slashes; only the file name is used, the rest breaks ties.
        labels: class index of each image, or `NO_LABEL`.
        seed: random seed of the order.
    """
    queues: dict[int, list[int]] = {label: [] for label in sorted(set(labels))}
    for position, label in enumerate(labels):
        queues[label].append(position)
    for queue in queues.values():
        queue.sort(key=lambda position: (_lot(seed, labels[position], _file_name(names[position])), names[position]))
    return queues


def balanced_quotas(available: Mapping[int, int], count: int, seed: int) -> dict[int, int]:
    """Return the number of images to select of each class, as equal as possible.

    Every class contributes the same number, or all its images if it has fewer; the remainder is distributed one each to
    classes drawn by the seed.

    Args:
        available: number of images of each class.
        count: total number of images; all if fewer are available.
        seed: random seed that draws the classes with one more image.
    """
    levels = range(max(available.values(), default=0) + 1)
    level = bisect.bisect_right(levels, count, key=lambda level: sum(min(n, level) for n in available.values())) - 1
    quotas = {label: min(n, level) for label, n in available.items()}
    rest = count - sum(quotas.values())
    for label in classes_in_lot_order([label for label, n in available.items() if n > level], seed)[:rest]:
        quotas[label] += 1
    return quotas


def interleaved(taken: Mapping[int, Sequence[Image]], seed: int) -> list[Image]:
    """Return the images of all classes interleaved, so that every prefix of the list is balanced."""
    order = classes_in_lot_order(list(taken), seed)
    longest = max((len(images) for images in taken.values()), default=0)
    return [taken[label][turn] for turn in range(longest) for label in order if turn < len(taken[label])]


def classes_in_lot_order(labels: Sequence[int], seed: int) -> list[int]:
    """Return the classes in the order drawn by the seed."""
    return sorted(labels, key=lambda label: (_lot(seed, label), label))


def _file_name(name: str) -> str:
    return name.rpartition("/")[2]


def _lot(seed: int, label: int, name: str = "") -> bytes:
    return hashlib.sha256(f"{seed}\0{label}\0{name}".encode(errors="surrogateescape")).digest()

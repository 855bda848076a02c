"""Image sources: ordered images of a folder, archive, shards or arrays, with their labels."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quantkit.data.item import ImageItem

# A local file or folder, or a string: a URL, or a pattern of shards such as ``data-{000000..000009}.tar``.
Location = Path | str


@dataclass(frozen=True)
class ImageSource:
    """Images of one location.

    Attributes:
        root: the location: a folder, an archive, a URL or a pattern of shards; for arrays, a description.
        items: the images, in order.
        labels: int64 ``[N]`` class indices, or None without labels.
        class_names: names of classes by class index.
        classes: total number of classes, None if unknown.
        source: description of the source of the labels.
        warnings: non-fatal faults.
        array_shape: ``(C, H, W)`` if the images are arrays, which are not preprocessed; None for encoded images.
        numbering: numbering of the class indices: ``imagenet`` (the sorted WordNet ids), ``folders`` (the class
            folders, sorted, or as in the file of class names), ``file`` (a label file); None without labels, and if the
            numbering of stored labels is unknown.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> source = quantkit.find_labelled_images("images/test")
        >>> len(source.only(range(10))), source.classes
        (10, 10)
    """

    root: Location
    items: tuple[ImageItem, ...]
    labels: NDArray[np.int64] | None = None
    class_names: dict[int, str] = field(default_factory=dict)
    classes: int | None = None
    source: str = "no labels"
    warnings: tuple[str, ...] = ()
    array_shape: tuple[int, int, int] | None = None
    numbering: Literal["imagenet", "folders", "file"] | None = None

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The ids of the images, in order."""
        return tuple(item.id for item in self.items)

    @cached_property
    def by_name(self) -> dict[str, ImageItem]:
        """The images by id."""
        return {item.id: item for item in self.items}

    def only(self, positions: Sequence[int]) -> "ImageSource":
        """Return the source with only the images at these positions."""
        return replace(
            self,
            items=tuple(self.items[position] for position in positions),
            labels=None if self.labels is None else self.labels[list(positions)],
        )


def is_url(location: Location) -> bool:
    """Return whether a location is a URL."""
    return isinstance(location, str) and "://" in location

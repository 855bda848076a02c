"""Images of one place, in order, with what is known of their labels: a folder, an archive, shards, arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quantkit.data.item import ImageItem

# A local file or folder, or a text: a URL, or a pattern of shards such as ``data-{000000..000009}.tar``.
Location = Path | str


@dataclass(frozen=True)
class ImageSource:
    """Images of one place.

    Attributes:
        root: the place: a folder, an archive, a URL or a pattern of shards; for arrays, what they are in words.
        items: the images, in order.
        labels: int64 ``[N]`` class indices, or None where the images have no labels.
        class_names: name of each class that has one, by class index.
        classes: how many classes there are, present or not; None where that is not known.
        source: where the labels came from, in words.
        warnings: what was odd but did not matter enough to stop.
        array_shape: ``(C, H, W)`` where the images are ready arrays, which are not preprocessed; None for pictures.
        numbering: what the class indices follow: ``imagenet`` (the sorted WordNet ids), ``folders`` (the class folders,
            sorted, or as the file of class names has them), ``file`` (a label file); None without labels, and where
            the place stores them and does not say.

    Example:
        In the folder that ``quantkit demo`` makes:

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

    @property
    def in_folder(self) -> bool:
        """Whether the root is a local folder."""
        return isinstance(self.root, Path) and self.root.is_dir()

    def only(self, positions: Sequence[int]) -> "ImageSource":
        """Return the source with the images at some positions alone."""
        return replace(
            self,
            items=tuple(self.items[position] for position in positions),
            labels=None if self.labels is None else self.labels[list(positions)],
        )


def is_url(location: Location) -> bool:
    """Return whether a place is a URL."""
    return isinstance(location, str) and "://" in location

"""Finds images that are in both the calibration and the evaluation set."""

from collections.abc import Sequence
from pathlib import Path

from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.item import ImageItem, as_item
from quantkit.data.parallel import map_in_order
from quantkit.errors import QuantkitError


def overlap(chosen: CalibrationSet, images: Sequence[Path | ImageItem], workers: int | None = None) -> list[int]:
    """Return the positions of images that are in a calibration set, compared by digest.

    Only images with a size that occurs in the set are read, if the set's images can be found; digests are cached in the
    process.

    Args:
        chosen: the calibration set.
        images: the images to look up, such as an evaluation set.
        workers: number of threads.

    Raises:
        ImageError: one of ``images`` cannot be read.
        CalibrationSetError: the set was selected from labels alone.
    """
    chosen.require_digests()
    digests = {image.sha256 for image in chosen.images}
    sizes = _sizes(chosen)
    items = [as_item(image) for image in images]
    candidates = [
        position for position, item in enumerate(items) if sizes is None or (size := item.size) is None or size in sizes
    ]
    found = map_in_order(digest_of, [items[position] for position in candidates], workers)
    return [position for position, digest in zip(candidates, found, strict=True) if digest in digests]


def digest_of(image: Path | ImageItem) -> str:
    """Return the hex SHA-256 of an image, cached in this process while the image does not change.

    Raises:
        ImageError: the image cannot be read.
    """
    return as_item(image).digest()


def _sizes(chosen: CalibrationSet) -> set[int] | None:
    """Return the sizes in bytes of a set's images, or None if one cannot be accessed."""
    try:
        sizes = {item.size for item in chosen.items}
    except QuantkitError:  # the set's source is missing, but its digests are known
        return None
    return None if None in sizes else {size for size in sizes if size is not None}

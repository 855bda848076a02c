"""Creates a calibration set from a manifest, a set, or Python images."""

import os
from typing import TypeAlias

from quantkit.data.calibration_set import CalibrationImage, CalibrationSet
from quantkit.data.item import ImageItem
from quantkit.data.parallel import map_in_order
from quantkit.data.source import ImageSource
from quantkit.data.sources.open import ImagesLike, open_source
from quantkit.errors import CalibrationSetError

# Argument of `given_set`: a set, the path of a manifest, or Python images.
SetLike: TypeAlias = CalibrationSet | ImagesLike


def given_set(given: SetLike) -> CalibrationSet:
    """Return a calibration set.

    Args:
        given: a set, the path of a manifest, or Python images, all of which are used: arrays, an iterable, a
            ``DataLoader``, a ``datasets.Dataset``, a ``CalibrationDataReader``, an `ImageSource`.

    Raises:
        CalibrationSetError: the manifest is damaged, or there are no images or duplicates.
        ImageError: an image cannot be read, or an array has a wrong dtype or shape.
        NumericError: an array contains NaN or infinity.
        LabelError: labels are incomplete or malformed.
    """
    if isinstance(given, CalibrationSet):
        return given
    if isinstance(given, str | os.PathLike):
        return CalibrationSet.load(given)
    return whole_source(open_source(given))


def whole_source(source: ImageSource, workers: int | None = None) -> CalibrationSet:
    """Return all images of a source, in their order, as a set.

    Raises:
        ImageError: an image cannot be read.
        CalibrationSetError: two images are identical.
    """
    digests = list(map_in_order(ImageItem.digest, source.items, workers))
    first: dict[str, str] = {}
    for item, digest in zip(source.items, digests, strict=True):
        if first.setdefault(digest, item.id) != item.id:
            raise CalibrationSetError(
                f"the image is identical to {first[digest]}", where=item.where, fix="give each image once"
            )
    labels = [None] * len(source) if source.labels is None else source.labels.tolist()
    images = tuple(
        CalibrationImage(item.id, digest, label, source.class_names.get(label, "") if label is not None else "")
        for item, digest, label in zip(source.items, digests, labels, strict=True)
    )
    return CalibrationSet(source.root, images, source=source.source, opened=source)

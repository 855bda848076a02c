"""Ready arrays as images: float32 ``[C, H, W]`` as the model reads them, checked one by one, not preprocessed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.data.item import ImageItem, content_digest
from quantkit.data.source import ImageSource
from quantkit.errors import ImageError, LabelError, NumericError, UsageError
from quantkit.types import Float32Array

# Begins the place of images that Python gave; no path and no URL begins so.
IN_MEMORY = "images in memory"


class ContentItem(ImageItem):
    """An image whose content is in memory: an encoded image, or a ready array.

    Args:
        id: name within the source.
        content: bytes, or float32 ``[C, H, W]``.
        where: what to call it in messages.
    """

    __slots__ = ("_digest", "_where", "content", "id")

    def __init__(self, id: str, content: bytes | Float32Array, where: str) -> None:
        self.id, self.content, self._where = id, content, where
        self._digest = ""

    @property
    def where(self) -> object:
        """Source and position."""
        return self._where

    def read(self) -> bytes | Float32Array:
        """Return the content.

        Raises:
            NumericError: an array holds NaN or infinity.
        """
        if not isinstance(self.content, bytes):
            check_finite(self.content, self._where)
        return self.content

    def digest(self) -> str:
        """Return the digest of the content, computed once."""
        if not self._digest:
            self._digest = content_digest(self.read())
        return self._digest


def array_source(images: Any, labels: Any = None) -> ImageSource:
    """Return the images of one array.

    Args:
        images: float32 ``[N, C, H, W]``, a numpy array or a torch tensor; not copied.
        labels: ``[N]`` class indices, or None.

    Raises:
        ImageError: another dtype or number of axes, or no image.
        LabelError: not one class index for each image.
    """
    array = as_numpy(images)
    if array.ndim != 4 or not len(array):
        raise ImageError(f"an array of shape {list(array.shape)} where [N, C, H, W] is needed", where=IN_MEMORY)
    check_dtype(array, IN_MEMORY)
    items = tuple(
        ContentItem(position_id(position), one, f"{IN_MEMORY}: image {position}") for position, one in enumerate(array)
    )
    shape = (int(array.shape[1]), int(array.shape[2]), int(array.shape[3]))
    if labels is None:
        return ImageSource(IN_MEMORY, items, array_shape=shape)
    indices = label_array(as_numpy(labels), len(items), IN_MEMORY)
    return ImageSource(IN_MEMORY, items, indices, source="the labels given with the arrays", array_shape=shape)


def as_numpy(value: Any) -> NDArray[Any]:
    """Return a numpy array; a torch tensor is taken from its device and its graph.

    Raises:
        UsageError: the value is no array.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, list | tuple):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray | np.generic):
        raise UsageError(
            f"a {type(value).__name__} where an array is needed", fix="give float32 arrays [C, H, W], or encoded images"
        )
    return np.asarray(value)


def check_dtype(array: NDArray[Any], where: str) -> None:
    """Check that an array is float32.

    Raises:
        ImageError: it is not.
    """
    if array.dtype != np.float32:
        raise ImageError(
            f"an array of {array.dtype} where float32 is needed",
            where=where,
            fix="preprocess it as the model was trained, and convert it with .astype(np.float32)",
        )


def check_shape(array: NDArray[Any], shape: tuple[int, ...] | None, where: str) -> None:
    """Check that an array is ``[C, H, W]``, and of the shape of the first.

    Raises:
        ImageError: it is not.
    """
    if array.ndim != 3 or not array.size:
        raise ImageError(f"an array of shape {list(array.shape)} where [C, H, W] is needed", where=where)
    if shape is not None and array.shape != shape:
        raise ImageError(
            f"an array of shape {list(array.shape)} and the first is {list(shape)}", where=where, fix="make them alike"
        )


def check_finite(array: Float32Array, where: str) -> None:
    """Check that an array holds numbers only.

    Raises:
        NumericError: it holds NaN or infinity.
    """
    finite = np.isfinite(array)
    if not finite.all():
        place = [int(index) for index in np.unravel_index(int(np.argmin(finite)), array.shape)]
        raise NumericError(
            f"{array.size - int(finite.sum())} of {array.size} values are NaN or infinite, the first at {place}",
            where=where,
            fix="find the step of the preprocessing that makes them",
        )


def label_array(labels: NDArray[Any], count: int, where: str) -> NDArray[np.int64]:
    """Return class indices as int64 ``[count]``.

    Raises:
        LabelError: another number of them, another shape, or values that are no class indices.
    """
    if labels.shape != (count,):
        raise LabelError(f"labels of shape {list(labels.shape)} for {count} images", where=where)
    if not np.issubdtype(labels.dtype, np.integer):
        raise LabelError(f"labels of {labels.dtype}, not integers", where=where, fix="give class indices")
    if (labels < 0).any():
        position = int(np.argmax(labels < 0))
        raise LabelError(f"label {labels[position]} of image {position} is no class index", where=where)
    return labels.astype(np.int64)


def position_id(position: int) -> str:
    """Return the id of an image that has no name."""
    return f"image-{position:06d}"


def joined_labels(labels: Sequence[int | None], where: str) -> NDArray[np.int64] | None:
    """Return the labels of images, None where none has one.

    Raises:
        LabelError: some have one and others none.
    """
    without = [position for position, label in enumerate(labels) if label is None]
    if len(without) == len(labels):
        return None
    if without:
        raise LabelError(
            f"{len(without)} of {len(labels)} images have no label, image {without[0]} first",
            where=where,
            fix="label all of them or none",
        )
    return label_array(np.array(labels), len(labels), where)

"""Arrays as images: float32 ``[C, H, W]`` model inputs, checked individually and not preprocessed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.data.item import ImageItem, content_digest
from quantkit.data.source import ImageSource
from quantkit.errors import ImageError, LabelError, NumericError, UsageError
from quantkit.types import Float32Array

# Prefix of the location of images from Python; no path or URL has it.
IN_MEMORY = "images in memory"

Content = bytes | Float32Array


class PythonItem(ImageItem):
    """An image of a Python object, without a name.

    Args:
        position: its position.
        source: the object, for messages.
        content: an encoded image, a float32 array ``[C, H, W]``, or a function that returns one of these.
        digest: digest of the content; computed once by default.
    """

    __slots__ = ("_content", "_digest", "_where", "id")

    def __init__(self, position: int, source: str, content: Content | Callable[[], Content], digest: str = "") -> None:
        self.id, self._where = f"image-{position:06d}", f"{source} {position}"
        self._content, self._digest = content, digest

    @property
    def where(self) -> object:
        """Source and position."""
        return self._where

    def read(self) -> Content:
        """Return the content.

        Raises:
            NumericError: an array contains NaN or infinity.
        """
        content = self._content() if callable(self._content) else self._content
        if not isinstance(content, bytes):
            check_finite(content, self._where)
        return content

    def digest(self) -> str:
        """Return the digest of the content, computed once."""
        self._digest = self._digest or content_digest(self.read())
        return self._digest


def array_source(images: Any, labels: Any = None) -> ImageSource:
    """Return the images of an array.

    Args:
        images: float32 ``[N, C, H, W]``, a numpy array or a torch tensor; not copied.
        labels: ``[N]`` class indices, or None.

    Raises:
        ImageError: the dtype or number of axes is wrong, or there is no image.
        LabelError: there is not one class index per image.
    """
    array = as_numpy(images)
    if array.ndim != 4 or not len(array):
        raise ImageError(f"the array has shape {list(array.shape)}, not [N, C, H, W]", where=IN_MEMORY)
    check_dtype(array, IN_MEMORY)
    items = tuple(PythonItem(position, f"{IN_MEMORY}: image", one) for position, one in enumerate(array))
    shape = (int(array.shape[1]), int(array.shape[2]), int(array.shape[3]))
    if labels is None:
        return ImageSource(IN_MEMORY, items, array_shape=shape)
    indices = label_array(as_numpy(labels), len(items), IN_MEMORY)
    return ImageSource(IN_MEMORY, items, indices, source="the labels given with the arrays", array_shape=shape)


def as_numpy(value: Any) -> NDArray[Any]:
    """Return a numpy array; a torch tensor is detached and copied to the CPU.

    Raises:
        UsageError: the value is not an array.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, list | tuple):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray | np.generic):
        raise UsageError(
            f"{type(value).__name__} is not an array", fix="give float32 arrays [C, H, W], or encoded images"
        )
    return np.asarray(value)


def check_dtype(array: NDArray[Any], where: str) -> None:
    """Check that an array is float32.

    Raises:
        ImageError: it is not.
    """
    if array.dtype != np.float32:
        raise ImageError(
            f"the array has dtype {array.dtype}, not float32",
            where=where,
            fix="preprocess it as in training, and convert it with .astype(np.float32)",
        )


def check_shape(array: NDArray[Any], shape: tuple[int, ...] | None, where: str) -> None:
    """Check that an array is ``[C, H, W]``, with the shape of the first.

    Raises:
        ImageError: it is not.
    """
    if array.ndim != 3 or not array.size:
        raise ImageError(f"the array has shape {list(array.shape)}, not [C, H, W]", where=where)
    if shape is not None and array.shape != shape:
        raise ImageError(
            f"the array has shape {list(array.shape)}, and the first {list(shape)}", where=where, fix="use one shape"
        )


def check_finite(array: Float32Array, where: str) -> None:
    """Check that an array has only finite values.

    Raises:
        NumericError: it contains NaN or infinity.
    """
    finite = np.isfinite(array)
    if not finite.all():
        place = [int(index) for index in np.unravel_index(int(np.argmin(finite)), array.shape)]
        raise NumericError(
            f"{array.size - int(finite.sum())} of {array.size} values are NaN or infinite, the first at {place}",
            where=where,
            fix="find the preprocessing step that computes them",
        )


def label_array(labels: NDArray[Any], count: int, where: str) -> NDArray[np.int64]:
    """Return class indices as int64 ``[count]``.

    Raises:
        LabelError: the number or shape is wrong, or values are not class indices.
    """
    if labels.shape != (count,):
        raise LabelError(f"labels of shape {list(labels.shape)} for {count} images", where=where)
    if not np.issubdtype(labels.dtype, np.integer):
        raise LabelError(f"the labels are {labels.dtype}, not integers", where=where, fix="give class indices")
    if (labels < 0).any():
        position = int(np.argmax(labels < 0))
        raise LabelError(f"label {labels[position]} of image {position} is not a class index", where=where)
    return labels.astype(np.int64)


def joined_labels(labels: Sequence[int | None], where: str) -> NDArray[np.int64] | None:
    """Return the labels of images, None if no image has one.

    Raises:
        LabelError: only some images have a label.
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

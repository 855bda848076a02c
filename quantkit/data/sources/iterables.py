"""Images from Python iterables: arrays and labels, loaders and data sets of torch and others.

One pass counts the images, checks them and computes their digests. Images up to `MEMORY_BYTES` are kept in memory. If
there are more, a repeatable iterable is read again on demand, and must yield the same images; others need a limit.
"""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.data.images import read_bytes
from quantkit.data.item import content_digest
from quantkit.data.source import ImageSource
from quantkit.data.sources.arrays import (
    IN_MEMORY,
    Content,
    PythonItem,
    as_numpy,
    check_dtype,
    check_finite,
    check_shape,
    joined_labels,
)
from quantkit.errors import CalibrationSetError, ImageError, LabelError, UsageError

MEMORY_BYTES = 2 << 30
# Number of recent images that are kept of an iterable that is read again, for requests of several threads.
_WINDOW = 128
_IMAGE_KEYS = ("image", "pixel_values", "input", "images", "x")
_LABEL_KEYS = ("label", "labels", "target", "y", "cls")

_Sample = tuple[Content, int | None]


def iterable_source(given: Any, limit: int | None = None) -> ImageSource:
    """Return the images of an iterable.

    Args:
        given: yields float32 arrays ``[C, H, W]`` or batches ``[N, C, H, W]``, encoded images (bytes), pairs of these
            with class indices, or dictionaries with ``image`` and ``label``; or has ``get_next`` as onnxruntime's
            `CalibrationDataReader`.
        limit: maximum number of images; required for an infinite iterable.

    Raises:
        UsageError: a value is not an image, or the images exceed the memory limit and cannot be read again.
        CalibrationSetError: there is no image.
        ImageError: an array has a wrong dtype or another shape than the first; the message has its position.
        NumericError: an array contains NaN or infinity; the message has its position.
        LabelError: only some images have labels, or values are not class indices.
    """
    name = type(given).__name__
    if limit is not None and limit < 1:
        raise UsageError(f"invalid number of images {limit}", where="limit", fix="give a number from 1 up")
    begin = _beginner(given)
    again = hasattr(given, "__len__")
    kept: list[Content] | None = []
    digests: list[str] = []
    labels: list[int | None] = []
    total, shape, is_array = 0, None, False
    for position, (content, label) in enumerate(itertools.islice(_samples(begin(), name), limit)):
        where = f"{name}: image {position}"
        if position == 0:
            is_array = not isinstance(content, bytes)
        if is_array == isinstance(content, bytes):
            raise ImageError("arrays and encoded images are mixed", where=where, fix="give only one kind")
        if not isinstance(content, bytes):
            check_shape(content, shape, where)
            check_finite(content, where)
            shape = shape or (int(content.shape[0]), int(content.shape[1]), int(content.shape[2]))
        digests.append(content_digest(content))
        labels.append(label)
        total += len(content) if isinstance(content, bytes) else content.nbytes
        if total > MEMORY_BYTES and kept is not None:
            if not again:
                raise UsageError(
                    f"{position + 1} images of an iterable without len() exceed {MEMORY_BYTES >> 30} GiB; it "
                    "may be infinite",
                    where=name,
                    fix="give limit=N",
                )
            kept = None
        if kept is not None:
            kept.append(content if isinstance(content, bytes) else np.array(content, np.float32))
    if not digests:
        raise CalibrationSetError(
            "it yielded no images", where=name, fix="create it again: an iterator is read only once"
        )
    if kept is not None:
        items = tuple(PythonItem(position, f"{name}: image", content) for position, content in enumerate(kept))
    else:
        again_by = _Replay(begin, name).content
        items = tuple(
            PythonItem(position, f"{name}: image", partial(again_by, position, digest), digest)
            for position, digest in enumerate(digests)
        )
    found = joined_labels(labels, name)
    words = "no labels" if found is None else f"the labels of the {name}"
    return ImageSource(f"{IN_MEMORY} ({name})", items, found, source=words, array_shape=shape)


def dataset_source(dataset: Any, limit: int | None = None) -> ImageSource:
    """Return the images of a Hugging Face `datasets.Dataset`: encoded images by row, undecoded, or arrays.

    Raises:
        CalibrationSetError: it has no column of images.
        LabelError: see `iterable_source`.
    """
    features = dict(dataset.features)
    image = next((name for name, feature in features.items() if type(feature).__name__ == "Image"), None)
    label = next((name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"), None)
    if image is None:
        return iterable_source(dataset.with_format("numpy"), limit)
    undecoded = dataset.cast_column(image, type(features[image])(decode=False))
    count = len(undecoded) if limit is None else min(limit, len(undecoded))
    items = tuple(PythonItem(row, "Dataset: row", partial(_image_of, undecoded, image, row)) for row in range(count))
    names = list(features[label].names) if label is not None else []
    labels = joined_labels(list(undecoded[label][:count]), "Dataset") if label is not None else None
    return ImageSource(
        f"{IN_MEMORY} (Dataset)",
        items,
        labels,
        dict(enumerate(names)),
        len(names) or None,
        "no labels" if labels is None else f"the column {label}",
    )


def is_dataset(given: Any) -> bool:
    """Return whether a value has the methods of a `datasets.Dataset`."""
    return all(hasattr(given, name) for name in ("features", "cast_column", "with_format", "__len__", "__getitem__"))


def _image_of(dataset: Any, column: str, row: int) -> bytes:
    """Return the encoded image in a row of a `datasets.Dataset`."""
    value = dataset[row][column]
    data = value.get("bytes") if isinstance(value, dict) else None
    if isinstance(value, dict) and data is None and value.get("path"):
        data = read_bytes(Path(value["path"]))
    if not isinstance(data, bytes) or not data:
        raise ImageError("the row has no image (null)", where=f"Dataset: row {row}", fix="remove the row")
    return data


class _Replay:
    """Reads an iterable again, and returns its images by position; thread-safe."""

    def __init__(self, begin: Callable[[], Iterator[Any]], name: str) -> None:
        self._begin, self._name, self._lock = begin, name, threading.Lock()
        self._samples: Iterator[_Sample] | None = None
        self._next = 0
        self._window: OrderedDict[int, Content] = OrderedDict()

    def content(self, position: int, digest: str) -> Content:
        """Return the image at a position.

        Raises:
            ImageError: there are fewer images than in the first pass, or it has another digest.
        """
        content = self._at(position)
        if content_digest(content) != digest:
            raise ImageError(
                "it was another image in the first pass",
                where=f"{self._name}: image {position}",
                fix="do not shuffle or augment, or limit the images to those that fit in memory",
            )
        return content

    def _at(self, position: int) -> Content:
        with self._lock:
            if position in self._window:
                return self._window[position]
            if self._samples is None or position < self._next:
                self._samples, self._next = _samples(self._begin(), self._name), 0
                self._window.clear()
            while self._next <= position:
                sample = next(self._samples, None)
                if sample is None:
                    raise ImageError(
                        f"it ended after {self._next} images and had more in the first pass",
                        where=f"{self._name}: image {position}",
                        fix="give an iterable that yields the same images each time",
                    )
                content = sample[0]
                self._window[self._next] = content if isinstance(content, bytes) else np.array(content, np.float32)
                self._next += 1
                if len(self._window) > _WINDOW:
                    self._window.popitem(last=False)
            return self._window[position]


def _beginner(given: Any) -> Callable[[], Iterator[Any]]:
    """Return a function that starts a pass over an iterable.

    Raises:
        UsageError: the value is not iterable.
    """
    if hasattr(given, "get_next"):
        return lambda: _read_out(given)
    if hasattr(given, "__iter__"):
        return lambda: iter(given)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):  # torch's data sets by index
        return lambda: (given[index] for index in range(len(given)))
    raise UsageError(
        f"{type(given).__name__} is not an image source",
        fix="give a folder, an archive, a URL, arrays, or an iterable of (array, label)",
    )


def _read_out(reader: Any) -> Iterator[Any]:
    """Yield the arrays of a `CalibrationDataReader`, until None."""
    if hasattr(reader, "rewind"):
        reader.rewind()
    while (feed := reader.get_next()) is not None:
        if not isinstance(feed, dict) or len(feed) != 1:
            raise UsageError(
                "get_next() must return one named array",
                where=type(reader).__name__,
                fix="return only the image input",
            )
        yield next(iter(feed.values()))


def _samples(values: Iterator[Any], name: str) -> Iterator[_Sample]:
    """Yield image by image; batches are split."""
    for number, value in enumerate(values):
        where = f"{name}: item {number}"
        content, label = _split(value, where)
        if isinstance(content, bytes):
            yield content, _label(label, where)
            continue
        array = as_numpy(content)
        check_dtype(array, where)
        if array.ndim != 4:
            yield array, _label(label, where)
            continue
        labels = [None] * len(array) if label is None else list(np.atleast_1d(as_numpy(label)))
        if len(labels) != len(array):
            raise LabelError(f"{len(labels)} labels for {len(array)} images", where=where)
        for one, own in zip(array, labels, strict=True):
            yield one, _label(own, where)


def _split(value: Any, where: str) -> tuple[Any, Any]:
    """Return image and label of an item of an iterable."""
    if isinstance(value, dict):
        image = next((value[key] for key in _IMAGE_KEYS if key in value), None)
        if image is None:
            raise UsageError(
                f"the dictionary has the keys {', '.join(map(str, value))[:80]}",
                where=where,
                fix="name the image 'image'",
            )
        label = next((value[key] for key in _LABEL_KEYS if key in value), None)
        if isinstance(image, dict):
            image = image.get("bytes")
    elif isinstance(value, tuple | list):
        if len(value) not in (1, 2):
            raise UsageError(f"the item has {len(value)} values, not (image, label)", where=where)
        image, label = value[0], value[1] if len(value) == 2 else None
    else:
        image, label = value, None
    if not isinstance(image, bytes) and not hasattr(image, "shape"):
        raise UsageError(
            f"{type(image).__name__} is not an array",
            where=where,
            fix="give float32 arrays [C, H, W], or encoded images as bytes",
        )
    return image, label


def _label(label: Any, where: str) -> int | None:
    if label is None:
        return None
    value = as_numpy(label) if hasattr(label, "shape") else np.asarray(label)
    if value.ndim or not np.issubdtype(value.dtype, np.integer) or value < 0:
        raise LabelError(f"{str(label)[:40]!r} is not a class index", where=where)
    return int(value)

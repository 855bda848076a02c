"""Images from Python: iterables of arrays and labels, loaders and data sets of torch and others.

One pass counts them, checks each and takes its digest. What fits in `MEMORY_BYTES` is kept. Of more, an iterable that
can be read again is read again when its images are wanted, and must then give the same ones; others need a limit.
"""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.data.images import read_bytes
from quantkit.data.item import ImageItem, content_digest
from quantkit.data.source import ImageSource
from quantkit.data.sources.arrays import (
    IN_MEMORY,
    ContentItem,
    as_numpy,
    check_dtype,
    check_finite,
    check_shape,
    joined_labels,
    position_id,
)
from quantkit.errors import CalibrationSetError, ImageError, LabelError, UsageError
from quantkit.types import Float32Array

MEMORY_BYTES = 2 << 30
# Images behind the newest one that are kept of an iterable that is read again; threads ask a few at a time.
_WINDOW = 128
_IMAGE_KEYS = ("image", "pixel_values", "input", "images", "x")
_LABEL_KEYS = ("label", "labels", "target", "y", "cls")

Content = bytes | Float32Array
_Sample = tuple[Content, int | None]


def iterable_source(given: Any, limit: int | None = None) -> ImageSource:
    """Return the images of an iterable.

    Args:
        given: yields float32 arrays ``[C, H, W]`` or batches ``[N, C, H, W]``, encoded images (bytes), or pairs of such
            and class indices, or dictionaries with ``image`` and ``label``; or has ``get_next`` as onnxruntime's
            `CalibrationDataReader`.
        limit: use so many images; needed where the iterable has no end.

    Raises:
        UsageError: a value that is no image, or more images than memory is set aside for and no way to read them again.
        CalibrationSetError: there is no image.
        ImageError: an array of another dtype or of another shape than the first; names its position.
        NumericError: an array holds NaN or infinity; names its position.
        LabelError: labels of some images only, or values that are no class indices.
    """
    name = type(given).__name__
    if limit is not None and limit < 1:
        raise UsageError(f"cannot use {limit} images", where="limit", fix="give a number from 1 up")
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
            raise ImageError("arrays and encoded images are mixed", where=where, fix="give one kind")
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
                    f"{position + 1} images of an iterable without len() take over {MEMORY_BYTES >> 30} GiB; it "
                    "may have no end",
                    where=name,
                    fix="give limit=N",
                )
            kept = None
        if kept is not None:
            kept.append(content if isinstance(content, bytes) else np.array(content, np.float32))
    if not digests:
        raise CalibrationSetError("it gave no images", where=name, fix="make it anew: an iterator is read once only")
    items: tuple[ImageItem, ...]
    if kept is not None:
        items = tuple(
            ContentItem(position_id(position), content, f"{name}: image {position}")
            for position, content in enumerate(kept)
        )
    else:
        replay = _Replay(begin, name)
        items = tuple(_ReplayedItem(replay, position, digest) for position, digest in enumerate(digests))
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
    items = tuple(_RowItem(undecoded, image, row) for row in range(count))
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
    """Return whether a value is a `datasets.Dataset`, seen from its methods."""
    return all(hasattr(given, name) for name in ("features", "cast_column", "with_format", "__len__", "__getitem__"))


class _RowItem(ImageItem):
    """An encoded image in a row of a `datasets.Dataset`."""

    def __init__(self, dataset: Any, column: str, row: int) -> None:
        self._dataset, self._column, self._row = dataset, column, row
        self.id, self._digest = position_id(row), ""

    @property
    def where(self) -> object:
        return f"Dataset: row {self._row}"

    def read(self) -> bytes:
        value = self._dataset[self._row][self._column]
        data = value.get("bytes") if isinstance(value, dict) else None
        if isinstance(value, dict) and data is None and value.get("path"):
            data = read_bytes(Path(value["path"]))
        if not isinstance(data, bytes) or not data:
            raise ImageError("the row has no image (null)", where=self.where, fix="remove the row")
        return data

    def digest(self) -> str:
        self._digest = self._digest or content_digest(self.read())
        return self._digest


class _Replay:
    """Reads an iterable again and gives its images by position; any thread may ask."""

    def __init__(self, begin: Callable[[], Iterator[Any]], name: str) -> None:
        self._begin, self._name, self._lock = begin, name, threading.Lock()
        self._samples: Iterator[_Sample] | None = None
        self._next = 0
        self._window: OrderedDict[int, Content] = OrderedDict()

    def content(self, position: int) -> Content:
        """Return the image of a position.

        Raises:
            ImageError: there are fewer images than the first time.
        """
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
                        f"it ended after {self._next} images and had more the first time",
                        where=f"{self._name}: image {position}",
                        fix="give an iterable that yields the same images each time",
                    )
                content = sample[0]
                self._window[self._next] = content if isinstance(content, bytes) else np.array(content, np.float32)
                self._next += 1
                if len(self._window) > _WINDOW:
                    self._window.popitem(last=False)
            return self._window[position]


class _ReplayedItem(ImageItem):
    """An image of an iterable that is read again."""

    def __init__(self, replay: _Replay, position: int, digest: str) -> None:
        self._replay, self._position, self._digest = replay, position, digest
        self.id = position_id(position)

    @property
    def where(self) -> object:
        return f"{self._replay._name}: image {self._position}"

    def read(self) -> Content:
        content = self._replay.content(self._position)
        if content_digest(content) != self._digest:
            raise ImageError(
                "it was another image the first time",
                where=self.where,
                fix="do not shuffle or augment, or give a limit of images that fit in memory",
            )
        return content

    def digest(self) -> str:
        return self._digest


def _beginner(given: Any) -> Callable[[], Iterator[Any]]:
    """Return what begins a pass over an iterable.

    Raises:
        UsageError: it cannot be iterated.
    """
    if hasattr(given, "get_next"):
        return lambda: _read_out(given)
    if hasattr(given, "__iter__"):
        return lambda: iter(given)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):  # torch's data sets by index
        return lambda: (given[index] for index in range(len(given)))
    raise UsageError(
        f"a {type(given).__name__} is no source of images",
        fix="give a folder, an archive, a URL, arrays, or an iterable of (array, label)",
    )


def _read_out(reader: Any) -> Iterator[Any]:
    """Yield what a `CalibrationDataReader` gives, until None."""
    if hasattr(reader, "rewind"):
        reader.rewind()
    while (feed := reader.get_next()) is not None:
        if not isinstance(feed, dict) or len(feed) != 1:
            raise UsageError(
                "get_next() gave something else than one named array",
                where=type(reader).__name__,
                fix="give the image input alone",
            )
        yield next(iter(feed.values()))


def _samples(values: Iterator[Any], name: str) -> Iterator[_Sample]:
    """Yield image by image, batches taken apart."""
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
    """Return image and label of what an iterable yields."""
    if isinstance(value, dict):
        image = next((value[key] for key in _IMAGE_KEYS if key in value), None)
        if image is None:
            raise UsageError(
                f"a dictionary with {', '.join(map(str, value))[:80]}", where=where, fix="name the image 'image'"
            )
        label = next((value[key] for key in _LABEL_KEYS if key in value), None)
        if isinstance(image, dict):
            image = image.get("bytes")
    elif isinstance(value, tuple | list):
        if len(value) not in (1, 2):
            raise UsageError(f"{len(value)} values where (image, label) is needed", where=where)
        image, label = value[0], value[1] if len(value) == 2 else None
    else:
        image, label = value, None
    if not isinstance(image, bytes) and not hasattr(image, "shape"):
        raise UsageError(
            f"a {type(image).__name__} where an array is needed",
            where=where,
            fix="give float32 arrays [C, H, W], or encoded images as bytes",
        )
    return image, label


def _label(label: Any, where: str) -> int | None:
    if label is None:
        return None
    value = as_numpy(label) if hasattr(label, "shape") else np.asarray(label)
    if value.ndim or not np.issubdtype(value.dtype, np.integer) or value < 0:
        raise LabelError(f"{str(label)[:40]!r} is no class index", where=where)
    return int(value)

"""Images in parquet files, in the layout of Hugging Face's image data sets: ``image{bytes, path}`` and ``label``."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.data.images import IMAGE_SUFFIXES
from quantkit.data.source import ImageSource, Location
from quantkit.data.sources.blob import Blob, BlobItem
from quantkit.data.sources.faults import Faults
from quantkit.data.sources.parquet_file import LAYOUT, NO_LABEL, ParquetImages
from quantkit.errors import CalibrationSetError, LabelError, QuantkitError, UsageError


class ParquetItem(BlobItem):
    """An image in a row of a parquet file.

    Args:
        images: the file.
        row: row number from 0.
        id: name in the source.
    """

    __slots__ = ("images", "row")

    def __init__(self, images: ParquetImages, row: int, id: str) -> None:
        super().__init__(images.blob, id, None)
        self.images, self.row = images, row

    def __reduce__(self) -> tuple[Any, ...]:
        return _item_of, (self.blob, self.row, self.id)

    @property
    def where(self) -> object:
        """File, row and name."""
        return f"{self.images.where(self.row)} ({self.id})"

    def read(self) -> bytes:
        """Return the encoded image."""
        return self.images.bytes_of(self.row)

    @property
    def place(self) -> tuple[int, ...]:
        """The row."""
        return (self.row,)

    def portable(self) -> int | str:
        """Return row and file size, which copies share."""
        return f"row {self.row} of {self.blob.size} bytes"


def parquet_source(root: Location, blobs: Sequence[Blob], faults: Faults) -> ImageSource:
    """Return the images of parquet files, file by file in the order of their rows.

    Args:
        root: the given location.
        blobs: the files.
        faults: receives damaged files and rows without an image.

    Raises:
        CalibrationSetError: a file cannot be read, lacks the columns, or has rows without an image.
        LabelError: labels are null or not class indices, or only some files have labels.
        UsageError: pyarrow is not installed.
    """
    files = list(_sound_files(blobs, faults))
    rows = [(file, row) for file in files for row in _sound_rows(file, faults)]
    if not rows:
        raise CalibrationSetError("no images found in it", where=root)
    items = tuple(ParquetItem(file, row, id) for (file, row), id in zip(rows, _ids(rows), strict=True))
    labels = _joined_labels(root, files, rows)
    names = files[0].class_names
    return ImageSource(
        root,
        items,
        labels,
        dict(enumerate(names)) if labels is not None else {},
        len(names) if labels is not None and names else None,
        "no labels" if labels is None else "the column label",
        faults.warnings(),
    )


def _sound_files(blobs: Sequence[Blob], faults: Faults) -> Iterator[ParquetImages]:
    for blob in blobs:
        try:
            yield ParquetImages(blob, with_labels=faults.labels)
        except UsageError:
            raise
        except QuantkitError as error:
            faults.report(error)


def _sound_rows(file: ParquetImages, faults: Faults) -> Iterator[int]:
    nulls = set(file.nulls)
    for row in range(file.starts[-1]):
        if row in nulls:
            faults.damaged("the row has no image (null)", file.where(row), "remove the row")
        else:
            yield row


def _joined_labels(
    root: Location, files: Sequence[ParquetImages], rows: Sequence[tuple[ParquetImages, int]]
) -> NDArray[np.int64] | None:
    without = [file for file in files if file.labels is None]
    if without and len(without) < len(files):
        raise LabelError("it has no column label, and other files have", where=without[0].blob.name, fix=LAYOUT)
    if without:
        return None
    if len({file.class_names for file in files}) > 1:
        raise LabelError("the files have different classes", where=root, fix="give the files of one data set")
    values = [int(file.labels[row]) for file, row in rows if file.labels is not None]
    unlabelled = values.count(NO_LABEL)
    if unlabelled == len(values):
        return None  # the test split of ImageNet
    if unlabelled:
        file, row = rows[values.index(NO_LABEL)]
        raise LabelError("the row has no label (-1), and others have", where=file.where(row), fix="remove such rows")
    return np.array(values, np.int64)


def _ids(rows: Sequence[tuple[ParquetImages, int]]) -> list[str]:
    """Return an id for each row: the file name of its image if all are present and unique, else file and row."""
    names = [file.names[row] for file, row in rows]
    if all(names) and len(set(names)) == len(names):
        return names
    several = max(Counter(file.stem for file in {file for file, _ in rows}).values()) > 1
    suffixes = {file: file.suffix() for file in dict.fromkeys(file for file, _ in rows)}
    ids = []
    for file, row in rows:
        suffix = PurePosixPath(file.names[row]).suffix
        if suffix.lower() not in IMAGE_SUFFIXES:
            suffix = suffixes[file]
        stem = re.sub(r"[^\w.=-]+", "_", file.blob.name).strip("_") if several else file.stem
        ids.append(f"{stem}-{row:06d}{suffix}")
    return ids


def _item_of(blob: Blob, row: int, id: str) -> ParquetItem:
    return ParquetItem(ParquetImages(blob), row, id)

"""A parquet file of images, read by row group, the unit that parquet compresses and addresses.

Recent row groups are cached, so that reading in order needs one read per row group, and random access to a small file
needs one read in total.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantkit.data.images import MAX_FILE_BYTES
from quantkit.data.sources.blob import Blob, BlobFile, LocalBlob
from quantkit.errors import CalibrationSetError, ImageError, LabelError, QuantkitError, UsageError, one_line

# Maximum size of a row group, which is read completely into memory.
MAX_ROW_GROUP_BYTES = 1 << 30
# Maximum bytes of cached row groups of all files; the current one is always kept.
KEPT_BYTES = 1 << 28
LAYOUT = "write the columns image{bytes, path} and label, as Hugging Face's datasets do"
# Label of images without a public label in data sets.
NO_LABEL = -1

_SUFFIX_BY_START = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}


class ParquetImages:
    """The image column of a parquet file, by row; thread-safe.

    Args:
        blob: the file.
        with_labels: read the label column.

    Attributes:
        names: file name of each row's image, empty if the file has none.
        labels: int64 ``[rows]``, -1 for none; None if there is no such column.
        nulls: rows without an image, according to the statistics of the file.
        starts: the first row of each row group, and the number of rows.
        class_names: class names from the metadata of Hugging Face, empty without.

    Raises:
        CalibrationSetError: the file is not a parquet file, is damaged, or lacks the columns.
        UsageError: pyarrow is not installed.
    """

    def __init__(self, blob: Blob, *, with_labels: bool = True) -> None:
        self.blob, self._with_labels = blob, with_labels
        self._lock = threading.Lock()
        self._file = _opened(blob)
        try:
            schema = self._file.schema_arrow
            self._column, self._has_path = _image_column(schema, blob)
            self._read_rows(schema)
            self.class_names = _class_names(schema)
        except QuantkitError:
            raise
        except Exception as error:  # arrow raises any class for a damaged file
            raise CalibrationSetError(
                f"the file is damaged ({one_line(error)})", where=blob.name, fix="download it again"
            ) from error

    @property
    def stem(self) -> str:
        """The file's name without suffix."""
        return self.blob.file_name.removesuffix(".parquet")

    def bytes_of(self, row: int) -> bytes:
        """Return the encoded image of a row.

        Raises:
            ImageError: the row group cannot be read, or the row has no image.
        """
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        column = KEPT.get(self, group)
        value = column[row - self.starts[group]].as_py()
        if not isinstance(value, bytes):
            raise ImageError("the row has no image (null)", where=self.where(row), fix="remove the row")
        if not 0 < len(value) <= MAX_FILE_BYTES:
            raise ImageError(
                f"the image of the row has {len(value)} bytes", where=self.where(row), fix="remove the row"
            )
        return value

    def where(self, row: int) -> str:
        """Return file and row, from 0, for messages."""
        return f"{self.blob.name}: row {row}"

    def suffix(self) -> str:
        """Return the suffix of the image file names, from the first one."""
        try:
            batches = self._file.iter_batches(batch_size=1, columns=[self._column], use_threads=False)
            for batch in batches:
                value = _leaf(batch.column(0))[0].as_py()
                if isinstance(value, bytes):
                    return next((suffix for start, suffix in _SUFFIX_BY_START.items() if value.startswith(start)), "")
        except Exception:  # reported when the row is read
            return ""
        return ""

    def read_group(self, group: int) -> Any:
        """Return the image column of a row group, a binary arrow array.

        Raises:
            ImageError: the row group cannot be read.
        """
        where = f"{self.blob.name}: row group {group}"
        size = self.group_bytes(group)
        if size > MAX_ROW_GROUP_BYTES:
            raise ImageError(
                f"the row group is too large ({size} bytes of images), and it is read as a whole",
                where=where,
                fix="write the file with row groups of 100 images (row_group_size=100)",
            )
        try:
            with self._lock:
                column = self._file.read_row_group(group, columns=[self._column], use_threads=False).column(0)
            return _leaf(column.combine_chunks())
        except ImageError:
            raise
        except Exception as error:  # arrow raises any class for a damaged file
            raise ImageError(
                f"the row group is damaged ({one_line(error)})", where=where, fix="download the file again"
            ) from error

    def group_bytes(self, group: int) -> int:
        """Return the uncompressed bytes of the image column of a row group."""
        metadata = self._file.metadata.row_group(group)
        columns = (metadata.column(index) for index in range(metadata.num_columns))
        return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == self._column)

    def _read_rows(self, schema: Any) -> None:
        wanted = (["image.path"] if self._has_path else []) + (
            ["label"] if self._with_labels and "label" in schema.names else []
        )
        metadata = self._file.metadata
        table = self._file.read(columns=wanted, use_threads=False) if wanted else None
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.starts: tuple[int, ...] = tuple(np.cumsum([0, *counts]).tolist())
        if not self.starts[-1]:
            raise CalibrationSetError("it has no rows", where=self.blob.name)
        self.names = ("",) * self.starts[-1]
        if self._has_path:
            assert table is not None
            paths = _leaf(table.column("image").combine_chunks()).to_pylist()
            self.names = tuple(_file_name(path) for path in paths)
        self.labels = None if "label" not in wanted or table is None else self._labels(table.column("label"))
        self.nulls = self._nulls(counts)

    def _labels(self, column: Any) -> NDArray[np.int64]:
        import pyarrow

        if not pyarrow.types.is_integer(column.type):
            raise LabelError(f"the column label is {column.type}, not an integer", where=self.blob.name, fix=LAYOUT)
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise LabelError("the row has no label (null)", where=self.where(row), fix="remove the row")
        labels: NDArray[np.int64] = np.asarray(column.to_numpy()).astype(np.int64)
        if (labels < NO_LABEL).any():
            row = int(np.argmax(labels < NO_LABEL))
            raise LabelError(f"label {labels[row]} is not a class index", where=self.where(row))
        return labels

    def _nulls(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Return the rows without an image, searched only in row groups with nulls."""
        nulls: list[int] = []
        start = 0
        for group, count in enumerate(counts):
            metadata = self._file.metadata.row_group(group)
            for index in range(metadata.num_columns):
                column = metadata.column(index)
                if column.path_in_schema != self._column or column.statistics is None:
                    continue
                if column.statistics.null_count:
                    empty = self.read_group(group).is_null().to_pylist()
                    nulls.extend(start + row for row, is_null in enumerate(empty) if is_null)
            start += count
        return tuple(nulls)


class _KeptGroups:
    """Cache of recently used row groups of all files."""

    def __init__(self, limit: int) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._columns: OrderedDict[tuple[int, int], tuple[ParquetImages, Any, int]] = OrderedDict()
        self._loading: dict[tuple[int, int], threading.Lock] = {}

    def get(self, images: ParquetImages, group: int) -> Any:
        """Return the image column of a row group; concurrent requests share one read."""
        key = (id(images), group)
        with self._lock:
            if key in self._columns:
                self._columns.move_to_end(key)
                return self._columns[key][1]
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            with self._lock:
                if key in self._columns:
                    return self._columns[key][1]
            column = images.read_group(group)
            with self._lock:
                self._columns[key] = (images, column, column.nbytes)
                self._loading.pop(key, None)
                while len(self._columns) > 1 and sum(size for _, _, size in self._columns.values()) > self._limit:
                    self._columns.popitem(last=False)
        return column


KEPT = _KeptGroups(KEPT_BYTES)


def _image_column(schema: Any, blob: Blob) -> tuple[str, bool]:
    """Return the column with the images, and whether there are file names.

    Raises:
        CalibrationSetError: there is no such column.
    """
    import pyarrow

    if "image" not in schema.names:
        raise CalibrationSetError(
            f"there is no column image (columns: {', '.join(schema.names[:8]) or 'none'})", where=blob.name, fix=LAYOUT
        )
    kind = schema.field("image").type
    children = {field.name: field.type for field in kind} if pyarrow.types.is_struct(kind) else {}
    if _is_binary(kind):
        return "image", False
    if "bytes" in children and _is_binary(children["bytes"]):
        return "image.bytes", "path" in children
    raise CalibrationSetError(f"the column image is {kind}, not bytes", where=blob.name, fix=LAYOUT)


def _file_name(path: object) -> str:
    """Return the file name of a path in a data set; empty if it is missing or not usable."""
    name = str(path).replace("\\", "/").rpartition("/")[2] if isinstance(path, str) else ""
    return "" if any(character in name for character in "\0\r\n") or name in (".", "..") else name


def _class_names(schema: Any) -> tuple[str, ...]:
    """Return the names of the classes from Hugging Face's metadata; empty if there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features["label"]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _leaf(column: Any) -> Any:
    """Return the values of a struct with one field as an array; nulls of the struct are nulls of the array."""
    import pyarrow

    if isinstance(column, pyarrow.ChunkedArray):
        column = column.combine_chunks()
    return column.flatten()[0] if pyarrow.types.is_struct(column.type) else column


def _is_binary(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _opened(blob: Blob) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "parquet files need pyarrow", where=blob.name, fix="pip install 'quantkit[parquet]'"
        ) from error
    try:
        if isinstance(blob, LocalBlob):
            return pyarrow.parquet.ParquetFile(blob.name)
        return pyarrow.parquet.ParquetFile(pyarrow.PythonFile(BlobFile(blob), mode="r"), pre_buffer=False)
    except Exception as error:  # arrow raises any class for a damaged file
        raise CalibrationSetError(
            f"not a complete parquet file ({one_line(error)})", where=blob.name, fix="download it again"
        ) from error

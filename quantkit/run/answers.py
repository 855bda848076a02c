"""Scores kept on disk: no model answers the same images twice, and an interruption loses next to nothing.

A file of kept scores has a head that says what was run on what, then one row an image, in the order of the images: the
scores as float32, 4 bytes each (200 MB for ImageNet's 50,000 validation images and 1,000 classes), and a CRC-32 of
them. Rows are only ever added, each as soon as all before it are there. So a process that is killed leaves whole rows
and at most one piece of a row; the next one checks the rows, cuts off what is no whole row, and goes on behind it.
"""

import contextlib
import fcntl
import json
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import onnxruntime

from quantkit import __version__
from quantkit.config.pipeline import Pipeline
from quantkit.data.folder import ImageFolder
from quantkit.data.parallel import map_in_order
from quantkit.data.preprocess import preprocess
from quantkit.errors import ImageError, ModelError, OutputError, UsageError
from quantkit.files import make_folder, reason, sha256_json
from quantkit.run.evaluate import Answers, Classifier

FloatArray = npt.NDArray[np.float32]

FOLDER = "answers"
SUFFIX = ".scores"
# What a folder of kept scores may grow to; the longest unused go first.
KEPT_BYTES = 1 << 30

_HEAD_BYTES = 1024
_CRC_BYTES = 4


def scores_key(model_sha256: str, images: ImageFolder, pipeline: Pipeline) -> dict[str, str]:
    """Return what scores depend on: model, images, preprocessing, and the programs that compute them.

    The images are named by the name, size and time of change of each file, since reading 50,000 files to know that
    nothing changed would take as long as decoding them. So the key holds on one machine: a copy of the images whose
    times differ is evaluated anew.

    Raises:
        ImageError: an image is gone.
    """
    return {
        "model": model_sha256,
        "images": sha256_json([(name, *_size_and_time(images.root / name)) for name in images.names]),
        "pipeline": sha256_json(pipeline.model_dump(mode="json")),
        "onnxruntime": onnxruntime.__version__,
        "quantkit": __version__,
    }


class KeptScores:
    """The scores of one model for one set of images, as far as they are known.

    Complete scores can be read by several processes at once; while they grow, the file belongs to one.

    Args:
        folder: where kept scores lie; made when absent.
        key: what the scores depend on, from `scores_key`.
        images: number of images.

    Attributes:
        path: the file.
        rows: number of images whose scores are known: the first ones.

    Raises:
        OutputError: the file cannot be written.
        UsageError: another process is adding to it.
    """

    def __init__(self, folder: Path, key: Mapping[str, str], images: int) -> None:
        make_folder(folder)
        self.path = folder / f"{key['model'][:12]}-{sha256_json(dict(key))[:12]}{SUFFIX}"
        self._key, self._images = dict(key), images
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"cannot keep scores here ({reason(error)})", where=self.path) from error
        alone = self._lock()
        self.classes, self.rows = self._known()
        if self.is_complete:
            fcntl.flock(self._file, fcntl.LOCK_SH)
            os.utime(self._file)  # tells `trim` that it was used
        elif alone:
            os.ftruncate(self._file, self._offset(self.rows) if self.rows else 0)
        else:
            self.close()
            raise self._in_use()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_complete(self) -> bool:
        """Whether the scores of all images are known."""
        return self.rows == self._images

    def row(self, index: int) -> FloatArray:
        """Return the scores ``[1, classes]`` of an image below `rows`."""
        content = os.pread(self._file, 4 * self.classes, self._offset(index))
        return np.frombuffer(content, "<f4").astype(np.float32)[None]

    def append(self, scores: FloatArray) -> None:
        """Add the scores ``[1, classes]`` of the next image.

        Raises:
            ModelError: their number is not that of the images before.
            OutputError: the disk is full, or the file cannot be written for another reason.
        """
        if self.rows == 0:
            self.classes = scores.size
        if scores.size != self.classes:
            raise ModelError(f"the model gave {self.classes} scores for some images and {scores.size} for others")
        row = np.ascontiguousarray(scores, "<f4").tobytes()
        try:
            if self.rows == 0:
                head = json.dumps({**self._key, "classes": self.classes}).encode()
                self._write(head.ljust(_HEAD_BYTES), 0)
            self._write(row + _crc(row, self.rows), self._offset(self.rows))
        except OSError as error:
            raise OutputError(f"cannot keep scores here ({reason(error)})", where=self.path) from error
        self.rows += 1

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)

    def _write(self, content: bytes, offset: int) -> None:
        written = os.pwrite(self._file, content, offset)
        if written < len(content):  # the disk filled up; the system says so at the next attempt
            os.pwrite(self._file, content[written:], offset + written)

    def _offset(self, index: int) -> int:
        return _HEAD_BYTES + index * (4 * self.classes + _CRC_BYTES)

    def _known(self) -> tuple[int, int]:
        """Return number of classes and of whole rows, 0 and 0 where the file holds something else or nothing."""
        try:
            head = json.loads(os.pread(self._file, _HEAD_BYTES, 0))
            self.classes = int(head.pop("classes"))
        except (ValueError, KeyError, TypeError, AttributeError):
            return 0, 0
        if head != self._key or self.classes < 1:
            return 0, 0
        rows = 0
        while rows < self._images:
            content = os.pread(self._file, 4 * self.classes + _CRC_BYTES, self._offset(rows))
            row, crc = content[:-_CRC_BYTES], content[-_CRC_BYTES:]
            if len(row) < 4 * self.classes or crc != _crc(row, rows):
                break
            rows += 1
        return self.classes, rows

    def _lock(self) -> bool:
        """Take the file for this process alone if possible, else to read; tell which."""
        for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._file, kind | fcntl.LOCK_NB)
                return kind == fcntl.LOCK_EX
        self.close()
        raise self._in_use()

    def _in_use(self) -> UsageError:
        return UsageError(
            "another quantkit process is running this model on these images", where=self.path, fix="wait for it"
        )


@contextlib.contextmanager
def keep_scores(folder: Path, keys: Sequence[Mapping[str, str]], images: int) -> Iterator[list[KeptScores]]:
    """Open the kept scores of several models, and make room for them at the end (see `trim`).

    Args:
        folder: where kept scores lie; made when absent.
        keys: of each model, from `scores_key`; models of the same key share one file.
        images: number of images.

    Raises:
        OutputError: a file cannot be written.
        UsageError: another process is adding to one.
    """
    with contextlib.ExitStack() as stack:
        files: dict[str, KeptScores] = {}
        for key in keys:
            if sha256_json(dict(key)) not in files:
                files[sha256_json(dict(key))] = stack.enter_context(KeptScores(folder, key, images))
        yield [files[sha256_json(dict(key))] for key in keys]
        trim(folder, {one.path for one in files.values()})


def answer_all(
    models: Sequence[Classifier],
    kept: Sequence[KeptScores],
    paths: Sequence[Path],
    pipeline: Pipeline,
    *,
    threads: int,
) -> Iterator[Answers]:
    """Yield every model's scores, image by image in order, as `quantkit.run.evaluate.evaluate` does.

    A model runs only on images whose scores it has not kept; what it then says is kept.

    Args:
        models: the models.
        kept: of each model, its scores so far; one file for two models that are the same.
        paths: the images.
        pipeline: their preprocessing.
        threads: workers; each decodes an image and runs the models on it.

    Raises:
        ImageError: an image cannot be decoded.
        ModelError: a model cannot be run.
        OutputError: scores cannot be kept.
    """
    known = [one.rows for one in kept]
    start = min(known)
    for index in range(start):
        yield Answers(index, [one.row(index) for one in kept])

    def ask(index: int) -> list[FloatArray | None]:
        x = preprocess(paths[index], pipeline)[None]
        return [model.scores(x) if index >= rows else None for model, rows in zip(models, known, strict=True)]

    for index, asked in enumerate(map_in_order(ask, range(start, len(paths)), threads), start):
        for one, scores in zip(kept, asked, strict=True):
            if scores is not None and one.rows == index:
                one.append(scores)
        yield Answers(index, [one.row(index) for one in kept])


def trim(folder: Path, used: Collection[Path], limit: int = KEPT_BYTES) -> None:
    """Remove kept scores, the longest unused first, until a folder holds no more than ``limit`` bytes.

    Args:
        folder: where kept scores lie.
        used: files that stay whatever their size.
        limit: bytes.
    """
    files = sorted(((path.stat(), path) for path in folder.glob(f"*{SUFFIX}")), key=lambda one: -one[0].st_mtime_ns)
    total = 0
    for status, path in files:
        total += status.st_size
        if total > limit and path not in used:
            path.unlink(missing_ok=True)


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise ImageError(f"cannot be read ({reason(error)})", where=path) from error
    return status.st_size, status.st_mtime_ns


def _crc(row: bytes, index: int) -> bytes:
    # Begun with the index, so that a row of zeros that a crash of the machine left is no row.
    return zlib.crc32(row, index + 1).to_bytes(_CRC_BYTES, "little")

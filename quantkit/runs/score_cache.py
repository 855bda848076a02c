"""Cache of scores by model and image: no model runs twice on an image, and interrupted evaluations resume.

A file of scores belongs to one model and one preprocessing. After a header with its `CacheKey`, it has a row per image:
an id of the image, its scores as float32 (200 MB for ImageNet's 50,000 validation images and 1,000 classes), and a
CRC-32. Rows are only appended, so a killed process leaves complete rows and at most one partial row; the next process
checks the rows, removes the partial one, and appends after it. Evaluations of any subset of the images share the rows.
"""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout

from quantkit.config.pipeline import Pipeline
from quantkit.data.item import ImageItem
from quantkit.data.preprocess import preprocess
from quantkit.data.source import ImageSource
from quantkit.engine.device import CPU, Device
from quantkit.engine.predict import Answer, Classifier, ModelScores, answer_in_batches
from quantkit.errors import ModelError, OutputError, UsageError
from quantkit.files import make_folder, reason, user_cache_folder
from quantkit.graph.fixed_inputs import to_json
from quantkit.graph.signature import Signature
from quantkit.runs.cache import FOLDER, CacheKey, ResultCache
from quantkit.runs.folder import RunFolder
from quantkit.types import Float32Array

KIND = "scores"
SUFFIX = ".scores"
_FORMAT = 1
_HEAD_BYTES = 1024
_ID_BYTES = 16
_CRC_BYTES = 4


def scores_key(model_sha256: str, pipeline: Pipeline, signature: Signature, device: Device = CPU) -> CacheKey:
    """Return the key of scores: model, preprocessing, output, other inputs, and device.

    Args:
        model_sha256: digest of the model file.
        pipeline: the preprocessing.
        signature: signature of the model, with the output and the values of other inputs.
        device: device of the model. The batch size is not part of the key, because it affects only rounding.
    """
    inputs: dict[str, Any] = {
        "model": model_sha256,
        "output": signature.scores.name,
        "inputs": to_json(signature.fixed),
        "pipeline": pipeline.model_dump(mode="json"),
    }
    if not device.is_cpu:
        inputs |= device.identity()
    return CacheKey(KIND, _FORMAT, inputs)


def image_ids(images: ImageSource) -> list[bytes]:
    """Return a 16-byte id of each image: a digest of its fingerprint, for a file its name, size and modification time.

    Reading 50,000 files to check that none has changed would take as long as decoding them. So ids are valid on one
    machine: a copy of the images with other modification times is evaluated again.

    Raises:
        ImageError: an image is missing.
    """
    return [hashlib.sha256(os.fsencode(item.fingerprint())).digest()[:_ID_BYTES] for item in images.items]


class ScoreCache:
    """The cached scores of one model for some images.

    Several processes may read complete scores at the same time; only one may append to a file.

    Args:
        cache: the result cache.
        key: key of the scores, from `scores_key`.
        images: ids of the images, from `image_ids`.

    Attributes:
        path: the file.
        classes: number of scores per image, 0 before the first is known.

    Raises:
        OutputError: the file cannot be written.
        UsageError: another process is appending to it.
    """

    def __init__(self, cache: ResultCache, key: CacheKey, images: Sequence[bytes]) -> None:
        self.path = cache.path(key, SUFFIX)
        self.classes = 0
        self._key, self._images = key, images
        self._rows: dict[bytes, int] = {}
        self._lock = FileLock(f"{self.path}.lock")
        make_folder(self.path.parent)
        try:
            self.path.touch()
            self._file = self.path.open("r+b", buffering=0)
        except OSError as error:
            raise OutputError(f"cannot cache scores here ({reason(error)})", where=self.path) from error
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._find_rows()
        if self.known < len(self._images):
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise UsageError(
                    "another quantkit process is running this model", where=self.path, fix="wait for it"
                ) from None
            self._find_rows()  # rows that another process has appended in the meantime
            self._file.truncate(self._offset(len(self._rows)) if self._rows else 0)
        os.utime(self.path)  # `ResultCache.trim` removes the least recently used first

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def known(self) -> int:
        """Number of images with cached scores."""
        return sum(image in self._rows for image in self._images)

    def knows(self, index: int) -> bool:
        """Return whether the scores of an image are cached."""
        return self._images[index] in self._rows

    def scores(self, index: int) -> Float32Array:
        """Return the cached scores ``[1, classes]`` of an image."""
        return self._scores(self._images[index])

    def take_over(self, other: "ScoreCache") -> None:
        """Append the wanted scores that another file of the same key has.

        Raises:
            OutputError: they cannot be written.
        """
        for index, image in enumerate(self._images):
            if image not in self._rows and image in other._rows:
                self.add(index, other._scores(image))

    def _scores(self, image: bytes) -> Float32Array:
        row = self._read(4 * self.classes, self._offset(self._rows[image]) + _ID_BYTES)
        return np.frombuffer(row, "<f4").astype(np.float32)[None]

    def add(self, index: int, scores: Float32Array) -> None:
        """Append the scores ``[1, classes]`` of an image.

        Raises:
            ModelError: the number of scores differs from that of the other images.
            OutputError: the disk is full, or the file cannot be written for another reason.
        """
        row = len(self._rows)
        if row == 0:
            self.classes = scores.size
        if scores.size != self.classes:
            raise ModelError(f"the model returned {self.classes} scores for some images and {scores.size} for others")
        content = self._images[index] + np.ascontiguousarray(scores, "<f4").tobytes()
        try:
            if row == 0:
                head = json.dumps({"digest": self._key.digest, "classes": self.classes}).encode()
                self._write(head.ljust(_HEAD_BYTES), 0)
            self._write(content + _crc(content), self._offset(row))
        except OSError as error:
            raise OutputError(f"cannot cache scores here ({reason(error)})", where=self.path) from error
        self._rows[self._images[index]] = row

    def close(self) -> None:
        """Close the file and release its lock."""
        self._file.close()
        self._lock.release()

    def _read(self, size: int, offset: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def _write(self, content: bytes, offset: int) -> None:
        self._file.seek(offset)
        written = self._file.write(content) or 0
        if written < len(content):  # the disk is full; the next write raises the error
            self._file.write(content[written:])

    def _offset(self, row: int) -> int:
        return _HEAD_BYTES + row * (_ID_BYTES + 4 * self.classes + _CRC_BYTES)

    def _find_rows(self) -> None:
        """Find the row of each image; none if the file has another key or is damaged."""
        self._rows = {}
        try:
            head = json.loads(self._read(_HEAD_BYTES, 0))
            digest, classes = head["digest"], int(head["classes"])
        except (ValueError, KeyError, TypeError):
            return
        if digest != self._key.digest or classes < 1:
            return
        self.classes = classes
        size = self._offset(1) - self._offset(0)
        while len(row := self._read(size, self._offset(len(self._rows)))) == size:
            if row[-_CRC_BYTES:] != _crc(row[:-_CRC_BYTES]) or row[:_ID_BYTES] in self._rows:
                break
            self._rows[row[:_ID_BYTES]] = len(self._rows)


def result_cache(given: Path | None, run: RunFolder | None) -> ResultCache:
    """Return the cache in a given folder, else that of a run that can be written, else that of the user."""
    if given is not None:
        return ResultCache(given)
    return run.cache if run is not None and os.access(run.path, os.W_OK) else ResultCache(user_cache_folder())


def score_cache_of(run: Path | None) -> ResultCache | None:
    """Return where scores are cached: in the run, or in the user's cache folder where there is no run.

    None where that cannot be written: models are then run each time.
    """
    if run is not None:
        return ResultCache(run / FOLDER) if os.access(run, os.W_OK) else None
    folder = user_cache_folder()
    try:
        make_folder(folder)
    except OutputError:
        return None
    return ResultCache(folder) if os.access(folder, os.W_OK) else None


@contextlib.contextmanager
def cached_scores(cache: ResultCache, keys: Sequence[CacheKey], images: ImageSource) -> Iterator[list[ScoreCache]]:
    """Open the cached scores of several models; the cache is trimmed at the end.

    What a model was found to say before there was a run is taken over from the user's cache folder.

    Args:
        cache: the result cache.
        keys: key of each model, from `scores_key`; models with the same key share one file.
        images: the images.

    Raises:
        ImageError: an image is missing.
        OutputError: a file cannot be written.
        UsageError: another process is appending to a file.
    """
    ids = image_ids(images)
    with contextlib.ExitStack() as stack:
        distinct = {key.digest: key for key in keys}
        files = {digest: stack.enter_context(ScoreCache(cache, key, ids)) for digest, key in distinct.items()}
        for digest, key in distinct.items():
            _take_over_shared(files[digest], cache, key, len(ids))
        yield [files[key.digest] for key in keys]
        cache.trim({one.path for one in files.values()})


def _take_over_shared(scores: ScoreCache, cache: ResultCache, key: CacheKey, wanted: int) -> None:
    """Take over scores that were cached before there was a run; where they cannot be read, there are none."""
    shared = ResultCache(user_cache_folder())
    if scores.known == wanted or shared.folder == cache.folder or not shared.path(key, SUFFIX).is_file():
        return
    with contextlib.suppress(OutputError), ScoreCache(shared, key, ()) as other:
        scores.take_over(other)


def images_to_run(kept: Sequence[ScoreCache], images: int) -> list[bool]:
    """Return for each image whether a model has to be run on it, because its scores are not cached."""
    return [not all(one.knows(index) for one in kept) for index in range(images)]


def predict_cached(
    models: Sequence[Classifier],
    kept: Sequence[ScoreCache],
    images: Sequence[ImageItem],
    pipeline: Pipeline,
    *,
    threads: int,
    load: Callable[[ImageItem], Float32Array] | None = None,
    answer: Answer | None = None,
) -> Iterator[ModelScores]:
    """Yield every model's scores image by image, as `quantkit.engine.predict.evaluate` does.

    A model runs only on images without cached scores; its scores are then cached.

    Args:
        models: the models.
        kept: score cache of each model; identical models share one.
        images: the images, in the order of ``kept``.
        pipeline: their preprocessing.
        threads: number of decoding threads.
        load: reads an image instead of the pipeline, such as `quantkit.data.decoded.DecodedImages`.
        answer: runs the models elsewhere, such as `quantkit.engine.cluster.scores.scores_on_cluster`.

    Raises:
        ImageError: an image cannot be decoded.
        ModelError: a model cannot be run.
        OutputError: scores cannot be written.
    """
    wanted = [[not one.knows(index) for one in kept] for index in range(len(images))]

    def read(index: int) -> Float32Array:
        return preprocess(images[index], pipeline) if load is None else load(images[index])

    asked = answer_in_batches(models, wanted, read, threads=threads) if answer is None else answer(wanted)
    for index, runs in enumerate(wanted):
        for one, scores in zip(kept, next(asked).scores if any(runs) else (), strict=False):
            if scores is not None and not one.knows(index):
                one.add(index, scores)
        yield ModelScores(index, [one.scores(index) for one in kept])


def _crc(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CRC_BYTES, "little")

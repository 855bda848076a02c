"""Scores kept on disk: no model answers the same image twice, and an interruption loses next to nothing.

A file of kept scores belongs to one model and one preprocessing. After a head that says which, it has a row for each
image: what names the image, its scores as float32, 4 bytes each (200 MB for ImageNet's 50,000 validation images and
1,000 classes), and a CRC-32. Rows are only ever added, so a process that is killed leaves whole rows and at most one
piece of a row; the next one checks the rows, cuts off what is no whole row, and goes on behind it. Which images are
evaluated together makes no difference: a part of them, or more of them, uses the same rows.
"""

import contextlib
import fcntl
import hashlib
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
from quantkit.engine.predict import Classifier, ModelScores
from quantkit.errors import ImageError, ModelError, OutputError, UsageError
from quantkit.files import make_folder, reason, sha256_json
from quantkit.graph.fixed_inputs import to_json
from quantkit.graph.signature import Signature

FloatArray = npt.NDArray[np.float32]

FOLDER = "answers"
SUFFIX = ".scores"
# What a folder of kept scores may grow to; the longest unused go first.
KEPT_BYTES = 1 << 30

_HEAD_BYTES = 1024
_ID_BYTES = 16
_CRC_BYTES = 4


def scores_key(model_sha256: str, pipeline: Pipeline, signature: Signature) -> dict[str, str]:
    """Return what scores depend on besides the image: model, preprocessing, and the programs that compute them.

    Args:
        model_sha256: digest of the file.
        pipeline: the preprocessing.
        signature: which output of the model is scored, and what its other inputs are fed.
    """
    return {
        "model": model_sha256,
        "output": signature.scores.name,
        "inputs": sha256_json(to_json(signature.fixed)),
        "pipeline": sha256_json(pipeline.model_dump(mode="json")),
        "onnxruntime": onnxruntime.__version__,
        "quantkit": __version__,
    }


def image_ids(images: ImageFolder) -> list[bytes]:
    """Return what names each image, 16 bytes: a digest of the name, size and time of change of its file.

    Reading 50,000 files to know that none has changed would take as long as decoding them. So these names hold on one
    machine: a copy of the images whose times differ is evaluated anew.

    Raises:
        ImageError: an image is gone.
    """
    return [hashlib.sha256(_name_size_time(images.root, name)).digest()[:_ID_BYTES] for name in images.names]


class ScoreCache:
    """The scores of one model for some images, as far as they are known.

    Several processes at once may read scores of which none is missing; while they grow, the file belongs to one.

    Args:
        folder: where kept scores lie; made when absent.
        key: what the scores depend on, from `scores_key`.
        images: the images that are wanted, from `image_ids`.

    Attributes:
        path: the file.
        classes: number of scores of an image, 0 before the first is known.

    Raises:
        OutputError: the file cannot be written.
        UsageError: another process is adding to it.
    """

    def __init__(self, folder: Path, key: Mapping[str, str], images: Sequence[bytes]) -> None:
        make_folder(folder)
        self.path = folder / f"{key['model'][:12]}-{sha256_json(dict(key))[:12]}{SUFFIX}"
        self.classes = 0
        self._key, self._images = dict(key), images
        self._places: dict[bytes, int] = {}
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"cannot keep scores here ({reason(error)})", where=self.path) from error
        alone = self._lock()
        self._find_rows()
        if self.known == len(images):
            fcntl.flock(self._file, fcntl.LOCK_SH)
            os.utime(self._file)  # tells `trim` that it was used
        elif alone:
            os.ftruncate(self._file, self._offset(len(self._places)) if self._places else 0)
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
    def known(self) -> int:
        """How many of the images have their scores."""
        return sum(image in self._places for image in self._images)

    def knows(self, index: int) -> bool:
        """Tell whether the scores of an image are known."""
        return self._images[index] in self._places

    def scores(self, index: int) -> FloatArray:
        """Return the scores ``[1, classes]`` of an image that it knows."""
        offset = self._offset(self._places[self._images[index]]) + _ID_BYTES
        return np.frombuffer(os.pread(self._file, 4 * self.classes, offset), "<f4").astype(np.float32)[None]

    def add(self, index: int, scores: FloatArray) -> None:
        """Keep the scores ``[1, classes]`` of an image.

        Raises:
            ModelError: their number is not that of the other images.
            OutputError: the disk is full, or the file cannot be written for another reason.
        """
        row = len(self._places)
        if row == 0:
            self.classes = scores.size
        if scores.size != self.classes:
            raise ModelError(f"the model gave {self.classes} scores for some images and {scores.size} for others")
        content = self._images[index] + np.ascontiguousarray(scores, "<f4").tobytes()
        try:
            if row == 0:
                head = json.dumps({**self._key, "classes": self.classes}).encode()
                self._write(head.ljust(_HEAD_BYTES), 0)
            self._write(content + _crc(content), self._offset(row))
        except OSError as error:
            raise OutputError(f"cannot keep scores here ({reason(error)})", where=self.path) from error
        self._places[self._images[index]] = row

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)

    def _write(self, content: bytes, offset: int) -> None:
        written = os.pwrite(self._file, content, offset)
        if written < len(content):  # the disk filled up; the system says so at the next attempt
            os.pwrite(self._file, content[written:], offset + written)

    def _offset(self, row: int) -> int:
        return _HEAD_BYTES + row * (_ID_BYTES + 4 * self.classes + _CRC_BYTES)

    def _find_rows(self) -> None:
        """Read where the scores of which image stand; nowhere, if the file is of something else or damaged."""
        try:
            head = json.loads(os.pread(self._file, _HEAD_BYTES, 0))
            classes = int(head.pop("classes"))
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        if head != self._key or classes < 1:
            return
        self.classes = classes
        size = self._offset(1) - self._offset(0)
        while len(row := os.pread(self._file, size, self._offset(len(self._places)))) == size:
            if row[-_CRC_BYTES:] != _crc(row[:-_CRC_BYTES]) or row[:_ID_BYTES] in self._places:
                break
            self._places[row[:_ID_BYTES]] = len(self._places)

    def _lock(self) -> bool:
        """Take the file for this process alone if possible, else to read; tell which."""
        for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._file, kind | fcntl.LOCK_NB)
                return kind == fcntl.LOCK_EX
        self.close()
        raise self._in_use()

    def _in_use(self) -> UsageError:
        return UsageError("another quantkit process is running this model", where=self.path, fix="wait for it")


@contextlib.contextmanager
def keep_scores(folder: Path, keys: Sequence[Mapping[str, str]], images: ImageFolder) -> Iterator[list[ScoreCache]]:
    """Open the kept scores of several models, and make room for them at the end (see `trim`).

    Args:
        folder: where kept scores lie; made when absent.
        keys: of each model, from `scores_key`; models of the same key share one file.
        images: the images that are wanted.

    Raises:
        ImageError: an image is gone.
        OutputError: a file cannot be written.
        UsageError: another process is adding to one.
    """
    ids = image_ids(images)
    with contextlib.ExitStack() as stack:
        distinct = {sha256_json(dict(key)): key for key in keys}
        files = {name: stack.enter_context(ScoreCache(folder, key, ids)) for name, key in distinct.items()}
        yield [files[sha256_json(dict(key))] for key in keys]
        trim(folder, {one.path for one in files.values()})


def predict_cached(
    models: Sequence[Classifier],
    kept: Sequence[ScoreCache],
    paths: Sequence[Path],
    pipeline: Pipeline,
    *,
    threads: int,
) -> Iterator[ModelScores]:
    """Yield every model's scores, image by image in order, as `quantkit.engine.predict.evaluate` does.

    A model runs only on images whose scores it has not kept; what it then says is kept.

    Args:
        models: the models.
        kept: of each model, its scores so far; one file for two models that are the same.
        paths: the images, in the order that ``kept`` has them.
        pipeline: their preprocessing.
        threads: workers; each decodes an image and runs the models on it.

    Raises:
        ImageError: an image cannot be decoded.
        ModelError: a model cannot be run.
        OutputError: scores cannot be kept.
    """
    wanted = [[not one.knows(index) for one in kept] for index in range(len(paths))]

    def ask(index: int) -> list[FloatArray | None]:
        x = preprocess(paths[index], pipeline)[None]
        return [model.scores(x) if run else None for model, run in zip(models, wanted[index], strict=True)]

    asked = map_in_order(ask, [index for index, runs in enumerate(wanted) if any(runs)], threads)
    for index, runs in enumerate(wanted):
        for one, scores in zip(kept, next(asked) if any(runs) else (), strict=False):
            if scores is not None and not one.knows(index):
                one.add(index, scores)
        yield ModelScores(index, [one.scores(index) for one in kept])


def trim(folder: Path, used: Collection[Path], limit: int = KEPT_BYTES) -> None:
    """Remove kept scores, the longest unused first, until a folder holds no more than ``limit`` bytes.

    A process that is reading a file that goes has it until it ends.

    Args:
        folder: where kept scores lie.
        used: files that stay whatever their size.
        limit: bytes.
    """
    files = []
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):  # another process made room, too
            files.append((path.stat(), path))
    total = 0
    for status, path in sorted(files, key=lambda one: -one[0].st_mtime_ns):
        total += status.st_size
        if total > limit and path not in used:
            path.unlink(missing_ok=True)


def _name_size_time(root: Path, name: str) -> bytes:
    try:
        status = (root / name).stat()
    except OSError as error:
        raise ImageError(f"cannot be read ({reason(error)})", where=root / name) from error
    return os.fsencode(name) + f"\0{status.st_size}\0{status.st_mtime_ns}".encode()


def _crc(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CRC_BYTES, "little")

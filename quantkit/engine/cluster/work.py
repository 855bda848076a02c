"""What travels to workers: work as plain data, the bytes of models, and where images are read.

A worker opens a piece of work once and then takes jobs. Jobs and results are small; models travel once to each node,
through Ray's object store; images do not travel at all.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from quantkit.config.pipeline import Pipeline
from quantkit.data.item import FileItem, ImageItem, MissingItem, content_digest
from quantkit.data.preprocess import preprocess
from quantkit.data.source import ImageSource, Location
from quantkit.data.sources.arrays import IN_MEMORY
from quantkit.data.sources.open import open_source
from quantkit.engine.classifier import ClassifierFile, read_classifier
from quantkit.engine.cluster.address import OPTION
from quantkit.errors import CalibrationSetError, ImageError, QuantkitError, UsageError
from quantkit.graph.model import model_files
from quantkit.graph.signature import Signature
from quantkit.types import Float32Array

Job = TypeVar("Job")
Result = TypeVar("Result")
JobIn = TypeVar("JobIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)

# Reads the bytes of a file that was shared, at a worker.
Fetch = Callable[[Any], npt.NDArray[np.uint8]]


class Work(Protocol[JobIn, ResultOut]):
    """What workers do: data that travels to them, opened there."""

    def open(self, fetch: Fetch, threads: int) -> Callable[[JobIn], ResultOut]:
        """Return what does a job; it is called by one thread at a time or by several, as `runs_jobs_together` says.

        Args:
            fetch: reads the bytes of a shared file.
            threads: of this worker.
        """

    @property
    def runs_jobs_together(self) -> bool:
        """Whether each thread of a worker does a job of its own; otherwise one job uses all of them."""


class Engine(Protocol):
    """Does work on several workers."""

    @property
    def slots(self) -> int:
        """How many images are worked on at once."""

    @property
    def workers(self) -> int:
        """How many workers there are."""

    def share(self, path: Path) -> Any:
        """Return a handle of the bytes of a file, which travel to each node once."""

    def map(self, work: Work[Job, Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield the result of each job in order, each once, whatever happens to workers.

        Raises:
            QuantkitError: what a job raised, when its turn comes.
            ClusterError: a worker cannot do the work, or none is left.
        """


@dataclass(frozen=True)
class SharedModel:
    """The files of a classifier, and how it is to be read.

    Attributes:
        path: of the file at the driver, for messages.
        files: name of each file beside the model, with the handle of its bytes.
        output: name of the scores.
        inputs: values of the inputs beside the image.
    """

    path: Path
    files: tuple[tuple[str, Any], ...]
    output: str
    inputs: Mapping[str, npt.NDArray[np.generic]]

    def read(self, fetch: Fetch, use: Callable[[ClassifierFile], Result]) -> Result:
        """Return what ``use`` makes of the classifier; its files are there for that time only.

        Raises:
            QuantkitError: what reading or using it raises, with the path that the driver knows.
        """
        with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
            for name, handle in self.files:
                place = Path(folder) / name
                place.parent.mkdir(parents=True, exist_ok=True)
                fetch(handle).tofile(place)
            path = Path(folder) / self.files[0][0]
            try:
                return use(read_classifier(path, output=self.output, inputs=self.inputs, allow_quantized=True))
            except QuantkitError as error:
                where = error.where and error.where.replace(str(path), str(self.path))
                raise type(error)(error.what, where=where, fix=error.fix) from error


def share_model(engine: Engine, path: Path, signature: Signature) -> SharedModel:
    """Return a classifier that workers can open.

    Args:
        engine: that shares the bytes.
        path: of the model.
        signature: how it is fed and scored.

    Raises:
        ModelError: the file or its external data is missing or damaged.
    """
    shared = tuple((file.relative_to(path.parent).as_posix(), engine.share(file)) for file in model_files(path))
    return SharedModel(path, shared, signature.scores.name, signature.fixed)


# An image as it travels: its id, and its size or digest, which the worker's copy must have too.
ImageKey = tuple[str, int | str]


@dataclass(frozen=True)
class SharedImages:
    """Where workers read images, and what is done to each.

    Attributes:
        root: the place, a path or a URL that is the same on every node.
        files: the images are files below the root, which need not be listed.
        pipeline: the preprocessing.
    """

    root: Location
    files: bool
    pipeline: Pipeline

    def open(self) -> Callable[[ImageKey], "CheckedItem"]:
        """Return what finds an image.

        Raises:
            CalibrationSetError: there is no such place at this worker.
        """
        if self.files:
            root = Path(self.root)
            if not root.is_dir():
                raise CalibrationSetError("there is no such folder", where=root)
            return lambda key: CheckedItem(FileItem(root / key[0], key[0]), key[1])
        there = open_source(self.root, skip_damaged=True, own_labels=False).by_name
        return lambda key: CheckedItem(there.get(key[0]) or MissingItem(key[0], self.root, "is not there"), key[1])

    def load(self, item: ImageItem) -> Float32Array:
        """Return a preprocessed image ``[C, H, W]``."""
        return preprocess(item, self.pipeline)


def share_images(source: ImageSource, pipeline: Pipeline) -> SharedImages:
    """Return images of a source in the form that travels.

    Raises:
        UsageError: they are in the memory of this process, where workers cannot read them.
    """
    root = source.root
    in_memory = source.array_shape is not None or str(root).startswith((IN_MEMORY, "memory://"))
    as_files = [isinstance(item, FileItem) for item in source.items]
    misplaced = any(
        isinstance(item, FileItem) and (not isinstance(root, Path) or item.path != root / item.id)
        for item in source.items
    )
    if in_memory or misplaced:
        raise UsageError(
            "the images are objects of this program, which the workers of a cluster cannot read",
            where=OPTION,
            fix="give a folder, an archive or a URL, or leave out the cluster",
        )
    return SharedImages(root.absolute() if isinstance(root, Path) else root, all(as_files), pipeline)


class CheckedItem(ImageItem):
    """An image at a worker, which must be the one that the driver saw.

    Args:
        item: the image here.
        expected: its size in bytes, or its digest, at the driver.
    """

    def __init__(self, item: ImageItem, expected: int | str) -> None:
        self.id = item.id
        self._item, self._expected = item, expected

    @property
    def where(self) -> object:
        """As the image itself."""
        return self._item.where

    def read(self) -> bytes | Float32Array:
        """Return the content.

        Raises:
            ImageError: it cannot be read, or is not that of the driver's image.
        """
        content = self._item.read()
        is_size = isinstance(self._expected, int)
        found = len(content) if is_size else content_digest(content)
        if found != self._expected:
            raise ImageError(
                f"the image has another {'size' if is_size else 'content'} at this worker",
                where=self.where,
                fix="make the same images available on every node",
            )
        return content

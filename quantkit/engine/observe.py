"""The calibration pass: runs the model once over all images, and accumulates statistics of every tensor.

Each worker thread decodes an image, runs the model on it with one thread, and counts its tensors, so there is no queue,
and all processors work on different images. A device other than the CPU runs the workers' batches in turn, while other
workers decode and count. The counts are integers, so the result does not depend on the number of workers or the order
of the images. On the CPU a batch is one image (or the model's fixed batch size), and a worker holds only its
activations.

Memory is bounded independently of the number of images, except for 8 bytes per image and tensor for the extremes. It
depends on the largest image, which takes 4 bytes per pixel while it is decoded; the allocator may keep that amount for
each thread that decoded such an image.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce

import numpy as np

from quantkit.data.images import place_of
from quantkit.data.item import ImageItem
from quantkit.data.parallel import worker_threads
from quantkit.engine.batches import ONE_BY_ONE, Batching, Load, load_batch
from quantkit.engine.tap import TappedSession, TapReader
from quantkit.errors import NumericError
from quantkit.graph.qdq.taps import Taps
from quantkit.stats.convergence import next_point
from quantkit.stats.observed import Observed
from quantkit.stats.observer import Observer
from quantkit.stats.tensor import TensorStatistics
from quantkit.types import Float32Array

# Interval of checkpoints of a pass.
CHUNK_SECONDS = 3.0


@dataclass(frozen=True)
class Chunk:
    """The state of a pass after a chunk of images.

    Attributes:
        images: total number of observed images.
        at_convergence_point: whether ranges are compared at this number of images.
        totals: observers of these and all previous images; they continue to count.
        extremes: extremes of each of these images, in the order of the pass, as in `Observed`.
    """

    images: int
    at_convergence_point: bool
    totals: dict[str, Observer]
    extremes: Float32Array

    def observed(self) -> Observed:
        """Return the observations so far; must be called before the pass continues."""
        return Observed({name: observer.statistics() for name, observer in self.totals.items()}, self.extremes)


def observe(
    session: TappedSession,
    images: Sequence[ImageItem],
    load: Load,
    batching: Batching = ONE_BY_ONE,
    *,
    threads: int,
    before: Observed | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Chunk]:
    """Observe images, and yield the accumulated statistics after each chunk.

    Args:
        session: the model with tapped tensors.
        images: the images.
        load: reads and preprocesses one image; called from any thread.
        batching: how images run together. Padding is not counted in tensors with the batch as first axis; of other
            tensors, the images of a batch share the extremes.
        threads: number of worker threads.
        before: statistics of the first images, from an interrupted pass.
        progress: called with the number of observed images, from any thread.

    Raises:
        ImageError: an image cannot be decoded.
        NumericError: a tensor contains NaN or infinity; the message names tensor and image.
    """
    totals, extremes, done = begin(session.names, len(images), before)
    rate = 0.0
    workers = [ImageObserver(session, load, batching) for _ in range(threads)]
    with worker_threads(threads) as pool:
        while done < len(images):
            end = min(_chunk_end(done, rate, threads, batching.size), next_point(done), len(images))
            start_s = time.monotonic()
            _run_chunk(pool, workers, images[:end], extremes, progress, done)
            rate = (end - done) / max(time.monotonic() - start_s, 1e-6)
            _absorb(pool, workers, totals)
            at_point = end == next_point(done) or end == len(images)
            done = end
            yield Chunk(done, at_point, totals, extremes[:done])


def begin(
    tensors: Sequence[str], images: int, before: Observed | None
) -> tuple[dict[str, Observer], Float32Array, int]:
    """Return the observers of all images, their extremes, and how many images they hold already.

    Args:
        tensors: names of the tapped tensors.
        images: how many there are.
        before: what the first images gave, from an interrupted pass.
    """
    totals = {name: Observer() for name in tensors}
    extremes = np.zeros((images, len(tensors), 2), np.float32)
    if before is None:
        return totals, extremes, 0
    extremes[: len(before.extremes)] = before.extremes
    for name, statistics in before.tensors.items():
        totals[name].add(statistics)
    return totals, extremes, len(before.extremes)


def _chunk_end(done: int, rate: float, threads: int, batch: int) -> int:
    """Return where a chunk ends: after whole batches, as a device compiles or chooses its kernels for a shape."""
    return done + batch * max(threads, int(rate * CHUNK_SECONDS) // batch)


def _run_chunk(
    pool: ThreadPoolExecutor,
    workers: list["ImageObserver"],
    images: Sequence[ImageItem],
    extremes: Float32Array,
    progress: Callable[[int], None] | None,
    done: int,
) -> None:
    batch = workers[0].batch
    starts = range(done, len(images), batch)
    work = iter([slice(start, min(start + batch, len(images))) for start in starts])  # a list iterator is safe to share
    seen = itertools.count(done + 1)

    def job(worker: "ImageObserver") -> None:
        for part in work:
            worker.observe(images[part], extremes[part])
            for _ in images[part]:
                count = next(seen)
                if progress is not None:
                    progress(count)

    futures = [pool.submit(job, worker) for worker in workers]
    try:
        for future in futures:
            future.result()
    finally:
        for _ in work:  # after a failure or an interruption the other workers stop at their next image
            pass


def _absorb(pool: ThreadPoolExecutor, workers: list["ImageObserver"], totals: dict[str, Observer]) -> None:
    """Add the counts of the workers to the totals, in parallel over tensors."""
    names = list(totals)

    def job(first: int) -> None:
        for name in names[first :: len(workers)]:
            for worker in workers:
                totals[name].absorb(worker.observers[name])

    list(pool.map(job, range(len(workers))))


class ImageObserver:
    """Runs the session and counts in one thread.

    Args:
        session: the model with its taps.
        load: reads and preprocesses one image.
        batching: how images run together.
    """

    def __init__(self, session: TappedSession, load: Load, batching: Batching) -> None:
        self.batch, self._fill = batching.size, batching.fill
        self._tensors = TapReader(session).tensors
        self._load = load
        self.observers = {name: Observer() for name in session.names}
        self._columns = {name: column for column, name in enumerate(session.names)}

    def observe(self, images: Sequence[ImageItem], extremes: Float32Array) -> None:
        """Count the tensors of a batch, and store the extremes of each image, ``[images, tensors, 2]``."""
        x = load_batch(images, self._load, self.batch if self._fill else len(images))
        for name, value in self._tensors(x):
            rows = extremes[:, self._columns[name]]
            if len(x) > 1 and value.ndim > 0 and value.shape[0] == len(x):
                for image, one, row in zip(images, value, rows, strict=False):
                    row[:] = self._count(name, one, image)
            else:
                # In transformers, tokens or windows can be the first axis: images and padding are not separated.
                rows[:] = self._count(name, value, images[0])

    def observed(self, images: Sequence[ImageItem]) -> Observed:
        """Return what some images alone give; the counters are empty before and afterwards."""
        extremes = np.zeros((len(images), len(self._columns), 2), np.float32)
        for start in range(0, len(images), self.batch):
            part = slice(start, start + self.batch)
            self.observe(images[part], extremes[part])
        return Observed({name: observer.take() for name, observer in self.observers.items()}, extremes)

    def _count(self, name: str, value: Float32Array, image: ImageItem) -> tuple[float, float]:
        """Count the values of a tensor and return the extremes among them."""
        shown = self.observers[name].observe(value)
        if shown.non_finite:
            raise NumericError(
                f"{shown.non_finite} of {value.size} values of the tensor {name} are NaN or infinite",
                where=place_of(image),
                fix="find the node that computes them, or remove the image from the set",
            )
        # Adding 0.0 turns -0.0 into 0.0, so that equal extremes are bit-identical.
        return (shown.lo + 0.0, shown.hi + 0.0) if value.size else (0.0, 0.0)


def complete(tapped: Observed, wanted: Taps) -> Observed:
    """Return the observations of all wanted tensors, derived from the tapped ones, in graph order."""
    found = dict(tapped.tensors)
    extremes = dict(zip(found, np.moveaxis(tapped.extremes, 1, 0), strict=True))
    for name in wanted.wanted:
        if sources := wanted.merged.get(name):
            found[name] = reduce(TensorStatistics.merge, (found[source] for source in sources))
            each = np.stack([extremes[source] for source in sources])
            extremes[name] = np.stack([each[..., 0].min(axis=0), each[..., 1].max(axis=0)], axis=1)
        elif name in wanted.rectified:
            found[name] = found[wanted.rectified[name]].rectified()
            extremes[name] = np.maximum(extremes[wanted.rectified[name]], np.float32(0.0))
    columns = [extremes[name] for name in wanted.wanted]
    return Observed({name: found[name] for name in wanted.wanted}, np.stack(columns, axis=1))

"""The pass: every image once through the model, every tensor into its histogram, nothing kept.

Each worker thread decodes an image, runs the model on it with one thread, and counts its tensors: no queue, no waiting
on a loader, and all processors are busy with different images. The counts are integers, so neither the number of
workers nor the order of the images shows in the result. Batches are of one image (or of the model's own fixed size):
the result does not depend on a batch size either, and one image's activations are all that a worker holds.

Memory has a bound that does not depend on how many images there are. It depends on the largest of them, which takes 4
bytes a pixel while it is decoded; the allocator may keep that much for each thread that met such a one.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quantkit.errors import NumericError
from quantkit.run.tap import TappedSession
from quantkit.stats.convergence import next_point
from quantkit.stats.observer import Observer
from quantkit.stats.tensor import TensorStatistics

# A pass stops at such intervals to be saved; an interruption loses at most this much.
CHUNK_SECONDS = 3.0


# Reads one image file and returns ``[C, H, W]`` float32.
Load = Callable[[Path], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Chunk:
    """What one stretch of a pass yielded.

    Attributes:
        images: how many images the pass has seen in all.
        at_convergence_point: whether the count is one at which ranges are compared.
        totals: the observers that hold these images and all before them; they go on counting.
    """

    images: int
    at_convergence_point: bool
    totals: dict[str, Observer]

    def statistics(self) -> dict[str, TensorStatistics]:
        """Return the statistics so far, by tensor name; to be called before the pass goes on."""
        return {name: observer.statistics() for name, observer in self.totals.items()}


def observe(
    session: TappedSession,
    tensors: Sequence[str],
    paths: Sequence[Path],
    load: Load,
    *,
    batch: int = 1,
    threads: int,
    before: dict[str, TensorStatistics] | None = None,
    done: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Chunk]:
    """Observe images and yield the statistics so far, chunk by chunk, until all are seen.

    Args:
        session: the model with its taps.
        tensors: names of the tapped tensors, in the order the statistics are to have.
        paths: the images.
        load: reads and preprocesses one image, by any thread.
        batch: the model's fixed batch size, 1 where it is dynamic; a last partial batch is filled up, and the filling
            not counted in tensors whose first axis is the batch.
        threads: workers.
        before: statistics of the first ``done`` images, from an interrupted pass.
        done: how many images those are.
        progress: called with the number of images seen, by any thread.

    Raises:
        ImageError: an image cannot be decoded.
        NumericError: a tensor holds NaN or infinity; names tensor and image.
    """
    totals = {name: Observer() for name in tensors}
    for name, statistics in (before or {}).items():
        totals[name].add(statistics)
    rate = 0.0
    workers = [_Worker(session, tensors, load, batch) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        while done < len(paths):
            end = min(_chunk_end(done, rate, threads * batch), next_point(done), len(paths))
            start_s = time.monotonic()
            _run_chunk(pool, workers, paths[done:end], progress, done)
            rate = (end - done) / max(time.monotonic() - start_s, 1e-6)
            for worker in workers:
                for name, observer in worker.observers.items():
                    totals[name].absorb(observer)
            at_point = end == next_point(done) or end == len(paths)
            done = end
            yield Chunk(done, at_point, totals)


def _chunk_end(done: int, rate: float, least: int) -> int:
    return done + max(least, int(rate * CHUNK_SECONDS))


def _run_chunk(
    pool: ThreadPoolExecutor,
    workers: list["_Worker"],
    paths: Sequence[Path],
    progress: Callable[[int], None] | None,
    done: int,
) -> None:
    batch = workers[0].batch
    work = iter([paths[i : i + batch] for i in range(0, len(paths), batch)])  # a list iterator is safe to share
    seen = itertools.count(done + 1)

    def job(worker: "_Worker") -> None:
        for batch_paths in work:
            worker.observe(batch_paths)
            for _ in batch_paths:
                count = next(seen)
                if progress is not None:
                    progress(count)

    futures = [pool.submit(job, worker) for worker in workers]
    try:
        for future in futures:
            future.result()
    finally:
        for _ in work:  # after a failure or an interruption the others stop at their next image
            pass


class _Worker:
    """One thread's session calls and its own counters."""

    def __init__(self, session: TappedSession, tensors: Sequence[str], load: Load, batch: int) -> None:
        self.batch = batch
        self._session = session
        self._load = load
        self.observers = {name: Observer() for name in tensors}

    def observe(self, paths: Sequence[Path]) -> None:
        x = load_batch(paths, self._load, self.batch)
        for name, value in self._session.tensors(x):
            counted = value[: len(paths)] if self._is_by_image(value) else value
            if self.observers[name].observe(counted):
                self._refuse(name, value, paths)

    def _is_by_image(self, value: npt.NDArray[np.float32]) -> bool:
        """Tell whether the first axis is the batch.

        Transformers put tokens or windows first; there the images that fill up a last batch cannot be told apart.
        """
        return value.ndim > 0 and value.shape[0] == self.batch

    def _refuse(self, name: str, value: npt.NDArray[np.float32], paths: Sequence[Path]) -> None:
        for path, one in zip(paths, value if self._is_by_image(value) else value[None], strict=False):
            count = int(one.size - np.isfinite(one).sum())
            if count:
                raise NumericError(
                    f"{count} of {one.size} values of the tensor {name} are NaN or infinite",
                    where=path,
                    fix="find the node that makes them, or leave the image out of the set",
                )


def load_batch(paths: Sequence[Path], load: Load, batch: int) -> npt.NDArray[np.float32]:
    """Load images into ``[batch, C, H, W]``, float32; the last image fills up a partial batch."""
    images = [load(path) for path in paths]
    images.extend(images[-1:] * (batch - len(images)))
    return np.stack(images)

"""Batches of preprocessed images, made by threads while the model works on the ones before."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantkit.config.pipeline import Pipeline
from quantkit.data.parallel import available_cpus
from quantkit.data.preprocess import check_pipeline, preprocess
from quantkit.errors import ImageError, UsageError

OnError = Callable[[int, ImageError], None]


@dataclass(frozen=True)
class Batch:
    """Preprocessed images.

    Attributes:
        images: float32 ``[N, C, H, W]``, C-contiguous, the consumer's own.
        indices: int64 ``[N]``, the position of each in the list of paths.
    """

    images: NDArray[np.float32]
    indices: NDArray[np.int64]


def load_batches(
    paths: Sequence[Path],
    pipeline: Pipeline,
    batch_size: int,
    *,
    workers: int | None = None,
    ahead: int = 2,
    on_error: OnError | None = None,
) -> Iterator[Batch]:
    """Decode and preprocess images in batches, in order.

    Threads work up to ``ahead`` batches before the consumer, so memory is bounded by ``ahead + 2`` batches whatever the
    number of images. The last batch may be smaller. When the consumer stops early or an error is raised, the threads
    end before control returns.

    Args:
        paths: the image files.
        pipeline: what to do with each.
        batch_size: images a batch.
        workers: number of threads; as many as there are processors when absent.
        ahead: how many batches to begin before they are asked for.
        on_error: called with an image's position and its error, which leaves the image out of its batch (a batch of
            which nothing is left is not given). Absent, the error is raised.

    Yields:
        The batches.

    Raises:
        ImageError: an image cannot be decoded, or comes out of a pipeline that fixes no size with another size than
            the first.
        ConfigError: the pipeline cannot be executed.
        UsageError: a batch size below one.
    """
    if batch_size < 1:
        raise UsageError(f"a batch cannot hold {batch_size} images", fix="give a batch size from 1 up")
    check_pipeline(pipeline, None, None, None)
    return _batches(paths, pipeline, batch_size, workers or available_cpus(), ahead, on_error)


def _batches(
    paths: Sequence[Path], pipeline: Pipeline, batch_size: int, workers: int, ahead: int, on_error: OnError | None
) -> Iterator[Batch]:
    size = pipeline.output_size or _first_size(paths, pipeline)
    if size is None:
        size = (0, 0)  # no image decodes: each is reported below
    pool = ThreadPoolExecutor(workers, thread_name_prefix="quantkit-image")
    pending: deque[_PendingBatch] = deque()
    try:
        for start in range(0, len(paths), batch_size):
            pending.append(_begin(pool, paths, range(start, min(start + batch_size, len(paths))), pipeline, size))
            if len(pending) > ahead:
                yield from _finish(pending.popleft(), on_error)
        while pending:
            yield from _finish(pending.popleft(), on_error)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _PendingBatch:
    images: NDArray[np.float32]
    positions: range
    jobs: list[Future[NDArray[np.float32]]]


def _begin(
    pool: ThreadPoolExecutor, paths: Sequence[Path], positions: range, pipeline: Pipeline, size: tuple[int, int]
) -> _PendingBatch:
    images = np.empty((len(positions), pipeline.channels, *size), np.float32)
    jobs = [
        pool.submit(preprocess, paths[position], pipeline, image)
        for position, image in zip(positions, images, strict=True)
    ]
    return _PendingBatch(images, positions, jobs)


def _finish(batch: _PendingBatch, on_error: OnError | None) -> Iterator[Batch]:
    """Wait for a batch; yield it, without the images that failed, unless nothing is left."""
    kept = []
    for slot, job in enumerate(batch.jobs):
        try:
            job.result()
            kept.append(slot)
        except ImageError as error:
            if on_error is None:
                raise
            on_error(batch.positions[slot], error)
    indices = np.array([batch.positions[slot] for slot in kept], np.int64)
    if len(kept) == len(batch.jobs):
        yield Batch(batch.images, indices)
    elif kept:
        yield Batch(batch.images[kept], indices)


def _first_size(paths: Sequence[Path], pipeline: Pipeline) -> tuple[int, int] | None:
    """Return ``(height, width)`` of the first image that decodes, for pipelines that fix no size."""
    for path in paths:
        try:
            height, width = preprocess(path, pipeline).shape[1:]
        except ImageError:
            continue
        return height, width
    return None

"""Decodes images ahead, and runs them in batches on a device, in order.

On the CPU every worker decodes a batch and runs the model on it with one thread, so there is no queue, and all
processors work on different images. Another device runs one batch at a time; meanwhile workers decode the next batches
and process the results of the previous one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from quantkit.data.item import ImageItem
from quantkit.data.parallel import map_in_order
from quantkit.engine.device import Device

# Reads one image and returns ``[C, H, W]`` float32.
Load = Callable[[ImageItem], npt.NDArray[np.float32]]

Job = TypeVar("Job")
Item = TypeVar("Item")
Result = TypeVar("Result")

# Batches that wait for a device, or for the reader of its results: one of each keeps the device busy.
_AHEAD = 2


def map_batches(
    load: Callable[[Job], Item],
    run: Callable[[Sequence[Job], Sequence[Item]], Result],
    jobs: Iterable[Job],
    *,
    device: Device,
    threads: int,
) -> Iterator[Result]:
    """Yield ``run(jobs, items)`` for each batch of jobs, in order.

    Args:
        load: reads one item; called from any thread.
        run: runs one batch; called from any thread on the CPU, otherwise from one thread at a time.
        jobs: consumed lazily.
        device: device and batch size; the last batch may be smaller.
        threads: number of loading threads.

    Raises:
        Exception: any exception of ``load`` or ``run``, in the order of the jobs.
    """
    if device.is_cpu:
        in_turn = _batches(jobs, device.batch)
        yield from map_in_order(lambda batch: run(batch, [load(job) for job in batch]), in_turn, threads)
        return

    def attempt(job: Job) -> tuple[Job, Item | None, Exception | None]:
        try:
            return job, load(job), None
        except Exception as error:  # raised when its batch is reached, so that earlier batches are not lost
            return job, None, error

    def run_loaded(batch: Sequence[tuple[Job, Item | None, Exception | None]]) -> Result:
        for _, _, error in batch:
            if error is not None:
                raise error
        return run([job for job, _, _ in batch], [cast(Item, item) for _, item, _ in batch])

    loaded = map_in_order(attempt, jobs, threads, ahead=_AHEAD * max(threads, device.batch))
    yield from map_in_order(run_loaded, _batches(loaded, device.batch), 1, ahead=_AHEAD)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of ``size`` items; the last may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


@dataclass(frozen=True)
class Batching:
    """How images are put together for a model.

    Attributes:
        size: images that run together.
        fill: the size is fixed by the model: a partial batch is padded.
    """

    size: int = 1
    fill: bool = True

    @classmethod
    def of(cls, fixed: int | None, device: Device) -> "Batching":
        """Return the model's fixed batch size, else that of the device."""
        return cls(fixed or device.batch, fixed is not None)


ONE_BY_ONE = Batching()


def load_batch(images: Sequence[ImageItem], load: Load, batch: int) -> npt.NDArray[np.float32]:
    """Load images into ``[batch, C, H, W]``, float32; a partial batch is padded with the last image."""
    loaded = [load(image) for image in images]
    loaded.extend(loaded[-1:] * (batch - len(loaded)))
    return np.stack(loaded) if batch > 1 else loaded[0][None]

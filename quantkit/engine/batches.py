"""Decode ahead, batch, run, in order: how images get to a device.

On the CPU every worker decodes a batch of its own and runs the model on it with one thread: no queue, and all
processors are busy with different images. Another device runs one batch at a time; workers decode for it meanwhile,
and what it gives is taken while it runs the next.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
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

# Batches that wait for a device, or for what reads its results: one of each suffices to keep it busy.
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
        load: reads one item, by any thread.
        run: runs one batch; on the CPU by any thread, otherwise by one at a time.
        jobs: taken lazily.
        device: where batches run, and how large they are; the last one may be smaller.
        threads: workers that load.

    Raises:
        Exception: whatever ``load`` or ``run`` raised, when its turn comes.
    """
    if device.is_cpu:
        in_turn = _batches(jobs, device.batch)
        yield from map_in_order(lambda batch: run(batch, [load(job) for job in batch]), in_turn, threads)
        return

    def attempt(job: Job) -> tuple[Job, Item | None, Exception | None]:
        try:
            return job, load(job), None
        except Exception as error:  # raised by the batch that needs it, so that those before it are not lost
            return job, None, error

    def run_loaded(batch: Sequence[tuple[Job, Item | None, Exception | None]]) -> Result:
        for _, _, error in batch:
            if error is not None:
                raise error
        return run([job for job, _, _ in batch], [cast(Item, item) for _, item, _ in batch])

    loaded = map_in_order(attempt, jobs, threads, ahead=_AHEAD * max(threads, device.batch))
    yield from map_in_order(run_loaded, _batches(loaded, device.batch), 1, ahead=_AHEAD)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of so many items; the last may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def load_batch(images: Sequence[ImageItem], load: Load, batch: int) -> npt.NDArray[np.float32]:
    """Load images into ``[batch, C, H, W]``, float32; the last image fills up a partial batch."""
    loaded = [load(image) for image in images]
    loaded.extend(loaded[-1:] * (batch - len(loaded)))
    return np.stack(loaded)

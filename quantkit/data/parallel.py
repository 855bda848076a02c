"""Runs many small jobs on threads, a bounded number ahead, with results in order.

Threads suffice for images: pillow and numpy release the GIL.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from quantkit.errors import UsageError

Job = TypeVar("Job")
Result = TypeVar("Result")


def available_cpus() -> int:
    """Return the number of processors available to this process, at least one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def worker_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Give a pool of threads that end with the block; jobs not begun are dropped where it ends early.

    They are waited for, unless a generator that holds the block is dropped. That may be the garbage collector's doing,
    in the middle of anything: also where `threading` starts another thread, under the lock that joining one needs.

    Raises:
        UsageError: fewer than one thread.
    """
    if count < 1:
        raise UsageError(f"invalid number of threads {count}", fix="give a number from 1 up")
    pool = ThreadPoolExecutor(count, thread_name_prefix="quantkit-image")
    try:
        yield pool
    except GeneratorExit:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=True)


def map_in_order(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int | None = None, ahead: int | None = None
) -> Iterator[Result]:
    """Yield ``function(job)`` for each job in order, computed by threads.

    At most ``ahead`` results wait for the consumer. If a job raises, pending jobs are dropped and the threads end
    before this returns. If the consumer stops early, pending jobs are dropped, and the threads end with their current
    jobs.

    Args:
        function: the function; called from several threads.
        jobs: consumed lazily.
        workers: number of threads; one per processor by default.
        ahead: maximum number of jobs started before their results are consumed; a few per thread by default.

    Raises:
        Exception: any exception of ``function``, in the order of the jobs.
    """
    workers = workers or available_cpus()
    ahead = ahead or 4 * workers
    pending: deque[Future[Result]] = deque()
    with worker_threads(workers) as pool:
        for job in jobs:
            pending.append(pool.submit(function, job))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

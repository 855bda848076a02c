"""Runs many small jobs on threads, a bounded number ahead, with results in order.

Threads suffice for images: pillow and numpy release the GIL.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def available_cpus() -> int:
    """Return the number of processors available to this process, at least one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int | None = None, ahead: int | None = None
) -> Iterator[Result]:
    """Yield ``function(job)`` for each job in order, computed by threads.

    At most ``ahead`` results wait for the consumer. If the consumer stops early, or a job raises, pending jobs are
    dropped and the threads end before this returns.

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
    pool = ThreadPoolExecutor(workers, thread_name_prefix="quantkit-image")
    pending: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(function, job))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

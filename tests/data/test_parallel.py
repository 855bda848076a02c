import threading
import time

import pytest

from quantkit.data.parallel import available_cpus, map_in_order


def test_map_in_order_results_come_in_order() -> None:
    def slow_first(job: int) -> int:
        time.sleep(0.02 if job == 0 else 0)
        return job * job

    assert list(map_in_order(slow_first, range(20), workers=4)) == [n * n for n in range(20)]


def test_map_in_order_takes_jobs_no_further_ahead_than_asked() -> None:
    taken: list[int] = []

    def jobs():
        for number in range(100):
            taken.append(number)
            yield number

    results = map_in_order(lambda job: job, jobs(), workers=2, ahead=5)
    assert next(results) == 0
    assert len(taken) == 5
    results.close()  # type: ignore[attr-defined]


def test_map_in_order_error_comes_in_turn_and_ends_threads() -> None:
    def fail_at_three(job: int) -> int:
        if job == 3:
            raise ValueError("three")
        return job

    before = set(threading.enumerate())  # those of dropped generators in other tests may not have ended yet
    results = map_in_order(fail_at_three, range(50), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert not set(threading.enumerate()) - before


def test_available_cpus_is_at_least_one() -> None:
    assert available_cpus() >= 1
    assert list(map_in_order(str, [], workers=None)) == []


def test_map_in_order_collected_as_garbage_does_not_deadlock() -> None:
    """The collector may run where a thread is started, under the lock that joining a thread takes."""
    lock = getattr(threading, "_shutdown_locks_lock", None)
    if lock is None:
        pytest.skip("this Python joins threads without that lock")
    results = map_in_order(lambda job: job, range(50), workers=2)
    assert next(results) == 0
    done = threading.Event()

    def collect() -> None:
        nonlocal results
        with lock:
            del results  # the last reference: what ends its threads runs here
        done.set()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    assert done.wait(10.0)

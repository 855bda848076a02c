"""Jobs on workers that die at random, without Ray: a stand-in answers out of order, and loses jobs."""

import random
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from progress_log import ProgressLog

from quantkit.engine.cluster.address import ClusterAddress
from quantkit.engine.cluster.ray_engine import ATTEMPTS, RayEngine, check_imports, check_software
from quantkit.engine.cluster.session import RaySession
from quantkit.engine.cluster.worker import Failure, software
from quantkit.engine.device import CPU
from quantkit.errors import ClusterError, ImageError, UsageError


class LostError(Exception):
    """The worker of a job is gone."""


class TaskError(Exception):
    """A job raised what was not expected."""


class Actor:
    """Answers at once, or loses what it was given.

    Args:
        loses: tells whether the next call is lost.
        answer: does a job.
    """

    def __init__(self, loses: Callable[[], bool], answer: Callable[[int], Any]) -> None:
        self._loses, self._answer = loses, answer
        self.run = SimpleNamespace(remote=lambda held, key, job: self._call(lambda: self._answer(job)))
        self.facts = SimpleNamespace(options=lambda **options: SimpleNamespace(remote=self._greet))

    def _call(self, do: Callable[[], Any]) -> list[Any]:
        return Reference([LostError("The actor died") if self._loses() else do()])

    def _greet(self) -> list[Any]:
        return Reference([{"software": software(), "processor": "one", "node": "127.0.0.1"}])


class Reference(list[Any]):
    """The result of a call, hashable by identity as Ray's references are."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other


class Session:
    """Stands in for `quantkit.engine.cluster.session.RaySession`, and for Ray itself."""

    name, threads = "--cluster test", 1
    losses = (LostError,)

    def __init__(self, actors: list[Actor], rng: random.Random) -> None:
        self._actors, self._rng, self.workers = actors, rng, len(actors)
        self.ray, self.exceptions = self, SimpleNamespace(RayTaskError=TaskError)
        self.most_waiting = 0

    def start(self) -> list[Actor]:
        return self._actors

    def put(self, value: Any) -> Any:
        return value

    def wait(self, references: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        self.most_waiting = max(self.most_waiting, len(references))
        count = self._rng.randint(0 if timeout == 0.0 else 1, min(num_returns, len(references)))
        return self._rng.sample(references, count), []

    def get(self, reference: list[Any]) -> Any:
        if isinstance(reference[0], Exception):
            raise reference[0]
        return reference[0]

    def cancel(self, reference: Any) -> None:
        pass

    def close(self) -> None:
        pass


class Work:
    """A piece of work that the stand-in never opens."""

    runs_jobs_together = True

    def open(self, fetch: object, threads: int) -> Any:
        raise AssertionError


def engine_of(
    workers: int, *, loss: float = 0.0, seed: int = 0, answer: Callable[[int], Any] = lambda job: job * job
) -> tuple[RayEngine, Session, ProgressLog]:
    rng, log = random.Random(seed), ProgressLog()
    session = Session([Actor(lambda: rng.random() < loss, answer) for _ in range(workers)], rng)
    return RayEngine(session, log), session, log  # type: ignore[arg-type]


@given(workers=st.integers(1, 5), jobs=st.integers(0, 60), loss=st.floats(0.0, 0.3), seed=st.integers(0, 1000))
def test_jobs_of_dying_workers_come_once_and_in_order(workers: int, jobs: int, loss: float, seed: int) -> None:
    engine, _, _ = engine_of(workers, loss=loss, seed=seed)
    assert list(engine.map(Work(), range(jobs))) == [job * job for job in range(jobs)]


def test_jobs_are_taken_only_so_far_ahead_of_their_results() -> None:
    engine, session, _ = engine_of(2)
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for job in range(1000):
            taken.append(job)
            yield job

    results = engine.map(Work(), jobs())
    for due in range(100):
        next(results)
        assert len(taken) <= due + 1 + 9
    assert session.most_waiting <= 2 * 2 + 2


def test_job_that_loses_every_worker_ends_in_an_error() -> None:
    engine, _, log = engine_of(2, loss=1.0)
    with pytest.raises(ClusterError, match=f"{ATTEMPTS} workers died over the same images"):
        list(engine.map(Work(), range(4)))
    assert "a worker died; its images are run again" in log.messages


def test_error_of_a_job_is_raised_when_its_turn_comes() -> None:
    failure = Failure("ImageError", "cannot be decoded", "a.png", None, "127.0.0.1")
    engine, _, _ = engine_of(3, answer=lambda job: failure if job == 5 else job)
    results = engine.map(Work(), range(20))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ImageError, match=r"^a\.png: cannot be decoded$"):
        next(results)


def test_worker_that_cannot_open_the_work_is_named_with_its_node() -> None:
    failure = Failure("CalibrationSetError", "there is no such folder", "/data", None, "10.0.0.7", opening=True)
    engine, _, _ = engine_of(2, answer=lambda job: failure)
    with pytest.raises(
        ClusterError, match=r"node 10\.0\.0\.7: /data: a worker cannot do this: there is no such folder"
    ):
        list(engine.map(Work(), range(3)))


@pytest.mark.parametrize("package", ["quantkit", "onnxruntime", "Pillow"])
def test_worker_with_another_version_is_refused_with_node_and_fix(package: str) -> None:
    facts = {"software": {**software(), package: "0.0.1"}, "node": "10.0.0.7"}
    with pytest.raises(
        ClusterError, match=rf"node 10\.0\.0\.7: a worker runs {package} 0\.0\.1.*; install {package}=="
    ):
        check_software(facts)


def test_worker_with_the_same_software_is_accepted() -> None:
    check_software({"software": software(), "node": "10.0.0.7"})


@pytest.mark.parametrize(
    ("text", "url", "workers"),
    [("auto", "auto", None), ("ray://head:10001", "ray://head:10001", None), ("local:4", "local", 4)],
)
def test_cluster_address_is_read(text: str, url: str, workers: int | None) -> None:
    address = ClusterAddress.parse(text)
    assert (address.url, address.workers) == (url, workers)


@pytest.mark.parametrize(
    "text", ["", "local", "local:0", "local:-1", "head:10001", "ray://head", "http://head:80", "AUTO"]
)
def test_invalid_cluster_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"invalid cluster .*; write auto, ray://HOST:PORT or local:N"):
        ClusterAddress.parse(text)


def test_cluster_without_ray_is_refused_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"^cluster: the package ray is not installed; install quantkit\[ray\]$"):
        RaySession(ClusterAddress.parse("local:1"), CPU, None)


def test_worker_that_cannot_import_quantkit_is_named_with_its_node() -> None:
    # As Ray 2.60 says it.
    text = (
        "The actor died because of an error raised in its creation task, ray::Worker.__init__() (pid=5, ip=10.0.0.7, "
        "actor_id=21)\nRuntimeError: The actor with name Worker failed to import on the worker.\n\n"
        "ModuleNotFoundError: No module named 'quantkit'\n"
    )
    message = (
        r"node 10\.0\.0\.7: a worker cannot import quantkit \(No module named 'quantkit'\); install quantkit\[ray\]"
    )
    with pytest.raises(ClusterError, match=message):
        check_imports(text, "--cluster auto")


def test_worker_that_dies_otherwise_is_no_fault_of_imports() -> None:
    check_imports("The actor died unexpectedly before finishing this task.", "--cluster auto")

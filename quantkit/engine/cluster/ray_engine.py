"""Work on the actors of a Ray cluster: results in order, a bounded number ahead, jobs of dead workers done again.

Ray starts the workers, restarts those that die, moves the bytes and tells which results are there. What is left to do
here: a job is given to a worker that is ready, at most two for each of its threads, and only so far ahead of the result
that is due; a job whose worker died is given to another. A result belongs to a job, not to a worker, and each is
yielded once, so that deaths do not show in it.
"""

import re
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quantkit import __version__
from quantkit.engine.cluster.address import OPTION
from quantkit.engine.cluster.session import RaySession
from quantkit.engine.cluster.work import Job, Result, Work
from quantkit.engine.cluster.worker import Failure, software
from quantkit.errors import ClusterError
from quantkit.progress import Progress

# How often a job may lose its worker before it is taken for the reason.
ATTEMPTS = 12
# Results that may wait for the one that is due, for each job that runs.
_AHEAD = 2
_POLL_SECONDS = 1.0
# After so long without a worker the user is told what is waited for.
_PATIENCE_SECONDS = 20.0
# Workers that have not started by then join later.
_START_SECONDS = 60.0


@dataclass(eq=False)
class _Member:
    """An actor, and how much it has to do."""

    actor: Any
    ready: bool = False
    running: int = 0


@dataclass(frozen=True)
class _Task:
    """A job, its place in the order, and how many workers died with it."""

    place: int
    job: Any
    deaths: int = 0


@dataclass
class _Pool:
    """The actors of a session, as far as they are known to be alive."""

    members: list[_Member] = field(default_factory=list)
    greetings: dict[Any, _Member] = field(default_factory=dict)
    processors: set[str] = field(default_factory=set)


class RayEngine:
    """Spreads work over a cluster, which is connected to when there is work for the first time.

    Args:
        session: the cluster.
        progress: is told of the start, and of workers that died.
    """

    def __init__(self, session: RaySession, progress: Progress) -> None:
        self._session, self._progress = session, progress
        self._pool = _Pool()
        self._shared: dict[Path, tuple[tuple[int, int], Any]] = {}
        self._start_s = 0.0

    def close(self) -> None:
        """Stop the workers, and leave the cluster; one that was started for them ends."""
        self._pool, self._shared = _Pool(), {}
        self._session.close()

    @property
    def slots(self) -> int:
        """How many images are worked on at once; the cluster is started where it is not yet."""
        self._start()
        return self._session.workers * self._session.threads

    @property
    def workers(self) -> int:
        """How many workers there are; the cluster is started where it is not yet."""
        self._start()
        return self._session.workers

    @property
    def start_s(self) -> float:
        """Seconds that the start took, 0 before."""
        return self._start_s

    def share(self, path: Path) -> Any:
        """Return a handle of the bytes of a file, which travel to each node once as long as the file is the same.

        Raises:
            ClusterError: the cluster cannot be connected to.
        """
        self._start()
        status = path.stat()
        state = (status.st_size, status.st_mtime_ns)
        if path not in self._shared or self._shared[path][0] != state:
            content = np.memmap(path, np.uint8, "r") if status.st_size else np.empty(0, np.uint8)
            self._shared[path] = (state, self._session.ray.put(np.asarray(content)))
        return self._shared[path][1]

    def map(self, work: Work[Job, Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield the result of each job in order, each once, whatever happens to workers.

        Args:
            work: what to do.
            jobs: taken lazily, only so far ahead of the result that is due.

        Raises:
            QuantkitError: what a job raised, when its turn comes.
            ClusterError: a worker cannot do the work, a job loses every worker, or none is left.
        """
        self._start()
        return _Mapping(self._session, self._pool, self._progress, work).run(jobs)

    def _start(self) -> None:
        if not self._pool.members:
            start_s, session = time.monotonic(), self._session
            self._pool.members = [_Member(actor) for actor in session.start()]
            for member in self._pool.members:
                _greet(self._pool, member)
            greetings = list(self._pool.greetings)
            session.ray.wait(greetings, num_returns=len(greetings), timeout=_START_SECONDS)
            self._start_s = time.monotonic() - start_s
            threads = "" if session.threads == 1 else f" of {session.threads} threads"
            self._progress.message(f"{session.name}: {session.workers} workers{threads} in {self._start_s:.1f} s")


def _greet(pool: _Pool, member: _Member) -> None:
    """Ask a worker who it is; it answers when it runs, after a restart too."""
    pool.greetings[member.actor.facts.options(max_task_retries=-1).remote()] = member


class _Mapping:
    """One call of `RayEngine.map`."""

    def __init__(self, session: RaySession, pool: _Pool, progress: Progress, work: Any) -> None:
        self._session, self._pool, self._progress = session, pool, progress
        self._ray = session.ray
        self._held, self._key = [self._ray.put(work)], uuid.uuid4().hex
        # A worker has a job for each thread, or one that uses all of them, and another one waiting.
        self._each = 1 + (session.threads if work.runs_jobs_together else 1)
        self._running: dict[Any, tuple[_Member, _Task]] = {}
        self._queue: deque[_Task] = deque()
        self._results: dict[int, Any] = {}
        self._begun = 0
        self._exhausted = False

    def run(self, jobs: Iterable[Job]) -> Iterator[Any]:
        """Yield the results in order."""
        rest, due, idle_s = iter(jobs), 0, 0.0
        try:
            while True:
                self._submit(rest, due)
                if due in self._results:
                    result = self._results.pop(due)
                    if isinstance(result, Failure):
                        raise result.error()
                    yield result
                    due += 1
                elif self._exhausted and due == self._begun:
                    return
                elif self._wait() or self._running:
                    idle_s = 0.0
                else:
                    idle_s += _POLL_SECONDS
                    if idle_s == _PATIENCE_SECONDS:
                        self._progress.message("waiting for workers: the cluster has no free processors for them")
        finally:
            for reference in self._running:
                self._session.cancel(reference)
            for member in self._pool.members:
                member.running = 0

    def _submit(self, rest: Iterator[Any], due: int) -> None:
        """Give jobs to workers with room, those that lost their worker first."""
        most = _AHEAD * self._each * max(1, len(self._pool.members))
        while True:
            if not self._queue and not self._exhausted and self._begun < due + most:
                try:
                    self._queue.append(_Task(self._begun, next(rest)))
                    self._begun += 1
                except StopIteration:
                    self._exhausted = True
            free = [member for member in self._pool.members if member.ready and member.running < self._each]
            if not self._queue or not free:
                return
            member, task = min(free, key=lambda one: one.running), self._queue.popleft()
            self._running[member.actor.run.remote(self._held, self._key, task.job)] = (member, task)
            member.running += 1

    def _wait(self) -> bool:
        """Take what has come, if anything comes in a moment."""
        if not self._pool.members:
            raise ClusterError(
                "all workers died", where=self._session.name, fix="look at their memory, and at Ray's logs"
            )
        references = [*self._running, *self._pool.greetings]
        came, _ = self._ray.wait(references, num_returns=len(references), timeout=0.0)
        if not came:
            came, _ = self._ray.wait(references, num_returns=1, timeout=_POLL_SECONDS)
        for reference in came:
            if reference in self._running:
                self._take(reference)
            else:
                self._welcome(reference)
        return bool(came)

    def _take(self, reference: Any) -> None:
        member, task = self._running.pop(reference)
        member.running -= 1
        try:
            result = self._ray.get(reference)
        except self._session.losses:
            self._lost(member, task)
            return
        except self._ray.exceptions.RayTaskError as error:
            raise error.as_instanceof_cause() from None
        if isinstance(result, Failure) and result.opening:
            raise ClusterError(
                f"a worker cannot do this: {result.what}",
                where=f"node {result.node}" if result.where is None else f"node {result.node}: {result.where}",
                fix=result.fix or "make model and images available on every node, under the same path or URL",
            )
        self._results[task.place] = result

    def _lost(self, member: _Member, task: _Task) -> None:
        """Do a job again whose worker died; the worker takes jobs when Ray has restarted it."""
        if task.deaths + 1 >= ATTEMPTS:
            raise ClusterError(
                f"{ATTEMPTS} workers died over the same images",
                where=self._session.name,
                fix="look at the workers' memory and Ray's logs; fewer --threads take less memory",
            )
        self._queue.appendleft(_Task(task.place, task.job, task.deaths + 1))
        if member.ready:
            member.ready = False
            _greet(self._pool, member)
            self._progress.message("a worker died; its images are run again")

    def _welcome(self, reference: Any) -> None:
        """Let a worker take jobs once it has said that it runs the same software."""
        member = self._pool.greetings.pop(reference)
        try:
            facts = self._ray.get(reference)
        except (*self._session.losses, self._ray.exceptions.RayTaskError) as error:
            check_imports(str(error), self._session.name)
            if not isinstance(error, self._session.losses):
                raise
            self._pool.members.remove(member)
            return
        check_software(facts)
        member.ready = True
        before = len(self._pool.processors)
        self._pool.processors.add(facts["processor"])
        if before == 1 and len(self._pool.processors) == 2:
            names = " and ".join(sorted(self._pool.processors))
            self._progress.message(
                f"the nodes have different processors ({names}), whose float sums may round otherwise"
            )


def check_software(facts: dict[str, Any]) -> None:
    """Check that a worker gives the bits that this process would give.

    Raises:
        ClusterError: it runs another version of something that results depend on.
    """
    for package, here in software().items():
        there = facts["software"].get(package)
        if there != here:
            version = here.partition(" ")[0]
            raise ClusterError(
                f"a worker runs {package} {there}, and this process {here}",
                where=f"{OPTION}, node {facts['node']}",
                fix=f"install {package}=={version} there",
            )


def check_imports(text: str, cluster: str) -> None:
    """Check that a worker did not die because quantkit cannot be imported there.

    Args:
        text: of Ray's error.
        cluster: name of the cluster, for messages.

    Raises:
        ClusterError: it did; names the node where Ray does.
    """
    missing = re.findall(r"^\s*(?:ModuleNotFoundError|ImportError): (.*)$", text, re.MULTILINE)
    if missing:
        node = re.search(r"\bip=([0-9a-fA-F.:]+)", text)
        raise ClusterError(
            f"a worker cannot import quantkit ({missing[-1].strip()})",
            where=cluster if node is None else f"{cluster}, node {node[1]}",
            fix=f"install quantkit[ray]=={__version__} on every node",
        )

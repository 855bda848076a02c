"""The actor: one process of a cluster that opens work once and does its jobs."""

import importlib
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import onnxruntime
import PIL

from quantkit import __version__, errors
from quantkit.errors import QuantkitError
from quantkit.numerics import NUMERIC_VERSION

# Imported at the start of a worker, where it delays no image.
_NEEDED = ("quantkit.engine.cluster.scores", "quantkit.engine.cluster.observe")


@dataclass(frozen=True)
class Failure:
    """An expected error of a worker, as plain data.

    Attributes:
        kind: name of its class in `quantkit.errors`.
        what: the fault.
        where: what it concerns.
        fix: what to do.
        node: address of the worker's node.
        opening: the work could not be opened, so that no job of it can be done there.
    """

    kind: str
    what: str
    where: str | None
    fix: str | None
    node: str
    opening: bool = False

    def error(self) -> QuantkitError:
        """Return the error, to be raised by the driver."""
        made: QuantkitError = getattr(errors, self.kind)(self.what, where=self.where, fix=self.fix)
        return made


def software() -> dict[str, str]:
    """Return the versions that equal bits depend on, by package."""
    return {
        "quantkit": f"{__version__} (numerics {NUMERIC_VERSION})",
        "onnxruntime": onnxruntime.__version__,
        "Pillow": PIL.__version__,
    }


def processor() -> str:
    """Return the name of this machine's processor: onnxruntime's kernels, and their roundings, depend on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


class Worker:
    """Does jobs of one piece of work at a time; several threads may call `run` at once.

    Args:
        threads: of this worker.
    """

    def __init__(self, threads: int) -> None:
        self._threads, self._lock = threads, Lock()
        self._key, self._job = "", _no_work

    def facts(self) -> dict[str, Any]:
        """Return what the driver checks before it gives work; what most work needs is imported by then."""
        for module in _NEEDED:
            importlib.import_module(module)
        return {"software": software(), "processor": processor(), "node": _node(), "process": os.getpid()}

    def run(self, held: list[Any], key: str, job: Any) -> Any:
        """Return the result of a job, or a `Failure`.

        Args:
            held: the reference of the work, in a list so that it is fetched only where the work is new.
            key: of the work.
            job: what to do.
        """
        opening = True
        try:
            do = self._opened(held, key)
            opening = False
            return do(job)
        except QuantkitError as error:
            return Failure(type(error).__name__, error.what, error.where, error.fix, _node(), opening)

    def _opened(self, held: list[Any], key: str) -> Callable[[Any], Any]:
        import ray

        with self._lock:
            if key != self._key:
                self._key, self._job = "", _no_work  # what was open before leaves its memory first
                self._job = ray.get(held[0]).open(_fetch, self._threads)
                self._key = key
            return self._job


def _no_work(job: Any) -> Any:
    raise AssertionError("no work was opened")


def _fetch(handle: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    import ray

    content: np.ndarray[Any, np.dtype[np.uint8]] = ray.get(handle)
    return content


def _node() -> str:
    import ray

    return str(ray.util.get_node_ip_address())

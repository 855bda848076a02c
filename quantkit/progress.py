"""How a workflow reports its progress: one protocol, which the command line draws and a program may implement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from quantkit.errors import UsageError

# Called with the number of items done and their total, by any thread.
ProgressCallback = Callable[[int, int], None]


@runtime_checkable
class Progress(Protocol):
    """Receives the progress of a workflow; give an object with these two methods as ``progress``.

    Example:
        >>> class Lines:
        ...     def task(self, name, unit):
        ...         return lambda done, total: print(f"{name}: {done} of {total} {unit}")
        ...
        ...     def message(self, text):
        ...         print(text)
        >>> Lines().task("evaluating", "images")(1, 2)
        evaluating: 1 of 2 images
    """

    def task(self, name: str, unit: str) -> ProgressCallback:
        """Begin a task, which ends the one before.

        Args:
            name: of the task, such as ``calibrating``.
            unit: what is counted, such as ``images``.

        Returns:
            A function that takes the number of items done and their total; any thread may call it.
        """

    def message(self, text: str) -> None:
        """Receive one sentence about the current task."""


class NoProgress:
    """Ignores all progress.

    Example:
        >>> import quantkit
        >>> quantkit.NoProgress().task("evaluating", "images")(1, 2)
    """

    def task(self, name: str, unit: str) -> ProgressCallback:
        """Return a function that does nothing."""
        return lambda done, total: None

    def message(self, text: str) -> None:
        """Ignore the message."""


def as_progress(progress: Progress | None) -> Progress:
    """Return the progress that a caller gave, one that ignores everything for None.

    Raises:
        UsageError: it has no ``task`` and ``message``.
    """
    if progress is None:
        return NoProgress()
    if isinstance(progress, Progress) and not isinstance(progress, type):
        return progress
    raise UsageError(
        f"takes an object with the methods task and message, not {type(progress).__name__}",
        where="progress",
        fix="see quantkit.Progress",
    )


def begun_when_called(progress: Progress, name: str, unit: str) -> ProgressCallback:
    """Return a callback that begins its task when it is first called, for work that may not be needed."""
    callback: ProgressCallback | None = None

    def count(done: int, total: int) -> None:
        nonlocal callback
        if callback is None:
            callback = progress.task(name, unit)
        callback(done, total)

    return count


class NamedProgress:
    """Passes progress on with one name for every task, for a workflow that another one calls.

    Args:
        progress: receives the progress.
        name: of all tasks.
    """

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name

    def task(self, name: str, unit: str) -> ProgressCallback:
        """Begin a task under the common name."""
        del name
        return self._progress.task(self._name, unit)

    def message(self, text: str) -> None:
        """Pass the message on."""
        self._progress.message(text)

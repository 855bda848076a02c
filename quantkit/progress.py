"""Progress reporting of workflows: a protocol that programs can implement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from quantkit.errors import UsageError

# Called with the number of finished items and their total, from any thread.
ProgressCallback = Callable[[int, int], None]


@runtime_checkable
class Progress(Protocol):
    """Receives the progress of a workflow; pass an object with these two methods as ``progress``.

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
        """Begin a task and end the previous one.

        Args:
            name: name of the task, such as ``calibrating``.
            unit: unit of the items, such as ``images``.

        Returns:
            A function of the number of finished items and their total; any thread may call it.
        """

    def message(self, text: str) -> None:
        """Receive one sentence about the current task."""


class Notice(str):
    """A message that is shown wherever progress is, also where messages are shown on request only."""

    __slots__ = ()


class Resumed(Notice):
    """The notice that items of the current task were there before: rates and times left count the others.

    Args:
        done: number of these items.
        total: number of all items.
        unit: unit of the items.
        source: where they were.

    Attributes:
        done: number of the items that were there.
        total: number of all items.
    """

    __slots__ = ("done", "total")

    done: int
    total: int

    def __new__(cls, done: int, total: int, unit: str, source: object) -> Resumed:
        """Return the notice."""
        notice = super().__new__(cls, f"resumed: {done:,} of {total:,} {unit} from {source}")
        notice.done, notice.total = done, total
        return notice


def resumed_task(
    progress: Progress, name: str, unit: str, *, done: int, total: int, source: object
) -> ProgressCallback:
    """Begin a task of which a part may be there already; a notice says so where it is a part.

    Args:
        progress: receives the progress.
        name: name of the task.
        unit: unit of the items.
        done: number of items that are there.
        total: number of all items.
        source: where the items are that are there.

    Returns:
        A function of the number of finished items and their total, those included that were there.
    """
    count = progress.task(name, unit)
    if 0 < done < total:
        progress.message(Resumed(done, total, unit, source))
        count(done, total)
    return count


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
    """Return the given progress, or `NoProgress` for None.

    Raises:
        UsageError: the object has no methods ``task`` and ``message``.
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
    """Return a callback that begins its task on the first call, for work that may not be needed."""
    callback: ProgressCallback | None = None

    def count(done: int, total: int) -> None:
        nonlocal callback
        if callback is None:
            callback = progress.task(name, unit)
        callback(done, total)

    return count


class NamedProgress:
    """Forwards progress with one name for every task, for a workflow that another one calls.

    Args:
        progress: receives the progress.
        name: name of all tasks.
    """

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name

    def task(self, name: str, unit: str) -> ProgressCallback:
        """Begin a task under the common name."""
        del name
        return self._progress.task(self._name, unit)

    def message(self, text: str) -> None:
        """Forward the message."""
        self._progress.message(text)

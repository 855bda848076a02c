"""Progress display of the command line: a bar on a terminal, lines at intervals elsewhere, JSON events on request."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichBar
from rich.text import Text

from quantkit.cli.show import print_configuration
from quantkit.cli.terminal import Session, errors, session
from quantkit.progress import Notice, Progress, ProgressCallback, Resumed

if TYPE_CHECKING:
    from quantkit.config.settings import Setting

# Seconds between two lines of a command if standard error is not a terminal.
LINE_INTERVAL_S = 10.0
# Seconds between two events of one task.
EVENT_INTERVAL_S = 1.0


class _Rate(ProgressColumn):
    """Finished items per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {task.fields['unit']}/s", style="progress.data.speed")


class BarProgress:
    """Draws one bar at a time: items, rate, elapsed and remaining time."""

    def __init__(self, bar: RichBar) -> None:
        self._bar = bar
        self._name = ""

    def task(self, name: str, unit: str) -> ProgressCallback:
        """Replace the bar by that of a new task."""
        for old in self._bar.task_ids:
            self._bar.remove_task(old)
        self._name = escape(name)
        task = self._bar.add_task(self._name, total=None, unit=unit)

        def count(done: int, total: int) -> None:
            if task in self._bar.task_ids:
                self._bar.update(task, completed=done, total=total)

        return count

    def message(self, text: str) -> None:
        """Show a notice on a line of its own; a message after the name of the task."""
        if isinstance(text, Notice):
            self._bar.console.print(text, markup=False, soft_wrap=True)
            return
        if session.verbose:
            self._bar.console.print(text, style="dim", markup=False, soft_wrap=True)
        for task in self._bar.task_ids:
            self._bar.update(task, description=f"{self._name} [dim]{escape(text)}[/]")


class LineProgress:
    """Prints a line at intervals, and at the end of a task that took longer than one.

    Args:
        write: prints a line.
        clock: returns seconds.
        interval_s: minimum time between two lines, in seconds.
        verbose: print messages too.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        clock: Callable[[], float],
        interval_s: float = LINE_INTERVAL_S,
        *,
        verbose: bool = False,
    ) -> None:
        self._write, self._clock, self._interval_s, self._verbose = write, clock, interval_s, verbose
        self._last_s = clock()
        self._before = 0
        self._lock = threading.Lock()

    def task(self, name: str, unit: str) -> ProgressCallback:
        """Begin a task; printed if nothing was printed for an interval."""
        start_s, printed = self._clock(), False
        self._before = 0
        if start_s - self._last_s >= self._interval_s:
            self._put(name)

        def count(done: int, total: int) -> None:
            nonlocal printed
            with self._lock:
                now_s = self._clock()
                due = now_s - self._last_s >= self._interval_s
                if due or (printed and done == total):
                    printed = done < total
                    self._put(_line(name, unit, done, total, now_s - start_s, self._before))

        return count

    def message(self, text: str) -> None:
        """Print a message with ``--verbose``, and a notice always; what a task resumes has no part in its rate."""
        if isinstance(text, Resumed):
            self._before = text.done
        if self._verbose or isinstance(text, Notice):
            self._put(text)

    def _put(self, line: str) -> None:
        self._last_s = self._clock()
        self._write(line)


def _line(name: str, unit: str, done: int, total: int, elapsed_s: float, before: int) -> str:
    rate = (done - before) / elapsed_s if elapsed_s > 0.0 else 0.0
    parts = [f"{name}: {done} of {total} {unit}"]
    if rate > 0.0:
        parts += [f"{rate:.1f} {unit}/s", f"{elapsed_s:.0f} s elapsed"]
        parts += [f"{(total - done) / rate:.0f} s left"] if done < total else []
    return ", ".join(parts)


class EventProgress:
    """Writes progress as JSON events, and messages to the log file.

    Args:
        to: receives the events.
        interval_s: minimum time between two events of a task, in seconds; its first and last are always written.
    """

    def __init__(self, to: Session, interval_s: float = EVENT_INTERVAL_S) -> None:
        self._to, self._interval_s = to, interval_s
        self._lock = threading.Lock()

    def task(self, name: str, unit: str) -> ProgressCallback:
        """Begin a task."""
        start_s = self._to.clock()
        last_s: float | None = None
        self._to.log(f"begin: {name}")

        def count(done: int, total: int) -> None:
            nonlocal last_s
            with self._lock:
                now_s = self._to.clock()
                if last_s is None or done == total or now_s - last_s >= self._interval_s:
                    last_s = now_s
                    self._to.event(
                        "progress", task=name, unit=unit, done=done, total=total, elapsed_s=round(now_s - start_s, 3)
                    )

        return count

    def message(self, text: str) -> None:
        """Write a message."""
        self._to.log(text)
        if isinstance(text, Resumed):
            self._to.event("resumed", text=text, done=text.done, total=text.total)
        else:
            self._to.event("message", text=text)


class _All:
    """Passes progress on to several receivers."""

    def __init__(self, receivers: Sequence[Progress]) -> None:
        self._receivers = receivers

    def task(self, name: str, unit: str) -> ProgressCallback:
        counts = [one.task(name, unit) for one in self._receivers]

        def count(done: int, total: int) -> None:
            for one in counts:
                one(done, total)

        return count

    def message(self, text: str) -> None:
        for one in self._receivers:
            one.message(text)


class _AtFirstTask:
    """Calls a function when the first task begins; by then the arguments have been validated."""

    def __init__(self, announce: Callable[[], None]) -> None:
        self._announce = announce
        self._announced = False

    def announce(self) -> None:
        if not self._announced:
            self._announced = True
            self._announce()

    def task(self, name: str, unit: str) -> ProgressCallback:
        del name, unit
        self.announce()
        return lambda done, total: None

    def message(self, text: str) -> None:
        """Ignore it."""


@contextmanager
def show_progress(
    configuration: "Mapping[str, Setting] | None" = None, *, recorded: str | None = None
) -> Iterator[Progress]:
    """Yield the progress display of the block, as selected by the global options.

    Args:
        configuration: effective settings of the command, printed when the work begins.
        recorded: name of the command in ``run.json``, for one whose settings are recorded there.
    """
    from quantkit.runs.configuration import recorded_with

    first = _AtFirstTask(lambda: print_configuration(configuration or {}))
    recording = nullcontext() if recorded is None else recorded_with(recorded, configuration)
    with recording, _receivers() as receivers:
        yield _All((first, *receivers))
    first.announce()


@contextmanager
def _receivers() -> Iterator[tuple[Progress, ...]]:
    events = EventProgress(session)
    if session.quiet or session.events_on_stderr:
        yield (events,)
    elif not errors.is_terminal:
        lines = LineProgress(_print_line, session.clock, verbose=session.verbose)
        yield (events, lines)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with RichBar(*columns, console=errors, transient=True) as bar:
            yield (events, BarProgress(bar))


def _print_line(text: str) -> None:
    errors.print(text, markup=False, soft_wrap=True)

"""What several commands print alike: progress with rate and time left, and percentages."""

import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from quantkit.errors import UsageError
from quantkit.notes import grouped

if TYPE_CHECKING:
    from quantkit.graph.coverage import Coverage

if TYPE_CHECKING:
    from quantkit.config.project import Project


class _Console(Console):
    """A console that leaves a closed pipe to the caller; rich would end the program with code 1, whatever happened."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


console = _Console(highlight=False)
_errors = Console(stderr=True, highlight=False)


class _Rate(ProgressColumn):
    """Finished items a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


@contextmanager
def progress_bar(what: str) -> Iterator["Bar"]:
    """Draw a bar on standard error while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_errors, transient=True, disable=not _errors.is_terminal) as progress:
        yield Bar(progress, what)


@contextmanager
def despite_closed_pipe() -> Iterator[None]:
    """Print in the block; a reader that goes away, as ``head`` does, ends the block and no more is printed."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Bar:
    """One line of progress."""

    def __init__(self, progress: Progress, what: str) -> None:
        self._progress = progress
        self._what = what
        self._task = progress.add_task(what, total=None)

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are finished."""
        self._progress.update(self._task, completed=done, total=total)

    def say(self, note: str) -> None:
        """Show a short note behind the name of what is done."""
        self._progress.update(self._task, description=f"{self._what} [dim]{note}[/]")


def print_preset_notes(preset: str | None, project: "Project") -> None:
    """Print on standard error what had to be inferred to read the preset from a file of the vendor's."""
    from quantkit.workflows.project import notes_of_preset

    for note in notes_of_preset(preset, project):
        _errors.print(f"note: {note}", soft_wrap=True, markup=False)


def spread(counts: Collection[int]) -> str:
    """Return ``5`` where all counts are alike, else ``1 to 5``."""
    least, most = min(counts), max(counts)
    return f"{least}" if least == most else f"{least} to {most}"


def print_notes(notes: Iterable[str], verbose: bool, *, to_errors: bool = False) -> None:
    """Print notes: one line for all of a kind, or with ``verbose`` each of them.

    Args:
        notes: of a step.
        verbose: list every note below the line of its kind.
        to_errors: print on standard error, where standard output is a file that was asked for.
    """
    where = _errors if to_errors else console
    for group in grouped(notes):
        hint = "" if verbose or not group.is_summary else "; --verbose lists them"
        where.print(f"note: {group.text}{hint}", soft_wrap=True, markup=False)
        if verbose and group.is_summary:
            for item in group.items:
                where.print(f"    {item}", soft_wrap=True, markup=False, style="dim")


def print_coverage(covered: "Coverage", verbose: bool) -> None:
    """Print how much is int8 in one line, as a warning where that is little; with ``verbose`` each layer in float."""
    warning = "warning: " if covered.is_low else ""
    console.print(f"{warning}{covered}", soft_wrap=True, markup=False, style="yellow" if covered.is_low else None)
    if verbose:
        for layer in covered.float_layers:
            console.print(f"    {layer.name}: {layer.why}", soft_wrap=True, markup=False, style="dim")


def parse_share(text: str | None, option: str, *, all_allowed: bool = False) -> float | None:
    """Return a share from ``0.5%`` or ``0.005``.

    Args:
        text: as typed, None where it was not given.
        option: its name.
        all_allowed: take 100 %, too.

    Raises:
        UsageError: it is neither, or lies outside 0 to 100 percent.
    """
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        raise UsageError(f"{text!r} is no percentage", where=option, fix="write it as 0.5%") from None
    if not (0.0 <= share < 1.0 or (all_allowed and share == 1.0)):
        raise UsageError(f"{text} is not between 0% and 100%", where=option, fix="write half a percent as 0.5%")
    return share

"""What several commands print alike: notes, coverage, written files, percentages."""

import os
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.cli.terminal import console, errors, session
from quantkit.errors import UsageError
from quantkit.notes import grouped

if TYPE_CHECKING:
    from quantkit.config.method import Auto, Method
    from quantkit.config.project import Project
    from quantkit.graph.coverage import Coverage
    from quantkit.search.method_selection import MethodSelection


@contextmanager
def despite_closed_pipe() -> Iterator[None]:
    """Print in the block; a reader that goes away, as ``head`` does, ends the block and no more is printed."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_preset_notes(preset: str | None, project: "Project") -> None:
    """Print on standard error what had to be inferred to read the preset from a file of the vendor's."""
    from quantkit.workflows.project import notes_of_preset

    print_notes(notes_of_preset(preset, project), to_errors=True)


def spread(counts: Collection[int]) -> str:
    """Return ``5`` where all counts are alike, else ``1 to 5``."""
    least, most = min(counts), max(counts)
    return f"{least}" if least == most else f"{least} to {most}"


def print_notes(notes: Iterable[str], *, to_errors: bool = False) -> None:
    """Print notes: one line for all of a kind, with ``--verbose`` each of them, with ``--quiet`` none.

    Args:
        notes: of a step.
        to_errors: print on standard error, where standard output is a file that was asked for.
    """
    where = errors if to_errors else console
    for group in grouped(notes):
        session.event("note", text=group.text, items=list(group.items) if group.is_summary else [])
        if session.quiet or (to_errors and session.events_on_stderr):
            continue
        hint = "" if session.verbose or not group.is_summary else "; --verbose lists them"
        where.print(f"note: {group.text}{hint}", soft_wrap=True, markup=False)
        if session.verbose and group.is_summary:
            for item in group.items:
                where.print(f"    {item}", soft_wrap=True, markup=False, style="dim")


def print_files(files: Iterable[Path], *, in_folder: Path | None = None) -> None:
    """Print which files a command wrote; nothing with ``--quiet``.

    Args:
        files: that were written.
        in_folder: print the names of files in this folder alone, and the folder once.
    """
    paths = list(files)
    session.event("wrote", files=[str(path) for path in paths])
    if session.quiet or not paths:
        return
    if in_folder is None:
        text = ", ".join(map(str, paths))
    else:
        text = f"{', '.join(path.name for path in paths)} in {in_folder}"
    console.print(f"wrote {text}", soft_wrap=True, markup=False)


def print_next(*words: str | Path) -> None:
    """Print the command that usually comes next, quoted for a shell; nothing with ``--quiet``."""
    command = shlex.join(["quantkit", *map(str, words)])
    session.event("next", command=command)
    if not session.quiet:
        console.print(f"next: {command}", soft_wrap=True, markup=False)


def print_configuration(values: Mapping[str, object]) -> None:
    """Print the merged settings of a command, one a line, on standard error; nothing with ``--quiet``.

    Args:
        values: by name; None and empty ones are left out.
    """
    given = {name: _plain(value) for name, value in values.items() if value is not None and value not in ((), {}, "")}
    if not given:
        return
    session.event("configuration", values=given)
    if session.quiet or session.events_on_stderr:
        return
    width = max(map(len, given), default=0)
    for name, text in given.items():
        errors.print(f"{name:{width}}  {text}", soft_wrap=True, markup=False, style="dim")


def method_text(method: "Method | Auto") -> str:
    """Return a method's name and settings."""
    from quantkit.config.method import method_json

    name, *settings = method_json(method).items()
    return " ".join((name[1], *(f"{key} {value}" for key, value in settings)))


def print_selection(selection: "MethodSelection | None") -> None:
    """Print the comparison by which method ``auto`` chose a method; nothing where it compared none, or ``--quiet``."""
    if selection is None or not selection.results:
        return
    session.event("method_selection", **selection.to_json())
    if session.quiet:
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("method")
    for heading in ("images", "distance", "SQNR, dB", "agree"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for row in selection.rows():
        figures = (_figure(row[name], digits) for name, digits in (("distance", 2), ("sqnr_db", 1), ("agreement", 1)))
        table.add_row(row["method"], str(row["images"] or "–"), *figures, row["outcome"])
    console.print(table)


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    if isinstance(value, tuple | list | frozenset):
        return ", ".join(map(str, value))
    return str(value)


def print_coverage(covered: "Coverage") -> None:
    """Print how much is int8 in one line, as a warning where that is little; with ``--verbose`` each layer in float."""
    warning = "warning: " if covered.is_low else ""
    console.print(f"{warning}{covered}", soft_wrap=True, markup=False, style="yellow" if covered.is_low else None)
    if session.verbose:
        for layer in covered.float_layers:
            console.print(f"    {layer.name}: {layer.why}", soft_wrap=True, markup=False, style="dim")


def parse_percent(text: str | None, option: str, *, all_allowed: bool = False) -> float | None:
    """Return percent from ``0.5%`` or the share ``0.005``.

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
        percent = float(text.removesuffix("%")) * (1.0 if text.endswith("%") else 100.0)
    except ValueError:
        raise UsageError(f"{text!r} is no percentage", where=option, fix="write it as 0.5%") from None
    if not (0.0 <= percent < 100.0 or (all_allowed and percent == 100.0)):
        raise UsageError(f"{text} is not between 0% and 100%", where=option, fix="write half a percent as 0.5%")
    return percent

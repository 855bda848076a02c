"""Output that several commands share: notes, coverage, written files, percentages."""

import os
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.cli.terminal import console, errors, session
from quantkit.errors import UsageError
from quantkit.files import made_folders, write_json
from quantkit.notes import grouped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from quantkit.config.project import Project
    from quantkit.config.settings import Setting
    from quantkit.graph.coverage import Coverage
    from quantkit.search.method_selection import MethodSelection


@contextmanager
def despite_closed_pipe() -> Iterator[None]:
    """Print in the block; a closed pipe, as with ``head``, ends the block silently."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_preset_notes(preset: str | None, project: "Project | None" = None) -> None:
    """Print on standard error what was inferred to read the preset, given or of the project, from a vendor file."""
    from quantkit.workflows.presets import preset_notes

    if preset is None and project is not None and project.ops is None:
        preset = project.preset
    print_notes(preset_notes(preset), to_errors=True)


def print_lines(*lines: str, style: str | None = None) -> None:
    """Print lines as they are, however long, so that a file has them whole."""
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, style=style)


def spread(counts: Collection[int]) -> str:
    """Return ``5`` if all counts are equal, else ``1 to 5``."""
    least, most = min(counts), max(counts)
    return f"{least}" if least == most else f"{least} to {most}"


def print_notes(notes: Iterable[str], *, to_errors: bool = False) -> None:
    """Print notes: one line per kind, every note with ``--verbose``, only warnings with ``--quiet``.

    Args:
        notes: notes of a step.
        to_errors: print on standard error, because standard output carries a file.
    """
    where = errors if to_errors else console
    for group in grouped(notes):
        session.event("note", text=group.text, items=list(group.items) if group.is_summary else [])
        if (session.quiet and not group.is_warning) or (to_errors and session.events_on_stderr):
            continue
        hint = "" if session.verbose or not group.is_summary else "; --verbose lists them"
        word, style = ("warning", "yellow") if group.is_warning else ("note", None)
        where.print(f"{word}: {group.text}{hint}", soft_wrap=True, markup=False, style=style)
        if session.verbose and group.is_summary:
            for item in group.items:
                where.print(f"    {item}", soft_wrap=True, markup=False, style="dim")


def print_files(files: Iterable[Path], *, in_folder: Path | None = None) -> None:
    """Print the files that a command wrote; nothing with ``--quiet``.

    Args:
        files: the written files.
        in_folder: print files in this folder by name, and the folder once; other files by their paths.
    """
    paths = list(files)
    session.event("wrote", files=[str(path) for path in paths])
    if session.quiet or not paths:
        return
    inside = [path.name for path in paths if path.parent == in_folder]
    parts = [f"{', '.join(inside)} in {in_folder}"] if inside else []
    parts += [str(path) for path in paths if path.parent != in_folder]
    made = made_folders()
    new = dict.fromkeys(path.parent for path in paths if path.parent in made and path.parent != in_folder)
    created = f" (new: {', '.join(f'{folder}/' for folder in new)})" if new else ""
    print_lines(f"wrote {', '.join(parts)}{created}")


def give_result(content: "Mapping[str, Any]", json: Path | None) -> None:
    """Write the figures of a command as JSON, where a file is given, and as an event."""
    if json is not None:
        write_json(json, content)
    session.event("result", result=content)


def print_next(*words: str | Path, folder: Path | None = None, to_errors: bool = False) -> None:
    """Print the command that usually comes next, quoted for a shell; nothing with ``--quiet``.

    Words in capitals stand for what the user has to fill in.

    Args:
        words: of the command, without ``quantkit``.
        folder: where it is to be run, if not here.
        to_errors: print on standard error, where standard output is for other programs.
    """
    command = shlex.join(["quantkit", *map(str, words)])
    if folder is not None:
        command = f"{shlex.join(['cd', str(folder)])} && {command}"
    session.event("next", command=command)
    if session.quiet or (to_errors and session.events_on_stderr):
        return
    (errors if to_errors else console).print(f"next: {command}", soft_wrap=True, markup=False)


def print_configuration(settings: "Mapping[str, Setting]") -> None:
    """Print the effective settings of a command, one per line, with the sources of those that are no defaults.

    They go to standard error; nothing is printed with ``--quiet``.
    """
    if not settings:
        return
    from quantkit.config.settings import setting_text

    texts = {name: setting_text(one.value) for name, one in settings.items()}
    sources = {name: one.source for name, one in settings.items() if one.source}
    session.event("configuration", values=texts, sources=sources)
    if session.quiet or session.events_on_stderr:
        return
    width = max(map(len, texts))
    for name, text in texts.items():
        source = f"  ({sources[name]})" if name in sources else ""
        errors.print(f"{name:{width}}  {text}{source}", soft_wrap=True, markup=False, style="dim")


def print_selection(selection: "MethodSelection | None") -> None:
    """Print the comparison by which method ``auto`` chose a method; nothing where it compared none, or ``--quiet``."""
    if selection is None or not selection.results:
        return
    session.event("method_selection", **selection.to_json())
    if session.quiet:
        return
    from quantkit.report.tables import plain_table

    title = "Method auto: distance from fp32 (chosen: 1) on calibration images held back"
    title = f"{title}{', biases as if corrected' if selection.corrected else ''}"
    table = plain_table(title, ["method"], ("images", "distance", "SQNR, dB", "agree"))
    table.add_column("outcome")
    for row in selection.rows():
        figures = (_figure(row[name], digits) for name, digits in (("distance", 2), ("sqnr_db", 1), ("agreement", 1)))
        table.add_row(row["method"], str(row["images"] or "–"), *figures, row["outcome"])
    console.print(table)


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def print_coverage(covered: "Coverage") -> None:
    """Print how much is int8, as a warning if it is little; with ``--verbose`` also each layer in float."""
    warning = "warning: " if covered.is_low else ""
    print_lines(f"{warning}{covered}", style="yellow" if covered.is_low else None)
    if session.verbose:
        for layer in covered.float_layers:
            print_lines(f"    {layer.name}: {layer.why}", style="dim")


def parse_percent(text: str | None, option: str, *, all_allowed: bool = False) -> float | None:
    """Return the percentage of ``0.5%`` or of the fraction ``0.005``.

    Args:
        text: value of the option, None if it was not given.
        option: name of the option.
        all_allowed: accept 100 %, too.

    Raises:
        UsageError: the text has neither form, or is outside 0 to 100 percent.
    """
    if text is None:
        return None
    try:
        percent = float(text.removesuffix("%")) * (1.0 if text.endswith("%") else 100.0)
    except ValueError:
        raise UsageError(f"invalid percentage {text!r}", where=option, fix="write it as 0.5%") from None
    if not (0.0 <= percent < 100.0 or (all_allowed and percent == 100.0)):
        raise UsageError(f"{text} is not between 0% and 100%", where=option, fix="write half a percent as 0.5%")
    return percent

"""The vendor's text file of results: five lines per image, possibly of several appended runs.

``vamp_npz_decode.py`` overwrites the file; ``classification.py``, which runs the model on images, appends to it. A line
is
``PATH: Relay top-K id: I, prob: P, class name: NAME``.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantkit.data.textfile import read_lines
from quantkit.errors import LabelError, UsageError, VendorFileError

_LINE = re.compile(
    r"(?P<path>.+): Relay top-(?P<k>\d+) id: (?P<id>\d{1,12}), prob: (?P<prob>\S+), class name: ?(?P<name>.*)"
)


@dataclass(frozen=True)
class RelayAnswer:
    """The lines of one image.

    Attributes:
        path: path of the image or its ``.npz``.
        classes: class indices, best first.
        names: their names in the file.
        line: number of the first line, from 1.
    """

    path: str
    classes: tuple[int, ...]
    names: tuple[str, ...]
    line: int


def read_relay(path: Path, run: int | None = None) -> tuple[RelayAnswer, ...]:
    """Read the results of one run.

    Args:
        path: the file.
        run: run to read if several were appended, from 1; negative numbers count from the end.

    Raises:
        VendorFileError: a line has another format; an image has fewer lines than others; the file has several runs and
            ``run`` is None, or they cannot be separated.
        UsageError: there is no such run.
    """
    answers = list(_answers(path))
    if not answers:
        raise VendorFileError("the file is empty", where=path)
    runs = _runs(answers)
    if len(runs) > 1:
        _check_runs(path, runs)
    if run is None and len(runs) > 1:
        sizes = ", ".join(str(len(one)) for one in runs)
        raise VendorFileError(
            f"it has {len(runs)} appended runs (of {sizes} images)",
            where=path,
            fix=f"give --text-run, 1 to {len(runs)} or -1 for the last",
        )
    chosen = _pick(runs, run)
    depth = max(len(answer.classes) for answer in answers)
    short = next((answer for answer in chosen if len(answer.classes) < depth), None)
    if short is not None:
        fault = f"the image {short.path} has {len(short.classes)} lines, and others have {depth}"
        raise VendorFileError(fault, where=path, fix="the file may be truncated; write it again")
    return tuple(chosen)


def is_relay(path: Path) -> bool:
    """Return whether a text file contains results, by its first line.

    Raises:
        VendorFileError: the file cannot be read.
    """
    first = next(iter(numbered_lines(path)), (0, ""))
    return _LINE.fullmatch(first[1]) is not None


def relay_lines(path: str, classes: Sequence[int], scores: Sequence[float], names: Sequence[str]) -> list[str]:
    """Return the lines of an image; the index is used as name of a class without a name."""
    return [
        f"{path}: Relay top-{place} id: {index}, prob: {score:.8f}, class name: {names[place] if names else index}\n"
        for place, (index, score) in enumerate(zip(classes, scores, strict=True))
    ]


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Return the non-blank lines of a text file with their numbers from 1.

    Raises:
        VendorFileError: the file cannot be read.
    """
    try:
        lines = read_lines(path)
    except LabelError as error:
        raise VendorFileError(error.what, where=path, fix=error.fix) from error
    return [(number, line.rstrip()) for number, line in enumerate(lines, start=1) if line.strip()]


def _answers(path: Path) -> Iterator[RelayAnswer]:
    """Yield the lines of each image: consecutive lines with its path and increasing K."""
    image, places, ids, names, first = "", list[int](), list[int](), list[str](), 0
    for number, line in numbered_lines(path):
        match = _LINE.fullmatch(line)
        if match is None:
            raise VendorFileError("no line of the form PATH: Relay top-K id: I, prob: P, ...", where=f"{path}:{number}")
        place = int(match["k"])
        if places and (match["path"] != image or place < places[-1]):
            yield RelayAnswer(image, tuple(ids), tuple(names), first)
            places, ids, names = [], [], []
        if not places:
            image, first = match["path"], number
            if place > 1:
                fault = f"the lines of {image} begin with top-{place}"
                raise VendorFileError(fault, where=f"{path}:{number}", fix="keep the lines of each image together")
        places.append(place)
        ids.append(int(match["id"]))
        names.append(match["name"].strip())
    if places:
        yield RelayAnswer(image, tuple(ids), tuple(names), first)


def _runs(answers: Sequence[RelayAnswer]) -> list[list[RelayAnswer]]:
    """Split results into runs at repeated images: a run has each image once."""
    runs: list[list[RelayAnswer]] = [[]]
    seen: set[str] = set()
    for answer in answers:
        if answer.path in seen:
            runs.append([])
            seen.clear()
        seen.add(answer.path)
        runs[-1].append(answer)
    return runs


def _check_runs(path: Path, runs: Sequence[Sequence[RelayAnswer]]) -> None:
    """Check that the runs have the same images, or that shorter ones ended early.

    Otherwise the first images of a run may have been assigned to the previous run.

    Raises:
        VendorFileError: they have not.
    """
    orders = [[answer.path for answer in run] for run in runs]
    longest = max(orders, key=len)
    for order, run in zip(orders, runs, strict=True):
        if order != longest[: len(order)] and set(order) != set(longest):
            raise VendorFileError(
                "runs over different images were appended, and cannot be separated",
                where=f"{path}:{run[0].line}",
                fix="write each run to a separate file",
            )


def _pick(runs: list[list[RelayAnswer]], run: int | None) -> list[RelayAnswer]:
    position = 1 if run is None else run if run > 0 else len(runs) + 1 + run
    if run == 0 or not 1 <= position <= len(runs):
        raise UsageError(f"there is no run {run} of {len(runs)}", where="--text-run", fix=f"give 1 to {len(runs)}")
    return runs[position - 1]

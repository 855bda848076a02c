"""Refusal of output files that would replace an input of the same command, or another output of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from quantkit.errors import UsageError

_OUTPUTS = ("out", "json", "csv", "markdown", "html", "junit", "log_file", "json_events")
# Written out, since their modules import pydantic, which --help does not need.
_READ_NAMES = ("quantkit.yaml", "run.json")
_READ_SUFFIXES = (".onnx", ".safetensors")
_FIX = "give another name"
_SET_HEADER = b"# quantkit calibration set"


def check_output_files(given: Mapping[str, Any]) -> None:
    """Check that the outputs of a command line replace nothing that quantkit reads.

    Args:
        given: values of arguments and options by parameter name.

    Raises:
        UsageError: an output is also an input or another output, or a report or log would replace a model, statistics,
            a calibration set, a run record or a project file.
    """
    outputs = {name: Path(given[name]) for name in _OUTPUTS if isinstance(given.get(name), str | Path)}
    inputs = [path for name, value in given.items() if name not in outputs for path in _paths(value)]
    seen: dict[Path, str] = {}
    for name, path in outputs.items():
        option = f"--{name.replace('_', '-')}"
        if path.exists() and not path.is_file():  # devices, folders
            continue
        place = path.resolve()
        if place in seen:
            raise UsageError(f"{path} is also given for {seen[place]}", where=option, fix=_FIX)
        seen[place] = option
        if place in inputs:
            raise UsageError(f"{path} is an input of this command and is not overwritten", where=option, fix=_FIX)
        if name != "out" and path.is_file() and _is_read_later(path):
            raise UsageError(f"{path} is a file that quantkit reads and is not overwritten", where=option, fix=_FIX)


def _paths(value: Any) -> Iterator[Path]:
    """Yield the existing files that a value names: a path, ``NAME=PATH``, or a list of these."""
    if isinstance(value, list | tuple):
        for one in value:
            yield from _paths(one)
    elif isinstance(value, str | Path):
        for text in {str(value), str(value).rpartition("=")[2]}:
            try:
                if Path(text).is_file():
                    yield Path(text).resolve()
            except (OSError, ValueError):  # no path: too long, or with a NUL
                continue


def _is_read_later(path: Path) -> bool:
    if path.name in _READ_NAMES or path.suffix in _READ_SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(len(_SET_HEADER)) == _SET_HEADER

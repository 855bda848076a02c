"""The paths in the build files of a run that was moved, or whose model or set was."""

from pathlib import Path

from quantkit.errors import QuantkitError
from quantkit.runs.editable_files import update_written
from quantkit.runs.folder import RunFolder, RunRecord
from quantkit.targets import VACC
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.yaml_nodes import KeyPath
from quantkit.vendors.vacc.yaml_text import dump
from quantkit.workflows.vacc.build_file import (
    ADVISED,
    MATERIALIZED,
    MATERIALIZED_WHOLE,
    build_file_name,
    main_model,
    materialize_command,
)

_CHECKPOINTS: tuple[KeyPath, ...] = (("frontend", "checkpoint"), ("model", "checkpoint"))
_IMAGES: KeyPath = ("dataset", "path")


def update_paths(folder: RunFolder, record: RunRecord) -> tuple[Path, ...]:
    """Put the present paths of models and images into the build files of a run, and return the files that changed.

    Only the lines of the paths change, because the file of a tuned model has more than ``run.json`` says.

    Raises:
        OutputError: a file cannot be written.
    """
    changed = []
    for name in dict.fromkeys((*map(build_file_name, (main_model(record), *record.quantized)), ADVISED)):
        path = folder.path / name
        try:
            document = Document.load(path)
        except QuantkitError:  # not there, or the user's own
            continue
        text = _with_paths(document, folder, record)
        if text != document.text:
            update_written(folder, path, text)
            changed.append(path)
    return tuple(changed)


def _with_paths(document: Document, folder: RunFolder, record: RunRecord) -> str:
    lines = document.text.split("\n")
    for place in _CHECKPOINTS:
        if (old := document.get(place)) is not None:
            _put(lines, document, place, _checkpoint(Path(str(old)), folder, record), comment=None)
    images = Path(str(document.get(_IMAGES)))
    given = record.backends.get(VACC.name, {}).get("calibration_folder")
    if given is None and images.name in (MATERIALIZED, MATERIALIZED_WHOLE):
        own = (folder.path / images.name).resolve()
        left_out = len(record.set.outliers) if own.name == MATERIALIZED else 0
        command = materialize_command(folder, record, own, left_out)
        _put(lines, document, _IMAGES, own, comment=command and f"made by: {command}")
    return "\n".join(lines)


def _checkpoint(old: Path, folder: RunFolder, record: RunRecord) -> Path:
    """Return the present path of a model: an fp32 model of the run, or the original one."""
    if old.name in {made.fp32 for made in record.quantized.values()}:
        return (folder.path / old.name).resolve()
    return old if old.is_file() else Path(record.model.path)


def _put(lines: list[str], document: Document, place: KeyPath, value: Path, *, comment: str | None) -> None:
    """Replace the line of a value, unless it is the same, or the line has anything else, as a user may write it."""
    line, old, key = document.lines.get(place), document.get(place), str(place[-1])
    if line is None or not isinstance(old, str) or old == str(value):
        return
    before = lines[line - 1]
    try:
        alone = Document.parse(before.strip()).data == {key: old}
    except QuantkitError:
        alone = False
    if not alone:
        return
    indent = before[: len(before) - len(before.lstrip())]
    lines[line - 1] = indent + dump({key: str(value)}, None if comment is None else {(key,): comment}).rstrip("\n")

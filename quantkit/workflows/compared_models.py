"""The models of a comparison: how they are named, loaded and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir as ir

from quantkit.engine.classifier import ClassifierFile
from quantkit.errors import UsageError
from quantkit.runs.folder import RunFolder, RunRecord
from quantkit.runs.inputs import read_scored
from quantkit.workflows.vacc.device_results import DeviceResults, card_answers


@dataclass(frozen=True)
class ComparedModel:
    """An ONNX model of a comparison.

    Attributes:
        name: name in the comparison.
        file: the loaded model with its inputs and outputs.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> done = quantkit.compare(["fp32", "kl"], run="run", images="images/test", limit=50, drift_images=0)
        >>> done.subject.path.name
        'mini_iresnet.onnx'
    """

    name: str
    file: ClassifierFile

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.file.path

    @property
    def model(self) -> ir.Model:
        """The model with one float32 NCHW image input and the scores ``[N, classes]`` as first output."""
        return self.file.core


Candidate: TypeAlias = ComparedModel | DeviceResults


def read_candidate(
    model: str | Path,
    folder: RunFolder | None,
    record: RunRecord | None,
    datalist: Path | None,
    output: str | None,
    inputs: Mapping[str, Any] | None,
) -> Candidate:
    """Load a model by its name in the run, its path, ``NAME=PATH``, or ``NAME=DIR`` for results of a card."""
    name, path = _named(model)
    if path is not None and path.suffix != ".onnx" and not path.is_file():
        return card_answers(name, path, datalist)
    if path is None:
        if folder is None or record is None:
            raise UsageError(
                f"{str(model)!r} is not an ONNX file, and no run was given to look up the name",
                fix="give the path of a file that ends in .onnx, or --run",
            )
        path = folder.model(name, record)
    return ComparedModel(name, read_scored(path, record, output, inputs))


def _named(model: str | Path) -> tuple[str, Path | None]:
    """Split a model argument into name and path; a name in the run has no path."""
    path = Path(model)
    if isinstance(model, Path) or path.is_file() or (path.suffix == ".onnx" and "=" not in model):
        return path.stem, path
    name, sign, given = model.partition("=")
    return (name, Path(given)) if sign and name and given else (model, None)


def require_distinct(models: Sequence[str | Path], subjects: Sequence[Candidate]) -> None:
    """Check that the models have distinct names.

    Raises:
        UsageError: two models have the same name.
    """
    named: dict[str, list[str | Path]] = {}
    for model, subject in zip(models, subjects, strict=True):
        named.setdefault(subject.name, []).append(model)
    for name, alike in named.items():
        if len(alike) < 2:
            continue
        if len(set(map(str, alike))) < len(alike):
            raise UsageError(f"the model {name!r} is named twice", fix="name each model once")
        paths = [_named(model)[1] or model for model in alike]
        given = " ".join(f"{name}-{place}={path}" for place, path in enumerate(paths, 1))
        raise UsageError(f"{len(alike)} models have the name {name!r}", fix=f"name them by NAME=PATH, such as {given}")


def is_rescaled(subject: Candidate, folder: RunFolder | None, record: RunRecord | None) -> bool:
    """Return whether a candidate is a tuned model of the run with other inner tensors than fp32."""
    if not isinstance(subject, ComparedModel) or folder is None or record is None:
        return False
    path = subject.path.resolve()
    for entry in record.quantized.values():
        recipe = entry.options.get("recipe")
        if recipe and (folder.path / entry.file).resolve() == path:
            return bool(recipe.get("channel_shift") or recipe.get("equalization") or recipe.get("input_folding"))
    return False

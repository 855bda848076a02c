"""Backends: the files that targets need in addition to the int8 model, and the table of all backends.

`calibrate`, `quantize` and `tune` call every backend after they have written their own files. If a backend cannot write
its files, the workflow fails for the backend's own target; for other targets it returns a note.
"""

import importlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnx_ir as ir

from quantkit.config.method import Method
from quantkit.data.calibration_set import CalibrationSet
from quantkit.graph.qdq.plan import Plan
from quantkit.runs.folder import RunFolder, RunRecord
from quantkit.search.budget import FloatBudget
from quantkit.targets import Target

# Name of the backend -> module and class. The name is also that of its target.
BACKENDS: dict[str, tuple[str, str]] = {"vacc": ("quantkit.workflows.vacc.backend", "VaccBackend")}


@dataclass(frozen=True)
class BackendFiles:
    """Result of a backend.

    Attributes:
        files: the written files.
        notes: remarks for the user.
    """

    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class QuantizedRun:
    """A run with new quantized models, as passed to a backend.

    Attributes:
        folder: run folder, locked; its record is complete.
        name: name of the new model in the run.
        target: target of the new model.
        prepared: the prepared fp32 model.
        calibration_set: the set; None if its images may be missing.
    """

    folder: RunFolder
    name: str
    target: Target
    prepared: ir.Model
    calibration_set: CalibrationSet | None


@dataclass(frozen=True, kw_only=True)
class TunedModel:
    """The result of a search, as passed to a backend.

    Attributes:
        name: name of the model in the run.
        fp32: the rewritten fp32 model, None if the original is kept.
        method: calibration method.
        plan: plan of the int8 model.
    """

    name: str
    fp32: Path | None
    method: Method
    plan: Plan


class Backend(Protocol):
    """The files and limits of a vendor's toolchain.

    Example:
        >>> import quantkit
        >>> backend: quantkit.Backend = quantkit.VaccBackend()
        >>> backend.options_json()
        {}
    """

    @property
    def file_names(self) -> tuple[str, ...]:
        """Names of the files in a run folder that belong to the run, not to one of its models."""

    def options_json(self) -> dict[str, Any]:
        """Return the backend's options as JSON values; ``run.json`` keeps them."""

    def methods(self, candidates: Sequence[Method]) -> tuple[Method, ...]:
        """Return those of the candidates of method ``auto`` that the vendor's compiler has; at least one."""

    def after_quantize(self, run: QuantizedRun) -> BackendFiles:
        """Write or update the files that depend on the quantized models of a run."""

    def after_tune(self, folder: RunFolder, tuned: TunedModel) -> BackendFiles:
        """Write the files that depend on the tuned model of a run; called for the backend's own target only."""

    def update_paths(self, folder: RunFolder) -> tuple[Path, ...]:
        """Update paths in the files of a run that was moved, and return the files that changed."""

    def remove_files(self, folder: RunFolder, models: Collection[str]) -> None:
        """Remove the files of models that are removed from a run, because it gets other inputs."""

    def tune_limits(self, budget: FloatBudget) -> FloatBudget:
        """Restrict a budget of layers in float to what the vendor's compiler supports."""


def run_backends(folder: RunFolder, given: Mapping[str, Backend] | None = None) -> Iterable[Backend]:
    """Return every backend with the given options, else those of the run, else its defaults.

    The options are recorded in the run, so that later commands write the same files.
    """
    record = folder.read()
    backends = dict(given or {})
    for name in BACKENDS.keys() - backends.keys():
        backends[name] = _load(name, record.backends.get(name, {}))
    options = {name: backends[name].options_json() for name in sorted(backends)}
    if options != record.backends:
        folder.write(record.model_copy(update={"backends": options}))
    return backends.values()


def run_backends_of(record: RunRecord | None) -> list[Backend]:
    """Return every backend with the options of a run, else with its defaults; nothing is recorded."""
    options = {} if record is None else record.backends
    return [_load(name, options.get(name, {})) for name in BACKENDS]


def backends_from(**options: Any) -> dict[str, Backend]:
    """Return the backends that options of the command line or project file configure; None keeps a default."""
    given = {name: value for name, value in options.items() if value is not None}
    return {name: _load(name, given) for name in BACKENDS} if given else {}


def backend_of(target: Target, folder: RunFolder) -> Backend | None:
    """Return the backend of a target with the options of a run, None if the target has no backend."""
    if target.name not in BACKENDS:
        return None
    return _load(target.name, folder.read().backends.get(target.name, {}))


def after_quantize(run: QuantizedRun, given: Mapping[str, Backend] | None = None) -> BackendFiles:
    """Let every backend write its files; see `Backend.after_quantize`."""
    done = [backend.after_quantize(run) for backend in run_backends(run.folder, given)]
    return BackendFiles(
        tuple(file for one in done for file in one.files), tuple(note for one in done for note in one.notes)
    )


def _load(name: str, options: Mapping[str, Any]) -> Backend:
    module, attribute = BACKENDS[name]
    backend: Backend = getattr(importlib.import_module(module), attribute).from_json(options)
    return backend

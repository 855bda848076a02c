"""The VACC backend: build files of a run, the calibration set without outliers, limits of a search."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

from quantkit.config.method import Kl, Method, Mse
from quantkit.data.calibration_set import CalibrationSet
from quantkit.errors import QuantkitError
from quantkit.files import write_text
from quantkit.notes import as_note
from quantkit.runs.folder import RunFolder, RunRecord
from quantkit.runs.location import set_of_run
from quantkit.runs.outliers import set_without_outliers
from quantkit.search.budget import FloatBudget
from quantkit.targets import VACC
from quantkit.vendors.vacc.card_preprocessing import card_warning
from quantkit.workflows.backends import BackendFiles, QuantizedRun, TunedModel
from quantkit.workflows.vacc.build_file import (
    CARD_SET,
    VamcOptions,
    build_of_run,
    build_rewritten,
    choices_of_run,
    signature_notes,
    write_vdsp,
)

BUILD_FILE = "vamc.yaml"
TUNED_BUILD_FILE = "vamc-tuned.yaml"
# Layers in float cost time on the card, so a search may use few of them.
MAX_FLOAT_LAYERS = 3


class VaccBackend:
    """Writes ``vamc.yaml`` for every run; its notes are reported if the target of the run is VACC.

    Args:
        options: options of the build file.

    Example:
        >>> import quantkit
        >>> backend = quantkit.VaccBackend(quantkit.VamcOptions(dialect="build"))
        >>> backend.options_json()
        {'dialect': 'build'}
    """

    def __init__(self, options: VamcOptions | None = None) -> None:
        self.options = options or VamcOptions()

    @classmethod
    def from_json(cls, options: Mapping[str, Any]) -> Self:
        """Return the backend with options from ``run.json``."""
        plain = dict(options)
        if plain.get("calibration_folder") is not None:
            plain["calibration_folder"] = Path(plain["calibration_folder"])
        return cls(VamcOptions(**plain))

    def options_json(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as JSON values."""
        defaults = asdict(VamcOptions())
        changed = {name: value for name, value in asdict(self.options).items() if value != defaults[name]}
        return {name: str(value) if isinstance(value, Path) else value for name, value in changed.items()}

    def methods(self, candidates: Sequence[Method]) -> tuple[Method, ...]:
        """Leave out what the compiler cannot be told: other KL divergences than its own, and mse in a build file."""
        known = [method for method in candidates if not isinstance(method, Kl) or method == Kl()]
        if self.options.dialect == "build":
            known = [method for method in known if not isinstance(method, Mse)]
        return tuple(known)

    def after_quantize(self, run: QuantizedRun) -> BackendFiles:
        """Write ``vamc.yaml``, and ``calibration.csv`` if the compiler must not use all images."""
        folder, record = run.folder, run.folder.read()
        path = folder.path / BUILD_FILE
        try:
            build = build_of_run(folder, record, run.prepared, self.options)
            card_set = _write_card_set(folder, record, run.calibration_set)
        except QuantkitError as error:
            path.unlink(missing_ok=True)
            if run.target.name == VACC.name:
                raise
            return BackendFiles((), (f"{BUILD_FILE} was not written: {error}",))
        write_text(path, build.text)
        files, notes = [path], [*build.notes, *signature_notes(record)]
        if card_set is not None:
            files.append(card_set)
            notes.append(f"give the compiler the images of {card_set.name}, without outliers (calib-set materialize)")
        if run.target.name == VACC.name:
            vdsp = write_vdsp(folder, record.pipeline)
            files += [] if vdsp is None else [vdsp]
        else:
            notes = []  # the file contains them as comments
        named = [as_note(note).with_prefix(f"{path.name}: ") for note in notes]
        warning = card_warning(record.pipeline) if run.target.name == VACC.name else None
        return BackendFiles(tuple(files), (*named, *([] if warning is None else [warning])))

    def after_tune(self, folder: RunFolder, tuned: TunedModel) -> BackendFiles:
        """Write ``vamc-tuned.yaml``."""
        record = folder.read()
        checkpoint = tuned.fp32 or Path(record.model.path)
        build = build_rewritten(folder, record, checkpoint, tuned.method, tuned.plan, self.options)
        path = folder.path / TUNED_BUILD_FILE
        write_text(path, build.text)
        named = [as_note(note).with_prefix(f"{path.name}: ") for note in build.notes]
        warning = card_warning(record.pipeline)
        return BackendFiles((path,), (*named, *([] if warning is None else [warning])))

    def tune_limits(self, budget: FloatBudget) -> FloatBudget:
        """Allow convolutions only, the operators of ``skip_conv_layers``, and few of them."""
        layers = MAX_FLOAT_LAYERS if budget.layers is None else budget.layers
        return replace(budget, layers=layers, convs_only=True)


def _write_card_set(folder: RunFolder, record: RunRecord, chosen: CalibrationSet | None) -> Path | None:
    """Write the set for a compiler that calibrates by itself, if it differs from that of the run."""
    path = folder.path / CARD_SET
    if choices_of_run(record).keep_outliers or not record.set.outliers:
        path.unlink(missing_ok=True)
        return None
    set_without_outliers(chosen or set_of_run(record), record.set.outliers).save(path)
    return path

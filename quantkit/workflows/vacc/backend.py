"""The VACC backend: build files of a run, the calibration set without outliers, limits of a search."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

from quantkit.config.method import Kl, Method, Mse
from quantkit.data.calibration_set import CalibrationSet
from quantkit.errors import QuantkitError
from quantkit.notes import as_note
from quantkit.runs.editable_files import is_written, remove_editable, write_editable
from quantkit.runs.folder import RunFolder, RunRecord
from quantkit.runs.location import set_of_run
from quantkit.runs.outliers import set_without_outliers
from quantkit.search.budget import FloatBudget
from quantkit.targets import VACC
from quantkit.vendors.vacc.card_preprocessing import card_warning
from quantkit.vendors.vacc.write import COMPILER_METHODS, VamcOptions
from quantkit.workflows.backends import BackendFiles, QuantizedRun, TunedModel
from quantkit.workflows.vacc.build_file import (
    ADVISED,
    BUILD_FILE,
    CARD_SET,
    VDSP,
    build_file_name,
    build_of_plan,
    build_of_run,
    choices_of_run,
    models_for_card,
    signature_notes,
    write_vdsp,
)
from quantkit.workflows.vacc.moved_run import update_paths

# Layers in float cost time on the card, so a search may use few of them.
MAX_FLOAT_LAYERS = 3


class VaccBackend:
    """Writes the build files of a run; their notes are reported if the target of the run is VACC.

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

    @property
    def file_names(self) -> tuple[str, ...]:
        """The build files, the set without outliers, and the preprocessing for the card."""
        return (BUILD_FILE, ADVISED, CARD_SET, VDSP)

    def options_json(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as JSON values."""
        defaults = asdict(VamcOptions())
        changed = {name: value for name, value in asdict(self.options).items() if value != defaults[name]}
        return {name: str(value) if isinstance(value, Path) else value for name, value in changed.items()}

    def methods(self, candidates: Sequence[Method]) -> tuple[Method, ...]:
        """Leave out what the compiler cannot be told: other KL divergences than its own, and mse in a build file."""
        known = [method for method in candidates if type(method) in COMPILER_METHODS]
        known = [method for method in known if not isinstance(method, Kl) or method == Kl()]
        if self.options.dialect == "build":
            known = [method for method in known if not isinstance(method, Mse)]
        return tuple(known)

    def after_quantize(self, run: QuantizedRun) -> BackendFiles:
        """Write the build files of the run's models, and ``calibration.csv`` if the compiler must not use all images.

        Each model for the card has one; ``vamc.yaml`` is that of ``int8`` until there is ``int8-vacc``. Those of other
        models than the new one change with the options of the backend.
        """
        folder, record, for_card = run.folder, run.folder.read(), run.target.name == VACC.name
        files, notes = [], []
        for model in models_for_card(record):
            path = folder.path / build_file_name(model)
            try:
                build = build_of_run(folder, record, model, run.prepared, self.options)
            except QuantkitError as error:
                notes += remove_editable(folder, path)
                if for_card and model == run.name:
                    raise
                notes.append(f"{path.name} was not written: {error}")
                continue
            if model == run.name or not is_written(folder, path, build.text):
                notes += write_editable(folder, path, build.text)
                files.append(path)
            if for_card and model == run.name:  # in other runs the file contains them as comments
                said = (*build.notes, *signature_notes(record))
                notes += [as_note(note).with_prefix(f"{path.name}: ") for note in said]
        try:
            card_set = _write_card_set(folder, record, run.calibration_set) if files else None
        except QuantkitError as error:
            if for_card:
                raise
            card_set = None
            notes.append(f"{CARD_SET} was not written: {error}")
        files += [] if card_set is None else [card_set]
        if for_card:
            if card_set is not None and not choices_of_run(record, run.name).keep_outliers:
                notes.append(f"give the compiler the images of {CARD_SET}, without outliers (calib-set materialize)")
            vdsp, edited = write_vdsp(folder, record.pipeline)
            files += [] if vdsp is None else [vdsp]
            notes += edited
            warning = card_warning(record.pipeline)
            notes += [] if warning is None else [warning]
        return BackendFiles(tuple(files), tuple(notes))

    def after_tune(self, folder: RunFolder, tuned: TunedModel) -> BackendFiles:
        """Write the build file of the tuned model, ``vamc-tuned.yaml`` for ``int8-vacc-tuned``."""
        record = folder.read()
        checkpoint = tuned.fp32 or Path(record.model.path)
        build = build_of_plan(folder, record, tuned.name, tuned.method, tuned.plan, self.options, checkpoint)
        path = folder.path / build_file_name(tuned.name)
        edited = write_editable(folder, path, build.text)
        named = [as_note(note).with_prefix(f"{path.name}: ") for note in build.notes]
        warning = card_warning(record.pipeline)
        return BackendFiles((path,), (*edited, *named, *([] if warning is None else [warning])))

    def update_paths(self, folder: RunFolder) -> tuple[Path, ...]:
        """Put the present paths of models and images into the build files."""
        return update_paths(folder, folder.read())

    def remove_files(self, folder: RunFolder, models: Collection[str]) -> None:
        """Remove the files of models that are removed from a run: their build files, and those of the whole run."""
        for name in (*self.file_names, *map(build_file_name, models)):
            remove_editable(folder, folder.path / name)

    def tune_limits(self, budget: FloatBudget) -> FloatBudget:
        """Allow convolutions only, the operators of ``skip_conv_layers``, and few of them."""
        layers = MAX_FLOAT_LAYERS if budget.layers is None else budget.layers
        return replace(budget, layers=layers, convs_only=True)


def _write_card_set(folder: RunFolder, record: RunRecord, chosen: CalibrationSet | None) -> Path | None:
    """Write the set for a compiler that calibrates by itself, if one of its models is to be without outliers."""
    path = folder.path / CARD_SET
    without = [name for name in models_for_card(record) if not choices_of_run(record, name).keep_outliers]
    if not without or not record.set.outliers:
        path.unlink(missing_ok=True)
        return None
    if chosen is None and path.is_file():  # of the same set
        return path
    set_without_outliers(chosen or set_of_run(record), record.set.outliers).save(path)
    return path

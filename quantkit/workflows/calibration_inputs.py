"""The inputs of a calibration, and the record of its run: model, set, and what they replace."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from quantkit import __version__
from quantkit.config.pipeline import Pipeline
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.given_set import SetLike, given_set
from quantkit.data.overlap import digest_of
from quantkit.data.parallel import map_in_order
from quantkit.data.source import ImageSource
from quantkit.engine.classifier import ClassifierFile, PreparedClassifier, read_classifier
from quantkit.engine.device import Device
from quantkit.engine.placement import DevicePlacement, placement_of
from quantkit.errors import CalibrationSetError, UsageError
from quantkit.graph.fixed_inputs import to_json
from quantkit.graph.model import model_digest
from quantkit.graph.qdq.taps import Taps, observed_tensors
from quantkit.runs.folder import ModelRecord, RunFolder, RunRecord, SetRecord
from quantkit.stats.file import Statistics
from quantkit.targets import Target
from quantkit.workflows.backends import run_backends, run_backends_of
from quantkit.workflows.quantized_files import int8_name, ranges_path, remove_model


@dataclass(frozen=True)
class CalibratedModel:
    """The model of a pass, loaded and prepared."""

    file: ClassifierFile
    record: ModelRecord
    prepared: PreparedClassifier
    observed: Taps


@dataclass(frozen=True)
class CalibrationInputs:
    """What a calibration depends on.

    Attributes:
        model: the model.
        set: the calibration set.
        manifest: path of the file of the set, empty if it was given as a value.
        pipeline: preprocessing.
    """

    model: CalibratedModel
    set: CalibrationSet
    manifest: str
    pipeline: Pipeline

    @property
    def images(self) -> ImageSource:
        """The images of the set, with their labels where it has any."""
        return ImageSource(self.set.root, self.set.items, labels=self.set.labels, array_shape=self.set.array_shape)


def read_calibrated_model(path: Path, output: str | None, inputs: Mapping[str, Any] | None) -> CalibratedModel:
    """Return the model of a calibration, prepared, with its record.

    Raises:
        ModelError: the file cannot be read, or is no image classifier.
    """
    file = read_classifier(path, output=output, inputs=inputs)
    prepared, image = file.prepared(), file.signature.image
    record = ModelRecord(
        path=str(path.resolve()),
        sha256=model_digest(path),
        input=image.name,
        shape=(image.batch, image.channels, image.height, image.width),
        output=file.signature.scores.name,
        classes=file.signature.scores.classes,
        layout=image.layout,
        dtype=image.type_name,
        inputs=to_json(file.signature.fixed),
    )
    return CalibratedModel(file, record, prepared, observed_tensors(prepared.model))


def read_calibration_set(given: SetLike) -> tuple[CalibrationSet, str]:
    """Return the calibration set, and the path of its file; empty if the set was given as a value.

    Raises:
        CalibrationSetError: the set is empty, or an image is missing or has changed.
    """
    chosen = given_set(given)
    manifest = str(Path(given).resolve()) if isinstance(given, str | os.PathLike) else ""
    if not chosen.images:
        raise CalibrationSetError("the set is empty", where=manifest or chosen.root)
    if not chosen.is_rebuilt:
        raise CalibrationSetError(
            "the set was selected from labels alone", where=manifest, fix="run quantkit calib-set rebuild first"
        )
    missing = [item for item in chosen.items if not item.exists()]
    if missing:
        raise CalibrationSetError(
            f"{len(missing)} of {len(chosen)} images of the set are missing, {missing[0].id} first",
            where=chosen.root,
            fix="restore them, or build the set again",
        )
    digests = map_in_order(digest_of, chosen.items)
    for item, image, digest in zip(chosen.items, chosen.images, digests, strict=True):
        if digest != image.sha256:
            raise CalibrationSetError(
                "the image has changed since the set was built",
                where=item.where,
                fix="build the set again",
            )
    return chosen, manifest


def refuse_foreign_files(
    folder: RunFolder, inputs: CalibrationInputs, target: Target, before: RunRecord | None, fresh: bool
) -> None:
    """Refuse to replace files that no calibration wrote, and the set itself.

    Raises:
        UsageError: a file that the calibration would write or remove is the manifest of the set, or is there although
            the folder is no run.
    """
    names = [f"{int8_name(target)}.onnx", ranges_path(folder, int8_name(target)).name]
    names += [name for backend in run_backends_of(before) for name in backend.file_names]
    taken = [name for name in dict.fromkeys(names) if (folder.path / name).exists()]
    if inputs.manifest and any((folder.path / name).resolve() == Path(inputs.manifest).resolve() for name in taken):
        raise UsageError(
            "the calibration set has the name of a file of the run, which would replace it",
            where=inputs.manifest,
            fix="give it another name, or give another --run",
        )
    if before is None and taken and not fresh:
        raise UsageError(
            f"this is not a run folder, and its {', '.join(taken)} would be replaced",
            where=folder.path,
            fix="give another --run, or --fresh to replace them",
        )


def changed_inputs(before: RunRecord, inputs: CalibrationInputs) -> list[str]:
    """Return the inputs of a run that differ from the new ones."""
    model = inputs.model.record
    changed = {
        f"model ({Path(before.model.path).name})": before.model.key != model.key,
        f"output ({before.model.output})": before.model.output != model.output,
        f"calibration set ({before.set.images} images)": before.set.digest != inputs.set.digest,
        "preprocessing": before.pipeline != inputs.pipeline,
    }
    return [what for what, differs in changed.items() if differs]


def remove_replaced_models(folder: RunFolder, before: RunRecord, replaced: list[str], fresh: bool) -> None:
    """Remove the models of a run that is recreated from other inputs, with their tables and vendors' files.

    Raises:
        UsageError: ``fresh`` is not given.
    """
    if not fresh:
        raise UsageError(
            f"this run has another {' and another '.join(replaced)}",
            where=folder.path,
            fix="give another --run, or --fresh to replace this one",
        )
    for name, made in before.quantized.items():
        ranges_path(folder, name).unlink(missing_ok=True)
        for file in (made.file, made.fp32):
            if file is not None and (path := folder.path / file).parent == folder.path:
                remove_model(path)
    for backend in run_backends(folder):
        backend.remove_files(folder, before.quantized)


def new_record(
    inputs: CalibrationInputs,
    statistics: Statistics,
    placement: DevicePlacement | None,
    before: RunRecord | None,
    *,
    replaced: bool,
) -> RunRecord:
    """Return the record of a run after its pass.

    Args:
        inputs: model, set and preprocessing.
        statistics: of the pass.
        placement: where the pass ran, None if cached statistics are used.
        before: the previous record of the run; its files of other targets stay, unless the run has new inputs.
        replaced: the run has other inputs than before.
    """
    chosen = inputs.set
    record = RunRecord(
        quantkit=__version__,
        model=inputs.model.record,
        set=SetRecord(
            path=inputs.manifest,
            digest=chosen.digest,
            images=len(chosen),
            images_used=len(statistics.images),
            outliers=statistics.outlier_images,
            suffix=min(PurePosixPath(image.name).suffix.removeprefix(".") for image in chosen.images),
            array_shape=chosen.array_shape,
        ),
        pipeline=inputs.pipeline,
        observed_on=_observed_on(placement, statistics, before),
    )
    if before is None:
        return record
    kept: dict[str, Any] = {"backends": before.backends, "written": before.written}
    if not replaced:
        kept |= {"quantized": before.quantized, "configuration": before.configuration}
    return record.model_copy(update=kept)


def _observed_on(placement: DevicePlacement | None, statistics: Statistics, before: RunRecord | None) -> dict[str, Any]:
    """Return where the pass ran: this one, or the one before whose statistics are used again."""
    made = statistics.provenance
    if placement is not None:
        return placement.to_json()
    if before is not None and before.observed_on:
        return before.observed_on
    device = Device.parse(made.device.partition(" ")[0])
    return replace(placement_of(None, device), onnxruntime=made.onnxruntime).to_json()

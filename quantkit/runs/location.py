"""Where the files of a run are now: a run folder can be moved or copied, with its model, set and images or without.

``run.json`` names each file by its path relative to the run folder and by its absolute path. Whichever exists is used;
where neither does, `RunFolder.read` looks for a file of the same digest beside the run folder and in the current
folder. `relink` records a new place.
"""

from pathlib import Path

from quantkit.config.arguments import AnyPath, as_path, optional_path
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.source import Location, is_url
from quantkit.errors import CalibrationSetError, ProvenanceError
from quantkit.graph.model import model_digest
from quantkit.runs.folder import RunFolder, RunRecord, SetRecord

RELINK = "quantkit relink"


def set_of_run(record: RunRecord, given: CalibrationSet | None = None) -> CalibrationSet:
    """Return the calibration set of a run, as it was when the run was calibrated.

    Args:
        record: of the run.
        given: the set, for a run that does not know its place, such as one of arrays; it is compared by digest.

    Raises:
        CalibrationSetError: the run has no manifest, or the manifest is missing, damaged, or of another set.
    """
    if given is not None:
        if given.digest != record.set.digest:
            raise CalibrationSetError(
                "the calibration set is not the one of the run", where=given.root, fix="give the images of calibrate"
            )
        return given
    if not record.set.path:
        raise CalibrationSetError("the calibration set of the run was never saved", fix="calibrate with a saved set")
    path = Path(record.set.path)
    if not path.is_file():
        raise CalibrationSetError(
            "the calibration set of the run is missing", where=path, fix=f"put it back, or say {RELINK} RUN --set FILE"
        )
    chosen = CalibrationSet.load(path, record.set.images_root or None)
    if chosen.digest != record.set.digest:
        raise CalibrationSetError(
            "the calibration set is not the one of the run", where=path, fix="run quantkit calibrate again"
        )
    return chosen


def find_set(record: RunRecord | None) -> CalibrationSet | None:
    """Return the calibration set of a run, None where it cannot be found or has changed."""
    try:
        return None if record is None else set_of_run(record)
    except CalibrationSetError:
        return None


def relink(
    run: AnyPath, *, model: AnyPath | None = None, set_: AnyPath | None = None, images: AnyPath | None = None
) -> RunRecord:
    """Record where the model, the calibration set or its images are now, after a check by digest.

    Args:
        run: run folder.
        model: the fp32 model.
        set_: manifest of the calibration set.
        images: place of the calibration images: a folder, an archive, shards or a URL.

    Raises:
        UsageError: this is no run folder.
        ProvenanceError: a file is not the one of the run.
        ModelError: the model cannot be read.
        CalibrationSetError: the manifest is damaged, or an image is missing or changed.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> record = quantkit.relink("run", model="mini_iresnet.onnx")
        >>> record.model.classes
        10
    """
    folder = RunFolder(as_path(run, "run"))
    model, set_ = optional_path(model, "model"), optional_path(set_, "set_")
    place: Location | None = images if isinstance(images, str) and is_url(images) else optional_path(images, "images")
    with folder.locked():
        record = folder.read()
        if model is not None:
            if model_digest(model) != record.model.sha256:
                raise ProvenanceError("this is not the model of the run", where=model, fix="calibrate it anew")
            record = record.model_copy(update={"model": record.model.model_copy(update={"path": str(model.resolve())})})
        if set_ is not None or place is not None:
            record = record.model_copy(update={"set": _relinked_set(record, set_, place)})
        folder.write(record)
    return record


def _relinked_set(record: RunRecord, set_: Path | None, images: Location | None) -> SetRecord:
    changes = {}
    if set_ is not None:
        changes["path"] = str(set_.resolve())
    if images is not None:
        changes["images_root"] = str(images) if is_url(images) else str(Path(images).resolve())
    changed = record.set.model_copy(update=changes)
    chosen = set_of_run(record.model_copy(update={"set": changed}))
    if images is not None and (faults := chosen.verify()):
        raise CalibrationSetError(
            f"{len(faults)} of {len(chosen)} images are missing or changed, {faults[0].name} first ({faults[0].why})",
            where=images,
            fix="give the folder or archive that the set's names are of",
        )
    return changed

"""Locates the files of a run that was moved or copied, with or without its model, set and images.

``run.json`` has the path of each file relative to the run folder and its absolute path. The one that exists is used; if
neither does, `RunFolder.read` searches a file with the same digest in the parent folder of the run and in the current
folder. `relink` records a new location.
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
    """Return the calibration set of a run, after checking that it has not changed since the calibration.

    Args:
        record: record of the run.
        given: the set, for a run that does not know its location, such as one of arrays; it is compared by digest.

    Raises:
        CalibrationSetError: the run has no manifest, or the manifest is missing, damaged or changed.
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
            "the calibration set of the run is missing", where=path, fix=f"restore it, or run {RELINK} RUN --set FILE"
        )
    chosen = CalibrationSet.load(path, record.set.images_root or None)
    if chosen.digest != record.set.digest:
        raise CalibrationSetError(
            "the calibration set is not the one of the run", where=path, fix="run quantkit calibrate again"
        )
    return chosen


def find_set(record: RunRecord | None) -> CalibrationSet | None:
    """Return the calibration set of a run, None if it cannot be found or has changed."""
    try:
        return None if record is None else set_of_run(record)
    except CalibrationSetError:
        return None


def relink(
    run: AnyPath, *, model: AnyPath | None = None, set_: AnyPath | None = None, images: AnyPath | None = None
) -> RunRecord:
    """Record new locations of the model, the calibration set or its images, after checking their digests.

    Args:
        run: run folder.
        model: the fp32 model.
        set_: manifest of the calibration set.
        images: location of the calibration images: a folder, an archive, shards or a URL.

    Raises:
        UsageError: this is not a run folder.
        ProvenanceError: a file is not that of the run.
        ModelError: the model cannot be read.
        CalibrationSetError: the manifest is damaged, or an image is missing or changed.

    Example:
        In the folder written by ``quantkit demo``:

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
                raise ProvenanceError("this is not the model of the run", where=model, fix="calibrate it in a new run")
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
            fix="give the folder or archive that the set was built from",
        )
    return changed

"""``quantkit relink``: records where the model, set and images of a run are, and updates its vendors' files."""

from pathlib import Path

from quantkit.config.arguments import AnyPath, as_path, optional_path
from quantkit.data.source import Location, is_url
from quantkit.errors import CalibrationSetError, ProvenanceError
from quantkit.graph.model import model_digest
from quantkit.runs.folder import RECORD, RunFolder, RunRecord, SetRecord
from quantkit.runs.location import set_of_run
from quantkit.workflows.backends import run_backends


def relink(
    run: AnyPath, *, model: AnyPath | None = None, set_: AnyPath | None = None, images: AnyPath | None = None
) -> RunRecord:
    """Record the locations of the model, the calibration set and its images, after checking their digests.

    Where none is given, those where they are found now are recorded. The build files of the run get the new paths.

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
        OutputError: a file of the run cannot be written.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> record = quantkit.relink("run", model="mini_iresnet.onnx")
        >>> record.model.classes
        10
    """
    return relink_run(run, model=model, set_=set_, images=images)[0]


def relink_run(
    run: AnyPath, *, model: AnyPath | None = None, set_: AnyPath | None = None, images: AnyPath | None = None
) -> tuple[RunRecord, tuple[Path, ...]]:
    """Record locations as `relink`, and return the record and the files that were written."""
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
        files = [file for backend in run_backends(folder) for file in backend.update_paths(folder)]
    return record, (folder.path / RECORD, *files)


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

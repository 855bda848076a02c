"""Locates the files of a run that was moved or copied, with or without its model, set and images.

``run.json`` has the path of each file relative to the run folder and its absolute path. The one that exists is used; if
neither does, `RunFolder.read` searches a file with the same digest in the parent folder of the run and in the current
folder. `relink` records a new location.
"""

from pathlib import Path

from quantkit.data.calibration_set import CalibrationSet
from quantkit.errors import CalibrationSetError
from quantkit.runs.folder import RunRecord

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

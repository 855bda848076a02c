"""Outlier images, with activations far beyond those of all others: notes, and the set without them."""

from collections.abc import Collection
from dataclasses import replace

from quantkit.config.method import Method
from quantkit.data.calibration_set import CalibrationSet, LeftOut
from quantkit.runs.folder import RunRecord
from quantkit.runs.location import find_set
from quantkit.stats.file import Statistics
from quantkit.targets import Target

_NAMED = 3


def outlier_note(
    statistics: Statistics, method: Method, target: Target, record: RunRecord, chosen: CalibrationSet | None = None
) -> str | None:
    """Return a note on outlier images and their effect on the ranges of a method; None if there are none.

    Args:
        statistics: statistics of the run.
        method: calibration method.
        target: target of the ranges.
        record: record of the run.
        chosen: its calibration set; looked for where the record says it is by default.
    """
    if not statistics.outliers:
        return None
    far, count = statistics.outlier_ratio[list(statistics.outliers)].max(), len(statistics.outliers)
    which = f"{count} of {len(statistics.images)} images"
    names = _names(statistics.outlier_images, record, chosen)
    found = f"{which} have activations up to {far:.0f} times as large as the median image ({names})"
    if statistics.for_ranges(method, target) is statistics.tensors:
        return f"{found}: this method includes them"
    return f"{found}: they are excluded from the ranges, unless --keep-outliers is given"


def set_without_outliers(chosen: CalibrationSet, outliers: Collection[str]) -> CalibrationSet:
    """Return a set without its outlier images, given by sha256."""
    kept = tuple(image for image in chosen.images if image.sha256 not in outliers)
    reason = "its activations are far beyond those of all other images"
    odd = tuple(LeftOut(image.name, reason) for image in chosen.images if image.sha256 in outliers)
    return replace(chosen, images=kept, left_out=(*chosen.left_out, *odd))


def _names(digests: tuple[str, ...], record: RunRecord, chosen: CalibrationSet | None) -> str:
    chosen = chosen or find_set(record)
    name_of = {} if chosen is None else {image.sha256: image.name for image in chosen.images}
    names = [name_of.get(digest, digest[:12]) for digest in digests]
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")

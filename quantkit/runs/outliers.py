"""Images whose activations lie far beyond those of all others: what is told of them, and the set without them."""

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
    """Return which images outlie and what that means for the ranges of a method; None where none do.

    Args:
        statistics: of the run.
        method: how ranges are set.
        target: what they are set for.
        record: of the run.
        chosen: its calibration set; looked for where the record says it is when absent.
    """
    if not statistics.outliers:
        return None
    far, count = statistics.outlier_ratio[list(statistics.outliers)].max(), len(statistics.outliers)
    which = f"{count} of {len(statistics.images)} images"
    names = _names(statistics.outlier_images, record, chosen)
    found = f"{which} drive activations up to {far:.0f} times as far as the median image does ({names})"
    if statistics.for_ranges(method, target) is statistics.tensors:
        return f"{found}: this method counts them"
    return f"{found}: ranges leave out what only they reach, unless --keep-outliers is given"


def set_without_outliers(chosen: CalibrationSet, outliers: Collection[str]) -> CalibrationSet:
    """Return a set without the images that outlie, by sha256."""
    kept = tuple(image for image in chosen.images if image.sha256 not in outliers)
    reason = "it drives activations far beyond those of all other images"
    odd = tuple(LeftOut(image.name, reason) for image in chosen.images if image.sha256 in outliers)
    return replace(chosen, images=kept, left_out=(*chosen.left_out, *odd))


def _names(digests: tuple[str, ...], record: RunRecord, chosen: CalibrationSet | None) -> str:
    chosen = chosen or find_set(record)
    name_of = {} if chosen is None else {image.sha256: image.name for image in chosen.images}
    names = [name_of.get(digest, digest[:12]) for digest in digests]
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")

"""Selection of evaluation images, and warnings about them."""

from pathlib import Path

from quantkit.config.arguments import AnyPath, optional_path, path_or
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.folder import find_labelled_images
from quantkit.data.overlap import overlap
from quantkit.data.source import ImageSource, Location
from quantkit.data.sources.open import ImagesLike
from quantkit.errors import CalibrationSetError, LabelError, ModelError, UsageError
from quantkit.runs.folder import RunRecord
from quantkit.runs.location import find_set


def evaluation_images(
    images: ImagesLike | None,
    labels: AnyPath | None,
    names: AnyPath | None,
    exclude: AnyPath | CalibrationSet | None,
    record: RunRecord | None,
    limit: int | None = None,
) -> tuple[ImageSource, list[str]]:
    """Return the evaluation images, at most ``limit`` of them, and warnings about those.

    Raises:
        UsageError: no images are given, or ``limit`` is less than 1.
        CalibrationSetError: there are no images, or none outside the calibration set.
        LabelError: labels are missing or malformed.
    """
    calibration = find_set(record)
    if exclude is not None:
        taken_out = path_or(CalibrationSet, exclude, "exclude")
        exclude = CalibrationSet.load(taken_out) if isinstance(taken_out, Path) else taken_out
    drawn_by = None
    if images is None:
        if calibration is None:
            raise UsageError("no evaluation images were given", fix="give --images")
        images, exclude, drawn_by = calibration.source_of_images(), exclude or calibration, calibration.source
    found = find_labelled_images(images, optional_path(labels, "labels"), optional_path(names, "names"))
    warnings = list(found.warnings)
    if drawn_by is not None and drawn_by.startswith("label file") and drawn_by != found.source:
        warnings.append(
            f"the labels come from {found.source}, and those of the calibration set from {drawn_by}; give it with "
            "--labels, if it is right"
        )
    if exclude is not None:
        taken = set(overlap(exclude, found.items))
        found = found.only([index for index in range(len(found.names)) if index not in taken])
        if not found.names:
            raise CalibrationSetError(
                "all images are in the calibration set",
                where=found.root,
                fix="give other --images, or calibrate on fewer (--count)",
            )
    found = limited(found, limit)
    if exclude is None and calibration is not None and (shared := overlap(calibration, found.items)):
        warnings.append(
            f"{len(shared):,} of {len(found.names):,} images are in the calibration set too, which makes int8 "
            "look better than it is; leave them out with --exclude"
        )
    return found, warnings


def check_labels(found: ImageSource, classes: int | None, where: Location) -> None:
    """Check that a model has a class for every label.

    Args:
        found: labelled images.
        classes: number of classes of the model, None if unknown.
        where: location for the error message.

    Raises:
        ModelError: the model has one score, of which no class is the highest.
        LabelError: a label is out of range.
    """
    if classes == 1:
        raise ModelError(
            "the model has one score for each image, and accuracy needs one for each class",
            where=where,
            fix="export it with two scores, such as 1 - p and p",
        )
    assert found.labels is not None
    greatest = int(found.labels.max())
    if classes is not None and greatest >= classes:
        raise LabelError(
            f"the labels go up to {greatest}, and the model has {classes} classes",
            where=where,
            fix=f"the labels are those of: {found.source}; give images of the model's data set, or --labels from 0",
        )


def limited(found: ImageSource, limit: int | None) -> ImageSource:
    """Return at most ``limit`` images, evenly spaced in the order of their names, and so over the classes.

    Raises:
        UsageError: ``limit`` is less than 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"{limit} images cannot be evaluated", where="--limit", fix="give at least 1")
    count = len(found.names)
    kept = count if limit is None else min(limit, count)
    return found.only([place * count // kept for place in range(kept)])

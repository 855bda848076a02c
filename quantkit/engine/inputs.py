"""Checks that arrays and preprocessing fit a model."""

from quantkit.config.pipeline import READY_ARRAYS, Pipeline
from quantkit.errors import ImageError, UsageError
from quantkit.graph.image_input import ImageInput


def used_pipeline(pipeline: Pipeline | None, array_shape: tuple[int, int, int] | None) -> Pipeline:
    """Return the preprocessing of images; none for arrays.

    Args:
        pipeline: the given preprocessing, or None.
        array_shape: shape of arrays, None for encoded images.

    Raises:
        UsageError: the images are encoded, and no preprocessing is given.
    """
    if array_shape is not None:
        return READY_ARRAYS
    if pipeline is None:
        raise UsageError("no preprocessing was given", fix="give --preset, or --run of a calibrated run")
    return pipeline


def check_arrays(array_shape: tuple[int, int, int] | None, image: ImageInput, where: object) -> None:
    """Check that arrays have the shape of a model's input; encoded images are not checked.

    Raises:
        ImageError: they have another shape.
    """
    if array_shape is None:
        return
    wanted = (image.channels, image.height, image.width)
    if any(side is not None and side != given for side, given in zip(wanted, array_shape, strict=True)):
        shown = ", ".join("any" if side is None else str(side) for side in wanted)
        raise ImageError(
            f"the arrays have shape {list(array_shape)}, and the model needs [{shown}]",
            where=where,
            fix="preprocess them as in training",
        )

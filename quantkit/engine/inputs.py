"""What a model reads, and whether ready arrays and preprocessing are that."""

from quantkit.config.pipeline import READY_ARRAYS, Pipeline
from quantkit.errors import ImageError, UsageError
from quantkit.graph.image_input import ImageInput


def used_pipeline(pipeline: Pipeline | None, array_shape: tuple[int, int, int] | None) -> Pipeline:
    """Return the preprocessing that images go through: none for ready arrays.

    Args:
        pipeline: the one given, or None.
        array_shape: of ready arrays, None for pictures.

    Raises:
        UsageError: pictures, and no preprocessing was given.
    """
    if array_shape is not None:
        return READY_ARRAYS
    if pipeline is None:
        raise UsageError("nothing says how images are preprocessed", fix="give --preset, or --run of a calibrated run")
    return pipeline


def check_arrays(array_shape: tuple[int, int, int] | None, image: ImageInput, where: object) -> None:
    """Check that ready arrays have the shape that a model reads; nothing to check for pictures.

    Raises:
        ImageError: they have another.
    """
    if array_shape is None:
        return
    wanted = (image.channels, image.height, image.width)
    if any(side is not None and side != given for side, given in zip(wanted, array_shape, strict=True)):
        shown = ", ".join("any" if side is None else str(side) for side in wanted)
        raise ImageError(
            f"arrays of shape {list(array_shape)} where the model reads [{shown}]",
            where=where,
            fix="preprocess them as the model was trained",
        )

"""What the card makes of a preprocessing pipeline: the differences, and whether it can run it at all.

The card runs one fused operation on decoded pictures (see `quantkit.vendors.vacc.vdsp`): one resize to
``[height, width]``, at most one crop from the middle, normalization in half precision. Calibration on other pixels than
the card computes finds ranges for values that the card never sees.
"""

from collections.abc import Iterator

from quantkit.config.pipeline import PRESETS, Normalize, Pipeline, Resize, ToTensor
from quantkit.errors import VendorFileError
from quantkit.vendors.vacc.vdsp import vdsp_from_pipeline

CARD_PRESET = "vacc"


def card_differences(pipeline: Pipeline) -> tuple[str, ...]:
    """Return where the card's fused preprocessing differs from a pipeline, as sentences about the card.

    Rounding mean and std to half precision is not among them: it moves no value by more than a small part of an 8-bit
    level.

    Raises:
        VendorFileError: the fused operation cannot run the pipeline.
    """
    return tuple(_differences(pipeline))


def card_warning(pipeline: Pipeline) -> str | None:
    """Return a warning where the card cannot run a pipeline, or runs another one, with the fix; None where it fits."""
    try:
        differences = card_differences(pipeline)
    except VendorFileError as error:
        return f"the card cannot run this preprocessing: {error.what}; {_fix(pipeline)}"
    if not differences:
        return None
    return f"the card does not compute this preprocessing: {'; '.join(differences)}; {_fix(pipeline)}"


def _differences(pipeline: Pipeline) -> Iterator[str]:
    writing = vdsp_from_pipeline(pipeline)
    for op in pipeline.ops:
        if not isinstance(op, Resize):
            continue
        if isinstance(op.size, int):
            yield f"it squashes pictures to {op.size} x {op.size} where resize {op.size} keeps their aspect"
        if op.antialias:
            # BILINEAR_PILLOW exists, in one of the fifty public files; whether it antialiases is not known.
            yield "it resizes without antialias, as all but one of the vendor's public files state"
    yield from (note for note in writing.notes if note.startswith("the crop"))


def _fix(pipeline: Pipeline) -> str:
    card = PRESETS[CARD_PRESET]
    scaling, card_scaling = ([op for op in one.ops if isinstance(op, ToTensor | Normalize)] for one in (pipeline, card))
    same_result = scaling == card_scaling and pipeline.output_size == card.output_size
    if same_result and pipeline.decode.mode == card.decode.mode:
        return f"--preset {CARD_PRESET} is what it computes"
    return "resize to [height, width] with antialias: false, or calibrate on ready tensors (quantkit vamc tensors)"

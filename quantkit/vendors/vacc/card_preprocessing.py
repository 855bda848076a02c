"""Differences between a preprocessing pipeline and the card's fused preprocessing.

The card runs one fused operation on decoded images (see `quantkit.vendors.vacc.vdsp`): one resize to
``[height, width]``, at most one center crop, and normalization in half precision. Calibration with other preprocessing
finds ranges of values that do not occur on the card.
"""

from collections.abc import Iterator

from quantkit.config.pipeline import PRESETS, Normalize, Pipeline, Resize, ToTensor
from quantkit.errors import VendorFileError
from quantkit.notes import Note, NoteKind
from quantkit.vendors.vacc.vdsp import vdsp_from_pipeline

CARD_PRESET = "vacc"


def card_differences(pipeline: Pipeline) -> tuple[str, ...]:
    """Return the differences of the card's fused preprocessing from a pipeline, as sentences.

    Rounding mean and std to half precision is not included, because it changes values only by a small fraction of an
    8-bit level.

    Raises:
        VendorFileError: the fused operation cannot run the pipeline.
    """
    return tuple(_differences(pipeline))


def card_warning(pipeline: Pipeline) -> Note | None:
    """Return a warning with the fix if the card cannot run a pipeline, or runs another one; None if it matches."""
    try:
        differences = card_differences(pipeline)
    except VendorFileError as error:
        return _warning(f"the card cannot run this preprocessing: {error.what}; {_fix(pipeline)}")
    if not differences:
        return None
    return _warning(f"the card does not compute this preprocessing: {'; '.join(differences)}; {_fix(pipeline)}")


def _warning(text: str) -> Note:
    return Note(text, NoteKind.CARD_PREPROCESSING)


def _differences(pipeline: Pipeline) -> Iterator[str]:
    writing = vdsp_from_pipeline(pipeline)
    for op in pipeline.ops:
        if not isinstance(op, Resize):
            continue
        if isinstance(op.size, int):
            yield f"it resizes to {op.size} x {op.size}, and resize {op.size} keeps the aspect"
        if op.antialias:
            # BILINEAR_PILLOW occurs in one of the fifty public files; whether it antialiases is not known.
            yield "it resizes without antialias, as in all but one of the vendor's public files"
    yield from (note for note in writing.notes if note.startswith("the crop"))


def _fix(pipeline: Pipeline) -> str:
    card = PRESETS[CARD_PRESET]
    scaling, card_scaling = ([op for op in one.ops if isinstance(op, ToTensor | Normalize)] for one in (pipeline, card))
    same_result = scaling == card_scaling and pipeline.output_size == card.output_size
    if same_result and pipeline.decode.mode == card.decode.mode:
        return f"--preset {CARD_PRESET} is what it computes"
    return "resize to [height, width] with antialias: false, or calibrate on ready tensors (quantkit vamc tensors)"

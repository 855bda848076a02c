"""Checks the card's fused preprocessing against the build file of the model.

Calibration runs the operations of the build file, the card runs ``vdsp_params.json``: if they differ, the ranges are
for other pixels than those on the card.
"""

from collections.abc import Iterator

from quantkit.config.pipeline import CenterCrop, Decode, Pipeline, Resize
from quantkit.vendors.vacc.check_files import INPUTS, OPS
from quantkit.vendors.vacc.dialects import BuildSpec, Dialect, place
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.findings import Finding, Severity, found
from quantkit.vendors.vacc.ops import pipeline_from_ops, scaling_of
from quantkit.vendors.vacc.vdsp import VdspParams, in_half, recognise


def check_vdsp(document: Document, dialect: Dialect, spec: BuildSpec, params: VdspParams) -> Iterator[Finding]:
    """Yield the differences between the preprocessing of the card and of the build file."""
    yield from _check_output(document, dialect, spec, params)
    ops = spec.dataset.process_ops if spec.dataset else None
    if not ops:
        where = _line(document, dialect, "")
        yield Finding("note", where, "dataset", "the build file has no operations to compare with vdsp_params")
        return
    file, card = pipeline_from_ops(ops), recognise(params)
    if file.pipeline is None or card.pipeline is None:
        why = "; ".join(card.notes if card.pipeline is None else file.notes)
        where = _line(document, dialect, "")
        yield Finding("warning", where, "dataset", f"not compared with vdsp_params: {why}", "compare them manually")
        return
    for op, severity, fault in _differences(
        file.pipeline, card.pipeline, sized=params.config.output_height is not None
    ):
        yield Finding(severity, _line(document, dialect, op), "dataset", fault, "calibrate as the card computes")


def _differences(file: Pipeline, card: Pipeline, *, sized: bool) -> Iterator[tuple[str, Severity, str]]:
    """Yield vendor operation, severity and difference."""
    file_mode, card_mode = (p.ops[0].mode for p in (file, card) if isinstance(p.ops[0], Decode))
    if file_mode != card_mode:
        yield "CvtColor", "error", f"the build file decodes to {file_mode}, and the card to {card_mode}"
    if sized:
        yield from _size_differences(file, card)
    (divisor, mean, std), (card_divisor, card_mean, card_std) = scaling_of(file), scaling_of(card)
    if divisor != card_divisor:
        fault = f"the build file divides pixels by {divisor:g}, and the card by {card_divisor:g}"
        yield "Normalize", "error", fault
    elif not (_equal_in_half(mean, card_mean) and _equal_in_half(std, card_std)):
        fault = f"mean {list(mean)} and std {list(std)} are {list(card_mean)} and {list(card_std)} on the card"
        yield "Normalize", "error", fault


def _size_differences(file: Pipeline, card: Pipeline) -> Iterator[tuple[str, Severity, str]]:
    resizes, card_resizes = ([op for op in p.ops if isinstance(op, Resize)] for p in (file, card))
    if [op.size for op in resizes] != [op.size for op in card_resizes]:
        shown = [" then ".join(_size(op) for op in ops) or "not" for ops in (resizes, card_resizes)]
        yield "Resize", "error", f"the build file resizes to {shown[0]}, the card to {shown[1]}"
    elif resizes[0].antialias != card_resizes[0].antialias:
        filters = ["pillow" if op.antialias else "OpenCV" for op in (resizes[0], card_resizes[0])]
        yield "Resize", "warning", f"the build file resizes as {filters[0]} does, the card as {filters[1]}"
    # A crop to the size of the resize has no effect, and the card's files omit it.
    sizes = [op.size for op in resizes]
    crops, card_crops = (
        [op.size for op in p.ops if isinstance(op, CenterCrop) and op.size not in sizes] for p in (file, card)
    )
    if crops != card_crops:
        shown = [str(list(sizes[-1])) if sizes else "nothing" for sizes in (crops, card_crops)]
        yield "CenterCrop", "error", f"the build file crops to {shown[0]}, the card to {shown[1]}"


def _check_output(document: Document, dialect: Dialect, spec: BuildSpec, params: VdspParams) -> Iterator[Finding]:
    size, inputs = (params.config.output_height, params.config.output_width), place(INPUTS, dialect)
    for name, shape in spec.inputs.items():
        fixed = len(shape) == 4 and all(isinstance(side, int) for side in shape)
        if fixed and None not in size and tuple(shape[2:]) != size:
            fault = f"the card's images are {list(size)}, and `{name}` needs {shape[2:]}"
            yield found(document, "error", (*inputs, name), fault, "change OimageHeight and OimageWidth")


def _equal_in_half(file: tuple[float, ...], card: tuple[float, ...]) -> bool:
    """Return whether numbers agree in half precision, the card's representation."""
    return in_half(file) == in_half(card)


def _size(op: Resize) -> str:
    return str(list(op.size)) if isinstance(op.size, tuple) else f"a shorter side of {op.size}"


def _line(document: Document, dialect: Dialect, op: str) -> int | None:
    """Return the line of an operation, or of the list if there is no such operation."""
    path = place(OPS, dialect)
    ops = document.get(path)
    for index, item in enumerate(ops if isinstance(ops, list) else ()):
        if isinstance(item, dict) and item.get("type") == op:
            return document.line_of((*path, index))
    return document.line_of(path)

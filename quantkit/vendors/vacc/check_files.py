"""Checks a build file against its model and calibration folder, if they can be read."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantkit.config.nearest import nearest
from quantkit.vendors.vacc.calibration_folder import file_names
from quantkit.vendors.vacc.dialects import BuildSpec, CompileDataset, Dialect, place
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.findings import SIMILAR, Finding, found
from quantkit.vendors.vacc.onnx_facts import OnnxFacts

IMAGENET_CLASSES = 1000
# The opsets of the vendor's exports in its public model zoo: classifiers have 10 to 12, other models up to 17. The
# opsets that its compiler supports are not published.
CLASSIFIER_OPSET = 12
LATEST_OPSET = 17

# Keys as the compile dialect has them.
INPUTS, CHECKPOINT, OPS = "frontend.shape", "frontend.checkpoint", "dataset.process_ops"
_FOLDER, _COUNT = ("dataset", "path"), ("dataset", "sampler", "get_data_num")


def locate(named: str, document: Document) -> Path | None:
    """Return a file or folder of a build file, relative to the current folder or to the build file; None if missing."""
    for candidate in (Path(named), Path(document.where).parent / named) if named.strip() else ():
        try:
            if candidate.exists():
                return candidate
        except (OSError, ValueError):
            continue
    return None


def check_model(document: Document, dialect: Dialect, spec: BuildSpec, facts: OnnxFacts) -> Iterator[Finding]:
    """Yield findings on inputs, skipped convolutions and opsets that do not match model or vendor."""
    yield from _check_opset(document, dialect, facts)
    inputs, of_inputs, head, quantize = spec.inputs, place(INPUTS, dialect), spec.graph.extra_ops, spec.backend.quantize
    for name, shape in inputs.items():
        path = (*of_inputs, name)
        if name not in facts.inputs:
            near = nearest(name, facts.inputs, SIMILAR)
            names = ", ".join(facts.inputs) or "none"
            fix = f"its inputs: {names}" if near is None else f"write `{near}` (its inputs: {names})"
            yield found(document, "error", path, f"the model has no input `{name}`", fix)
        elif not _fits(shape, facts.inputs[name]):
            wanted = [side if side is not None else "any" for side in facts.inputs[name] or ()]
            shown = ", ".join(map(str, wanted))
            yield found(
                document,
                "error",
                path,
                f"the shape {shape} of `{name}` does not fit the model's [{shown}]",
                "write the model's",
            )
    for name in facts.inputs if inputs else ():
        if name not in inputs:
            yield found(
                document, "error", of_inputs, f"the model's input `{name}` has no shape", f"add `{name}: [...]`"
            )
    if facts.ends_in_softmax and head is not None and head.type == "softmax":
        fault = "a softmax is appended to a model that ends in a softmax"
        yield found(document, "warning", place("graph.extra_ops.type", dialect), fault, "write `type: null`")
    for position, index in enumerate((quantize and quantize.skip_conv_layers) or ()):
        if index >= facts.convolutions:
            yield found(
                document,
                "error",
                (*place("backend.quantize.skip_conv_layers", dialect), position),
                f"there is no convolution {index}: the model has {facts.convolutions}, counted from 0",
                "remove it",
            )


def _check_opset(document: Document, dialect: Dialect, facts: OnnxFacts) -> Iterator[Finding]:
    classifier = facts.classes is not None
    latest = CLASSIFIER_OPSET if classifier else LATEST_OPSET
    if facts.opset is None or facts.opset <= latest:
        return
    fault = f"the model has opset {facts.opset}; the vendor exports " + (
        "classifiers with opset 10 to 12" if classifier else f"models with opset 10 to {latest}"
    )
    fix = "export it with opset 11; the opsets that the compiler supports are not published"
    yield found(document, "warning", place(CHECKPOINT, dialect), fault, fix)


def check_data(
    document: Document, spec: BuildSpec, classes: int | None, *, model_here: bool = False
) -> Iterator[Finding]:
    """Yield findings on too few calibration images, or a folder without them.

    Args:
        document: the file.
        spec: its content.
        classes: number of classes of the model, if known.
        model_here: whether the model is on this machine, so that the calibration folder should be, too.
    """
    data = spec.dataset
    if data is None:
        return
    count = data.count
    if classes is not None and count is not None and 0 < count < classes:
        yield found(
            document,
            "warning",
            _COUNT,
            f"{count} images for {classes} classes: at least {classes - count} classes have no image",
            f"use {classes} images, one of each class, selected by `quantkit calib-set`",
        )
    folder = locate(data.path, document) if isinstance(data.path, str) else None
    if folder is not None:
        yield from _check_folder(document, data, folder)
    elif model_here and isinstance(data.path, str):
        fix = f"create it: quantkit calib-set materialize SET.csv {shlex.quote(data.path)}"
        yield found(document, "warning", _FOLDER, f"{data.path} does not exist", fix)


def classes_of(spec: BuildSpec, facts: OnnxFacts | None) -> int | None:
    """Return the number of classes: that of the model, or a thousand for images of ImageNet."""
    if facts is not None:
        return facts.classes
    path = spec.dataset.path if spec.dataset else None
    words = path.lower() if isinstance(path, str) else ""
    return IMAGENET_CLASSES if "imagenet" in words or "ilsvrc" in words else None


def _check_folder(document: Document, data: CompileDataset, folder: Path) -> Iterator[Finding]:
    if not folder.is_dir():
        yield found(document, "error", _FOLDER, f"{folder} is not a folder", "give the folder of images")
        return
    suffix, count = data.sampler and data.sampler.suffix, data.count
    suffixes = [suffix] if isinstance(suffix, str) else list(suffix or ())
    endings = tuple("." + suffix.lstrip(".") for suffix in suffixes)
    names = file_names(folder)
    matching = [name for name in names if not endings or name.endswith(endings)]
    if not names:
        yield found(document, "error", _FOLDER, f"{folder} has no files", "give the folder of images")
    elif not matching:
        there = ", ".join(sorted({Path(name).suffix.lstrip(".") or "none" for name in names}))
        yield found(
            document,
            "error",
            ("dataset", "sampler", "suffix"),
            f"no file in {folder} ends in {' or '.join(endings)} (found: {there})",
            "write the suffix of the files, in the same case",
        )
    elif count is not None and len(matching) < count:
        yield found(
            document,
            "error",
            _COUNT,
            f"{count} images are needed, and {folder} has {len(matching)}",
            f"add images, or write `get_data_num: {len(matching)}`",
        )


def _fits(shape: list[Any], wanted: tuple[int | None, ...] | None) -> bool:
    """Return whether a shape of the file, or each of several, matches the model's."""
    if wanted is None:
        return True
    if shape and all(isinstance(item, list) for item in shape):
        return all(_fits(item, wanted) for item in shape)
    if len(shape) != len(wanted):
        return False
    return all(
        model is None or not isinstance(side, int) or side in (-1, model)
        for side, model in zip(shape, wanted, strict=True)
    )

"""Hints from a model's input and output: known data sets, preprocessing, the next command."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from quantkit.config.pipeline import IMAGENET_MEAN, IMAGENET_STD
from quantkit.graph.inner_preprocessing import InnerPreprocessing
from quantkit.workflows.model_summary import ImageSummary, Problem, ScoresSummary, TargetSummary

# Numbers of classes that belong to one widely used data set.
_DATASETS = {
    100: "CIFAR-100",
    101: "Food-101",
    102: "Oxford Flowers-102",
    365: "Places365",
    1000: "ImageNet-1k",
    1001: "ImageNet-1k with a background class in front",
    10450: "ImageNet-21k-P of the winter 2021 release",
    11221: "ImageNet-21k-P",
    21841: "ImageNet-21k",
    21843: "ImageNet-21k",
}
# Many data sets have ten classes; the channels and the image size distinguish them.
_TEN_CLASSES = {(3, 32): "CIFAR-10", (1, 28): "MNIST", (1, 32): "MNIST", (1, 8): "the digits of quantkit demo"}
_PRESETS = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar10", "the digits of quantkit demo": "digits"}
_IMAGENET_SIDE = 224
_CLOSE = 0.02


def dataset_of(classes: int | None, image: ImageSummary | None) -> str | None:
    """Return a known data set with this number of classes whose images fit the input, or None."""
    if classes == 10 and image is not None:
        return _TEN_CLASSES.get((image.channels, image.height or 0))
    return None if classes is None else _DATASETS.get(classes)


def next_command(
    path: Path, image: ImageSummary | None, scores: ScoresSummary | None, inner: InnerPreprocessing | None
) -> str:
    """Return the command that calibrates the model."""
    preset = _preset(image, scores, inner) or "PIPELINE.yaml"
    return f"quantkit calibrate --model {shlex.quote(str(path))} --images FOLDER --preset {preset}"


def advice_on(
    image: ImageSummary | None,
    scores: ScoresSummary | None,
    inner: InnerPreprocessing | None,
    targets: Sequence[TargetSummary],
) -> Iterator[Problem]:
    """Yield warnings about probable mistakes and avoidable costs."""
    if inner is not None and inner.normalizes:
        yield _warning("the graph normalizes the image itself", None, _pipeline_advice(inner))
    if scores is not None and scores.softmax:
        fix = "export the logits: int8 noise is measured and corrected more precisely on them"
        yield _warning("the scores are probabilities, the output of a Softmax", scores.name, fix)
    if scores is not None and scores.classes == 1:
        fix = "export it with two, such as 1 - p and p, for eval, compare and tune"
        yield _warning(
            "there is one score for each image: agreement and accuracy need one for each class", scores.name, fix
        )
    if image is not None and image.batch not in (None, 1):
        yield _warning(f"the batch is fixed to {image.batch}", image.name, "export it with a free batch, or with 1")
    low: dict[str, list[str]] = {}
    for target in targets:
        if target.coverage.is_low and target.coverage.int8_layers:
            low.setdefault(target.coverage.summary(), []).append(target.name)
    for summary, names in low.items():
        yield _warning(f"only {summary} become int8", ", ".join(names), "the reasons are listed under 'in float'")


def _pipeline_advice(inner: InnerPreprocessing) -> str:
    divisor = 1 if inner.takes_bytes else 255
    named = "" if not _is_imagenet(inner) else " (it is that of ImageNet)"
    return f"use a pipeline with to_tensor {{divisor: {divisor}}} and without normalize{named}"


def _is_imagenet(inner: InnerPreprocessing) -> bool:
    unit = 255.0 if inner.takes_bytes else 1.0
    found = [value / unit for value in (*inner.mean, *inner.std)]
    known = (*IMAGENET_MEAN, *IMAGENET_STD)
    near = len(found) == len(known) and all(abs(a - b) < _CLOSE for a, b in zip(found, known, strict=True))
    reverse = (*IMAGENET_MEAN[::-1], *IMAGENET_STD[::-1])
    return near or (len(found) == len(known) and all(abs(a - b) < _CLOSE for a, b in zip(found, reverse, strict=True)))


def _preset(image: ImageSummary | None, scores: ScoresSummary | None, inner: InnerPreprocessing | None) -> str | None:
    """Return the preset that a model's input and output suggest."""
    if image is None or scores is None or (inner is not None and inner.normalizes):
        return None
    if scores.classes == 1000 and image.channels == 3 and image.height in (None, _IMAGENET_SIDE):
        return "imagenet"
    return _PRESETS.get(scores.dataset or "") if image.height in (8, 32) else None


def _warning(what: str, where: str | None, fix: str) -> Problem:
    return Problem(severity="warning", what=what, where=where, fix=fix)

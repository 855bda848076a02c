"""Is the preprocessing the one that the model was trained with? Others are tried on labelled images, in pairs.

Images scaled, ordered or cropped otherwise than in training still look like images, so nothing fails: the accuracy is
lower, in fp32 already, and calibration finds ranges for values that the model never sees.
"""

from collections.abc import Callable, Iterator
from functools import partial

from quantkit.config.pipeline import Decode, Normalize, Pipeline, Resize, ToTensor
from quantkit.data.source import ImageSource
from quantkit.engine.classifier import ClassifierFile
from quantkit.errors import ConfigError, QuantkitError
from quantkit.evaluation.label_diagnosis import label_problem
from quantkit.evaluation.predictions import Predictions
from quantkit.evaluation.preprocessing_alternatives import (
    Alternative,
    Dimension,
    geometry_alternatives,
    interpolation_alternatives,
    value_alternatives,
)
from quantkit.evaluation.preprocessing_answers import AnswersByPipeline, random_sample
from quantkit.evaluation.preprocessing_search import SearchResult, SearchStage, can_find, search
from quantkit.graph.model import is_quantized

# Significance level of what is said unasked.
LEVEL = 0.01
# On fewer images nothing is tried: few preprocessings are so bad that it would show.
FEWEST = 40
MOST = 512
# From this number of images on, resizing is tried too: it takes some hundred images more, and mostly costs little.
MANY = 5000
# Alternatives are screened on one image of so many, so that the check costs little of a small job, too.
_SCREENED = 25
_FEWEST_SCREENED = 8
# And tried at most on one of so many.
_TRIED = 4
_FEWEST_TRIED = 128

_Kind = Callable[[Pipeline], Iterator[Alternative]]


def diagnose_preprocessing(
    file: ClassifierFile,
    found: ImageSource,
    pipeline: Pipeline,
    answers: Callable[[ImageSource], AnswersByPipeline],
    *,
    predictions: Predictions | None = None,
) -> str | None:
    """Return in one sentence with which preprocessing the model is right more often; None where that is not shown.

    Scalings and channel orders are tried, with `MANY` images resizing too: on 8 to 32 images of a random sample, and
    those that look promising on up to a quarter of the images or 128, at most `MOST`. Nothing is tried for quantized
    models, whose ranges are those of one preprocessing; for arrays; if the labels are unusual; or if the model makes so
    few mistakes that no result could be significant.

    Args:
        file: the model.
        found: images with labels; nothing is tried without.
        pipeline: their preprocessing.
        answers: returns the model's answers to a sample, under any pipeline.
        predictions: the model's answers to all of them under theirs, in the same order, where they are known.
    """
    if found.array_shape is not None or not pipeline.ops or found.labels is None or len(found) < FEWEST:
        return None
    if is_quantized(file.graph) or (predictions is not None and not _could_show(file, pipeline, predictions)):
        return None
    sample = random_sample(found, _most(len(found)))
    tried = stages(file, LEVEL, near=False, resize=len(found) >= MANY)
    try:
        screen = max(len(found) // _SCREENED, _FEWEST_SCREENED)
        result = search(pipeline, tried, answers(sample), len(sample), LEVEL, screen=screen)
    except QuantkitError:
        # A remark that nobody asked for must not end a job; what is wrong with the images or the model ends it anyway.
        return None
    return None if result.best == pipeline else sentence(result)


def stages(file: ClassifierFile, level: float, *, near: bool, resize: bool) -> tuple[SearchStage, ...]:
    """Return what to try of a model, the most damaging first.

    Args:
        file: the model; what it cannot take is left out.
        level: significance level of all stages together.
        near: try scalings that differ little from others.
        resize: try resizing, cropping and interpolation.
    """
    kinds: list[tuple[_Kind, float]] = [(partial(value_alternatives, near=near), level / 2 if resize else level)]
    if resize:
        kinds += [(geometry_alternatives, level / 4), (interpolation_alternatives, level / 4)]
    return tuple(SearchStage(partial(_fitting, file, kind), share) for kind, share in kinds)


def changes(result: SearchResult) -> str:
    """Return in words what the best preprocessing has otherwise than the one given."""
    last: dict[Dimension, str] = {}
    for move in result.moves:
        last.pop(move.dimension, None)
        last[move.dimension] = move.words
    return " and ".join(last.values())


def settings(pipeline: Pipeline) -> str:
    """Return how the parts of a pipeline are set that a search can change."""
    said = []
    for op in pipeline.ops:
        match op:
            case Decode():
                said.append(f"mode of decode {op.mode}")
            case ToTensor():
                said.append(f"divisor of to_tensor {op.divisor:g}")
            case Normalize():
                said.append(f"mean of normalize {list(op.mean)} and std {list(op.std)}")
            case Resize() if not op.antialias:
                said.append(f"resize {op.size} {op.interpolation} without antialias")
            case Resize():
                said.append(f"resize {op.size} {op.interpolation}")
            case _:
                pass
    without = "" if any(isinstance(op, Normalize) for op in pipeline.ops) else ", without normalize"
    return f"set {', '.join(said)}{without}"


def sentence(result: SearchResult) -> str:
    """Return what a search on labelled images has found, and how the preprocessing is to be set."""
    found = result.overall
    assert found is not None
    return (
        f"the preprocessing seems wrong: top-1 of {found.images} images is {found.reference:.1f} %, and "
        f"{found.value:.1f} % ({found.difference:+.1f} points, 95 % interval {found.ci95.lo:+.1f} to "
        f"{found.ci95.hi:+.1f}, corrected p = {result.p:.1g}) with {changes(result)}; {settings(result.best)}"
    )


def _most(images: int) -> int:
    """Return on how many of so many images an alternative is tried at most."""
    return min(images, max(images // _TRIED, _FEWEST_TRIED), MOST)


def _could_show(file: ClassifierFile, pipeline: Pipeline, predictions: Predictions) -> bool:
    """Return whether the answers leave room for an improvement beyond chance, and the labels are as they should be."""
    wrong = len(predictions) - int(predictions.correct().sum())
    alternatives = _fitting(file, value_alternatives, pipeline)
    images = _most(len(predictions))
    if not can_find(images, min(wrong, images), len(alternatives), LEVEL):
        return False
    return label_problem(predictions) is None


def _fitting(file: ClassifierFile, kind: _Kind, pipeline: Pipeline) -> list[Alternative]:
    """Return the alternatives of one kind that a model can take."""
    return [one for one in kind(pipeline) if _fits(file, one.pipeline)]


def _fits(file: ClassifierFile, pipeline: Pipeline) -> bool:
    """Return whether a model can take what a pipeline gives: an integer input takes no fractions."""
    try:
        file.check(pipeline)
    except ConfigError:
        return False
    return True

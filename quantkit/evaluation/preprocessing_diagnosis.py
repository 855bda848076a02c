"""Diagnoses wrong preprocessing as the cause of poor fp32 accuracy, by trying other scalings and colour orders.

Images with other scaling or colour order than in training cause no error: the accuracy is just poor, already in fp32,
and calibration finds ranges of values that do not occur in correct use.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from quantkit.config.pipeline import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CenterCrop,
    Decode,
    Mode,
    Normalize,
    Pad,
    Pipeline,
    PipelineOp,
    Resize,
    ToTensor,
)
from quantkit.data.preprocess import value_tables
from quantkit.data.source import ImageSource
from quantkit.engine.predict import Classifier, ModelScores, evaluate
from quantkit.errors import ConfigError
from quantkit.evaluation.label_diagnosis import label_problem
from quantkit.evaluation.paired import PairedOutcomes, mcnemar_exact
from quantkit.evaluation.predictions import Predictions
from quantkit.graph.model import model_digest
from quantkit.runs.cache import ResultCache
from quantkit.runs.score_cache import cached_scores, predict_cached, scores_key
from quantkit.types import BoolArray

# Most classifiers worth quantizing are above this accuracy; below it the diagnosis runs on a few images.
SUSPICIOUS = 0.5
# Minimum number of images for a diagnosis.
FEWEST = 40
SAMPLE = 64
# Another preprocessing is reported only if the gain is at least this large, and significant at this level.
FAR_BETTER = 0.2
P = 0.001


@dataclass(frozen=True)
class _Scaling:
    """A scaling of 8-bit values.

    Attributes:
        words: description for the user.
        divisor: divisor of ``to_tensor``.
        mean: mean of ``normalize``, one value per channel or one for all; None for no ``normalize``.
        std: standard deviation of ``normalize``, likewise.
    """

    words: str
    divisor: float
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] = ()


_SCALINGS = (
    _Scaling("pixels from 0 to 255", 1.0),
    _Scaling("pixels from 0 to 1", 255.0),
    _Scaling("pixels from -1 to 1", 255.0, (0.5,), (0.5,)),
    _Scaling("ImageNet's mean and std", 255.0, IMAGENET_MEAN, IMAGENET_STD),
)


_ORDERS: dict[Mode, tuple[Mode, ...]] = {
    "RGB": ("RGB", "BGR"),
    "BGR": ("RGB", "BGR"),
    "RGBA": ("RGBA", "BGRA"),
    "BGRA": ("RGBA", "BGRA"),
}


def diagnose_preprocessing(
    classifier: Classifier,
    found: ImageSource,
    pipeline: Pipeline,
    predictions: Predictions,
    *,
    cache: ResultCache | None,
    threads: int,
) -> str | None:
    """Return the suspected correct preprocessing of the model in one sentence; None if the given one is plausible.

    Nothing is tried if the accuracy is not suspicious, or the labels explain it. Otherwise up to `SAMPLE` images are
    evaluated again, with the usual scalings of pixels, in both colour orders. One of them is reported only if it is
    correct on far more of the images: by at least `FAR_BETTER`, and significantly by McNemar's exact test, corrected
    for the number of alternatives.

    Args:
        classifier: the fp32 model.
        found: the evaluated images with labels.
        pipeline: their preprocessing.
        predictions: predictions of the model, in the same order.
        cache: cache of scores; None to run the model each time.
        threads: number of worker threads.

    Raises:
        LabelError: the true classes are not known.
        ImageError: an image cannot be decoded.
        ModelError: the model cannot be run.
    """
    if found.array_shape is not None or not pipeline.ops:
        return None  # the preprocessing of arrays is unknown
    right = predictions.correct()
    if len(predictions) < FEWEST or right.mean() >= SUSPICIOUS or label_problem(predictions) is not None:
        return None
    places = np.linspace(0, len(predictions) - 1, min(SAMPLE, len(predictions))).astype(np.int64)
    sample, given = found.only(places.tolist()), right[places]
    others = [(words, other) for words, other in alternatives(pipeline) if _fits(classifier, other)]
    if not others:
        return None
    digest = model_digest(classifier.path)
    tried = [_right(classifier, digest, sample, other, cache, threads) for _, other in others]
    best = max(range(len(others)), key=lambda index: int(tried[index].sum()))
    outcomes = PairedOutcomes.of(given, tried[best])
    if outcomes.delta < FAR_BETTER or mcnemar_exact(outcomes) * len(others) > P:
        return None
    words, other = others[best]
    return (
        f"the preprocessing seems wrong: of {len(given)} images {given.sum()} are correct as it is set and "
        f"{tried[best].sum()} with {words}; {_how(other)}"
    )


def _fits(classifier: Classifier, pipeline: Pipeline) -> bool:
    """Return whether a pipeline fits a model: an integer input takes no fractions."""
    try:
        classifier.file.check(pipeline)
    except ConfigError:
        return False
    return True


def alternatives(pipeline: Pipeline) -> Iterator[tuple[str, Pipeline]]:
    """Yield descriptions and pipelines with other colour orders and scalings, the smallest change first."""
    first = pipeline.ops[0]
    assert isinstance(first, Decode)
    given = value_tables(pipeline)
    orders = _ORDERS.get(first.mode, (first.mode,))
    for mode in sorted(orders, key=lambda mode: mode != first.mode):
        decode = first.model_copy(update={"mode": mode})
        if mode != first.mode:
            yield f"colours in the order {mode}", Pipeline(ops=(decode, *pipeline.ops[1:]))
        for scaling in _SCALINGS:
            if scaling.mean is not None and pipeline.channels % len(scaling.mean):
                continue
            other = _scaled(pipeline, decode, scaling)
            if not np.allclose(value_tables(other), given, rtol=0.02, atol=0.02):
                yield scaling.words if mode == first.mode else f"{scaling.words} in the order {mode}", other


def _scaled(pipeline: Pipeline, decode: Decode, scaling: _Scaling) -> Pipeline:
    geometry = [op for op in pipeline.ops if isinstance(op, Resize | CenterCrop | Pad)]
    ops: list[PipelineOp] = [decode, *geometry, ToTensor(divisor=scaling.divisor)]
    if scaling.mean is not None:
        repeated = (values * (pipeline.channels // len(values)) for values in (scaling.mean, scaling.std))
        # ImageNet's statistics are in RGB order.
        mean, std = (values[::-1] if decode.is_bgr else values for values in repeated)
        ops.append(Normalize(mean=mean, std=std))
    return Pipeline(ops=tuple(ops))


def _right(
    classifier: Classifier,
    digest: str,
    sample: ImageSource,
    pipeline: Pipeline,
    cache: ResultCache | None,
    threads: int,
) -> BoolArray:
    """Return for each image whether the model's top class is the true one."""
    assert sample.labels is not None
    if cache is None:
        return _compared(evaluate([classifier], sample.items, pipeline, threads=threads), sample)
    key = scores_key(digest, pipeline, classifier.file.signature, classifier.device)
    with cached_scores(cache, [key], sample) as scores:
        return _compared(predict_cached([classifier], scores, sample.items, pipeline, threads=threads), sample)


def _compared(answers: Iterator[ModelScores], sample: ImageSource) -> BoolArray:
    best = np.array([int(one.scores[0].argmax()) for one in answers])
    right: BoolArray = best == sample.labels
    return right


def _how(pipeline: Pipeline) -> str:
    """Return the settings of a pipeline's scaling and colour order as text."""
    settings = []
    for op in pipeline.ops:
        match op:
            case Decode():
                settings.append(f"mode of decode {op.mode}")
            case ToTensor():
                settings.append(f"divisor of to_tensor {op.divisor:g}")
            case Normalize():
                settings.append(f"mean of normalize {list(op.mean)} and std {list(op.std)}")
            case _:
                pass
    without = "" if any(isinstance(op, Normalize) for op in pipeline.ops) else ", without normalize"
    return f"set {', '.join(settings)}{without}"

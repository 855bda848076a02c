"""What a model says of a sample of images under one preprocessing after the other; nothing is computed twice."""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np

from quantkit.config.pipeline import Pipeline, PipelineOp
from quantkit.data.decoded import DecodedImages
from quantkit.data.item import ImageItem
from quantkit.data.source import ImageSource
from quantkit.engine.classifier import ClassifierFile
from quantkit.engine.device import CPU, Device
from quantkit.engine.predict import Classifier, answer_in_batches
from quantkit.errors import OutputError, UsageError
from quantkit.evaluation.predictions import Scores, kind_of_scores
from quantkit.evaluation.preprocessing_alternatives import geometry_key
from quantkit.evaluation.preprocessing_evidence import Answers
from quantkit.graph.model import model_digest
from quantkit.progress import ProgressCallback
from quantkit.runs.cache import ResultCache
from quantkit.runs.score_cache import ScoreCache, cached_scores, scores_key
from quantkit.types import Float32Array

# Ways of resizing whose pixels are kept: of the present one, and of one that is tried.
_GEOMETRIES = 2


class AnswersByPipeline:
    """Answers of one model to the first images of a sample, under any pipeline.

    Scores are kept in memory, and in a cache where there is one; the model is opened when it is first run. Images are
    decoded and resized once for all scalings and channel orders.

    Args:
        file: the model.
        sample: the images, in random order; with labels or without.
        device: where the model runs.
        cache: of scores; None to keep them in memory only.
        threads: workers.
        classifier: the model opened on the device, where the caller has it.
        progress: receives the number of images the model was run on, and how many are planned.

    Attributes:
        computed: number of images that the model was run on.
    """

    def __init__(
        self,
        file: ClassifierFile,
        sample: ImageSource,
        *,
        device: Device = CPU,
        cache: ResultCache | None = None,
        threads: int = 1,
        classifier: Classifier | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.computed = 0
        self._planned = 0
        self._asked: dict[Pipeline, int] = {}
        self._file, self._sample, self._cache, self._threads = file, sample, cache, threads
        self._device = device if classifier is None else classifier.device
        self._given, self._progress = classifier, progress
        self._kind: Scores | None = None
        self._scores: dict[Pipeline, list[Float32Array | None]] = {}
        self._decoded: OrderedDict[tuple[PipelineOp, ...], DecodedImages] = OrderedDict()

    @property
    def known(self) -> int:
        """Number of answers that were in the cache."""
        return sum(self._asked.values()) - self.computed

    def plan(self, pipelines: Sequence[Pipeline], count: int) -> None:
        """Announce what is asked for next, so that the progress knows how many images are left."""
        missing = [row is None for pipeline in pipelines for row in self._rows(pipeline)[:count]]
        self._planned = self.computed + missing.count(True)

    def __call__(self, pipeline: Pipeline, count: int) -> Answers:
        """Return the answers to the first images of the sample under a pipeline.

        Raises:
            ImageError: an image cannot be decoded.
            ModelError: the model cannot be run.
            LabelError: a label is no class of the model.
        """
        rows = self._rows(pipeline)
        self._asked[pipeline] = max(count, self._asked.get(pipeline, 0))
        missing = [place for place in range(count) if rows[place] is None]
        if missing:
            self._compute(pipeline, rows, missing)
        scores = np.concatenate([row for row in rows[:count] if row is not None])
        labels = self._sample.labels
        if self._kind is None:  # told from the first pipeline, the one given
            finite = scores[np.isfinite(scores).all(axis=1)]
            self._kind = kind_of_scores(finite) if len(finite) else Scores.LOGITS
        return Answers.of(scores, self._kind, None if labels is None else labels[:count])

    @cached_property
    def _classifier(self) -> Classifier:
        return self._given or Classifier(self._file, self._device)

    @cached_property
    def _digest(self) -> str:
        return model_digest(self._file.path)

    def _rows(self, pipeline: Pipeline) -> list[Float32Array | None]:
        """Return the scores of each image of the sample, None where there are none yet."""
        if pipeline not in self._scores:
            self._scores[pipeline] = self._known(pipeline)
        return self._scores[pipeline]

    def _known(self, pipeline: Pipeline) -> list[Float32Array | None]:
        """Return what the cache has for the sample."""
        with self._opened(pipeline, self._sample) as scores:
            if scores is None:
                return [None] * len(self._sample)
            return [scores.scores(place) if scores.knows(place) else None for place in range(len(self._sample))]

    def _compute(self, pipeline: Pipeline, rows: list[Float32Array | None], missing: list[int]) -> None:
        sample = self._sample.only(missing)
        load = self._loader(pipeline)

        def read(index: int) -> Float32Array:
            return load(sample.items[index])

        model = self._classifier
        with self._opened(pipeline, sample) as cached:
            found = answer_in_batches([model], [[True]] * len(sample), read, threads=self._threads)
            for place, one in zip(missing, found, strict=True):
                [scores] = one.scores
                assert scores is not None
                rows[place] = scores
                if cached is not None and not cached.knows(one.index):
                    cached.add(one.index, scores)
                self.computed += 1
                if self._progress is not None:
                    self._progress(self.computed, max(self._planned, self.computed + len(missing) - one.index - 1))

    def _loader(self, pipeline: Pipeline) -> Callable[[ImageItem], Float32Array]:
        key = geometry_key(pipeline)
        decoded = self._decoded.pop(key, None) or DecodedImages(pipeline)
        self._decoded[key] = decoded
        while len(self._decoded) > _GEOMETRIES:
            self._decoded.popitem(last=False)
        return lambda item: decoded.scaled(item, pipeline)

    @contextlib.contextmanager
    def _opened(self, pipeline: Pipeline, images: ImageSource) -> Iterator[ScoreCache | None]:
        """Open the cached scores; None where there is no cache, it is in use, or it cannot be written."""
        with contextlib.ExitStack() as stack:
            opened = None
            if self._cache is not None:
                key = scores_key(self._digest, pipeline, self._file.signature, self._device)
                with contextlib.suppress(UsageError, OutputError):
                    [opened] = stack.enter_context(cached_scores(self._cache, [key], images))
            yield opened


def random_sample(images: ImageSource, most: int, seed: int = 0) -> ImageSource:
    """Return at most so many images in random order, so that the first ones are a sample of all."""
    places = np.random.default_rng(seed).permutation(len(images))[:most]
    return images.only(places.tolist())

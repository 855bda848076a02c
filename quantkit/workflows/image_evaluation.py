"""Models evaluated on images: each is run once on an image, and its scores are cached."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from quantkit.config.pipeline import Pipeline
from quantkit.data.source import ImageSource
from quantkit.engine.batches import Load
from quantkit.engine.classifier import ClassifierFile
from quantkit.engine.inputs import check_arrays
from quantkit.engine.predict import Classifier, ModelScores, evaluate
from quantkit.evaluation.images import check_labels
from quantkit.evaluation.predictions import Collector
from quantkit.graph.model import model_digest
from quantkit.progress import Progress, resumed_task
from quantkit.runs.cache import ResultCache
from quantkit.runs.score_cache import cached_scores, images_to_run, predict_cached, scores_key
from quantkit.types import Float32Array
from quantkit.workflows.execution import Execution


@dataclass(frozen=True)
class ImageEvaluation:
    """Images that models are evaluated on, and where the models run.

    Attributes:
        images: the labelled images.
        pipeline: their preprocessing.
        execution: where models run.
        cache: of scores; None to run the models each time.
        load: reads an image in place of the pipeline.
    """

    images: ImageSource
    pipeline: Pipeline
    execution: Execution
    cache: ResultCache | None
    load: Load | None = None

    def check(self, file: ClassifierFile) -> None:
        """Check that a model fits the pipeline, and has a class for every label.

        Raises:
            ConfigError: the pipeline does not fit the model.
            LabelError: a label is out of range.
        """
        file.check(self.pipeline)
        check_arrays(self.images.array_shape, file.signature.image, self.images.root)
        check_labels(self.images, file.signature.scores.classes, file.path)

    def collect(
        self,
        models: Sequence[Classifier],
        collector: Collector,
        task: str,
        *,
        progress: Progress | None = None,
        completed: Callable[[str, list[Float32Array]], list[Float32Array]] = lambda name, scores: scores,
    ) -> int:
        """Add the scores of all images to a collector; only those that are not cached are computed.

        Args:
            models: the models.
            collector: of their predictions.
            task: name of the task in the progress.
            progress: receives the progress in place of that of the execution.
            completed: returns the scores for the collector, given the name of an image and the models' scores.

        Returns:
            The number of images whose scores were cached.

        Raises:
            ImageError: an image cannot be decoded.
            ModelError: a model cannot be run.
            NumericError: a score is NaN or infinite.
            OutputError: scores cannot be written.
        """
        images, pipeline, load = self.images, self.pipeline, self.load
        assert images.labels is not None
        threads, folder = self.execution.threads, None
        new = [True] * len(images.names)
        answer = self.execution.answer([one.file for one in models], images, pipeline)
        with contextlib.ExitStack() as stack:
            if not models:
                found: Iterator[ModelScores] = (ModelScores(index, []) for index in range(len(new)))
            elif self.cache is None:
                found = evaluate(models, images.items, pipeline, threads=threads, load=load, answer=answer)
            else:
                keys = [scores_key(model_digest(one.path), pipeline, one.file.signature, one.device) for one in models]
                kept = stack.enter_context(cached_scores(self.cache, keys, images))
                new, folder = images_to_run(kept, len(new)), self.cache.folder
                found = predict_cached(models, kept, images.items, pipeline, threads=threads, load=load, answer=answer)
            known = done = new.count(False)
            count = resumed_task(
                progress or self.execution.progress, task, "images", done=done, total=len(new), source=folder
            )
            for one in found:
                name = images.names[one.index]
                collector.update(completed(name, one.scores), [name], [images.labels[one.index]])
                done += new[one.index]
                count(done, len(new))
        return known

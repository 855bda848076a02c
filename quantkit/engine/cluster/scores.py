"""Scores of classifiers, computed by the workers of a cluster."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from quantkit.config.pipeline import Pipeline
from quantkit.data.source import ImageSource
from quantkit.engine.classifier import ClassifierFile
from quantkit.engine.cluster.work import Engine, Fetch, ImageKey, SharedImages, SharedModel, share_images, share_model
from quantkit.engine.device import Device
from quantkit.engine.predict import Classifier, PartialScores, answer_in_batches
from quantkit.types import Float32Array

# Images of a job: their scores are small, and what a job costs beside is lost among so many.
JOB_IMAGES = 16
# Of few images each worker gets several jobs, so that none waits long for the last.
_JOBS_EACH = 4

# An image, and which models run on it.
_Asked = tuple[ImageKey, tuple[bool, ...]]
ScoresJob = tuple[_Asked, ...]
# Of each image, the scores by model, None of those that were not asked.
_Answers = list[list[Float32Array | None]]


@dataclass(frozen=True)
class ScoreWork:
    """Run models on images.

    Attributes:
        models: the models.
        images: the images.
        device: where the models run.
    """

    models: tuple[SharedModel, ...]
    images: SharedImages
    device: Device

    @property
    def runs_jobs_together(self) -> bool:
        """Whether each thread does a job of its own: on the CPU; another device is fed by all threads."""
        return self.device.is_cpu

    def open(self, fetch: Fetch, threads: int) -> Callable[[ScoresJob], _Answers]:
        """Open the models and find the images; see `quantkit.engine.cluster.work.Work`."""
        device, find = self.device.resolved(), self.images.open()
        models = [_opened(model, fetch, device) for model in self.models]
        threads = 1 if self.runs_jobs_together else threads

        def run(job: ScoresJob) -> _Answers:
            items, wanted = [find(key) for key, _ in job], [runs for _, runs in job]
            answered = answer_in_batches(models, wanted, lambda index: self.images.load(items[index]), threads=threads)
            return [partial.scores for partial in answered]

        return run


def _opened(model: SharedModel, fetch: Fetch, device: Device) -> Classifier:
    classifier = model.read(fetch, lambda file: Classifier(file, device))
    classifier.file = replace(classifier.file, path=model.path)  # its file here is gone; messages name the driver's
    return classifier


def scores_on_cluster(
    engine: Engine,
    files: Sequence[ClassifierFile],
    source: ImageSource,
    pipeline: Pipeline,
    device: Device,
    wanted: Sequence[Sequence[bool]],
) -> Iterator[PartialScores]:
    """Yield the scores of images in order, as `quantkit.engine.predict.answer_in_batches` does, from workers.

    Args:
        engine: the cluster; it is started where any image is to be run.
        files: the models.
        source: the images.
        pipeline: their preprocessing.
        device: where the models run, at the workers.
        wanted: of each image, whether each model is to run on it.

    Raises:
        UsageError: workers cannot read these images.
        ClusterError: the cluster is not there, or its workers cannot do the work.
        ImageError: an image cannot be decoded, or is another one at a worker.
        ModelError: a model cannot be run.
    """
    asked = [index for index, runs in enumerate(wanted) if any(runs)]
    if not asked:
        return
    images = share_images(source, pipeline)
    models = tuple(share_model(engine, file.path, file.signature) for file in files)
    size = max(device.batch, min(JOB_IMAGES, -(-len(asked) // (_JOBS_EACH * engine.slots))))
    parts = [asked[start : start + size] for start in range(0, len(asked), size)]
    jobs = (
        tuple(((source.items[index].id, source.items[index].portable()), tuple(wanted[index])) for index in part)
        for part in parts
    )
    for part, answers in zip(parts, engine.map(ScoreWork(models, images, device), jobs), strict=True):
        for index, scores in zip(part, answers, strict=True):
            yield PartialScores(index, scores)

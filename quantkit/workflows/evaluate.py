"""``quantkit eval``: top-1 and top-5 of a model, optionally on a shard, and its predictions as a file."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
import onnxruntime

from quantkit import __version__
from quantkit.config.arguments import AnyPath, as_path, optional_path
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.source import ImageSource
from quantkit.data.sources.open import ImagesLike
from quantkit.engine.classifier import ClassifierFile
from quantkit.engine.device import CPU, Device
from quantkit.engine.inputs import used_pipeline
from quantkit.engine.placement import DevicePlacement
from quantkit.engine.predict import Classifier
from quantkit.errors import UsageError
from quantkit.evaluation.images import evaluation_images
from quantkit.evaluation.label_diagnosis import diagnose_labels
from quantkit.evaluation.paired import Interval, wilson_interval
from quantkit.evaluation.predictions import TOP, Collector, Predictions, Scores, kind_of_scores
from quantkit.evaluation.predictions_file import Origin
from quantkit.files import sha256_json
from quantkit.graph.model import model_digest
from quantkit.progress import Progress
from quantkit.records import Records, plain_fields
from quantkit.report.notebook import figures_html
from quantkit.runs.configuration import record_call
from quantkit.runs.folder import RunFolder
from quantkit.runs.inputs import read_scored
from quantkit.runs.score_cache import result_cache
from quantkit.types import Float32Array
from quantkit.workflows.execution import choose_execution
from quantkit.workflows.image_evaluation import ImageEvaluation
from quantkit.workflows.preprocessing_note import guess_command, preprocessing_note
from quantkit.workflows.presets import PresetSource, preprocessing_of

# Operators that may follow a softmax without changing the kind of the scores.
_PASSED_OVER = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast", "Flatten", "Identity", "Reshape", "Squeeze"})


@dataclass(frozen=True)
class ModelEvaluation(Records):
    """Predictions of a model for labelled images.

    Attributes:
        name: name of the model.
        predictions: the predictions.
        origin: provenance of the predictions.
        kept: number of images with cached scores.
        elapsed_s: seconds spent on the other images.
        warnings: suspected problems of images, labels or model.
        output: name of the output with the scores.
        notes: how inputs and outputs were selected or changed, if they were.
        ran_on: device of the predictions.
        labels: where the labels come from, in words.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> done = quantkit.evaluate("fp32", run="run", images="images/test", limit=50)
        >>> done.rows()[0]["images"]
        50
    """

    name: str
    predictions: Predictions
    origin: Origin
    kept: int
    elapsed_s: float
    warnings: tuple[str, ...]
    output: str
    notes: tuple[str, ...] = ()
    ran_on: DevicePlacement | None = None
    labels: str = ""

    @property
    def accuracy(self) -> "Accuracy":
        """Top-1 and top-5 in percent with 95 % intervals."""
        return accuracy_of(self.predictions)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row: percent, with the bounds of the 95 % intervals."""
        accuracy = self.accuracy
        return [
            {
                "model": self.name,
                "images": accuracy.images,
                "top1": accuracy.top1,
                "top1_lo": accuracy.top1_ci95.lo,
                "top1_hi": accuracy.top1_ci95.hi,
                "top5": accuracy.top5,
                "top5_lo": accuracy.top5_ci95.lo,
                "top5_hi": accuracy.top5_ci95.hi,
            }
        ]

    def _repr_html_(self) -> str:
        """Return top-1 and top-5 with their intervals for notebooks."""
        found = accuracy_of(self.predictions)
        shares = [("top-1", found.top1, found.top1_ci95), ("top-5", found.top5, found.top5_ci95)]
        figures = [(name, f"{value:.2f} % [{ci95.lo:.2f}, {ci95.hi:.2f}]") for name, value, ci95 in shares]
        return figures_html(f"{self.name}, {found.images:,} images, with 95 % intervals", figures)


@dataclass(frozen=True)
class Accuracy:
    """Accuracy over labelled images; shares in percent.

    Attributes:
        images: number of images.
        top1: percentage with the true class first.
        top1_ci95: its 95 % interval (Wilson).
        top5: percentage with the true class among the first five.
        top5_ci95: its 95 % interval.
        tied: number of images with tied best scores; the lowest class index counts.
        constant: number of images with equal scores of all classes.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> done = quantkit.evaluate("fp32", run="run", images="images/test", limit=50)
        >>> done.accuracy.top5
        100.0
    """

    images: int
    top1: float
    top1_ci95: Interval
    top5: float
    top5_ci95: Interval
    tied: int
    constant: int

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data, intervals as ``[lo, hi]``."""
        return plain_fields(self)


def evaluate(
    model: AnyPath,
    *,
    run: AnyPath | None = None,
    images: ImagesLike | None = None,
    labels: AnyPath | None = None,
    names: AnyPath | None = None,
    exclude: AnyPath | CalibrationSet | None = None,
    pipeline: PresetSource | None = None,
    limit: int | None = None,
    shard: tuple[int, int] | None = None,
    cache: AnyPath | None = None,
    output: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    check_preprocessing: bool = True,
    device: Device | str = CPU,
    cluster: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ModelEvaluation:
    """Evaluate a model on labelled images.

    Scores are cached by model, image and preprocessing: an interrupted evaluation resumes, and a repeated one, or
    `quantkit.compare` in the same run, does not run the model again. The result does not depend on interruptions or on
    the number of threads or shards.

    Args:
        model: name in the run (``fp32``, ``int8``, ...), or path of an ONNX file.
        run: run folder; needed for names, and if no pipeline is given.
        images: a folder, an archive, a URL, arrays, ... (`quantkit.open_source`); by default the images that the run's
            calibration set was drawn from.
        labels: label file; by default the labels come from folders or file names.
        names: class names, one per line.
        exclude: calibration set whose images are left out.
        pipeline: preprocessing: a pipeline, a preset's name, or a file (see `load_preset`); by default the run's.
        limit: maximum number of evaluation images, spread over the classes.
        shard: ``(i, n)`` with i from 1: only every n-th image, starting with the i-th.
        cache: folder for cached results; by default that of the run, or the user's cache folder.
        output: name of the output with the class scores; by default the run's, or detected.
        inputs: values of the other inputs, by name; by default the run's.
        check_preprocessing: try other scalings and channel orders on some of the images, and warn if one is
            significantly better.
        device: device and batch size: a `quantkit.Device`, or a name such as ``cuda:1``.
        cluster: spread the images over the workers of a Ray cluster: ``auto``, ``ray://HOST:PORT`` or ``local:N``; the
            result is the same. They must find the images under the same path or URL.
        threads: number of worker threads; one per processor by default. On a cluster, the threads of each worker.
        progress: receives the progress.

    Raises:
        UsageError: a name that is not in the run, an invalid shard, no images, or another process is running this model
            on these images.
        ConfigError: the pipeline does not fit the model.
        ModelError: the model cannot be read or run.
        DeviceError: the device is not available, or does not run the model.
        ClusterError: the cluster is not there, or its workers cannot do the work.
        LabelError: labels are missing, malformed or out of range for the model.
        CalibrationSetError: there are no images.
        ImageError: an image cannot be decoded.
        NumericError: a score is NaN or infinite.
        OutputError: the scores cannot be written.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> done = quantkit.evaluate("mini_iresnet.onnx", images="images/test", pipeline="digits", limit=50)
        >>> done.accuracy.top1 > 90.0
        True
    """
    given, run = as_path(model, "model"), optional_path(run, "run")
    folder = None if run is None else RunFolder(run)
    record = None if folder is None else folder.read()
    path = given
    if folder is not None and record is not None and path.suffix != ".onnx":
        name, path = str(model), folder.model(str(model), record)
    elif not isinstance(model, str) or path.suffix == ".onnx":
        name = path.stem
    else:
        raise UsageError(f"{model!r} is not an ONNX file, and no run was given to look up the name", fix="give --run")
    file = read_scored(path, record, output, inputs)
    found, doubts = evaluation_images(images, labels, names, exclude, record, limit)
    given_pipeline, pipeline = pipeline, used_pipeline(preprocessing_of(pipeline, record), found.array_shape)
    execution = choose_execution(cluster, device, threads, progress)
    results = result_cache(optional_path(cache, "cache"), folder)
    evaluation = ImageEvaluation(found, pipeline, execution, results)
    evaluation.check(file)
    part = found if shard is None else _shard(found, *shard)
    collector = Collector(1, kind=Scores.PROBABILITIES if _ends_in_softmax(file) else None)

    def completed(name: str, scores: list[Float32Array]) -> list[Float32Array]:
        # Determined from one image, so that it does not depend on the batches.
        collector.kind = collector.kind or kind_of_scores(scores[0])
        return scores

    start_s = time.monotonic()
    with execution:
        classifier = Classifier(file, execution.device)
        before = replace(evaluation, images=part).collect([classifier], collector, "evaluating", completed=completed)
    elapsed_s = time.monotonic() - start_s - execution.start_s
    predictions = collector.predictions(0)
    assert collector.kind is not None
    origin = Origin(
        model=model_digest(path),
        images=_portable_digest(found),
        pipeline=sha256_json(pipeline.model_dump(mode="json")),
        scores=collector.kind.value,
        onnxruntime=onnxruntime.__version__,
        quantkit=__version__,
        shards=() if shard is None or shard[1] == 1 else (shard,),
        device=execution.device.describe(),
    )
    other = None
    if check_preprocessing:
        command = guess_command(path, run=run, images=images, labels=labels, pipeline=given_pipeline)
        other = preprocessing_note(
            classifier, part, pipeline, execution, command=command, cache=results, predictions=predictions
        )
    if folder is not None:
        settings = {"images": images, "labels": labels, "preprocessing": given_pipeline, "exclude": exclude}
        record_call(folder.path, f"eval {name}", {"run": folder.path, **settings, "shard": shard, "limit": limit})
    warnings = (*doubts, *(diagnosis for diagnosis in (diagnose_labels(predictions), other) if diagnosis is not None))
    notes = (*file.signature.notes, *classifier.notes)
    return ModelEvaluation(
        name,
        predictions,
        origin,
        before,
        elapsed_s,
        warnings,
        file.signature.scores.name,
        notes,
        classifier.placement,
        found.source,
    )


def accuracy_of(predictions: Predictions) -> Accuracy:
    """Return top-1 and top-5 with 95 % intervals.

    Raises:
        LabelError: the true classes are not known.
    """
    count = len(predictions)
    rights = [int(predictions.correct(k).sum()) for k in (1, TOP)]
    shares = [100.0 * right / count for right in rights]
    intervals = [wilson_interval(right, count).scaled(100.0) for right in rights]
    return Accuracy(
        images=count,
        top1=shares[0],
        top1_ci95=intervals[0],
        top5=shares[1],
        top5_ci95=intervals[1],
        tied=int(predictions.tied.sum()),
        constant=int(predictions.constant.sum()),
    )


def parse_shard(text: str) -> tuple[int, int]:
    """Return ``(i, n)`` of ``i/n``.

    Raises:
        UsageError: the text has another form, or i is not in 1 to n.
    """
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise UsageError(f"invalid shard {text!r}", where="--shard", fix="write the second of four as 2/4")
    return int(i), int(n)


def _ends_in_softmax(file: ClassifierFile) -> bool:
    """Return whether the scores come from a softmax; its quantized outputs need not sum to 1."""
    wanted = file.signature.scores.name
    value: ir.Value | None = next(output for output in file.graph.graph.outputs if output.name == wanted)
    while value is not None and (node := value.producer()) is not None:
        if node.op_type not in _PASSED_OVER:
            return node.op_type == "Softmax"
        value = node.inputs[0]
    return False


def _shard(found: ImageSource, i: int, n: int) -> ImageSource:
    if n > len(found.names):
        raise UsageError(f"there are {len(found.names)} images for {n} shards", where="--shard", fix="use fewer shards")
    return found.only(range(i - 1, len(found.names), n))


def _portable_digest(found: ImageSource) -> str:
    """Return a digest of names and sizes or contents, equal for copies of the images on other machines."""
    return sha256_json([(item.id, item.portable()) for item in found.items])

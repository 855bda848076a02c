"""``quantkit compare``: how models differ from the first on the same images, and where the difference arises."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantkit.config.arguments import AnyPath, as_path, optional_path
from quantkit.config.pipeline import Pipeline
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.decoded import DecodedImages
from quantkit.data.item import ImageItem
from quantkit.data.preprocess import preprocess
from quantkit.data.source import ImageSource
from quantkit.data.sources.open import ImagesLike
from quantkit.engine.device import CPU, Device
from quantkit.engine.inputs import used_pipeline
from quantkit.engine.predict import Classifier, time_in_turn
from quantkit.errors import UsageError
from quantkit.evaluation.compare_models import EvaluatedModel, compare_models
from quantkit.evaluation.images import evaluation_images
from quantkit.evaluation.measure_drift import Drifts, measure_drift
from quantkit.evaluation.paired import Interval
from quantkit.evaluation.predictions import Collector
from quantkit.evaluation.result import Comparison
from quantkit.graph.model import model_files
from quantkit.progress import Progress
from quantkit.runs.configuration import record_call
from quantkit.runs.folder import RunFolder
from quantkit.runs.score_cache import score_cache_of
from quantkit.types import Float32Array
from quantkit.workflows.compared_models import Candidate, ComparedModel, is_rescaled, read_candidate, require_distinct
from quantkit.workflows.execution import choose_execution
from quantkit.workflows.image_evaluation import ImageEvaluation
from quantkit.workflows.preprocessing_note import guess_command, preprocessing_note
from quantkit.workflows.presets import PresetSource, preprocessing_of
from quantkit.workflows.vacc.device_results import DeviceResults, other_preprocessing

# Drift is averaged over all elements of a tensor, so a few dozen images are enough.
DRIFT_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class ModelComparison(Comparison):
    """The result of `compare`: a comparison with the data it was computed from, which `report` needs.

    Attributes:
        subject: the model, or the results of a card, that the others are measured against.
        answers: predictions of each model, the reference first.
        source: the evaluated images.
        pipeline: the preprocessing.
        run: the run folder, if there is one.
        notes: the compared outputs, if they were selected, and how inputs of unusual layout or type are fed.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> done = quantkit.compare(["fp32", "kl"], run="run", images="images/test", limit=50, drift_images=0)
        >>> len(done.source.names), [one.name for one in done.answers]
        (50, ['fp32', 'kl'])
    """

    subject: ComparedModel | DeviceResults = field(repr=False)
    answers: tuple[EvaluatedModel, ...] = field(repr=False)
    source: ImageSource = field(repr=False)
    pipeline: Pipeline
    run: Path | None
    notes: tuple[str, ...] = ()


def compare(
    models: Sequence[AnyPath],
    *,
    run: AnyPath | None = None,
    images: ImagesLike | None = None,
    labels: AnyPath | None = None,
    names: AnyPath | None = None,
    exclude: AnyPath | CalibrationSet | None = None,
    pipeline: PresetSource | None = None,
    limit: int | None = None,
    drift_images: int = DRIFT_IMAGES,
    latency: bool = False,
    datalist: AnyPath | None = None,
    output: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    check_preprocessing: bool = True,
    device: Device | str = CPU,
    cluster: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ModelComparison:
    """Compare the first model with each of the others on the same labelled images, all on one device.

    Args:
        models: names in the run (``fp32``, ``int8``, ...), paths of ONNX files, ``NAME=PATH`` to name a file, or
            ``NAME=DIR`` for results of a card. The first one is the reference: any of these, quantized or not.
        run: run folder; needed for names, and if no pipeline is given.
        images: a folder, an archive, a URL, arrays, ... (`quantkit.open_source`); by default the images that the run's
            calibration set was drawn from.
        labels: label file; by default the labels come from folders or file names.
        names: class names, one per line.
        exclude: calibration set whose images are left out, identified by content; by default the run's own if
            ``images`` is not given either. Otherwise images in both cause a warning.
        pipeline: preprocessing: a value, the name of a preset, or a file (see `load_preset`); by default the run's.
        limit: maximum number of evaluation images, spread over the classes.
        drift_images: number of images to measure the drift of tensors on; 0 for none.
        latency: also measure the latency of every ONNX model, one image at a time.
        datalist: datalist of the card's results.
        output: name of the output with the class scores; by default the run's, or detected.
        inputs: values of the other inputs, by name; by default the run's.
        check_preprocessing: try other scalings and channel orders on some of the images with the first ONNX model, and
            warn if one is significantly better.
        device: device and batch size of all models, the reference included: a `quantkit.Device`, or a name such as
            ``cuda:1``. Drift (image by image) and latency are measured on it too.
        cluster: spread the images over the workers of a Ray cluster: ``auto``, ``ray://HOST:PORT`` or ``local:N``; the
            result is the same. They must find the images under the same path or URL. Drift and latency are measured
            here.
        threads: number of worker threads; one per processor by default. On a cluster, the threads of each worker.
        progress: receives the progress.

    Raises:
        UsageError: fewer than two models, a name that is not in the run, no images, or an invalid number of them.
        ModelError: a model cannot be read or run, or the models are incompatible.
        DeviceError: the device is not available, or does not run a model.
        ClusterError: the cluster is not there, or its workers cannot do the work.
        LabelError: labels are missing, malformed or out of range for the model.
        CalibrationSetError: there are no images.
        ImageError: an image cannot be decoded.
        VendorFileError: results of a card are damaged or do not match the images.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> result = quantkit.compare(["fp32", "mse"], run="run", images="images/test", limit=100, drift_images=0)
        >>> result.candidates[0].name, result.images
        ('mse', 100)
        >>> result.candidates[0].versus.agreement > 90.0
        True
        >>> batches = quantkit.Device("cpu", batch=25)
        >>> options = {"run": "run", "images": "images/test", "limit": 100, "drift_images": 0}
        >>> quantkit.compare(["fp32", "mse"], **options, device=batches).reference.ran_on.provider
        'CPUExecutionProvider'
    """
    if isinstance(models, str | os.PathLike):
        raise UsageError(f"takes a list of models, not {str(models)!r}", where="models", fix="name the reference first")
    named = [model if isinstance(model, str) else as_path(model, "models") for model in models]
    if len(named) < 2:
        raise UsageError("a comparison takes at least two models", fix="name the reference first, then the others")
    if drift_images < 0:
        fix = "give a number from 0 up"
        raise UsageError(f"invalid number of images {drift_images}", where="--drift-images", fix=fix)
    run, datalist = optional_path(run, "run"), optional_path(datalist, "datalist")
    folder = None if run is None else RunFolder(run)
    record = None if folder is None else folder.read()
    subjects = [read_candidate(model, folder, record, datalist, output, inputs) for model in named]
    require_distinct(named, subjects)
    found, warnings = evaluation_images(images, labels, names, exclude, record, limit)
    used = used_pipeline(preprocessing_of(pipeline, record), found.array_shape)
    if datalist is not None and (other := other_preprocessing(datalist, used)) is not None:
        warnings.append(other)
    execution, cache = choose_execution(cluster, device, threads, progress), score_cache_of(run)
    sample = found.items[:: max(1, len(found.names) // drift_images)][:drift_images] if drift_images else ()
    evaluation = ImageEvaluation(found, used, execution, cache, DecodedImages(used, only=sample))
    for one in subjects:
        if isinstance(one, ComparedModel):
            evaluation.check(one.file)
        else:
            one.check(found)
    onnx = [one for one in subjects if isinstance(one, ComparedModel)]
    classifiers = [Classifier(one.file, execution.device) for one in onnx]
    with execution:
        collector = _collect(subjects, classifiers, evaluation)
    if check_preprocessing and onnx:
        command = guess_command(onnx[0].path, run=run, images=images, labels=labels, pipeline=pipeline)
        predictions = collector.predictions(subjects.index(onnx[0]))
        note = preprocessing_note(
            classifiers[0], found, used, execution, command=command, cache=cache, predictions=predictions
        )
        warnings += [] if note is None else [f"{onnx[0].name}: {note}"]
    times = time_in_turn(classifiers, preprocess(found.items[0], used)[None]) if latency and onnx else []
    latencies = dict(zip((one.name for one in onnx), times, strict=False))
    placements = {subject.name: one.placement for subject, one in zip(onnx, classifiers, strict=True)}
    notes = _notes(onnx, classifiers)
    del classifiers  # their sessions hold the weights, and drift opens sessions of its own
    rescaled = [subject.name for subject in subjects if is_rescaled(subject, folder, record)]
    drifts = _drifts(subjects, rescaled, sample, evaluation)
    if drift_images:
        warnings += _drift_warnings(subjects[0], rescaled)
    answers = tuple(
        EvaluatedModel(
            name=subject.name,
            predictions=collector.predictions(index),
            bytes=_size(subject),
            kl=collector.divergence(index),
            latency_ms=None if (time := latencies.get(subject.name)) is None else time.median,
            latency_spread_ms=None if time is None else Interval(time.p10, time.p90),
            tensors=drift.accumulated,
            layers=drift.isolated,
            ran_on=placements.get(subject.name),
        )
        for index, (subject, drift) in enumerate(zip(subjects, drifts, strict=True))
    )
    if run is not None:
        settings = {"images": images, "labels": labels, "preprocessing": pipeline, "exclude": exclude, "limit": limit}
        record_call(run, "compare", {"run": run, "models": named, **settings})
    return ModelComparison(
        **vars(compare_models(answers, warnings=warnings)),
        subject=subjects[0],
        answers=answers,
        source=found,
        pipeline=used,
        run=run,
        notes=notes,
    )


def _collect(
    subjects: Sequence[Candidate], classifiers: Sequence[Classifier], evaluation: ImageEvaluation
) -> Collector:
    """Collect the predictions of all models and card results."""

    def completed(name: str, scores: list[Float32Array]) -> list[Float32Array]:
        of_models = iter(scores)
        return [next(of_models) if isinstance(one, ComparedModel) else one.scores(name) for one in subjects]

    collector = Collector(len(subjects))
    evaluation.collect(classifiers, collector, "comparing", completed=completed)
    return collector


def _drifts(
    subjects: Sequence[Candidate], rescaled: Sequence[str], sample: Sequence[ImageItem], evaluation: ImageEvaluation
) -> list[Drifts]:
    """Measure the drift of each candidate; results of a card and rescaled models have none."""
    reference, load, execution = subjects[0], evaluation.load, evaluation.execution
    assert load is not None
    return [
        measure_drift(reference.model, one.model, sample, load, execution.threads, execution.device)
        if sample
        and one is not reference
        and isinstance(one, ComparedModel)
        and isinstance(reference, ComparedModel)
        and one.name not in rescaled
        else Drifts()
        for one in subjects
    ]


def _drift_warnings(reference: Candidate, rescaled: Sequence[str]) -> list[str]:
    if not isinstance(reference, ComparedModel):
        return [f"{reference.name} is a result of a card, so the drift of tensors is not measured"]
    return [f"{name}: tune shifted or rescaled its channels, so its drift is not measured" for name in rescaled]


def _notes(subjects: Sequence[ComparedModel], classifiers: Sequence[Classifier]) -> tuple[str, ...]:
    """Return the notes on the signature of the first model, differing ones of others, and changes at run time.

    Args:
        subjects: the ONNX models; none if all are results of a card.
        classifiers: their sessions.
    """
    first = subjects[0].file.signature.notes if subjects else ()
    others = [f"{one.name}: {note}" for one in subjects[1:] for note in one.file.signature.notes if note not in first]
    return (*first, *others, *(note for classifier in classifiers for note in classifier.notes))


def _size(subject: Candidate) -> int | None:
    if not isinstance(subject, ComparedModel):
        return None
    return sum(file.stat().st_size for file in model_files(subject.path))

"""``quantkit compare``: what int8 costs against fp32, on the same images, and where the difference arises."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from quantkit.config.pipeline import Pipeline
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.item import ImageItem
from quantkit.data.preprocess import check_pipeline, preprocess
from quantkit.data.source import ImageSource
from quantkit.data.sources.open import ImagesLike
from quantkit.engine.inputs import check_arrays, used_pipeline
from quantkit.engine.predict import Classifier, ModelScores, evaluate, time_in_turn
from quantkit.engine.session import default_threads
from quantkit.errors import UsageError
from quantkit.evaluation.drift import TensorDrift
from quantkit.evaluation.images import check_labels, evaluation_images, limited
from quantkit.evaluation.measure_drift import measure_drift, measure_local_drift
from quantkit.evaluation.predictions import Collector
from quantkit.evaluation.preprocessing_diagnosis import diagnose_preprocessing
from quantkit.evaluation.result import Comparison, EvaluatedModel, compare_models
from quantkit.graph.model import image_input, logits_output, model_digest, model_files, read_model
from quantkit.progress import Count
from quantkit.runs.cache import ResultCache
from quantkit.runs.folder import RunFolder, RunRecord
from quantkit.runs.score_cache import cached_scores, predict_cached, scores_key
from quantkit.workflows.vacc.device_results import DeviceResults, parse_card

# Drift is a matter of tensors, not of images: its figures stand after a few dozen.
DRIFT_IMAGES = 32


@dataclass(frozen=True)
class Subject:
    """One ONNX model of a comparison, read.

    Attributes:
        name: as the user calls it.
        path: its file.
        model: the graph.
    """

    name: str
    path: Path
    model: ir.Model


@dataclass(frozen=True)
class Evaluation:
    """A comparison with all that it was made from.

    Attributes:
        comparison: the figures.
        reference: the model that the others are measured against.
        answers: what each model said, the reference first.
        images: the evaluated images.
        run: the run folder, where there is one.
    """

    comparison: Comparison
    reference: Subject
    answers: tuple[EvaluatedModel, ...]
    images: ImageSource
    run: Path | None


def compare(models: Sequence[str | Path], **options: Any) -> Comparison:
    """Compare the first model with each of the others on labelled images; see `evaluate_models` for the options."""
    return evaluate_models(models, **options).comparison


def evaluate_models(
    models: Sequence[str | Path],
    *,
    run: Path | None = None,
    images: ImagesLike = None,
    labels: Path | None = None,
    names: Path | None = None,
    exclude: Path | CalibrationSet | None = None,
    pipeline: Pipeline | None = None,
    limit: int | None = None,
    drift_images: int = DRIFT_IMAGES,
    latency: bool = False,
    datalist: Path | None = None,
    threads: int | None = None,
    progress: Count | None = None,
) -> Evaluation:
    """Run all models over the same images, compare them with the first, and keep what a report shows.

    Args:
        models: names in the run (``fp32``, ``int8``, ...), paths of ONNX files, or ``NAME=DIR`` for results of a card;
            the first is the reference, and an ONNX model.
        run: run folder; needed for names and where no pipeline is given.
        images: a folder, an archive, a URL, arrays, ... (`quantkit.open_source`); absent, the images that the run's
            calibration set was drawn from.
        labels: label file; absent, the labels come from folders or file names.
        names: class names, one a line.
        exclude: calibration set whose images are left out, told by their bytes; absent, the run's own where the images
            are absent too, and otherwise images in both are only warned of.
        pipeline: preprocessing; absent, the run's.
        limit: evaluate at most so many images, spread over the classes as they lie.
        drift_images: how many images the drift of tensors is measured on; 0 for none.
        latency: time every ONNX model too, one image at a time, in turn.
        datalist: of the card's results.
        threads: workers; as many as there are processors when absent.
        progress: called with images done and in all.

    Raises:
        UsageError: fewer than two models, a name the run does not have, or nothing to say what images to use.
        ModelError: a model cannot be read or run, or the models do not fit each other.
        LabelError: labels are missing, malformed, or no classes of the model.
        CalibrationSetError: there are no images.
        ImageError: an image cannot be decoded.
        VendorFileError: results of a card are damaged or do not fit the images.
    """
    if len(models) < 2:
        raise UsageError("a comparison takes at least two models", fix="name the reference first, then the others")
    folder = None if run is None else RunFolder(run)
    record = None if folder is None else folder.read()
    subjects = [_subject(model, folder, record, datalist) for model in models]
    reference = subjects[0]
    if not isinstance(reference, Subject):
        raise UsageError("the reference must be an ONNX model", where=models[0], fix="name fp32 first")
    pipeline = pipeline or (record.pipeline if record is not None else None)
    found, warnings = evaluation_images(images, labels, names, exclude, record)
    pipeline = used_pipeline(pipeline, found.array_shape)
    found = limited(found, limit)
    threads = threads or default_threads()
    _check_fit(subjects, pipeline, found)
    onnx = [subject for subject in subjects if isinstance(subject, Subject)]
    classifiers = [Classifier(subject.path, image_input(subject.model)) for subject in onnx]
    with _answers(onnx, classifiers, found, pipeline, threads, run) as answers_to_images:
        collector = _collect(subjects, answers_to_images, found, progress)
    diagnosis = diagnose_preprocessing(
        classifiers[0],
        found,
        pipeline,
        collector.predictions(0),
        digest=model_digest(reference.path),
        cache=_cache_of(run),
        threads=threads,
    )
    warnings += [] if diagnosis is None else [f"{reference.name}: {diagnosis}"]
    times = time_in_turn(classifiers, preprocess(found.items[0], pipeline)[None]) if latency else None
    every = max(1, len(found.names) // drift_images) if drift_images else 1
    sample = found.items[::every][:drift_images]
    drifts = [_drift(reference, subject, sample, pipeline, threads) for subject in subjects]
    answers = tuple(
        EvaluatedModel(
            name=_name(subject),
            predictions=collector.predictions(index),
            bytes=_size(subject),
            kl=collector.divergence(index),
            latency_ms=times[onnx.index(subject)] if times and isinstance(subject, Subject) else None,
            tensors=tensors,
            layers=layers,
        )
        for index, (subject, (tensors, layers)) in enumerate(zip(subjects, drifts, strict=True))
    )
    return Evaluation(compare_models(answers, warnings=warnings), reference, answers, found, run)


_Candidate = Subject | tuple[str, DeviceResults]


def _drift(
    reference: Subject, subject: _Candidate, sample: Sequence[ImageItem], pipeline: Pipeline, threads: int
) -> tuple[tuple[TensorDrift, ...], tuple[TensorDrift, ...]]:
    """Measure the drift of a candidate's tensors, end to end and of each layer alone; a card shows neither."""
    if subject is reference or not isinstance(subject, Subject):
        return (), ()
    end_to_end, local = (
        measure(reference.model, subject.model, sample, pipeline, threads)
        for measure in (measure_drift, measure_local_drift)
    )
    return end_to_end, local


@contextmanager
def _answers(
    subjects: Sequence[Subject],
    classifiers: Sequence[Classifier],
    found: ImageSource,
    pipeline: Pipeline,
    threads: int,
    run: Path | None,
) -> Iterator[Iterator[ModelScores]]:
    """Give what every ONNX model says to every image; in a run of ours, no model is asked twice about the same."""
    cache = _cache_of(run)
    if cache is None:
        yield evaluate(classifiers, found.items, pipeline, threads=threads)
        return
    keys = [scores_key(model_digest(subject.path), pipeline) for subject in subjects]
    with cached_scores(cache, keys, found) as scores:
        yield predict_cached(classifiers, scores, found.items, pipeline, threads=threads)


def _cache_of(run: Path | None) -> ResultCache | None:
    """Return the cache of a run, None where there is no run or it cannot be written."""
    return RunFolder(run).cache if run is not None and os.access(run, os.W_OK) else None


def _collect(
    subjects: Sequence[_Candidate], answers_to_images: Iterator[ModelScores], found: ImageSource, progress: Count | None
) -> Collector:
    """Gather what every model, and every card, said to every image."""
    assert found.labels is not None
    collector = Collector(len(subjects))
    for answers in answers_to_images:
        name, scores = found.names[answers.index], iter(answers.scores)
        every = [next(scores) if isinstance(one, Subject) else one[1].scores(name) for one in subjects]
        collector.update(every, [name], [found.labels[answers.index]])
        if progress is not None:
            progress(answers.index + 1, len(found.names))
    return collector


def _subject(
    model: str | Path, folder: RunFolder | None, record: RunRecord | None, datalist: Path | None
) -> _Candidate:
    path = Path(model)
    if isinstance(model, str) and (card := parse_card(model, datalist)) is not None:
        return card
    if isinstance(model, Path) or path.suffix == ".onnx":
        name = path.stem
    elif folder is not None and record is not None:
        name, path = model, folder.model(model, record)
    else:
        raise UsageError(f"{model!r} is no ONNX file, and no run was given to look it up in", fix="give --run")
    return Subject(name, path, read_model(path, allow_quantized=True))


def _name(subject: _Candidate) -> str:
    return subject.name if isinstance(subject, Subject) else subject[0]


def _size(subject: _Candidate) -> int | None:
    if not isinstance(subject, Subject):
        return None
    return sum(file.stat().st_size for file in model_files(subject.path))


def _check_fit(subjects: Sequence[_Candidate], pipeline: Pipeline, found: ImageSource) -> None:
    """See that every model reads what the pipeline gives, knows every label, and (a card) answered every image."""
    for subject in subjects:
        if not isinstance(subject, Subject):
            subject[1].check(found)
            continue
        image = image_input(subject.model)
        check_pipeline(pipeline, image.channels, image.height, image.width)
        check_arrays(found.array_shape, image, found.root)
        _, classes = logits_output(subject.model)
        check_labels(found, classes, subject.path)

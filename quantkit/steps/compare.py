"""``quantkit compare``: what int8 costs against fp32, on the same images, and where the difference arises."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx_ir as ir

from quantkit.comparison.drift import DriftAccumulator, TensorDrift
from quantkit.comparison.predictions import Collector
from quantkit.comparison.result import Comparison, EvaluatedModel, compare_models
from quantkit.config.pipeline import Pipeline
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.folder import ImageFolder, find_labelled_images
from quantkit.data.overlap import overlap
from quantkit.data.parallel import map_in_order
from quantkit.data.preprocess import check_pipeline, preprocess
from quantkit.errors import CalibrationSetError, LabelError, UsageError
from quantkit.graph.model import image_input, logits_output, model_files, read_model
from quantkit.graph.prepare import prepare
from quantkit.graph.read_qdq import activation_qparams
from quantkit.run.evaluate import Classifier, evaluate
from quantkit.run.folder import RunFolder, RunRecord
from quantkit.run.observe import load_batch
from quantkit.run.session import default_threads
from quantkit.run.tap import TappedSession
from quantkit.steps.progress import Count

# Drift is a matter of tensors, not of images: its figures stand after a few dozen.
DRIFT_IMAGES = 32


@dataclass(frozen=True)
class _Subject:
    """One model of a comparison, read."""

    name: str
    path: Path
    model: ir.Model


def compare(
    models: Sequence[str | Path],
    *,
    run: Path | None = None,
    images: Path | ImageFolder | None = None,
    labels: Path | None = None,
    names: Path | None = None,
    exclude: Path | CalibrationSet | None = None,
    pipeline: Pipeline | None = None,
    limit: int | None = None,
    drift_images: int = DRIFT_IMAGES,
    threads: int | None = None,
    progress: Count | None = None,
) -> Comparison:
    """Compare the first model with each of the others on labelled images.

    Args:
        models: names in the run (``fp32``, ``int8``, ...) or paths of ONNX files; the first is the reference.
        run: run folder; needed for names and where no pipeline is given.
        images: folder of evaluation images; absent, the folder that the run's calibration set was drawn from.
        labels: label file; absent, the labels come from folders or file names.
        names: class names, one a line.
        exclude: calibration set whose images are left out, told by their bytes; absent, the run's own where the images
            are absent too, and otherwise images in both are only warned of.
        pipeline: preprocessing; absent, the run's.
        limit: evaluate at most so many images, spread over the classes as they lie.
        drift_images: how many images the drift of tensors is measured on; 0 for none.
        threads: workers; as many as there are processors when absent.
        progress: called with images done and in all.

    Raises:
        UsageError: fewer than two models, a name the run does not have, or nothing to say what images to use.
        ModelError: a model cannot be read or run, or the models do not fit each other.
        LabelError: labels are missing, malformed, or no classes of the model.
        CalibrationSetError: there are no images.
        ImageError: an image cannot be decoded.
    """
    if len(models) < 2:
        raise UsageError("a comparison takes at least two models", fix="name the reference first, then the others")
    folder = None if run is None else RunFolder(run)
    record = None if folder is None else folder.read()
    subjects = [_subject(model, folder, record) for model in models]
    pipeline = pipeline or (record.pipeline if record is not None else None)
    if pipeline is None:
        raise UsageError("nothing says how images are preprocessed", fix="give --preset, or --run of a calibrated run")
    found, warnings = _images(images, labels, names, exclude, record)
    paths, truth = _limited(found, limit)
    threads = threads or default_threads()
    _check_fit(subjects, pipeline, truth)
    collector = Collector(len(subjects))
    classifiers = [Classifier(subject.path, image_input(subject.model)) for subject in subjects]
    for answers in evaluate(classifiers, paths, pipeline, threads=threads):
        collector.update(answers.scores, [str(paths[answers.index])], [truth[answers.index]])
        if progress is not None:
            progress(answers.index + 1, len(paths))
    sample = paths[:: max(1, len(paths) // drift_images)][:drift_images] if drift_images else []
    return compare_models(
        [
            EvaluatedModel(
                name=subject.name,
                predictions=collector.predictions(index),
                bytes=sum(file.stat().st_size for file in model_files(subject.path)),
                kl=collector.divergence(index),
                tensors=measure_drift(subjects[0].model, subject.model, sample, pipeline, threads) if index else (),
            )
            for index, subject in enumerate(subjects)
        ],
        warnings=warnings,
    )


def measure_drift(
    reference: ir.Model, candidate: ir.Model, paths: Sequence[Path], pipeline: Pipeline, threads: int = 1
) -> tuple[TensorDrift, ...]:
    """Return the drift of every quantized tensor of the candidate that the prepared reference has too, in graph order.

    The error is end to end: each tensor differs by all that happened before it.
    """
    prepared = prepare(reference).model
    qparams = activation_qparams(candidate)
    producers = {str(value.name): node.op_type for node in prepared.graph for value in node.outputs}
    known = [name for name in producers if name in qparams]
    if not known or not paths:
        return ()
    sessions = [TappedSession(model, known, ordered=True) for model in (prepared, candidate)]
    accumulators = {name: DriftAccumulator(name, op_type=producers[name], qparams=qparams[name]) for name in known}
    batch = image_input(prepared).batch or 1

    def tensors(path: Path) -> list[dict[str, object]]:
        x = load_batch([path], partial(preprocess, pipeline=pipeline), batch)
        return [{name: value[:1] for name, value in session.run(x)[1]} for session in sessions]

    for one, other in map_in_order(tensors, paths, threads):
        for name in known:
            accumulators[name].update(one[name], other[name])  # type: ignore[arg-type]
    return tuple(accumulator.result() for accumulator in accumulators.values())


def _subject(model: str | Path, folder: RunFolder | None, record: RunRecord | None) -> _Subject:
    path = Path(model)
    if isinstance(model, Path) or path.suffix == ".onnx":
        name = path.stem
    elif folder is not None and record is not None:
        name, path = str(model), folder.model(str(model), record)
    else:
        raise UsageError(f"{model!r} is no ONNX file, and no run was given to look it up in", fix="give --run")
    return _Subject(name, path, read_model(path, allow_quantized=True))


def _images(
    images: Path | ImageFolder | None,
    labels: Path | None,
    names: Path | None,
    exclude: Path | CalibrationSet | None,
    record: RunRecord | None,
) -> tuple[ImageFolder, list[str]]:
    """Return the evaluation images and what is doubtful about them."""
    calibration = _calibration_set(record)
    if isinstance(exclude, Path):
        exclude = CalibrationSet.load(exclude)
    if images is None:
        if calibration is None:
            raise UsageError("nothing says which images to evaluate", fix="give --images DIR")
        images, exclude = calibration.root, exclude or calibration
    found = images if isinstance(images, ImageFolder) else find_labelled_images(images, labels, names)
    warnings = list(found.warnings)
    if exclude is not None:
        taken = set(overlap(exclude, found.paths))
        found = found.only([index for index in range(len(found.names)) if index not in taken])
        if not found.names:
            raise CalibrationSetError(
                "all images are in the calibration set", where=found.root, fix="give other --images to compare on"
            )
    elif calibration is not None and (shared := overlap(calibration, found.paths)):
        warnings.append(
            f"{len(shared)} of {len(found.names)} images are in the calibration set too: the difference looks smaller "
            "than it is; leave them out with --exclude"
        )
    return found, warnings


def _calibration_set(record: RunRecord | None) -> CalibrationSet | None:
    if record is None or not record.set.path or not Path(record.set.path).is_file():
        return None
    return CalibrationSet.load(Path(record.set.path))


def _limited(found: ImageFolder, limit: int | None) -> tuple[list[Path], list[int]]:
    assert found.labels is not None
    step = 1 if limit is None else max(1, -(-len(found.names) // limit))
    return found.paths[::step], [int(label) for label in found.labels[::step]]


def _check_fit(subjects: Sequence[_Subject], pipeline: Pipeline, truth: Sequence[int]) -> None:
    """See that every model reads what the pipeline gives, and knows every label."""
    for subject in subjects:
        image = image_input(subject.model)
        check_pipeline(pipeline, image.channels, image.height, image.width)
        _, classes = logits_output(subject.model)
        if classes is not None and max(truth) >= classes:
            raise LabelError(
                f"the labels go up to {max(truth)} and the model tells {classes} classes apart",
                where=subject.path,
                fix="these images are of another data set, or their labels start at 1",
            )

"""``quantkit preprocess guess``: which preprocessing a model was trained with, by the answers to images."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from quantkit.config.arguments import AnyPath, as_path, optional_path
from quantkit.config.pipeline import Pipeline, ToTensor
from quantkit.data.folder import find_images, find_labelled_images
from quantkit.data.parallel import available_cpus
from quantkit.data.source import ImageSource
from quantkit.data.sources.open import ImagesLike
from quantkit.engine.classifier import ClassifierFile, read_classifier
from quantkit.engine.device import CPU, Device, as_device
from quantkit.errors import CalibrationSetError, LabelError, UsageError
from quantkit.evaluation.images import check_labels
from quantkit.evaluation.label_diagnosis import diagnose_labels
from quantkit.evaluation.predictions import Predictions
from quantkit.evaluation.preprocessing_alternatives import starting_pipeline
from quantkit.evaluation.preprocessing_answers import AnswersByPipeline, random_sample
from quantkit.evaluation.preprocessing_diagnosis import changes, stages
from quantkit.evaluation.preprocessing_search import SearchResult, least_gain, least_information, looks, search
from quantkit.graph.inner_preprocessing import inner_preprocessing
from quantkit.progress import Progress, as_progress
from quantkit.runs.folder import RunFolder
from quantkit.runs.location import set_of_run
from quantkit.runs.score_cache import result_cache
from quantkit.workflows.hub_presets import preset_text
from quantkit.workflows.preprocessing_guess import PreprocessingGuess
from quantkit.workflows.presets import PresetSource, load_preset

# Significance level of a whole search.
LEVEL = 0.05
# Images that are tried at most where no limit is given.
LIMIT = 500
FEWEST = 10
# Side of an image where neither the model nor a preset fixes it.
_SIDE = 224
_MOST_CHANNELS = 4


def guess_preprocessing(
    model: AnyPath,
    *,
    run: AnyPath | None = None,
    images: ImagesLike | None = None,
    labels: AnyPath | None = None,
    names: AnyPath | None = None,
    unlabelled: bool = False,
    pipeline: PresetSource | None = None,
    limit: int = LIMIT,
    cache: AnyPath | None = None,
    output: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    device: Device | str = CPU,
    threads: int | None = None,
    progress: Progress | None = None,
) -> PreprocessingGuess:
    """Try other scalings, channel orders, crops and filters, and return the one that is better beyond chance.

    All are tried on the same images and compared in pairs: first channel order and scaling, then resize and crop, then
    interpolation. Each begins with 32 images, which are doubled while it looks promising. With labels, McNemar's exact
    test compares which answers are right; without, Wilcoxon's compares the information in the scores, which is
    weaker. If the preprocessing given is the best one, another is named with a probability of at most 5 %.

    Args:
        model: fp32 ONNX classifier.
        run: run folder; gives images and preprocessing where they are not given.
        images: a folder, an archive, a URL, ... (`quantkit.open_source`); absent, those of the run's calibration set,
            or if that has no labels those that it was drawn from. Some hundreds are enough, best with labels.
        labels: label file; absent, the labels come from folders or file names, where they are there.
        names: class names, one a line.
        unlabelled: use no labels.
        pipeline: preprocessing to start from: a pipeline, a preset's name, or a file (see `load_preset`); absent, the
            run's, or what is usual for the model's input.
        limit: try at most so many images.
        cache: folder for cached scores; absent, that of the run, or the user's cache folder.
        output: name of the output that holds the class scores; found when absent.
        inputs: values of the inputs beside the image, by name.
        device: device and batch size: a `quantkit.Device`, or a name such as ``cuda:1``.
        threads: workers; as many as there are processors when absent.
        progress: receives the progress.

    Raises:
        UsageError: nothing says what images to use, they are ready arrays, or an argument is out of range.
        CalibrationSetError: there are too few images.
        LabelError: labels were given and are malformed, or no classes of the model.
        ConfigError: the pipeline does not fit the model.
        ModelError: the model cannot be read or run, or is quantized.
        ImageError: an image cannot be decoded.

    Example:
        In the folder that ``quantkit demo`` makes, with the values of ``digits`` but not between -1 and 1:

        >>> import quantkit
        >>> ops = (quantkit.Decode(mode="L"), quantkit.Resize(size=(8, 8)), quantkit.ToTensor(divisor=1.0))
        >>> wrong = quantkit.Pipeline(ops=ops)
        >>> guess = quantkit.guess_preprocessing("mini_iresnet.onnx", images="images/test", pipeline=wrong)
        >>> guess.best == quantkit.PRESETS["digits"]
        True
    """
    if limit < FEWEST:
        raise UsageError(
            f"{limit} images show nothing", where="--limit", fix=f"use at least {FEWEST}, best some hundreds"
        )
    path, run = as_path(model, "model"), optional_path(run, "run")
    folder = None if run is None else RunFolder(run)
    record = None if folder is None else folder.read()
    file = read_classifier(
        path,
        output=output or (None if record is None else record.model.output),
        inputs=inputs or ({} if record is None else record.model.inputs),
    )
    if images is None:
        if record is None:
            raise UsageError("nothing says which images to try", fix="give --images")
        chosen = set_of_run(record)
        own = labels is None and names is None and chosen.labels is not None
        images = (
            ImageSource(chosen.root, chosen.items, labels=chosen.labels, array_shape=chosen.array_shape)
            if own
            else chosen.source_of_images()
        )
    found, notes = _images(images, labels, names, unlabelled)
    if pipeline is not None:
        start = load_preset(pipeline)
    elif record is not None and record.pipeline.ops:
        start = record.pipeline
    else:
        start = _usual(file)
        notes.append(f"no preset was given; the search starts from {start.describe()}")
    file.check(start)
    if found.labels is not None:
        check_labels(found, file.signature.scores.classes, path)
    sample = random_sample(found, limit)
    results = result_cache(optional_path(cache, "cache"), folder)
    start_s = time.monotonic()
    answers = AnswersByPipeline(
        file,
        sample,
        device=as_device(device).resolved(),
        cache=results,
        threads=threads or available_cpus(),
        progress=as_progress(progress).task("trying preprocessings", "images"),
    )
    result = search(start, stages(file, LEVEL, near=True, resize=True), answers, len(sample), LEVEL)
    notes += _notes(result, sample, answers)
    return PreprocessingGuess(
        model=path,
        start=start,
        best=result.best,
        evidence="scores" if sample.labels is None else "labels",
        images=len(sample),
        tried=result.tried,
        overall=result.overall if result.moves else None,
        computed=answers.computed,
        elapsed_s=time.monotonic() - start_s,
        verdict=_verdict(result, sample),
        notes=tuple(notes),
        known=answers.known,
        cache=results.folder,
    )


def guessed_preset(done: PreprocessingGuess) -> str:
    """Return a preset file with the best preprocessing, and what it rests on."""
    basis = "labelled images" if done.evidence == "labels" else "images without labels, which is weaker evidence"
    found = "" if done.found_better else "; it is the one given, as no other is better beyond chance"
    return preset_text(done.best, f"{done.model.name}, by quantkit preprocess guess on {done.images} {basis}{found}")


def _images(
    images: ImagesLike, labels: AnyPath | None, names: AnyPath | None, unlabelled: bool
) -> tuple[ImageSource, list[str]]:
    """Return the images, with labels where there are some and they are wanted, and notes on them."""
    notes = []
    if unlabelled:
        if labels is not None or names is not None:
            raise UsageError("labels are given and not to be used", where="--unlabelled", fix="leave one of them out")
        found = find_images(images)
    else:
        try:
            found = find_labelled_images(images, optional_path(labels, "labels"), optional_path(names, "names"))
        except LabelError as error:
            if labels is not None or names is not None:
                raise
            found = find_images(images)
            notes.append(f"{error.what}; the scores are compared instead")
    if found.array_shape is not None:
        raise UsageError(
            "the images are ready arrays, whose preprocessing is not known", where=found.root, fix="give image files"
        )
    if len(found) < FEWEST:
        raise CalibrationSetError(
            f"there are {len(found)} images, and at least {FEWEST} are needed",
            where=found.root,
            fix="give some hundreds",
        )
    return found, notes


def _usual(file: ClassifierFile) -> Pipeline:
    """Return the preprocessing that is usual for a model's input."""
    image = file.signature.image
    if image.channels > _MOST_CHANNELS:
        raise UsageError(f"the model reads {image.channels} channels", where=file.path, fix="give --preset")
    value = next(one for one in file.graph.graph.inputs if one.name == image.name)
    inner = inner_preprocessing(value)
    normalizes = inner is not None and inner.normalizes
    whole = image.dtype.is_integer() or (inner is not None and inner.takes_bytes)
    usual = starting_pipeline(image.channels, image.height or _SIDE, image.width or _SIDE, whole=whole or normalizes)
    if normalizes and not whole:
        return Pipeline(ops=(*usual.ops[:-1], ToTensor()))
    return usual


def _verdict(result: SearchResult, sample: ImageSource) -> str:
    found = result.overall
    if found is None or not result.moves:
        return f"no alternative is better beyond chance on {len(sample)} images; the preprocessing stays as it is"
    corrected = f"p = {result.p:.2g}, corrected for all alternatives"
    if sample.labels is None:
        return (
            f"{changes(result)}: the scores of {found.images} images hold more information, {found.reference:.2f} to "
            f"{found.value:.2f} nats ({corrected})"
        )
    return (
        f"{changes(result)}: top-1 of {found.images} images rises from {found.reference:.1f} % to {found.value:.1f} % "
        f"({found.difference:+.1f} points, 95 % interval {found.ci95.lo:+.1f} to {found.ci95.hi:+.1f}, "
        f"{corrected})"
    )


def _notes(result: SearchResult, sample: ImageSource, answers: AnswersByPipeline) -> Iterator[str]:
    if sample.labels is None:
        yield (
            "without labels, the confidence and variety of the answers are compared, by the entropy of the scores: "
            "this is weaker evidence than accuracy; check the preset on labelled images"
        )
        if not result.moves:
            classes = answers(result.best, looks(len(sample))[0]).log_p.shape[1]
            least = least_information(len(sample), classes)
            yield (
                f"to be named, an alternative has to be better by at least {least:.2f} nats on {len(sample)} images, "
                f"and beyond chance: less moves the confidence and no answer"
            )
        return
    first = [one for one in result.tried if one.round == 0]
    size = max((one.contrast.images for one in first), default=looks(len(sample))[0])
    given = answers(result.best, size)
    predictions = Predictions.from_scores(given.log_p, sample.names[:size], sample.labels[:size])
    problem = diagnose_labels(predictions)
    if problem is not None:
        yield f"{problem}; --unlabelled compares the scores alone"
    elif not result.moves:
        least = least_gain(len(sample), len(first), LEVEL / 2)
        yield (
            f"to be named, an alternative has to be right on at least {least} more of {len(sample)} images "
            f"({100 * least / len(sample):.1f} points)"
        )

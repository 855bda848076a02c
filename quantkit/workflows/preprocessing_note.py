"""What eval, compare and calibrate say unasked of a preprocessing that is not the best: which is, and how to get it."""

import shlex
from pathlib import Path

from quantkit.config.arguments import AnyPath
from quantkit.config.pipeline import PRESETS, Pipeline
from quantkit.data.source import ImageSource
from quantkit.engine.classifier import ClassifierFile
from quantkit.engine.device import CPU, Device
from quantkit.engine.predict import Classifier
from quantkit.evaluation.predictions import Predictions
from quantkit.evaluation.preprocessing_diagnosis import diagnose_preprocessing
from quantkit.progress import Progress, begun_when_called
from quantkit.runs.cache import ResultCache


def preprocessing_note(
    file: ClassifierFile,
    found: ImageSource,
    pipeline: Pipeline,
    command: str,
    *,
    predictions: Predictions | None = None,
    classifier: Classifier | None = None,
    device: Device = CPU,
    cache: ResultCache | None,
    threads: int,
    progress: Progress,
) -> str | None:
    """Return which preprocessing is better beyond chance, and the command that writes it; None where none is.

    Args:
        file: the model.
        found: images, with labels or without.
        pipeline: their preprocessing.
        command: from `guess_command`.
        predictions: the model's answers to all images, where they are known.
        classifier: the model opened, where it is.
        device: where the model runs.
        cache: of scores; None to run the model each time.
        threads: workers.
        progress: receives the progress, where the model has to be run.
    """
    diagnosis = diagnose_preprocessing(
        file,
        found,
        pipeline,
        predictions=predictions,
        classifier=classifier,
        device=device,
        cache=cache,
        threads=threads,
        progress=begun_when_called(progress, "checking the preprocessing", "images"),
    )
    return None if diagnosis is None else f"{diagnosis}; this writes the preset: {command}"


def guess_command(
    model: AnyPath, *, run: Path | None = None, images: object = None, labels: object = None, pipeline: object = None
) -> str:
    """Return the command that searches for the preprocessing of a model and writes it.

    Args:
        model: path of the fp32 model.
        run: run folder.
        images: as they were given; left out where they are no place that can be typed.
        labels: label file.
        pipeline: preprocessing, as it was given.
    """
    known = next((name for name, preset in PRESETS.items() if preset == pipeline), None)
    options = {"--images": images, "--labels": labels, "--run": run, "--preset": known or pipeline}
    words = ["quantkit", "preprocess", "guess", str(model)]
    for name, value in options.items():
        if isinstance(value, str | Path):
            words += [name, str(value)]
    return shlex.join([*words, "--out", "preset.yaml"])

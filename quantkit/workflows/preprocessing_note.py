"""What eval, compare and calibrate say unasked of a preprocessing that is not the best: which is, and how to get it."""

import shlex
from functools import partial
from pathlib import Path

from quantkit.config.arguments import AnyPath
from quantkit.config.pipeline import PRESETS, Pipeline
from quantkit.data.source import ImageSource
from quantkit.engine.classifier import ClassifierFile
from quantkit.engine.predict import Classifier
from quantkit.evaluation.predictions import Predictions
from quantkit.evaluation.preprocessing_answers import AnswersByPipeline
from quantkit.evaluation.preprocessing_diagnosis import diagnose_preprocessing
from quantkit.progress import begun_when_called
from quantkit.runs.cache import ResultCache
from quantkit.workflows.execution import Execution


def preprocessing_note(
    model: Classifier | ClassifierFile,
    found: ImageSource,
    pipeline: Pipeline,
    execution: Execution,
    *,
    command: str,
    cache: ResultCache | None,
    predictions: Predictions | None = None,
) -> str | None:
    """Return which preprocessing is better beyond chance, and the command that writes it; None where none is.

    Args:
        model: the model, opened where it is.
        found: images, with labels or without.
        pipeline: their preprocessing.
        execution: where the model runs, in this process.
        command: from `guess_command`.
        cache: of scores; None to run the model each time.
        predictions: the model's answers to all images, where they are known.
    """
    classifier, file = (model, model.file) if isinstance(model, Classifier) else (None, model)
    answers = partial(
        AnswersByPipeline,
        file,
        classifier=classifier,
        device=execution.device,
        cache=cache,
        threads=execution.threads,
        progress=begun_when_called(execution.progress, "checking the preprocessing", "images"),
    )
    diagnosis = diagnose_preprocessing(file, found, pipeline, answers, predictions=predictions)
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

"""The provenance of a report as text: inputs, date and machine."""

import os
import platform
from collections.abc import Iterator, Mapping
from datetime import datetime

import numpy as np
import onnx
import onnxruntime

from quantkit import __version__
from quantkit.config.method import Percentile, method_words
from quantkit.config.pipeline import CenterCrop, Decode, EvenSides, Normalize, Pad, Pipeline, Resize, ToTensor
from quantkit.config.settings import Setting, setting_text
from quantkit.engine.cluster.worker import processor
from quantkit.runs.configuration import settings_of_run
from quantkit.runs.folder import QuantizedRecord, RunRecord
from quantkit.workflows.compare import ModelComparison

_DIGITS = 12


def provenance(
    comparison: ModelComparison, record: RunRecord | None, made: Mapping[str, QuantizedRecord]
) -> Iterator[tuple[str, str]]:
    """Yield names and values of the provenance.

    Args:
        comparison: the comparison.
        record: record of its run.
        made: the candidates that the run created.
    """
    yield "date", datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    yield "reference", str(comparison.subject.path)
    images = comparison.source
    yield "evaluation images", f"{len(images.names):,} in {images.root}"
    yield "labels", images.source
    yield "preprocessing", pipeline_words(comparison.pipeline)
    for note in comparison.notes:
        yield "model input and output", note
    if record is not None:
        yield "run", str(comparison.run)
        yield "fp32 model", f"SHA-256 {record.model.sha256[:_DIGITS]}…"
        chosen = record.set
        used = f"{chosen.images_used:,} of {chosen.images:,} images" if chosen.images_used != chosen.images else ""
        used = used or f"{chosen.images:,} images"
        where = f" from {chosen.path}" if chosen.path else ""
        yield "calibration set", f"{used}{where}, digest {chosen.digest.removeprefix('sha256:')[:_DIGITS]}…"
        if record.pipeline != comparison.pipeline:
            yield "preprocessing of the calibration", pipeline_words(record.pipeline)
        for name, entry in made.items():
            yield name, f"{model_words(entry)}; SHA-256 {entry.sha256[:_DIGITS]}…"
        for command, settings in settings_of_run(record).items():
            if command == "calibrate" or command.partition(" ")[2] in made:
                yield f"settings of {command}", settings_words(settings)
    yield from _device_words(comparison, record)
    yield "machine", machine_words()
    versions = {"quantkit": __version__, "onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}
    versions |= {"numpy": np.__version__, "Python": platform.python_version()}
    yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())


def _device_words(comparison: ModelComparison, record: RunRecord | None) -> Iterator[tuple[str, str]]:
    """Yield the device that the models ran on, once where it is one for all, and that of the calibration pass."""
    ran_on = {one.name: one.ran_on.describe() for one in comparison.answers if one.ran_on is not None}
    if len(set(ran_on.values())) == 1:
        yield "device of all models", next(iter(ran_on.values()))
    else:
        yield from ((f"device of {name}", words) for name, words in ran_on.items())
    if record is not None and record.observed_on:
        observed = record.observed_on
        options = "".join(f", {name}={value}" for name, value in observed["options"].items())
        where = f"{observed['device']} ({observed['provider']}{options})"
        yield "calibration pass", f"on {where}, onnxruntime {observed['onnxruntime']}"


def model_words(entry: QuantizedRecord) -> str:
    """Return a description of how a model of the run was quantized."""
    if entry.is_tuned:
        return f"tuned for target {entry.target}, method {entry.method}"
    options, method = entry.options, entry.solved_by
    kept = f"percentile {method.fraction:g}" if isinstance(method, Percentile) else method_words(method)
    words = [f"{kept} for target {entry.target}"]
    if "per_channel" in options:
        words.append("weights per channel" if options["per_channel"] else "weights per tensor")
    if options.get("activation_type"):
        words.append(f"{options['activation_type']} activations")
    if options.get("weight_bits"):
        words.append(f"{options['weight_bits']}-bit weights")
    if options.get("power_of_two"):
        words.append("weight thresholds rounded up to powers of two")
    if options.get("skip"):
        words.append(f"in float by --skip: {', '.join(options['skip'])}")
    words.append("bias correction on" if options.get("bias_correction") else "bias correction off")
    if options.get("keep_outliers"):
        words.append("outlier images kept")
    if entry.selection is not None:
        words.append("method chosen by auto" if entry.selection.get("results") else "method auto without a comparison")
    return ", ".join(words)


def settings_words(settings: Mapping[str, Setting]) -> str:
    """Return the settings of a command that were given somewhere, with where; the others are defaults."""
    given = [f"{name} {setting_text(one.value)} ({one.source})" for name, one in settings.items() if one.source]
    return "; ".join([*given, "defaults else" if given else "defaults"])


def pipeline_words(pipeline: Pipeline) -> str:
    """Return a description of a preprocessing pipeline, one clause per operation."""
    return ", then ".join(_op_words(op) for op in pipeline.ops)


def machine_words() -> str:
    """Return processor, number of logical processors, and operating system."""
    return f"{processor()}, {os.cpu_count()} logical processors, {platform.system()} {platform.release()}"


def _op_words(op: object) -> str:
    match op:
        case Decode():
            turned = ", turned by EXIF" if op.exif else ""
            return f"decode to {op.mode}{turned}"
        case Resize():
            size = f"the shorter side to {op.size}" if isinstance(op.size, int) else f"to {_by(op.size)}"
            return f"resize {size} ({op.interpolation}, {'with' if op.antialias else 'without'} antialiasing)"
        case CenterCrop():
            return f"crop the center to {_by(op.size)}"
        case Pad():
            return f"pad to a square with {op.value}"
        case EvenSides():
            return "shrink odd sides by one pixel"
        case ToTensor():
            return f"divide by {op.divisor:g}"
        case Normalize():
            return f"subtract the mean ({_list(op.mean)}) and divide by ({_list(op.std)})"
        case _:
            return str(op)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"


def _list(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)

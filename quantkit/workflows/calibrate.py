"""``quantkit calibrate``: one pass over the calibration set, then ranges, int8 model and vendor files."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.config.arguments import AnyPath, as_path, require
from quantkit.config.method import (
    Auto,
    Method,
    as_method_or_auto,
)
from quantkit.data.decoded import DecodedImages
from quantkit.data.given_set import SetLike
from quantkit.engine.device import CPU, Device
from quantkit.engine.inputs import check_arrays, used_pipeline
from quantkit.errors import ConfigError
from quantkit.graph.coverage import Coverage, coverage
from quantkit.graph.qdq.plan import Plan, plan
from quantkit.progress import Progress, begun_when_called
from quantkit.ptq.run_correction import Images
from quantkit.records import Records
from quantkit.runs.configuration import settings_of_call, with_settings
from quantkit.runs.folder import RECORD, RunFolder, RunRecord
from quantkit.runs.inputs import CalibratedRun
from quantkit.stats.file import Statistics
from quantkit.targets import ORT, Target, as_target
from quantkit.workflows.auto_method import images_read_again, resolve_method
from quantkit.workflows.backends import Backend
from quantkit.workflows.calibration_inputs import (
    CalibratedModel,
    CalibrationInputs,
    changed_inputs,
    new_record,
    read_calibrated_model,
    read_calibration_set,
    refuse_foreign_files,
    remove_replaced_models,
)
from quantkit.workflows.calibration_pass import CalibrationPass
from quantkit.workflows.execution import Execution, choose_execution
from quantkit.workflows.preprocessing_note import guess_command, preprocessing_note
from quantkit.workflows.presets import PresetSource, load_preset
from quantkit.workflows.quantize import Quantized, check_loads, quantize_prepared
from quantkit.workflows.quantize_task import QuantizeOptions, QuantizeTask
from quantkit.workflows.quantized_files import int8_name, replaced_notes


@dataclass(frozen=True)
class Calibration(Records):
    """Result of `calibrate`.

    Attributes:
        run: the run folder.
        quantized: the int8 model and its ranges.
        statistics: statistics of every observed tensor.
        elapsed_s: duration of the pass in seconds, 0 if cached statistics were used.
        reused: cached statistics of the same model, set and pipeline were used.
        files: the written files, including unchanged ones.
        notes: remarks for the user; `quantkit.notes.grouped` summarizes them by kind.
        resumed_images: number of images of an interrupted pass that was resumed; not part of the duration.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> done = quantkit.calibrate("mini_iresnet.onnx", "calibration.csv", "digits", run="run")
        >>> done.reused, done.rows()[0]["tensor"]
        (True, 'input')
    """

    run: Path
    quantized: Quantized
    statistics: Statistics
    elapsed_s: float
    reused: bool
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    resumed_images: int = 0

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each observed tensor: its range, and its minimum and maximum."""
        return [
            {
                "tensor": name,
                "lo": one.lo,
                "hi": one.hi,
                "observed_lo": self.statistics.tensors[name].lo,
                "observed_hi": self.statistics.tensors[name].hi,
            }
            for name, one in self.quantized.ranges.items()
        ]

    @property
    def coverage(self) -> Coverage:
        """Layers and multiply-adds in int8, and the layers left in float with the reasons."""
        return self.quantized.coverage


def calibrate(
    model: AnyPath,
    calibration_set: SetLike,
    pipeline: PresetSource | None = None,
    *,
    run: AnyPath,
    method: Method | Auto | str | None = None,
    target: Target | str = ORT,
    options: QuantizeOptions | None = None,
    backends: Mapping[str, Backend] | None = None,
    output: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    until_stable: float | None = None,
    fresh: bool = False,
    require_coverage: float | None = None,
    check_preprocessing: bool = True,
    device: Device | str = CPU,
    cluster: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Run the model once over the set, and write statistics, ranges, ``int8.onnx`` and provenance to the run folder.

    Cached statistics of the same model, set and pipeline are reused, and an interrupted pass resumes. The files are
    bit-identical to those of an uninterrupted pass.

    Args:
        model: fp32 ONNX classifier.
        calibration_set: a manifest or a set; or Python images, all of which are used: arrays, an iterable, a
            a ``datasets.Dataset``, a ``CalibrationDataReader``, an `ImageSource`.
        pipeline: preprocessing: a value, the name of a preset, or a file (see `load_preset`); None for arrays that need
            no preprocessing.
        run: run folder; created if missing.
        method: calibration method, a value or a name; ``auto`` by default: all methods are solved from the statistics,
            and the one is used whose int8 model is nearest to fp32 on calibration images that bias correction does not
            use; percentile for fewer than 32 images.
        target: runtime or compiler of the int8 model, a value or a name.
        options: quantization options.
        backends: configured backends by name; the others use the options of the run or their defaults.
        output: name of the output with the class scores; detected by default.
        inputs: values of the other inputs, by name: numbers, arrays, or paths of ``.npy`` files.
        until_stable: stop when no range changes by more than this percentage of its width between two convergence
            points; None for all images.
        fresh: ignore cached statistics, and replace a run of another model, set or preprocessing.
        require_coverage: minimum percentage of the multiply-adds in int8; None for no requirement.
        check_preprocessing: if the set has labels, try other scalings and channel orders on some of its images, and
            report one that is significantly better in a note.
        device: device and batch size of the pass: a `quantkit.Device`, or a name such as ``cuda:1``. Biases are
            corrected on the CPU, layer by layer, with its integer kernels.
        cluster: spread the pass over the workers of a Ray cluster: ``auto``, ``ray://HOST:PORT`` or ``local:N``; the
            statistics are the same bits. They must find the images under the same path or URL. Ranges are set and
            biases corrected here.
        threads: number of worker threads; one per processor by default. On a cluster, the threads of each worker.
        progress: receives the progress.

    Raises:
        UsageError: the run has another model, set or preprocessing, and ``fresh`` is not given; or an argument has the
            wrong type.
        ModelError: the model cannot be read, run or quantized.
        DeviceError: the device is not available, or does not run the model.
        ClusterError: the cluster is not there, or its workers cannot do the work.
        CoverageError: less of the model would be int8 than required; no image was read.
        ConfigError: the pipeline does not fit the model.
        CalibrationSetError: the set is damaged, or its images are missing or changed.
        ImageError: an image cannot be decoded.
        NumericError: a tensor became NaN or infinite; tensor and image are named.
        OutputError: the run folder cannot be written.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> done = quantkit.calibrate("mini_iresnet.onnx", "calibration.csv", "digits", run="run", method="kl")
        >>> str(done.coverage)
        'int8: 28 of 28 layers, 100 % of multiply-adds'
    """
    wanted, target, run = as_method_or_auto(method), as_target(target), as_path(run, "run")
    options = require(QuantizeOptions, options or QuantizeOptions(), "options")
    execution = choose_execution(cluster, device, threads, progress)
    progress = execution.progress
    pipeline = None if pipeline is None else load_preset(pipeline)
    subject = read_calibrated_model(as_path(model, "model"), output, inputs)
    made = plan(subject.prepared.model, options.target(target), options.plan_options())
    if pipeline is not None:
        subject.file.check(pipeline)
        _require_coverage(subject, made, pipeline.output_size, require_coverage)
    chosen, manifest = read_calibration_set(calibration_set)
    pipeline = used_pipeline(pipeline, chosen.array_shape)
    if chosen.array_shape is not None:
        check_arrays(chosen.array_shape, subject.file.signature.image, chosen.root)
        _require_coverage(subject, made, chosen.array_shape[1:], require_coverage)
    given, folder = CalibrationInputs(subject, chosen, manifest, pipeline), RunFolder(run)
    with folder.locked():
        before = _record_before(folder, fresh)
        refuse_foreign_files(folder, given, target, before, fresh)
        replaced = [] if before is None else changed_inputs(before, given)
        if before is not None and replaced:
            remove_replaced_models(folder, before, replaced, fresh)
        again = images_read_again(chosen.items, wanted, corrected=options.bias_correction)
        load = DecodedImages(pipeline, only=again)
        keep_outliers = options.keep_outliers
        observer = CalibrationPass(given, folder, wanted, target, execution, load, keep_outliers=keep_outliers)
        doubts: list[str] = []
        if check_preprocessing:
            doubt = _preprocessing_note(given, folder, execution)
            if doubt is not None:
                doubts.append(doubt)
                progress.message(doubt)  # before a pass that may take hours
        statistics = None if fresh else observer.finished(until_stable)
        reused, elapsed_s = statistics is not None, 0.0
        if statistics is None:
            check_loads(subject.prepared, made)
            start_s = time.monotonic()
            with execution:
                statistics = observer.run(until_stable, fresh)
            elapsed_s = time.monotonic() - start_s - execution.start_s
        record = new_record(given, statistics, observer.placement, before, replaced=bool(replaced))
        settings = {
            "method": wanted,
            "target": target.name,
            **options.settings(),
            "until stable": until_stable,
            "require coverage": require_coverage,
        }
        if (recorded := settings_of_call("calibrate", settings)) is not None:
            record = with_settings(record, "calibrate", recorded)
        folder.write(record)
        count = begun_when_called(progress, "correcting biases", "layers")
        images = Images(chosen, pipeline, load, execution.threads, count)
        task = QuantizeTask(
            run=CalibratedRun(folder, record, subject.prepared, statistics),
            requested=target,
            options=options,
            images=images,
            backends=backends,
            planned=made,
        )
        solved_by, selection = resolve_method(wanted, task, progress)
        name = int8_name(target)
        quantized = quantize_prepared(
            task, solved_by, name=name, path=folder.path / f"{name}.onnx", selection=selection
        )
    files = (folder.statistics, *quantized.files)
    placed = observer.placement
    ran_on = () if placed is None or execution.device.is_cpu else (f"the pass ran on {placed.describe()}",)
    changed_notes = () if before is None else replaced_notes(before, quantized.name, folder)
    notes = (*doubts, *ran_on, *changed_notes, *quantized.notes)
    return Calibration(run, quantized, statistics, elapsed_s, reused, files, notes, observer.resumed)


def _record_before(folder: RunFolder, fresh: bool) -> RunRecord | None:
    """Return the record of a run to be calibrated again; None for a new one, and for one to be replaced unread.

    Raises:
        ConfigError: the record is damaged or of another version, and is not to be replaced.
    """
    if not (folder.path / RECORD).is_file():
        return None
    try:
        return folder.read()
    except ConfigError:
        if fresh:
            return None
        raise


def _preprocessing_note(given: CalibrationInputs, folder: RunFolder, execution: Execution) -> str | None:
    """Return which other preprocessing is significantly better on labelled images of the set, None if there is none."""
    if given.set.labels is None:
        return None
    file = given.model.file
    by_run = guess_command(file.path, run=folder.path)
    by_images = guess_command(file.path, images=given.set.root, pipeline=given.pipeline)
    command = by_run if given.manifest else by_images
    return preprocessing_note(file, given.images, given.pipeline, execution, command=command, cache=folder.cache)


def _require_coverage(subject: CalibratedModel, made: Plan, size: tuple[int, int] | None, least: float | None) -> None:
    """Check the coverage before the pass; ``size`` is the height and width of the images."""
    if least is None:
        return
    image = subject.file.signature.image
    is_open = image.height is None or image.width is None
    shape = (image.batch or 1, image.channels, *size) if is_open and size is not None else None
    coverage(made, shape).require(least)

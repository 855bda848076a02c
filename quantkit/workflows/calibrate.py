"""``quantkit calibrate``: one pass over the calibration set, then ranges, int8 model and vendor files."""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnxruntime

from quantkit import __version__
from quantkit.config.arguments import AnyPath, as_path, require
from quantkit.config.method import (
    Auto,
    Method,
    MinMax,
    Percentile,
    as_method_or_auto,
    method_name,
)
from quantkit.config.pipeline import Pipeline
from quantkit.config.settings import Setting, Settings
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.given_set import SetLike, given_set
from quantkit.data.overlap import digest_of
from quantkit.data.parallel import map_in_order
from quantkit.data.preprocess import preprocess
from quantkit.data.source import ImageSource
from quantkit.engine.classifier import ClassifierFile, PreparedClassifier, read_classifier
from quantkit.engine.cluster.observe import PassWork, observe_on_cluster
from quantkit.engine.cluster.work import share_images, share_model
from quantkit.engine.device import CPU, Device
from quantkit.engine.inputs import check_arrays, used_pipeline
from quantkit.engine.observe import Chunk, complete, observe
from quantkit.engine.placement import DevicePlacement, placement_of
from quantkit.engine.tap import TappedSession
from quantkit.errors import CalibrationSetError, StatisticsError, UsageError
from quantkit.files import sha256_json
from quantkit.graph.coverage import Coverage, coverage
from quantkit.graph.fixed_inputs import to_json
from quantkit.graph.model import model_digest, model_files
from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.taps import Taps, observed_tensors
from quantkit.numerics import Range
from quantkit.progress import Progress, ProgressCallback, as_progress, begun_when_called
from quantkit.ptq.run_correction import Images
from quantkit.records import Records
from quantkit.runs.configuration import with_settings
from quantkit.runs.folder import RECORD, ModelRecord, RunFolder, RunRecord, SetRecord
from quantkit.stats.convergence import ConvergencePoint, movement
from quantkit.stats.file import Provenance, Statistics, load_statistics, save_statistics, sorted_images
from quantkit.stats.observed import Observed
from quantkit.stats.solve import solve_observed
from quantkit.targets import ORT, Target, as_target
from quantkit.workflows.auto_method import resolve_method
from quantkit.workflows.backends import Backend, QuantizedRun, after_quantize
from quantkit.workflows.execution import Execution, choose_execution
from quantkit.workflows.preprocessing_note import guess_command, preprocessing_note
from quantkit.workflows.presets import PresetSource, load_preset
from quantkit.workflows.quantize import (
    Quantized,
    QuantizeOptions,
    check_loads,
    int8_name,
    quantize_prepared,
    replaced_notes,
)


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


@dataclass(frozen=True)
class _CalibratedModel:
    """The model of a pass, loaded and prepared."""

    file: ClassifierFile
    record: ModelRecord
    prepared: PreparedClassifier
    observed: Taps


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
    progress = as_progress(progress)
    execution = choose_execution(cluster, device, threads, progress)
    pipeline = None if pipeline is None else load_preset(pipeline)
    subject = _read_subject(as_path(model, "model"), output, inputs)
    if pipeline is not None:
        subject.file.check(pipeline)
        _require_coverage(subject, pipeline.output_size, target, options, require_coverage)
    chosen, manifest = _read_set(calibration_set)
    pipeline = used_pipeline(pipeline, chosen.array_shape)
    if chosen.array_shape is not None:
        check_arrays(chosen.array_shape, subject.file.signature.image, chosen.root)
        _require_coverage(subject, chosen.array_shape[1:], target, options, require_coverage)
    folder = RunFolder(run)
    with folder.locked():
        before = folder.read() if (folder.path / RECORD).is_file() else None
        replaced = [] if before is None else _other_inputs(before, subject, chosen, pipeline)
        if before is not None and replaced:
            _replace(folder, before, replaced, fresh)
        observer = _Pass(subject, chosen, pipeline, folder, wanted, target, options.keep_outliers, execution, progress)
        other = None
        if check_preprocessing and chosen.labels is not None:
            other = preprocessing_note(
                subject.file,
                ImageSource(chosen.root, chosen.items, labels=chosen.labels, array_shape=chosen.array_shape),
                pipeline,
                guess_command(subject.file.path, run=run)
                if manifest
                else guess_command(subject.file.path, images=chosen.root, pipeline=pipeline),
                device=execution.here,
                cache=folder.cache,
                threads=execution.threads,
                progress=progress,
            )
            if other is not None:
                progress.message(other)  # before a pass that may take hours
        statistics = None if fresh else observer.finished(until_stable)
        reused, elapsed_s = statistics is not None, 0.0
        if statistics is None:
            check_loads(subject.prepared, target, options)
            start_s = time.monotonic()
            with execution:
                statistics = observer.run(until_stable, fresh)
            elapsed_s = time.monotonic() - start_s - execution.start_s
        record = _record(subject, chosen, manifest, pipeline, statistics)
        if before is not None:
            kept = {} if replaced else before.quantized
            record = record.model_copy(update={"quantized": kept, "backends": before.backends})
        if before is not None and not replaced:
            record = record.model_copy(update={"configuration": before.configuration})
        observed_on = _observed_on(observer.placement, statistics, before)
        record = record.model_copy(update={"observed_on": observed_on})
        settings = _settings(wanted, target, options, until_stable, require_coverage)
        folder.write(with_settings(record, "calibrate", settings))
        images = Images(chosen, pipeline, execution.threads, begun_when_called(progress, "correcting biases", "layers"))
        comparison = options.subject(folder, subject.prepared, statistics, target, images)
        solved_by, selection = resolve_method(wanted, replace(comparison, backends=backends), progress)
        quantized = quantize_prepared(
            folder,
            subject.prepared,
            statistics,
            solved_by,
            target,
            options,
            name=int8_name(target),
            path=folder.path / f"{int8_name(target)}.onnx",
            selection=selection,
            images=images,
        )
        changed = QuantizedRun(folder=folder, target=target, prepared=subject.prepared.model, calibration_set=chosen)
        backend = after_quantize(changed, backends)
    files = (folder.statistics, *quantized.files, *backend.files)
    placed = observer.placement
    ran_on = () if placed is None or execution.device.is_cpu else (f"the pass ran on {placed.describe()}",)
    changed_notes = () if before is None else replaced_notes(before, quantized.name, folder)
    doubtful = () if other is None else (other,)
    notes = (*doubtful, *ran_on, *changed_notes, *quantized.notes, *backend.notes)
    return Calibration(run, quantized, statistics, elapsed_s, reused, files, notes)


def _settings(
    method: Method | Auto,
    target: Target,
    options: QuantizeOptions,
    until_stable: float | None,
    require_coverage: float | None,
) -> dict[str, Setting]:
    """Return the settings of a calibration that ``run.json`` records nowhere else."""
    settings = Settings()
    settings.add("method", method)
    settings.add("target", target.name)
    for name, value in asdict(options).items():
        settings.add(name.replace("_", " "), value)
    settings.add("until stable", until_stable)
    settings.add("require coverage", require_coverage)
    return settings.by_name


def _read_subject(path: Path, output: str | None, inputs: Mapping[str, Any] | None) -> _CalibratedModel:
    file = read_classifier(path, output=output, inputs=inputs)
    prepared, image = file.prepared(), file.signature.image
    record = ModelRecord(
        path=str(path.resolve()),
        sha256=model_digest(path),
        input=image.name,
        shape=(image.batch, image.channels, image.height, image.width),
        output=file.signature.scores.name,
        classes=file.signature.scores.classes,
        layout=image.layout,
        dtype=image.type_name,
        inputs=to_json(file.signature.fixed),
    )
    return _CalibratedModel(file, record, prepared, observed_tensors(prepared.model))


def _require_coverage(
    subject: _CalibratedModel,
    size: tuple[int, int] | None,
    target: Target,
    options: QuantizeOptions,
    least: float | None,
) -> None:
    """Check the coverage before the pass; ``size`` is the height and width of the images."""
    if least is None:
        return
    image = subject.file.signature.image
    is_open = image.height is None or image.width is None
    shape = (image.batch or 1, image.channels, *size) if is_open and size is not None else None
    made = plan(subject.prepared.model, options.target(target), options.plan_options())
    coverage(made, shape).require(least)


def _read_set(given: SetLike) -> tuple[CalibrationSet, str]:
    chosen = given_set(given)
    manifest = str(Path(given).resolve()) if isinstance(given, str | os.PathLike) else ""
    if not chosen.images:
        raise CalibrationSetError("the set is empty", where=manifest or chosen.root)
    if not chosen.is_rebuilt:
        raise CalibrationSetError(
            "the set was selected from labels alone", where=manifest, fix="run quantkit calib-set rebuild first"
        )
    missing = [item for item in chosen.items if not item.exists()]
    if missing:
        raise CalibrationSetError(
            f"{len(missing)} of {len(chosen)} images of the set are missing, {missing[0].id} first",
            where=chosen.root,
            fix="restore them, or build the set again",
        )
    digests = map_in_order(digest_of, chosen.items)
    for item, image, digest in zip(chosen.items, chosen.images, digests, strict=True):
        if digest != image.sha256:
            raise CalibrationSetError(
                "the image has changed since the set was built",
                where=item.where,
                fix="build the set again",
            )
    return chosen, manifest


def _other_inputs(
    before: RunRecord, subject: _CalibratedModel, chosen: CalibrationSet, pipeline: Pipeline
) -> list[str]:
    """Return the inputs of a run that differ from the new ones."""
    changed = {
        f"model ({Path(before.model.path).name})": before.model.key != subject.record.key,
        f"output ({before.model.output})": before.model.output != subject.record.output,
        f"calibration set ({before.set.images} images)": before.set.digest != chosen.digest,
        "preprocessing": before.pipeline != pipeline,
    }
    return [what for what, differs in changed.items() if differs]


def _replace(folder: RunFolder, before: RunRecord, replaced: list[str], fresh: bool) -> None:
    """Remove the models of a run that is recreated from other inputs.

    Raises:
        UsageError: ``fresh`` is not given.
    """
    if not fresh:
        raise UsageError(
            f"this run has another {' and another '.join(replaced)}",
            where=folder.path,
            fix="give another --run, or --fresh to replace this one",
        )
    for made in before.quantized.values():
        path = folder.path / made.file
        if path.parent == folder.path and path.is_file():
            for file in model_files(path):
                file.unlink(missing_ok=True)


def _record(
    subject: _CalibratedModel, chosen: CalibrationSet, manifest: str, pipeline: Pipeline, statistics: Statistics
) -> RunRecord:
    return RunRecord(
        quantkit=__version__,
        model=subject.record,
        set=SetRecord(
            path=manifest,
            digest=chosen.digest,
            images=len(chosen),
            images_used=len(statistics.images),
            outliers=statistics.outlier_images,
            suffix=min(PurePosixPath(image.name).suffix.removeprefix(".") for image in chosen.images),
            ready_arrays=chosen.array_shape is not None,
        ),
        pipeline=pipeline,
    )


def _observed_on(placement: DevicePlacement | None, statistics: Statistics, before: RunRecord | None) -> dict[str, Any]:
    """Return where the pass ran: this one, or the one before whose statistics are used again."""
    made = statistics.provenance
    if placement is not None:
        return placement.to_json()
    if before is not None and before.observed_on:
        return before.observed_on
    device = Device.parse(made.device.partition(" ")[0])
    return replace(placement_of(None, device), onnxruntime=made.onnxruntime).to_json()


class _Pass:
    """One pass over a set: its checkpoint and its results.

    Attributes:
        placement: execution providers of the model; None before the pass.
    """

    def __init__(
        self,
        subject: _CalibratedModel,
        chosen: CalibrationSet,
        pipeline: Pipeline,
        folder: RunFolder,
        method: Method | Auto,
        target: Target,
        keep_outliers: bool,
        execution: Execution,
        progress: Progress,
    ) -> None:
        self._subject, self._chosen, self._pipeline, self._folder = subject, chosen, pipeline, folder
        self._target, self._keep_outliers, self._progress = target, keep_outliers, progress
        self._execution = execution
        self.placement: DevicePlacement | None = None
        # Convergence is tracked for the method in use, and for the two that are cheap to solve.
        watched = Percentile() if isinstance(method, Auto) else method  # which one it will be is not known yet
        self._methods: dict[str, Method] = {"minmax": MinMax(), "percentile": Percentile()}
        self._methods[method_name(watched)] = watched
        self._wanted = method_name(watched)
        self._ranges: dict[str, dict[str, Range]] = {}
        self._points: list[ConvergencePoint] = []
        self._provenance = Provenance(
            model_sha256=subject.record.key,
            pipeline_sha256=sha256_json(pipeline.model_dump(mode="json")),
            quantkit=__version__,
            onnxruntime=onnxruntime.__version__,
            device=execution.device.describe(),
        )

    def finished(self, until_stable: float | None) -> Statistics | None:
        """Return the statistics of the run folder if this pass would compute the same, else None."""
        loaded, _ = self._load(self._folder.statistics)
        if loaded is None or loaded.tensors.keys() != set(self._subject.observed.wanted):
            return None
        whole = len(loaded.images) == len(self._chosen)
        return loaded if whole or until_stable is not None else None

    def run(self, until_stable: float | None, fresh: bool) -> Statistics:
        """Observe all images, or stop when the ranges are stable."""
        count = self._progress.task("calibrating", "images")
        begun, extra = (None, {}) if fresh else self._load(self._folder.partial)
        if begun is not None:
            self._points = list(begun.convergence)
            self._ranges = _ranges_from_json(extra.get("ranges", {}))
            self._progress.message(f"resuming after {len(begun.images)} images")
        chunks = self._chunks(None if begun is None else self._tapped(begun), count)
        statistics = begun
        for chunk in chunks:
            statistics = self._take(chunk)
            if self._is_stable(chunk, until_stable):
                break
            if chunk.images < len(self._chosen):
                save_statistics(statistics, self._folder.partial, {"ranges": _ranges_to_json(self._ranges)})
        assert statistics is not None
        save_statistics(statistics, self._folder.statistics)
        self._folder.partial.unlink(missing_ok=True)
        return statistics

    def _chunks(self, begun: Observed | None, count: ProgressCallback) -> Iterator[Chunk]:
        """Observe the images that are left, here or on the workers of a cluster."""
        tapped, file, device = self._subject.observed.tapped, self._subject.file, self._execution.device
        fixed = file.signature.image.batch
        batch, fill = fixed or device.batch, fixed is not None
        images, total = self._chosen.items, len(self._chosen)
        if self._execution.engine is not None:
            source = ImageSource(self._chosen.root, images, array_shape=self._chosen.array_shape)
            shared = share_images(source, self._pipeline)
            model = share_model(self._execution.engine, file.path, file.signature)
            work = PassWork(model, tuple(tapped), shared, device, batch, fill)
            keys = [(image.name, image.sha256) for image in self._chosen.images]
            return observe_on_cluster(
                self._execution.engine, work, keys, before=begun, progress=lambda done: count(done, total)
            )
        session = TappedSession(self._subject.prepared.model, tapped, device=device)
        self.placement = session.placement
        return observe(
            session,
            tapped,
            images,
            partial(preprocess, pipeline=self._pipeline),
            batch=batch,
            fill=fill,
            threads=self._execution.threads,
            before=begun,
            progress=lambda done: count(done, total),
        )

    def _take(self, chunk: Chunk) -> Statistics:
        observed = complete(chunk.observed(), self._subject.observed)
        if chunk.at_convergence_point:
            ranges = self._solve(observed)
            if self._ranges:
                moved = {name: movement(self._ranges[name], ranges[name]) for name in ranges}
                point = ConvergencePoint(
                    chunk.images,
                    {name: share for name, (share, _) in moved.items()},
                    {name: tensor for name, (_, tensor) in moved.items()},
                )
                self._points.append(point)
                self._progress.message(_movement_text(point))
            self._ranges = ranges
        images, extremes = sorted_images(self._digests(chunk.images), observed.extremes)
        return Statistics(observed.tensors, extremes, self._provenance, images, convergence=list(self._points))

    def _tapped(self, begun: Statistics) -> Observed:
        """Return the observations of the tapped tensors, with the images in the order of the pass."""
        tapped, names = self._subject.observed.tapped, list(begun.tensors)
        rows = np.argsort(np.argsort(self._digests(len(begun.images))))
        columns = [names.index(name) for name in tapped]
        return Observed({name: begun.tensors[name] for name in tapped}, begun.extremes[rows][:, columns])

    def _digests(self, images: int) -> list[str]:
        return [str(image.sha256) for image in self._chosen.images[:images]]

    def _solve(self, observed: Observed) -> dict[str, dict[str, Range]]:
        return {
            name: solve_observed(observed, method, self._target, keep_outliers=self._keep_outliers)
            for name, method in self._methods.items()
        }

    def _is_stable(self, chunk: Chunk, until_stable: float | None) -> bool:
        if until_stable is None or not chunk.at_convergence_point or not self._points:
            return False
        return (
            self._points[-1].images == chunk.images and 100.0 * self._points[-1].movement[self._wanted] <= until_stable
        )

    def _load(self, path: Path) -> tuple[Statistics | None, dict[str, Any]]:
        """Return the statistics of a file, and their ``extra``, if they are a checkpoint of this pass."""
        try:
            loaded, extra = load_statistics(path)
        except StatisticsError:
            return None, {}
        beginning = sorted(self._digests(len(loaded.images)))
        same = loaded.provenance == self._provenance and list(loaded.images) == beginning
        return (loaded, extra) if same else (None, {})


def _ranges_to_json(ranges: dict[str, dict[str, Range]]) -> dict[str, dict[str, list[float]]]:
    """Return the ranges of the last convergence point, from which an interrupted pass resumes."""
    return {method: {name: [one.lo, one.hi] for name, one in solved.items()} for method, solved in ranges.items()}


def _movement_text(point: ConvergencePoint) -> str:
    moved = ", ".join(f"{name} {share:.2%}" for name, share in point.movement.items())
    return f"largest change of a range since the last check at {point.images} images: {moved}"


def _ranges_from_json(value: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, Range]]:
    return {method: {name: Range(*ends) for name, ends in solved.items()} for method, solved in value.items()}

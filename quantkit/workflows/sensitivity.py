"""``quantkit sensitivity``: the cost of each layer in int8, and the gain of leaving it in float."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from quantkit.config.arguments import AnyPath, as_path, require
from quantkit.config.method import Method, as_method, method_name
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.given_set import SetLike, given_set
from quantkit.data.item import ImageItem
from quantkit.data.overlap import digest_of
from quantkit.data.parallel import map_in_order
from quantkit.data.source import ImageSource
from quantkit.data.sources.open import ImagesLike
from quantkit.engine.cluster.work import Engine, share_images, share_model
from quantkit.engine.device import CPU, Device
from quantkit.engine.scores import placement
from quantkit.errors import CalibrationSetError, UsageError
from quantkit.evaluation.images import check_labels, evaluation_images
from quantkit.evaluation.paired import PairedOutcomes, score_interval
from quantkit.evaluation.result import PERCENT
from quantkit.progress import Progress, ProgressCallback, resumed_task
from quantkit.ptq.run_correction import Correction, correction
from quantkit.runs.configuration import record_call
from quantkit.runs.folder import RunFolder, RunRecord
from quantkit.runs.inputs import CalibratedRun, calibrated, model_inputs
from quantkit.runs.location import set_of_run
from quantkit.runs.outliers import set_without_outliers
from quantkit.sensitivity.cache import LayerCostCache
from quantkit.sensitivity.measure import Deviation, LayerScorer, NetworkCost, Quantization, layer_costs
from quantkit.sensitivity.on_cluster import LayerWork, layer_costs_on_cluster
from quantkit.sensitivity.result import AccuracyChange, Figures, LayerSensitivity, Sensitivity
from quantkit.stats.solve import solve_observed
from quantkit.targets import ORT, Target, as_target
from quantkit.workflows.execution import Execution, choose_execution
from quantkit.workflows.quantize_task import QuantizeOptions, QuantizeTask
from quantkit.workflows.quantized_files import method_of_run
from quantkit.workflows.run_results import keep_sensitivity

By = Literal["isolated", "leave-one-out", "accuracy"]
# The order of the layers is stable after a few dozen.
IMAGES = 32
# Number of images in memory at a time, with the activations of a layer.
_LOT = 64


@dataclass(frozen=True)
class _Network:
    """The network of a run with its quantization."""

    run: CalibratedRun
    quantization: Quantization
    notes: tuple[str, ...]
    device: Device

    @property
    def depends_on(self) -> dict[str, Any]:
        """Everything except the images that the scores of its models depend on."""
        device = {} if self.device.is_cpu else self.device.identity()
        record, quantized = self.run.record, self.quantization
        return device | {
            "model": record.model.key,
            "output": record.model.output,
            "pipeline": record.pipeline.model_dump(mode="json"),
            "target": asdict(quantized.target),
            "skipped": asdict(quantized.left_out),
            "ranges": {name: [range_.lo, range_.hi] for name, range_ in quantized.ranges.items()},
            "bias_shift": {name: shift.tolist() for name, shift in sorted(quantized.bias_shift.items())},
        }


@dataclass(frozen=True)
class _Images:
    """The images that layers are measured on.

    Attributes:
        source: the images.
        digests: digests of their content.
        labels: int64 ``[images]``, None if accuracy is not measured.
        description: description of the images.
    """

    source: ImageSource
    digests: tuple[str, ...]
    labels: npt.NDArray[np.int64] | None
    description: str

    @property
    def items(self) -> tuple[ImageItem, ...]:
        """The images, in order."""
        return self.source.items


def sensitivity(
    run: AnyPath,
    *,
    method: Method | str | None = None,
    target: Target | str = ORT,
    options: QuantizeOptions | None = None,
    by: By = "isolated",
    count: int | None = None,
    calibration_set: SetLike | None = None,
    images: ImagesLike | None = None,
    labels: AnyPath | None = None,
    names: AnyPath | None = None,
    exclude: AnyPath | CalibrationSet | None = None,
    device: Device | str = CPU,
    cluster: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure the cost of each integer layer, isolated and left out; see `quantkit.sensitivity.measure`.

    Measurements are cached in the run folder, layer by layer, so an interrupted measurement resumes. The result is
    written to ``sensitivity-TARGET.json`` in the run, for the report. Biases are corrected if the run has a correction
    for these ranges.

    Args:
        run: run folder of `calibrate`.
        method: calibration method; by default that of the run's int8 model for the target.
        target: runtime or compiler of the model.
        options: quantization options, as for `quantize`.
        by: order of the layers: by the noise of each layer alone in int8 (``isolated``), by the noise removed when it
            is left in float (``leave-one-out``), or by the share of images that it alone puts in another class
            (``accuracy``).
        count: number of images, spread over the set or folder; by default a few dozen calibration images, or all
            evaluation images.
        calibration_set: the images of `calibrate`, if they were arrays; other images are located by the run.
        images: evaluation images, for ``accuracy``; by default the folder of the calibration set without the set.
        labels: their label file.
        names: class names, one per line.
        exclude: calibration set whose images are left out.
        device: device of all models, fp32 included: a `quantkit.Device`, or a name such as ``cuda:1``. Bias correction
            is estimated on the CPU.
        cluster: spread the images over the workers of a Ray cluster: ``auto``, ``ray://HOST:PORT`` or ``local:N``; the
            result is the same. They must find the images under the same path or URL.
        threads: number of images run in parallel; one per processor by default. On a cluster, the threads of each
            worker.
        progress: receives the progress.

    Raises:
        UsageError: this is not a run folder, or an option cannot be honoured.
        ProvenanceError: model or statistics are not those of the run.
        ModelError: the model cannot be quantized or run.
        DeviceError: the device is missing, or does not run a model.
        ClusterError: the cluster is not there, or its workers cannot do the work.
        CalibrationSetError: the calibration images are missing, or there are no evaluation images.
        LabelError: labels are missing, malformed or out of range for the model.
        ImageError: an image cannot be decoded.
        NumericError: scores are NaN or infinite.
        OutputError: the run folder cannot be written.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> found = quantkit.sensitivity("run", by="leave-one-out", count=4)
        >>> found.images, found.by
        (4, 'leave-one-out')
    """
    if count is not None and count < 1:
        raise UsageError(f"{count} images are too few", where="--images", fix="use a few dozen")
    if by not in get_args(By):
        raise UsageError(f"there is no order {by!r}", where="by", fix=f"choose one of {', '.join(get_args(By))}")
    target = as_target(target)
    options = require(QuantizeOptions, options or QuantizeOptions(), "options")
    folder = RunFolder(as_path(run, "run"))
    record = folder.read()
    method = method_of_run(record, target) if method is None else as_method(method)
    if by == "accuracy":
        found, warnings = evaluation_images(images, labels, names, exclude, record, count)
        chosen = _labelled(found, record)
    else:
        if images is not None or labels is not None:
            raise UsageError("labelled images need the order by accuracy", where="--images", fix="add --by accuracy")
        chosen, warnings = None, []
    execution = choose_execution(cluster, device, threads, progress, workers_on_cpu=True)
    device = execution.device
    with folder.locked(), execution:
        task = QuantizeTask(run=calibrated(folder, record), requested=target, options=options, images=None)
        network = _network(task, method, device)
        # An outlier image would dominate every figure.
        chosen = chosen or _calibration_images(record, count or IMAGES, task.outliers, calibration_set)
        cost = _measure(folder, network, chosen, execution)
        ran_on: tuple[str, ...] = ()
        if device.fallback:  # without `auto`, a device runs all layers or none
            ran_on = (f"fp32 runs on {placement(network.run.prepared.model, device).describe()}",)
        result = _result(cost, chosen, network, method, by, (*network.notes, *ran_on, *warnings))
        keep_sensitivity(folder, record, result)
    record_call(
        folder.path,
        f"sensitivity {result.target}",
        {
            "run": folder.path,
            "method": method,
            "target": target.name,
            "by": by,
            **options.settings(),
            "count": count,
            "images": images,
            "labels": labels,
            "exclude": exclude,
        },
    )
    return result


def _network(task: QuantizeTask, method: Method, device: Device) -> _Network:
    run, target = task.run, task.target
    # With layers in float, other tensors are observed than in the full int8 model.
    ranges = solve_observed(run.statistics, method, target, keep_outliers=task.options.keep_outliers)
    corrected = Correction({}, ())
    if task.options.bias_correction:
        observed = {name: ranges[name] for name in task.plan.observed if name in ranges}
        corrected = correction(run.folder, run.prepared, task.plan, task.left_out, observed, None)
    quantization = Quantization(target=target, ranges=ranges, left_out=task.left_out, bias_shift=corrected.shifts)
    return _Network(run, quantization, corrected.notes, device)


def _calibration_images(record: RunRecord, count: int, outliers: tuple[str, ...], given: SetLike | None) -> _Images:
    """Return evenly spaced images of the run's calibration set, without outliers.

    Raises:
        CalibrationSetError: the set or one of these images is gone or changed.
    """
    chosen = set_of_run(record, None if given is None else given_set(given))
    chosen = set_without_outliers(chosen, outliers)
    whole = list(zip(chosen.images, chosen.items, strict=True))
    count = min(count, len(whole))
    taken = [whole[index * len(whole) // count] for index in range(count)]
    for image, item in taken:
        if not item.exists():
            raise CalibrationSetError(
                "the calibration image is missing",
                where=item.where,
                fix="restore it, or use --by accuracy with other images",
            )
        if digest_of(item) != image.sha256:
            raise CalibrationSetError(
                "the image has changed since the calibration",
                where=item.where,
                fix="run quantkit calibrate again",
            )
    items, digests = tuple(item for _, item in taken), tuple(str(image.sha256) for image, _ in taken)
    source = ImageSource(chosen.root, items, array_shape=chosen.array_shape)
    return _Images(source, digests, None, "calibration images")


def _labelled(found: ImageSource, record: RunRecord) -> _Images:
    assert found.labels is not None
    check_labels(found, record.model.classes, found.root)
    digests = tuple(map_in_order(digest_of, found.items))
    return _Images(found, digests, np.asarray(found.labels, np.int64), f"images of {found.root}")


def _measure(folder: RunFolder, network: _Network, chosen: _Images, execution: Execution) -> NetworkCost:
    """Measure lot by lot, resuming each from its cached results."""
    lots = [slice(start, start + _LOT) for start in range(0, len(chosen.items), _LOT)]
    caches = [LayerCostCache(folder.cache, {**network.depends_on, "images": list(chosen.digests[lot])}) for lot in lots]
    if execution.engine is not None:
        left = [(lot, cache) for lot, cache in zip(lots, caches, strict=True) if cache.network is None]
        costs = _measure_on_cluster(
            execution.engine, network, chosen, [lot for lot, _ in left], execution.progress, folder.cache.folder
        )
        for (_, cache), cost in zip(left, costs, strict=True):
            cache.finish(cost)
        return NetworkCost.concatenate([cache.network for cache in caches if cache.network is not None])
    layers = len(network.quantization.plan(network.run.prepared.model).layers)
    known = sum(len(cache.layers) for cache in caches)
    total, source = layers * len(lots), folder.cache.folder
    count = resumed_task(execution.progress, "measuring layers", "layers", done=known, total=total, source=source)
    parts = list[NetworkCost]()
    for number, (lot, cache) in enumerate(zip(lots, caches, strict=True)):
        if cache.network is None:
            shifted = _shifted(count, number, lots, known)
            cache.finish(_measure_lot(network, chosen.items[lot], cache, execution.threads, shifted))
        assert cache.network is not None
        parts.append(cache.network)
    return NetworkCost.concatenate(parts)


def _measure_on_cluster(
    engine: Engine, network: _Network, chosen: _Images, lots: Sequence[slice], progress: Progress, known: Path
) -> Iterator[NetworkCost]:
    if not lots:
        return iter(())
    work = LayerWork(
        model=share_model(engine, network.run.folder.fp32(network.run.record), network.run.prepared.signature),
        images=share_images(chosen.source, network.run.record.pipeline),
        quantization=network.quantization,
    )
    keys = [(item.id, digest) for item, digest in zip(chosen.items, chosen.digests, strict=True)]
    total = len(keys)
    before = total - sum(len(keys[lot]) for lot in lots)
    count = resumed_task(progress, "measuring layers", "images", done=before, total=total, source=known)
    return layer_costs_on_cluster(
        engine, work, [keys[lot] for lot in lots], lambda done, _: count(before + done, total)
    )


def _measure_lot(
    network: _Network, images: Sequence[ImageItem], cache: LayerCostCache, threads: int, progress: ProgressCallback
) -> NetworkCost:
    prepared = network.run.prepared.model
    inputs = model_inputs(prepared, images, network.run.record.pipeline, threads)
    try:
        scorer = LayerScorer(prepared, network.quantization, inputs, threads=threads, device=network.device)
        return layer_costs(scorer, known=cache.layers, found=cache.add, progress=progress)
    except BaseException:
        if cache.layers:
            cache.write()  # so that an interruption loses nothing
        raise


def _shifted(progress: ProgressCallback, lot: int, lots: Sequence[slice], known: int) -> ProgressCallback:
    """Return a callback that reports the progress of one lot as part of all lots, those known from the start."""
    return lambda done, total: progress(max(lot * total + done, known), len(lots) * total)


def _result(
    cost: NetworkCost, chosen: _Images, network: _Network, method: Method, by: By, notes: tuple[str, ...]
) -> Sensitivity:
    figures = partial(_figures, cost, chosen.labels)
    layers = [
        LayerSensitivity(
            node=layer.node,
            op_type=layer.op_type,
            conv_index=layer.conv_index,
            macs=layer.macs,
            macs_share=None if layer.macs is None or not cost.macs else layer.macs / cost.macs,
            isolated=figures(layer.isolated, cost.share_made(layer)),
            leave_one_out=figures(layer.leave_one_out, cost.share_saved(layer)),
        )
        for layer in cost.layers
    ]
    reference = None
    if chosen.labels is not None:
        reference = PERCENT * float((cost.top1 == chosen.labels).mean())
    return Sensitivity(
        model=Path(network.run.record.model.path).stem,
        target=network.quantization.target.name,
        method=method_name(method),
        by=by,
        images=len(chosen.items),
        source=chosen.description,
        device=network.device.describe(),
        macs=cost.macs,
        top1=reference,
        whole=figures(cost.whole, 1.0),
        layers=tuple(sorted(layers, key=lambda layer: _rank(layer, by))),
        notes=notes,
    )


def _figures(cost: NetworkCost, labels: npt.NDArray[np.int64] | None, deviation: Deviation, share: float) -> Figures:
    accuracy = None
    if labels is not None:
        outcomes = PairedOutcomes.of(cost.top1 == labels, deviation.top1 == labels)
        accuracy = AccuracyChange(
            top1=PERCENT * float((deviation.top1 == labels).mean()),
            delta_top1=PERCENT * outcomes.delta,
            delta_top1_ci95=score_interval(outcomes).scaled(PERCENT),
            agreement=PERCENT * float((deviation.top1 == cost.top1).mean()),
        )
    return Figures(sqnr_db=cost.sqnr_db(deviation), kl=float(deviation.kl.mean()), share=share, accuracy=accuracy)


def _rank(layer: LayerSensitivity, by: By) -> tuple[float, float]:
    """Return the sort key: the most costly layer comes first."""
    noise = -layer.isolated.share
    if by == "accuracy" and layer.isolated.accuracy is not None:
        return layer.isolated.accuracy.agreement, noise
    return (-layer.leave_one_out.share if by == "leave-one-out" else noise), noise

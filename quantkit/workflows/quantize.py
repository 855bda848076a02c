"""``quantkit quantize``: write an int8 model from the statistics of a run, by any method, without another pass."""

import re
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from quantkit.config.arguments import AnyPath, as_path, optional_path, require
from quantkit.config.method import Auto, Method, as_method_or_auto, method_json, method_name
from quantkit.data.given_set import SetLike, given_set
from quantkit.engine.classifier import PreparedClassifier
from quantkit.engine.saturation import products_saturate
from quantkit.engine.session import open_session
from quantkit.errors import ModelError
from quantkit.files import write_text
from quantkit.graph.coverage import Coverage, coverage
from quantkit.graph.model import save_model
from quantkit.graph.qdq.plan import Decision, Plan
from quantkit.graph.qdq.write import notes_of, write_qdq
from quantkit.numerics import Range
from quantkit.progress import Progress, as_progress, begun_when_called
from quantkit.ptq.fp32_export import export_corrected_fp32, restore_batch_norms
from quantkit.ptq.run_correction import Correction, correction, images_of
from quantkit.records import Records
from quantkit.runs.configuration import record_call
from quantkit.runs.folder import RunFolder
from quantkit.runs.inputs import CalibratedRun, calibrated, open_input_shape
from quantkit.runs.outliers import outlier_note
from quantkit.search.method_selection import MethodSelection
from quantkit.stats.convergence import settling_note
from quantkit.stats.cut_ranges import cut_range_notes
from quantkit.stats.solve import solve_observed
from quantkit.targets import ORT, Target, as_target
from quantkit.workflows.auto_method import resolve_method, selection_note
from quantkit.workflows.backends import QuantizedRun, after_quantize
from quantkit.workflows.quantize_task import QuantizeOptions, QuantizeTask
from quantkit.workflows.quantized_files import (
    corrected_path,
    output_path,
    ranges_csv,
    ranges_path,
    record_model,
    replaced_notes,
    variant_name,
)

# Weights up to this magnitude cannot saturate if pairs of products are added in 16 bits.
SEVEN_BITS = 63


@dataclass(frozen=True)
class Quantized(Records):
    """A written int8 model.

    Attributes:
        name: name in the run, for `compare`.
        path: path of the ONNX file.
        table: CSV file of the ranges.
        ranges: ranges of the observed tensors.
        plan: how each tensor is quantized.
        coverage: layers and multiply-adds in int8, and the layers left in float with the reasons.
        corrected_fp32: fp32 model with corrected biases, for a compiler that quantizes by itself; None if nothing was
            corrected, or if the target takes the int8 model.
        files: all written files.
        notes: remarks for the user; `quantkit.notes.grouped` summarizes them by kind.
        method: calibration method.
        selection: comparison by which method ``auto`` chose it; None if it was named.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> done = quantkit.quantize("run", method="mse", out="again.onnx")
        >>> done.rows()[0]["tensor"]
        'input'
    """

    name: str
    path: Path
    table: Path
    ranges: dict[str, Range]
    plan: Plan
    coverage: Coverage
    corrected_fp32: Path | None
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    method: Method
    selection: MethodSelection | None = None

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per observed tensor: name and range."""
        return [{"tensor": name, "lo": one.lo, "hi": one.hi} for name, one in self.ranges.items()]

    def to_json(self) -> dict[str, Any]:
        """Return what was made, as JSON values: without ranges and decisions."""
        return {
            "model": self.name,
            "file": str(self.path),
            "method": method_json(self.method),
            "coverage": self.coverage.to_json(),
            "corrected_fp32": None if self.corrected_fp32 is None else str(self.corrected_fp32),
        }

    def explain(self) -> list[Decision]:
        """Return how every operator and tensor is quantized, and why."""
        return self.plan.explain()


def quantize(
    run: AnyPath,
    *,
    method: Method | Auto | str | None = None,
    target: Target | str = ORT,
    options: QuantizeOptions | None = None,
    out: AnyPath | None = None,
    use_images: bool = True,
    require_coverage: float | None = None,
    calibration_set: SetLike | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Compute the ranges from the statistics of a run and write an int8 model, without another calibration pass.

    Args:
        run: run folder of `calibrate`.
        method: calibration method, a value or a name; ``auto`` by default, which compares the methods on calibration
            images, and uses percentile if these are not available.
        target: runtime or compiler of the model, a value or a name.
        options: quantization options.
        out: path of the model; by default in the run folder, with the name from `variant_name`.
        use_images: correct the biases for these ranges, and compare methods, on the calibration images, if available.
            Otherwise only cached corrections and comparisons are used.
        require_coverage: minimum percentage of the multiply-adds in int8; None for no requirement.
        calibration_set: the images of `calibrate`, if they were arrays; other images are located by the run.
        progress: receives the progress.

    Raises:
        CoverageError: less of the model is int8 than required; nothing is written.
        UsageError: this is not a run folder, or an option cannot be honoured.
        ProvenanceError: the fp32 model has changed since the calibration.
        StatisticsError: the statistics are damaged.
        ModelError: the model cannot be quantized.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> quantkit.quantize("run", method="mse", target="tensorrt", out="mse-tensorrt.onnx").path.name
        'mse-tensorrt.onnx'
    """
    folder = RunFolder(as_path(run, "run"))
    record = folder.read()
    subject = calibrated(folder, record)
    chosen_method, target = as_method_or_auto(method), as_target(target)
    options = require(QuantizeOptions, options or QuantizeOptions(), "options")
    progress = as_progress(progress)
    given = None if calibration_set is None else given_set(calibration_set)
    wanted = options.bias_correction or isinstance(chosen_method, Auto)
    images = images_of(record, given) if use_images and wanted else None
    if images is not None:
        images = replace(images, progress=begun_when_called(progress, "correcting biases", "layers"))
    with folder.locked():
        task = QuantizeTask(run=subject, requested=target, options=options, images=images)
        solved_by, selection = resolve_method(chosen_method, task, progress)
        name, path = output_path(
            folder, record, variant_name(record, solved_by, target), target, optional_path(out, "out")
        )
        done = quantize_prepared(
            task, solved_by, name=name, path=path, selection=selection, require_coverage=require_coverage
        )
    record_call(
        folder.path,
        f"quantize {name}",
        {
            "run": folder.path,
            "method": chosen_method,
            "target": target.name,
            **options.settings(),
            "require coverage": require_coverage,
        },
    )
    return replace(done, notes=(*replaced_notes(record, name, folder), *done.notes))


def quantize_prepared(
    task: QuantizeTask,
    method: Method,
    *,
    name: str,
    path: Path,
    selection: MethodSelection | None = None,
    require_coverage: float | None = None,
) -> Quantized:
    """Write the int8 model of a prepared model, the table of its ranges, its entry in ``run.json``, and vendors' files.

    The biases are corrected on the images, or by a cached correction if nothing has changed.
    """
    run, target, options, made = task.run, task.target, task.options, task.plan
    folder, prepared, statistics = run.folder, run.prepared, run.statistics
    covered = coverage(made, open_input_shape(run.record))
    covered.require(require_coverage)
    ranges = solve_observed(statistics, method, target, keep_outliers=options.keep_outliers, needed=made.observed)
    corrected = Correction({}, ())
    if options.bias_correction:
        corrected = correction(folder, prepared, made, task.left_out, ranges, task.images, task.outliers)
    int8 = write_qdq(prepared.model, made, ranges, bias_shift=corrected.shifts)
    prepared.save(int8, path)
    open_session(path)  # a model that onnxruntime cannot load is not a result
    table = ranges_path(folder, name)
    write_text(table, ranges_csv(ranges, made, statistics))
    compared = selection is not None and bool(selection.results)
    notes = [*selection_note(selection), *_settling_notes(run, method, compared=compared), *prepared.notes]
    notes += [
        *notes_of(int8),
        *corrected.notes,
        *cut_range_notes(statistics, ranges, method, target, keep_outliers=options.keep_outliers),
    ]
    if not options.keep_outliers:
        at_hand = None if task.images is None else task.images.chosen
        note = outlier_note(statistics, method, target, run.record, at_hand)
        notes += [note] if note else []
    if target.name == ORT.name and target.weights.qmax > SEVEN_BITS and products_saturate():
        notes.append("sums of 8-bit products saturate on this processor: give --weight-bits 7, or run it elsewhere")
    corrected_fp32, files = None, [path, table]
    if target.compiler_calibrates and corrected.shifts:
        corrected_fp32 = corrected_path(folder, name)
        model = export_corrected_fp32(prepared.model, made, int8, target.weights.qmax)
        prepared.save(restore_batch_norms(model), corrected_fp32)
        notes.append(f"the compiler of {target.name} gets the corrected biases from {corrected_fp32.name} only")
        files.append(corrected_fp32)
    record_model(
        folder,
        name,
        path,
        method,
        target=target.name,
        options=_options_json(method, options),
        fp32=None if corrected_fp32 is None else corrected_fp32.name,
        selection=None if selection is None else selection.to_json(),
    )
    backend = after_quantize(
        QuantizedRun(
            folder=folder,
            name=name,
            target=task.requested,
            prepared=prepared.model,
            calibration_set=None if task.images is None else task.images.chosen,
        ),
        task.backends,
    )
    return Quantized(
        name=name,
        path=path,
        table=table,
        ranges=ranges,
        plan=made,
        coverage=covered,
        corrected_fp32=corrected_fp32,
        files=(*files, *backend.files),
        notes=(*notes, *backend.notes),
        method=method,
        selection=selection,
    )


def _settling_notes(run: CalibratedRun, method: Method, *, compared: bool) -> list[str]:
    statistics, classes = run.statistics, run.record.model.classes
    images = len(statistics.images)
    note = settling_note(statistics.convergence, images, method_name(method), classes, compared=compared)
    return [] if note is None else [note]


def check_loads(prepared: PreparedClassifier, made: Plan) -> None:
    """Load an int8 model with placeholder ranges in onnxruntime, to find unsupported nodes before a pass.

    Raises:
        ModelError: onnxruntime cannot load it; the fix names the node to leave in float, if the message does.
    """
    trial = write_qdq(prepared.model, made, dict.fromkeys(made.observed, Range(-1.0, 1.0)))
    fault = _load_fault(trial)
    if not fault:
        return
    if in_fp32 := _load_fault(prepared.model):
        raise ModelError(
            f"the fp32 model does not run: {in_fp32}", fix="export it with other operators or another opset"
        )
    names = {node.name for node in prepared.model.graph}
    named = [name for name in re.findall(r"""['"(]([^'"()]+)['")]""", fault) if name in names]
    fix = f"--skip {named[0]!r} leaves it in float" if named else "--skip leaves single operators in float"
    raise ModelError(f"the int8 model does not run: {fault}", fix=fix)


def _load_fault(model: ir.Model) -> str:
    """Return why onnxruntime cannot load a model, empty if it can."""
    with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        try:
            open_session(path)
        except ModelError as error:
            return error.what
    return ""


def _options_json(method: Method, options: QuantizeOptions) -> dict[str, Any]:
    chosen = {key: value for key, value in asdict(options).items() if value not in (None, ())}
    return {**asdict(method), **chosen}

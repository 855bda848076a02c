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
from quantkit.errors import ModelError, UsageError
from quantkit.files import write_text
from quantkit.graph.coverage import Coverage, coverage
from quantkit.graph.model import save_model
from quantkit.graph.qdq.plan import Decision, Plan, PlanOptions, plan
from quantkit.graph.qdq.write import notes_of, write_qdq
from quantkit.numerics import Range
from quantkit.progress import Progress, as_progress, begun_when_called
from quantkit.ptq.fp32_export import export_corrected_fp32, restore_batch_norms
from quantkit.ptq.run_correction import Correction, Images, correction, images_of
from quantkit.records import Records
from quantkit.runs.configuration import record_call
from quantkit.runs.folder import RunFolder
from quantkit.runs.inputs import calibrated, open_input_shape
from quantkit.runs.outliers import outlier_note
from quantkit.search.method_selection import MethodSelection
from quantkit.stats.convergence import settling_note
from quantkit.stats.cut_ranges import cut_range_notes
from quantkit.stats.file import Statistics
from quantkit.stats.solve import solve_observed
from quantkit.targets import ORT, Target, as_target
from quantkit.workflows.auto_method import MethodSubject, resolve_method, selection_note
from quantkit.workflows.backends import QuantizedRun, after_quantize
from quantkit.workflows.quantized_files import (
    corrected_path,
    output_path,
    ranges_csv,
    ranges_path,
    record_model,
    replaced_notes,
    variant_name,
)

CONV_PREFIX = "conv:"
# Weights up to this magnitude cannot saturate if pairs of products are added in 16 bits.
SEVEN_BITS = 63


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """Quantization options other than method and target; None keeps the default of the target.

    Attributes:
        per_channel: one weight scale per output channel, or one per tensor.
        activation_type: uint8 (affine) or int8 (symmetric).
        weight_bits: 8, or 7 for processors that saturate sums of int8 products in 16 bits.
        power_of_two: round weight thresholds up to powers of two.
        skip: layers left in float: node names, globs, ``re:`` patterns, or ``conv:`` and an index; a single one may be
            a string.
        bias_correction: correct biases where this reduces the error of the scores.
        keep_outliers: include outlier images when ranges are set.

    Example:
        >>> import quantkit
        >>> quantkit.QuantizeOptions(skip="conv:0", per_channel=False).skip
        ('conv:0',)
    """

    per_channel: bool | None = None
    activation_type: str | None = None
    weight_bits: int | None = None
    power_of_two: bool | None = None
    skip: tuple[str, ...] = ()
    bias_correction: bool = True
    keep_outliers: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.skip, str):
            object.__setattr__(self, "skip", (self.skip,))
        for value, allowed, option in (
            (self.activation_type, ("uint8", "int8"), "--activations"),
            (self.weight_bits, (7, 8), "--weight-bits"),
        ):
            if value is not None and value not in allowed:
                choices = " or ".join(map(str, allowed))
                raise UsageError(f"cannot quantize to {value!r}", where=option, fix=f"choose {choices}")

    def plan_options(self) -> PlanOptions:
        """Return the options of the plan."""
        indices = [item.removeprefix(CONV_PREFIX) for item in self.skip if item.startswith(CONV_PREFIX)]
        if wrong := [index for index in indices if not index.isdecimal()]:
            raise UsageError(f"{wrong[0]!r} is not an index", where="--skip", fix="count from 0, as conv:3")
        return PlanOptions(
            skip=tuple(item for item in self.skip if not item.startswith(CONV_PREFIX)),
            skip_convs=tuple(int(index) for index in indices),
        )

    def settings(self) -> dict[str, Any]:
        """Return the options under the names that ``run.json`` has for them."""
        return {name.replace("_", " "): value for name, value in asdict(self).items()}

    def target(self, target: Target) -> Target:
        """Return the target with these options."""
        return target.with_options(
            per_channel=self.per_channel,
            activation_type=self.activation_type,  # type: ignore[arg-type]
            weight_bits=self.weight_bits,
            power_of_two=self.power_of_two,
        )

    def subject(
        self,
        folder: RunFolder,
        prepared: PreparedClassifier,
        statistics: Statistics,
        target: Target,
        images: Images | None,
    ) -> MethodSubject:
        """Return what method ``auto`` chooses a method for."""
        return MethodSubject(
            folder=folder,
            prepared=prepared,
            statistics=statistics,
            target=self.target(target),
            left_out=self.plan_options(),
            corrected=self.bias_correction,
            keep_outliers=self.keep_outliers,
            images=images,
        )


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
        >>> done = quantkit.quantize("run", method="mse", out="mse.onnx")
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
    prepared, statistics = calibrated(folder, record)
    chosen_method, target = as_method_or_auto(method), as_target(target)
    options = require(QuantizeOptions, options or QuantizeOptions(), "options")
    progress = as_progress(progress)
    given = None if calibration_set is None else given_set(calibration_set)
    wanted = options.bias_correction or isinstance(chosen_method, Auto)
    images = images_of(record, given) if use_images and wanted else None
    if images is not None:
        images = replace(images, progress=begun_when_called(progress, "correcting biases", "layers"))
    with folder.locked():
        subject = options.subject(folder, prepared, statistics, target, images)
        solved_by, selection = resolve_method(chosen_method, subject, progress)
        name, path = output_path(folder, variant_name(record, solved_by, target), optional_path(out, "out"))
        done = quantize_prepared(
            folder,
            prepared,
            statistics,
            solved_by,
            target,
            options,
            name=name,
            path=path,
            selection=selection,
            images=images,
            require_coverage=require_coverage,
        )
        chosen = None if images is None else images.chosen
        backend = after_quantize(
            QuantizedRun(folder=folder, name=name, target=target, prepared=prepared.model, calibration_set=chosen)
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
    replaced = replaced_notes(record, name, folder)
    return replace(done, notes=(*replaced, *done.notes, *backend.notes), files=(*done.files, *backend.files))


def quantize_prepared(
    folder: RunFolder,
    prepared: PreparedClassifier,
    statistics: Statistics,
    method: Method,
    target: Target,
    options: QuantizeOptions,
    *,
    name: str,
    path: Path,
    selection: MethodSelection | None = None,
    images: Images | None = None,
    require_coverage: float | None = None,
) -> Quantized:
    """Write the int8 model of a prepared model, the table of its ranges, and its entry in ``run.json``.

    The biases are corrected on the images, or by a cached correction if nothing has changed.
    """
    chosen, left_out = options.target(target), options.plan_options()
    made = plan(prepared.model, chosen, left_out)
    covered = coverage(made, open_input_shape(folder.read()))
    covered.require(require_coverage)
    ranges = solve_observed(statistics, method, chosen, keep_outliers=options.keep_outliers, needed=made.observed)
    corrected = Correction({}, ())
    if options.bias_correction:
        outliers = () if options.keep_outliers else statistics.outlier_images
        corrected = correction(folder, prepared, made, left_out, ranges, images, outliers)
    int8 = write_qdq(prepared.model, made, ranges, bias_shift=corrected.shifts)
    prepared.save(int8, path)
    open_session(path)  # a model that onnxruntime cannot load is not a result
    table = ranges_path(folder, name)
    write_text(table, ranges_csv(ranges, made, statistics))
    classes = folder.read().model.classes
    unsettled = settling_note(statistics.convergence, len(statistics.images), method_name(method), classes)
    notes: list[str] = [
        *selection_note(selection),
        *([] if unsettled is None else [unsettled]),
        *prepared.notes,
        *notes_of(int8),
    ]
    notes += corrected.notes
    notes += cut_range_notes(statistics, ranges, method, chosen, keep_outliers=options.keep_outliers)
    if not options.keep_outliers:
        at_hand = None if images is None else images.chosen
        note = outlier_note(statistics, method, chosen, folder.read(), at_hand)
        notes += [note] if note else []
    if target.name == ORT.name and chosen.weights.qmax > SEVEN_BITS and products_saturate():
        notes.append("sums of 8-bit products saturate on this processor: give --weight-bits 7, or run it elsewhere")
    corrected_fp32, files = None, [path, table]
    if target.compiler_calibrates and corrected.shifts:
        corrected_fp32 = corrected_path(folder, name)
        model = export_corrected_fp32(prepared.model, made, int8, chosen.weights.qmax)
        prepared.save(restore_batch_norms(model), corrected_fp32)
        notes.append(f"the compiler of {target.name} gets the corrected biases from {corrected_fp32.name} only")
        files.append(corrected_fp32)
    recorded = _options_json(method, options)
    record_model(folder, name, path, method, target.name, recorded, fp32=corrected_fp32, selection=selection)
    return Quantized(
        name=name,
        path=path,
        table=table,
        ranges=ranges,
        plan=made,
        coverage=covered,
        corrected_fp32=corrected_fp32,
        files=tuple(files),
        notes=tuple(notes),
        method=method,
        selection=selection,
    )


def check_loads(prepared: PreparedClassifier, target: Target, options: QuantizeOptions) -> None:
    """Load an int8 model with placeholder ranges in onnxruntime, to find unsupported nodes before a pass.

    Raises:
        UsageError: an option cannot be honoured.
        ModelError: onnxruntime cannot load it; the fix names the node to leave in float, if the message does.
    """
    made = plan(prepared.model, options.target(target), options.plan_options())
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

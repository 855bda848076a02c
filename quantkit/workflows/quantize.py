"""``quantkit quantize``: from the statistics of a run to an int8 model, by any method, without another pass."""

import csv
import io
import os
import re
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from quantkit.config.arguments import AnyPath, as_path, optional_path, require
from quantkit.config.method import Auto, Method, Percentile, as_method_or_auto, method_name
from quantkit.data.given_set import SetLike, given_set
from quantkit.engine.classifier import PreparedClassifier
from quantkit.engine.saturation import products_saturate
from quantkit.engine.session import open_session
from quantkit.errors import ModelError, UsageError
from quantkit.files import write_text
from quantkit.graph.coverage import Coverage, coverage
from quantkit.graph.model import model_digest, save_model
from quantkit.graph.qdq.plan import Decision, Plan, PlanOptions, plan
from quantkit.graph.qdq.write import notes_of, write_qdq
from quantkit.numerics import Range
from quantkit.progress import Progress, as_progress, begun_when_called
from quantkit.ptq.fp32_export import export_corrected_fp32, restore_batch_norms
from quantkit.ptq.run_correction import Correction, Images, correction, images_of
from quantkit.records import Records
from quantkit.runs.folder import FP32, INT8, RANGES, QuantizedRecord, RunFolder, RunRecord
from quantkit.runs.inputs import calibrated, open_input_shape
from quantkit.runs.outliers import outlier_note
from quantkit.search.method_selection import MethodSelection
from quantkit.stats.file import Statistics
from quantkit.stats.solve import solve_observed
from quantkit.targets import ORT, Target, as_target
from quantkit.workflows.auto_method import MethodSubject, resolve_method, selection_note
from quantkit.workflows.backends import QuantizedRun, after_quantize

CONV_PREFIX = "conv:"
# Magnitudes up to this cannot saturate where pairs of products are added in 16 bits.
SEVEN_BITS = 63


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """Choices of a quantization beyond method and target; None leaves the target's own.

    Attributes:
        per_channel: one weight scale per output channel, or one per tensor.
        activation_type: uint8 (affine) or int8 (symmetric).
        weight_bits: 8, or 7 for processors whose int8 products saturate in 16 bits.
        power_of_two: weight thresholds rounded up to powers of two.
        skip: layers left in floating point: node names, globs, ``re:`` patterns, or ``conv:`` and an index; one of them
            may be given as text.
        bias_correction: move the biases where that brings the scores nearer to those of fp32.
        keep_outliers: set ranges for all images, also for the few that go far beyond all others.

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
        """Return what the plan leaves in float."""
        indices = [item.removeprefix(CONV_PREFIX) for item in self.skip if item.startswith(CONV_PREFIX)]
        if wrong := [index for index in indices if not index.isdecimal()]:
            raise UsageError(f"{wrong[0]!r} is not an index", where="--skip", fix="count from 0, as conv:3")
        return PlanOptions(
            skip=tuple(item for item in self.skip if not item.startswith(CONV_PREFIX)),
            skip_convs=tuple(int(index) for index in indices),
        )

    def target(self, target: Target) -> Target:
        """Return the target with these choices."""
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
    """An int8 model that was written.

    Attributes:
        name: its name in the run, as `compare` takes it.
        path: its file.
        table: CSV of its ranges.
        ranges: of the observed tensors.
        plan: what was quantized how.
        coverage: how many layers and multiply-adds are int8, and which layers are not and why.
        corrected_fp32: fp32 model with the corrected biases, for a compiler that quantizes by itself; None where
            nothing was corrected or the target takes the int8 model.
        files: all files that were written.
        notes: what the user should know; `quantkit.notes.grouped` makes one line of many of a kind.
        method: how ranges were set.
        selection: how method ``auto`` chose it, None where it was named.

    Example:
        In the folder that ``quantkit demo`` makes:

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
        """Return one row for each observed tensor: its name and its range."""
        return [{"tensor": name, "lo": one.lo, "hi": one.hi} for name, one in self.ranges.items()]

    def explain(self) -> list[Decision]:
        """Return every operator and tensor with what became of it, and why."""
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
    """Solve the ranges from a run's statistics and write an int8 model; the model is not run over the set again.

    Args:
        run: run folder of `calibrate`.
        method: how ranges are set, a value or a name; ``auto`` when absent, which compares the methods on calibration
            images, and takes percentile where they are not found.
        target: what will run the model, a value or a name.
        options: further choices.
        out: where to write; by default in the run folder, under the name that `variant_name` gives.
        use_images: use the calibration images where they can be found: to correct the biases for these ranges, and to
            compare methods. Otherwise a correction or comparison is used only where it was made before.
        require_coverage: least percent of the multiply-adds that must be int8; None requires nothing.
        calibration_set: the images of `calibrate` again, if they were arrays; else they are found by the run.
        progress: receives the progress.

    Raises:
        CoverageError: less of the model is int8 than required; nothing was written.
        UsageError: this is no run folder, or an option cannot be honoured.
        ProvenanceError: the fp32 model has changed since the calibration.
        StatisticsError: the statistics are damaged.
        ModelError: the model cannot be quantized.

    Example:
        In the folder that ``quantkit demo`` makes:

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
            QuantizedRun(folder=folder, target=target, prepared=prepared.model, calibration_set=chosen)
        )
    replaced = _replaced(record, name, folder)
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
    """Write the int8 model of a prepared model, its ranges table, and its entry in ``run.json``.

    The biases are corrected on the images, or as they were before where nothing has changed.
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
    table = folder.path / (RANGES if name == INT8 else f"{name}.{RANGES}")
    write_text(table, ranges_csv(ranges, made, statistics))
    notes: list[str] = [*selection_note(selection), *prepared.notes, *notes_of(int8), *corrected.notes]
    if not options.keep_outliers:
        at_hand = None if images is None else images.chosen
        note = outlier_note(statistics, method, chosen, folder.read(), at_hand)
        notes += [note] if note else []
    if target.name == ORT.name and chosen.weights.qmax > SEVEN_BITS and products_saturate():
        notes.append("this processor's sums of 8-bit products saturate: give --weight-bits 7, or run it elsewhere")
    corrected_fp32, files = None, [path, table]
    if target.compiler_calibrates and corrected.shifts:
        corrected_fp32 = folder.path / f"{_corrected_name(name)}.onnx"
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


def _corrected_name(name: str) -> str:
    """Return the name of the fp32 model that belongs to an int8 model, never the same as that of the int8 model."""
    return FP32 + name.removeprefix(INT8) if name.startswith(INT8) else f"{FP32}-{name}"


def variant_name(record: RunRecord, method: Method, target: Target) -> str:
    """Return the name of a model quantized by a method: the run's own where it has the same method, else a variant.

    ``int8`` or ``int8-TARGET``; with ``-METHOD`` where the run has a model of that name by another method, which stays.
    """
    name = int8_name(target)
    made = record.quantized.get(name)
    return name if made is None or made.method == method_name(method) else f"{name}-{method_name(method)}"


def _replaced(before: RunRecord, name: str, folder: RunFolder) -> tuple[str, ...]:
    """Return a note where a model of other options was replaced."""
    old, new = before.quantized.get(name), folder.read().quantized[name]
    if old is None or old.options == new.options:
        return ()
    changed = sorted(key for key in {*old.options, *new.options} if old.options.get(key) != new.options.get(key))
    words = ", ".join(
        f"{key} {old.options.get(key, 'default')} -> {new.options.get(key, 'default')}" for key in changed
    )
    return (f"{name} was replaced: {words}",)


def check_loads(prepared: PreparedClassifier, target: Target, options: QuantizeOptions) -> None:
    """Write the int8 model with made-up ranges and open it, so that what onnxruntime refuses is known before a pass.

    Raises:
        UsageError: an option cannot be honoured.
        ModelError: onnxruntime cannot load it; a node to leave in float is named where its message names one.
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
    """Return why onnxruntime cannot load a model, empty where it can."""
    with tempfile.TemporaryDirectory(prefix="quantkit-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path)
        try:
            open_session(path)
        except ModelError as error:
            return error.what
    return ""


def int8_name(target: Target) -> str:
    """Return the name that a run gives the int8 model for a target: ``int8`` for onnxruntime, else ``int8-TARGET``."""
    return INT8 if target.name == ORT.name else f"{INT8}-{target.name}"


def method_of_run(record: RunRecord, target: Target) -> Method:
    """Return the method of a run's int8 model for a target; where there is none, of ``int8``, else percentile."""
    made = record.quantized.get(int8_name(target)) or record.quantized.get(INT8)
    return Percentile() if made is None else made.solved_by


def output_path(folder: RunFolder, name: str, out: Path | None) -> tuple[str, Path]:
    """Return the name of a model in a run and its file: those of ``out`` where it is given, else in the run folder.

    Raises:
        UsageError: it would take the name of the original model.
    """
    if out is not None and out.stem == FP32:
        raise UsageError(f"{FP32} is the name of the original model", where="--out", fix="choose another file name")
    return (name, folder.path / f"{name}.onnx") if out is None else (out.stem, out)


def record_model(
    folder: RunFolder,
    name: str,
    path: Path,
    method: Method,
    target: str,
    options: dict[str, Any],
    fp32: Path | None = None,
    selection: MethodSelection | None = None,
) -> None:
    """Enter a quantized model that was written into ``run.json``, so that `compare` finds it by its name."""
    record = folder.read()
    inside = path.resolve().parent == folder.path.resolve()
    entry = QuantizedRecord(
        file=path.name if inside else os.fspath(path.resolve()),
        sha256=model_digest(path),
        target=target,
        method=method_name(method),
        options=options,
        fp32=None if fp32 is None else fp32.name,
        selection=None if selection is None else selection.to_json(),
    )
    folder.write(record.model_copy(update={"quantized": record.quantized | {name: entry}}))


def _options_json(method: Method, options: QuantizeOptions) -> dict[str, Any]:
    chosen = {key: value for key, value in asdict(options).items() if value not in (None, ())}
    return {**asdict(method), **chosen}


def ranges_csv(ranges: dict[str, Range], made: Plan, statistics: Statistics) -> str:
    """Return the ranges as CSV: one row a tensor, with what was observed and the integers' scale and zero point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["tensor", "lo", "hi", "scale", "zero_point", "observed_min", "observed_max", "values", "zeros"])
    for name, range_ in ranges.items():
        one, qparams = statistics.tensors[name], made.target.activations.qparams(range_)
        numbers = [range_.lo, range_.hi, float(qparams.scale)]
        row = [name, *(f"{number:.9g}" for number in numbers), int(qparams.zero_point)]
        writer.writerow([*row, f"{one.lo:.9g}", f"{one.hi:.9g}", one.count, one.zeros])
    return text.getvalue()

"""Names, records and tables of the quantized models of a run."""

import os
from pathlib import Path
from typing import Any

from quantkit.config.method import METHODS, Method, Percentile, method_name
from quantkit.errors import UsageError
from quantkit.graph.model import model_digest, model_files
from quantkit.graph.qdq.plan import Plan
from quantkit.numerics import Range
from quantkit.records import csv_text
from quantkit.runs.folder import FP32, INT8, RANGES, QuantizedRecord, RunFolder, RunRecord
from quantkit.stats.file import Statistics
from quantkit.targets import ORT, TARGETS, Target

TUNED = "tuned"


def variant_name(record: RunRecord, method: Method, target: Target) -> str:
    """Return the name of a model quantized by a method: that of the run's model if the methods agree, else a variant.

    ``int8`` or ``int8-TARGET``, with ``-METHOD`` if the run has a model of that name by another method, which is kept.
    """
    name = int8_name(target)
    made = record.quantized.get(name)
    return name if made is None or made.method == method_name(method) else f"{name}-{method_name(method)}"


def replaced_notes(before: RunRecord, name: str, folder: RunFolder) -> tuple[str, ...]:
    """Return a note if a model of another method or with other options was replaced."""
    old, new = before.quantized.get(name), folder.read().quantized[name]
    if old is None or (old.method, old.options) == (new.method, new.options):
        return ()
    if old.method != new.method:
        return (f"{name} was replaced: method {old.method} -> {new.method}",)
    changed = sorted(key for key in {*old.options, *new.options} if old.options.get(key) != new.options.get(key))
    words = ", ".join(
        f"{key} {old.options.get(key, 'default')} -> {new.options.get(key, 'default')}" for key in changed
    )
    return (f"{name} was replaced: {words}",)


def int8_name(target: Target) -> str:
    """Return the name of the int8 model for a target in a run: ``int8`` for onnxruntime, else ``int8-TARGET``."""
    return INT8 if target.name == ORT.name else f"{INT8}-{target.name}"


def method_of_run(record: RunRecord, target: Target) -> Method:
    """Return the method of a run's int8 model for a target; where there is none, of ``int8``, else percentile."""
    made = record.quantized.get(int8_name(target)) or record.quantized.get(INT8)
    return Percentile() if made is None else made.solved_by


def output_path(folder: RunFolder, record: RunRecord, name: str, target: Target, out: Path | None) -> tuple[str, Path]:
    """Return the name and the path of a model in a run: those of ``out`` if it is given, else in the run folder.

    Args:
        folder: of the run.
        record: its record.
        name: name of the model where ``out`` is not given.
        target: of the model.
        out: the file to write, None for the run folder.

    Raises:
        UsageError: the file is one that the run names for something else, or its name is one that another model of the
            run has or would get.
    """
    if out is None:
        return name, folder.path / f"{name}.onnx"
    fault = _name_fault(folder, record, name, target, out) or _file_fault(folder, record, out, out.stem)
    if fault:
        raise UsageError(fault, where=f"--out {out}", fix="choose another file name")
    return out.stem, out


def require_free(folder: RunFolder, record: RunRecord, path: Path, name: str, option: str) -> None:
    """Check that a file to be written for a model of a run is none that the run names for something else.

    Raises:
        UsageError: it is; ``option`` is named.
    """
    if fault := _file_fault(folder, record, path, name):
        raise UsageError(fault, where=f"{option} {path}", fix="choose another file name")


def _name_fault(folder: RunFolder, record: RunRecord, name: str, target: Target, out: Path) -> str | None:
    """Return why a model cannot have the name of its file in a run, None if it can."""
    given = out.stem
    if out.suffix != ".onnx":
        return "a model is written to a file that ends with .onnx"
    if given == FP32:
        return f"{FP32} is the name of the original model"
    if given.startswith(f"{FP32}-") or given.endswith(f"-{FP32}"):
        return f"{given} is a name of fp32 models with corrected biases"
    if given in _given_names(target) - {name, int8_name(target)}:
        return f"{given} is the name that quantkit gives to another model of the run"
    made = record.quantized.get(given)
    if made is not None and given != name and (folder.path / made.file).resolve() != out.resolve():
        return f"the run has another model {given}, {folder.path / made.file}"
    return None


def _given_names(target: Target) -> set[str]:
    """Return the names that models get without ``--out``, and for a compiler what it is told of them."""
    ends = (*METHODS, TUNED)
    names = {int8_name(one) for one in TARGETS.values()}
    names |= {f"{name}-{end}" for name in names for end in ends}
    return names | set(ends) if target.compiler_calibrates else names


def _file_fault(folder: RunFolder, record: RunRecord, path: Path, name: str) -> str | None:
    """Return what a run names a file for, None if it is for nothing, or for this model."""
    where = path.resolve()
    files = {record.model.path: "the original model of the run"}
    for other, made in record.quantized.items():
        if other != name:
            files |= {str(folder.path / file): f"a file of {other}" for file in (made.file, made.fp32) if file}
    return next((f"it is {what}" for file, what in files.items() if Path(file).resolve() == where), None)


def record_model(folder: RunFolder, name: str, path: Path, method: Method, **entry: Any) -> None:
    """Record a written model in ``run.json``, so that `compare` finds it by name.

    The fp32 model of a model that it replaces is removed, unless a model of the run has it.

    Args:
        folder: of the run.
        name: of the model in the run.
        path: its file.
        method: calibration method.
        entry: the other fields of its `QuantizedRecord`.
    """
    record = folder.read()
    inside = path.resolve().parent == folder.path.resolve()
    file = path.name if inside else os.fspath(path.resolve())
    made = QuantizedRecord(file=file, sha256=model_digest(path), method=method_name(method), **entry)
    models = record.quantized | {name: made}
    old = record.quantized.get(name)
    if old is not None and old.fp32 is not None and old.fp32 not in {one.fp32 for one in models.values()}:
        remove_model(folder.path / old.fp32)
    folder.write(record.model_copy(update={"quantized": models}))


def remove_model(path: Path) -> None:
    """Remove a model and its external data, if they are there."""
    if path.is_file():
        for file in model_files(path):
            file.unlink(missing_ok=True)


def ranges_path(folder: RunFolder, name: str) -> Path:
    """Return the table of a model's ranges: ``ranges.csv`` of ``int8``, else ``NAME.ranges.csv``."""
    return folder.path / (RANGES if name == INT8 else f"{name}.{RANGES}")


def corrected_path(folder: RunFolder, name: str) -> Path:
    """Return the path of the fp32 model that belongs to an int8 model, which no other model has.

    It is ``fp32-vacc.onnx`` for ``int8-vacc``, and ``NAME-fp32.onnx`` for a model of another name.
    """
    own = FP32 + name.removeprefix(INT8) if name.startswith(f"{INT8}-") else f"{name}-{FP32}"
    return folder.path / f"{own}.onnx"


def ranges_csv(ranges: dict[str, Range], made: Plan, statistics: Statistics) -> str:
    """Return the ranges as CSV: one row per tensor with observed extremes, range, scale and zero point."""
    columns = ("tensor", "lo", "hi", "scale", "zero_point", "observed_min", "observed_max", "values", "zeros")
    rows = []
    for name, range_ in ranges.items():
        one, qparams = statistics.tensors[name], made.target.activations.qparams(range_)
        numbers = (f"{number:.9g}" for number in (range_.lo, range_.hi, float(qparams.scale)))
        observed = (f"{one.lo:.9g}", f"{one.hi:.9g}", one.count, one.zeros)
        rows.append([name, *numbers, int(qparams.zero_point), *observed])
    return csv_text(columns, rows)

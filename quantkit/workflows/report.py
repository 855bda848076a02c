"""``quantkit report`` and ``quantkit compare --html``: HTML report of a comparison and its run."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir

from quantkit.config.arguments import AnyPath, as_path
from quantkit.errors import UsageError
from quantkit.evaluation.gate import GateVerdict
from quantkit.graph.coverage import Coverage, coverage
from quantkit.graph.model import is_quantized, read_model
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import plan
from quantkit.report.data import ReportData, ReportTensor, changed_images, confusion_pairs
from quantkit.report.page import write_report
from quantkit.report.thumbnail import thumbnail
from quantkit.runs.configuration import recorded_with
from quantkit.runs.folder import FP32, QuantizedRecord, RunFolder, RunRecord
from quantkit.runs.inputs import open_input_shape
from quantkit.stats.file import load_statistics
from quantkit.targets import TARGETS
from quantkit.workflows.compare import ModelComparison, compare
from quantkit.workflows.compared_models import ComparedModel
from quantkit.workflows.provenance import provenance
from quantkit.workflows.report_tensors import recorded_options, report_tensors
from quantkit.workflows.run_results import method_choices, sensitivity_findings, tuning_coverage, tuning_logs


def report(comparison: ModelComparison, path: AnyPath, *, verdicts: Sequence[GateVerdict] = ()) -> None:
    """Write a self-contained HTML report of a comparison, and of its run if there is one.

    Args:
        comparison: from `quantkit.compare`.
        path: HTML file to write.
        verdicts: verdicts of gates.

    Raises:
        StatisticsError: the statistics of the run are damaged.
        OutputError: the file cannot be written.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> done = quantkit.compare(["fp32", "kl"], run="run", images="images/test", limit=50, drift_images=0)
        >>> quantkit.report(done, "report.html")
    """
    write_report(report_data(comparison, verdicts), as_path(path, "path"))


def report_run(run: AnyPath, path: AnyPath, *, models: Sequence[str] = (), **options: Any) -> ModelComparison:
    """Compare the models of a run with its fp32 model, and write the report.

    Args:
        run: run folder of `calibrate`.
        path: HTML file to write.
        models: names in the run; by default all its quantized models with existing files.
        options: options of `quantkit.compare`.

    Raises:
        UsageError: the run has no quantized model.
        OutputError: the file cannot be written.
    """
    folder = RunFolder(as_path(run, "run"))
    record = folder.read()
    found = [name for name, made in record.quantized.items() if (folder.path / made.file).is_file()]
    chosen = [name for name in models or found if name != FP32]
    if not chosen:
        raise UsageError("the run has no quantized model", where=folder.path, fix="run quantkit quantize first")
    with recorded_with("compare", None):
        comparison = compare([FP32, *chosen], run=folder.path, **options)
    report(comparison, path)
    return comparison


def report_data(comparison: ModelComparison, verdicts: Sequence[GateVerdict] = ()) -> ReportData:
    """Return the data of the report of a comparison."""
    folder = None if comparison.run is None else RunFolder(comparison.run)
    record = None if folder is None else folder.read()
    statistics = load_statistics(folder.statistics) if folder is not None and folder.statistics.is_file() else None
    model = _float_model(comparison, folder, record)
    images = comparison.source
    predictions = [answers.predictions for answers in comparison.answers]
    predictions = [predictions[0], *(one.ordered_like(predictions[0].names) for one in predictions[1:])]
    made = {
        answers.name: record.quantized[answers.name]
        for answers in comparison.answers[1:]
        if record is not None and answers.name in record.quantized
    }
    classes = max(images.class_names, default=-1) + 1
    tensors: tuple[ReportTensor, ...] = ()
    if model is not None and statistics is not None:
        tensors = report_tensors(model, statistics, folder, made, comparison)
    return ReportData(
        title=comparison.subject.path.stem,
        comparison=comparison,
        tensors=tensors,
        images=changed_images(predictions, picture=lambda name: thumbnail(images.by_name[name])),
        confusions=confusion_pairs(predictions),
        class_names=tuple(images.class_names.get(index, "") for index in range(classes)),
        convergence=tuple(statistics.convergence) if statistics else (),
        coverage=() if folder is None or record is None or model is None else _coverage(folder, record, model, made),
        tunings=() if folder is None or record is None else tuning_logs(folder, record),
        sensitivities=() if folder is None or record is None else sensitivity_findings(folder, record),
        choices=tuple(method_choices(made)),
        verdicts=tuple(verdicts),
        provenance=tuple(provenance(comparison, record, made)),
    )


def _float_model(comparison: ModelComparison, folder: RunFolder | None, record: RunRecord | None) -> ir.Model | None:
    """Return the fp32 model of the tensors: the reference, or the run's model if the reference is no fp32 model."""
    reference = comparison.subject
    if isinstance(reference, ComparedModel) and not is_quantized(reference.model):
        return reference.model
    return None if folder is None or record is None else read_model(folder.fp32(record))


def _coverage(
    folder: RunFolder, record: RunRecord, model: ir.Model, made: Mapping[str, QuantizedRecord]
) -> tuple[tuple[str, Coverage], ...]:
    """Return the coverage of each candidate of the run; that of a tuned model is in its log."""
    prepared, found = prepare(model).model, []
    for name, entry in made.items():
        if entry.is_tuned:
            known = tuning_coverage(folder, entry)
        else:
            options = recorded_options(entry)
            known = coverage(
                plan(prepared, options.target(TARGETS[entry.target]), options.plan_options()), open_input_shape(record)
            )
        if known is not None:
            found.append((name, known))
    return tuple(found)

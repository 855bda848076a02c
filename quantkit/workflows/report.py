"""The HTML report of a comparison: everything the run and the comparison know, gathered for one page."""

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from quantkit.config.method import METHODS, parse_method
from quantkit.evaluation.result import EvaluatedModel
from quantkit.graph.model import is_quantized, read_model
from quantkit.graph.prepare import prepare
from quantkit.report.data import MethodRange, ReportData, ReportTensor, flipped_images
from quantkit.report.page import write_report
from quantkit.report.thumbnail import thumbnail
from quantkit.runs.folder import RunFolder, RunRecord
from quantkit.stats.file import Statistics, load_statistics
from quantkit.stats.solve import solve_observed
from quantkit.targets import ORT, TARGETS
from quantkit.workflows.compare import Evaluation


def report(evaluation: Evaluation, path: Path, *, subject: str | None = None) -> None:
    """Write one self-contained HTML file about a candidate of an evaluation.

    Args:
        evaluation: from `quantkit.workflows.compare.evaluate_models`.
        path: where to write.
        subject: the candidate; the first one when absent.

    Raises:
        UsageError: there is no such candidate.
        OutputError: the file cannot be written.
    """
    names = [answers.name for answers in evaluation.answers]
    subject = subject or names[1]
    folder = None if evaluation.run is None else RunFolder(evaluation.run)
    record = None if folder is None else folder.read()
    statistics = load_statistics(folder.statistics)[0] if folder is not None and folder.statistics.is_file() else None
    candidate = evaluation.answers[names.index(subject)] if subject in names else evaluation.answers[1]
    model = _float_model(evaluation, folder, record)
    images = evaluation.images
    classes = max(images.class_names, default=-1) + 1
    data = ReportData(
        title=evaluation.reference.path.stem,
        comparison=evaluation.comparison,
        subject=subject,
        tensors=tuple(_tensors(model, statistics, record, candidate)) if model is not None and statistics else (),
        flips=flipped_images(
            evaluation.answers[0].predictions,
            candidate.predictions,
            thumbnail=lambda name: thumbnail(images.by_name[name]),
        ),
        class_names=tuple(images.class_names.get(index, "") for index in range(classes)),
        convergence=tuple(statistics.convergence) if statistics else (),
        provenance=tuple(_provenance(evaluation, record, subject)),
    )
    write_report(data, path)


def _float_model(evaluation: Evaluation, folder: RunFolder | None, record: RunRecord | None) -> ir.Model | None:
    """Return the fp32 model that the tensors are those of: the reference, or the run's where that is quantized."""
    if not is_quantized(evaluation.reference.model):
        return evaluation.reference.model
    return None if folder is None or record is None else read_model(folder.fp32(record))


def _tensors(
    model: ir.Model, statistics: Statistics, record: RunRecord | None, candidate: EvaluatedModel
) -> Iterator[ReportTensor]:
    """Yield every observed tensor and every layer's result, in the order of the network.

    With the range that each method would choose, and what the layer loses by itself.
    """
    made = record.quantized.get(candidate.name) if record is not None else None
    target = TARGETS[made.target] if made is not None else ORT
    keep = made is not None and made.keeps_outliers
    solved = {name: solve_observed(statistics, parse_method(name), target, keep_outliers=keep) for name in METHODS}
    producers = {str(value.name): node for node in prepare(model).model.graph for value in node.outputs}
    local = {drift.name: drift for drift in candidate.layers}
    names = dict.fromkeys([*statistics.tensors, *local])
    inputs, results = [name for name in names if name not in producers], [name for name in producers if name in names]
    for name in [*inputs, *results]:
        node, one = producers.get(name), statistics.tensors.get(name)
        yield ReportTensor(
            name=name,
            op_type="" if node is None else node.op_type,
            layer="" if node is None else str(node.name),
            inputs=() if node is None else _observed_sources(node, statistics),
            statistics=one,
            local=local.get(name),
            ranges=tuple(
                MethodRange(
                    method=method,
                    range=ranges[name],
                    step=float(target.activations.qparams(ranges[name]).scale),
                    used=made is not None and made.method == method,
                )
                for method, ranges in solved.items()
                if name in ranges
            ),
        )


def _observed_sources(node: ir.Node, statistics: Statistics) -> tuple[str, ...]:
    """Return the nearest observed tensors that a node is computed from."""
    sources: dict[str, None] = {}
    waiting = [value for value in node.inputs if value is not None]
    while waiting:
        value = waiting.pop(0)
        producer = value.producer()
        if str(value.name) in statistics.tensors:
            sources[str(value.name)] = None
        elif producer is not None:
            waiting.extend(one for one in producer.inputs if one is not None)
    return tuple(sources)


def _provenance(evaluation: Evaluation, record: RunRecord | None, subject: str) -> Iterator[tuple[str, str]]:
    yield "reference", str(evaluation.reference.path)
    yield "evaluation images", f"{len(evaluation.images.names)} in {evaluation.images.root}"
    yield "labels", evaluation.images.source
    if record is None:
        return
    yield "run", str(evaluation.run)
    yield "fp32 sha256", record.model.sha256
    yield "calibration set", f"{record.set.images_used} of {record.set.images} images, {record.set.digest}"
    if made := record.quantized.get(subject):
        yield f"{subject} sha256", made.sha256
        yield f"{subject} made by", f"{made.method} for {made.target}, {made.options}"
    yield "quantkit", record.quantkit

"""``quantkit compare --html``: the report of a comparison and of the run it belongs to."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import onnx_ir as ir

from quantkit.config.method import METHODS, Method, Percentile, method_name, parse_method
from quantkit.evaluation.gate import Verdict
from quantkit.graph.coverage import Coverage, coverage
from quantkit.graph.model import is_quantized, read_model
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.read import activation_qparams
from quantkit.numerics import Range
from quantkit.report.data import MethodRange, ReportData, ReportTensor, changed_images, confusion_pairs
from quantkit.report.page import write_report
from quantkit.report.thumbnail import thumbnail
from quantkit.runs.folder import QuantizedRecord, RunFolder, RunRecord
from quantkit.runs.inputs import open_input_shape
from quantkit.stats.file import Statistics, load_statistics
from quantkit.stats.solve import solve_observed
from quantkit.targets import ORT, TARGETS, Target
from quantkit.workflows.compare import Evaluation
from quantkit.workflows.provenance import provenance
from quantkit.workflows.quantize import QuantizeOptions
from quantkit.workflows.run_results import sensitivity_findings, tuning_coverage, tuning_logs


def report(evaluation: Evaluation, path: Path, *, verdicts: Sequence[Verdict] = ()) -> None:
    """Write one self-contained HTML file about an evaluation, and about the run where there is one.

    Args:
        evaluation: from `quantkit.workflows.compare.evaluate_models`.
        path: where to write.
        verdicts: of the gates on it.

    Raises:
        StatisticsError: the statistics of the run are damaged.
        OutputError: the file cannot be written.
    """
    write_report(report_data(evaluation, verdicts), path)


def report_data(evaluation: Evaluation, verdicts: Sequence[Verdict] = ()) -> ReportData:
    """Return everything that the report of an evaluation shows."""
    folder = None if evaluation.run is None else RunFolder(evaluation.run)
    record = None if folder is None else folder.read()
    statistics = load_statistics(folder.statistics)[0] if folder is not None and folder.statistics.is_file() else None
    model = _float_model(evaluation, folder, record)
    images = evaluation.images
    predictions = [answers.predictions for answers in evaluation.answers]
    predictions = [predictions[0], *(one.ordered_like(predictions[0].names) for one in predictions[1:])]
    made = {
        answers.name: record.quantized[answers.name]
        for answers in evaluation.answers[1:]
        if record is not None and answers.name in record.quantized
    }
    classes = max(images.class_names, default=-1) + 1
    return ReportData(
        title=evaluation.reference.path.stem,
        comparison=evaluation.comparison,
        tensors=() if model is None or statistics is None else _tensors(model, statistics, folder, made, evaluation),
        images=changed_images(predictions, picture=lambda name: thumbnail(images.root / name)),
        confusions=confusion_pairs(predictions),
        class_names=tuple(images.class_names.get(index, "") for index in range(classes)),
        convergence=tuple(statistics.convergence) if statistics else (),
        coverage=() if folder is None or record is None or model is None else _coverage(folder, record, model, made),
        tunings=() if folder is None or record is None else tuning_logs(folder, record),
        sensitivities=() if folder is None or record is None else sensitivity_findings(folder, record),
        verdicts=tuple(verdicts),
        provenance=tuple(provenance(evaluation, record, made)),
    )


def _float_model(evaluation: Evaluation, folder: RunFolder | None, record: RunRecord | None) -> ir.Model | None:
    """Return the fp32 model of the tensors: the reference, or the run's where the reference is quantized."""
    if not is_quantized(evaluation.reference.model):
        return evaluation.reference.model
    return None if folder is None or record is None else read_model(folder.fp32(record))


def _coverage(
    folder: RunFolder, record: RunRecord, model: ir.Model, made: Mapping[str, QuantizedRecord]
) -> tuple[tuple[str, Coverage], ...]:
    """Return the coverage of each candidate that the run has made; that of a tuned one is in its log."""
    prepared, found = prepare(model).model, []
    for name, entry in made.items():
        if "recipe" in entry.options:
            known = tuning_coverage(folder, entry)
        else:
            options = _options(entry)
            known = coverage(
                plan(prepared, options.target(TARGETS[entry.target]), options.plan_options()), open_input_shape(record)
            )
        if known is not None:
            found.append((name, known))
    return tuple(found)


@dataclass(frozen=True)
class _Choice:
    """A method for a target, and the candidates made with it."""

    label: str
    method: Method
    target: Target
    keep_outliers: bool
    used_by: tuple[str, ...]


def _choices(made: Mapping[str, QuantizedRecord]) -> list[_Choice]:
    """Return every method for every target and choice of outliers that a candidate has."""
    plain = {name: entry for name, entry in made.items() if "recipe" not in entry.options}
    settings: dict[tuple[str, bool], Target] = {}
    for entry in plain.values():
        settings.setdefault((entry.target, entry.keeps_outliers), _options(entry).target(TARGETS[entry.target]))
    found = []
    for (target_name, keep), target in (settings or {(ORT.name, False): ORT}).items():
        where = f", {target_name}" if len({name for name, _ in settings}) > 1 else ""
        where += ", outliers kept" if keep else ""
        of_setting = {
            name: one for name, one in plain.items() if (one.target, one.keeps_outliers) == (target_name, keep)
        }
        methods = dict.fromkeys(
            [parse_method(name) for name in METHODS] + [_method(one) for one in of_setting.values()]
        )
        for method in methods:
            users = tuple(name for name, entry in of_setting.items() if _method(entry) == method)
            found.append(_Choice(f"{_method_text(method)}{where}", method, target, keep, users))
    return found


def _method(entry: QuantizedRecord) -> Method:
    fraction = entry.options.get("fraction") if entry.method == "percentile" else None
    return parse_method(entry.method, fraction=fraction)


def _method_text(method: Method) -> str:
    name = method_name(method)
    if isinstance(method, Percentile) and method.fraction != Percentile().fraction:
        return f"{name} {method.fraction:g}"
    return name


def _options(entry: QuantizedRecord) -> QuantizeOptions:
    """Return the options that a model of the run was quantized with."""
    known = {field.name for field in fields(QuantizeOptions)}
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.options.items()
    }
    return QuantizeOptions(**{key: value for key, value in given.items() if key in known})


def _tensors(
    model: ir.Model,
    statistics: Statistics,
    folder: RunFolder | None,
    made: Mapping[str, QuantizedRecord],
    evaluation: Evaluation,
) -> tuple[ReportTensor, ...]:
    """Return every observed tensor and the result of every integer layer, in the order of the network."""
    choices = _choices(made)
    solved = [solve_observed(statistics, one.method, one.target, keep_outliers=one.keep_outliers) for one in choices]
    own = _own_ranges(folder, made)
    producers = {str(value.name): node for node in prepare(model).model.graph for value in node.outputs}
    layers = (drift.name for answers in evaluation.answers for drift in answers.layers)
    names = dict.fromkeys([*statistics.tensors, *layers])
    inputs, results = [name for name in names if name not in producers], [name for name in producers if name in names]
    found = []
    for name in [*inputs, *results]:
        node = producers.get(name)
        ranges = [
            MethodRange(
                method=choice.label,
                range=of[name],
                step=float(choice.target.activations.qparams(of[name]).scale),
                used_by=choice.used_by,
            )
            for choice, of in zip(choices, solved, strict=True)
            if name in of
        ]
        found.append(
            ReportTensor(
                name=name,
                op_type="" if node is None else node.op_type,
                layer="" if node is None else str(node.name),
                inputs=() if node is None else tuple(_observed_sources(node, names)),
                statistics=statistics.tensors.get(name),
                ranges=(*ranges, *(of[name] for of in own if name in of)),
            )
        )
    return tuple(found)


def _own_ranges(folder: RunFolder | None, made: Mapping[str, QuantizedRecord]) -> list[dict[str, MethodRange]]:
    """Return the ranges of each tuned candidate as its file has them: no method alone gives them."""
    found = []
    for name, entry in made.items():
        if folder is None or "recipe" not in entry.options or not (folder.path / entry.file).is_file():
            continue
        of_model = {}
        for tensor, qparams in activation_qparams(read_model(folder.path / entry.file, allow_quantized=True)).items():
            scale, zero = float(qparams.scale), int(qparams.zero_point)
            range_ = Range((qparams.qmin - zero) * scale, (qparams.qmax - zero) * scale)
            of_model[tensor] = MethodRange(method="tuned", range=range_, step=scale, used_by=(name,))
        found.append(of_model)
    return found


def _observed_sources(node: ir.Node, names: Mapping[str, None]) -> Iterator[str]:
    """Yield the nearest tensors of the report that a node is computed from, each once."""
    seen: set[str] = set()
    waiting = [value for value in node.inputs if value is not None]
    while waiting:
        value = waiting.pop(0)
        name, producer = str(value.name), value.producer()
        if name in seen:
            continue
        seen.add(name)
        if name in names:
            yield name
        elif producer is not None:
            waiting.extend(one for one in producer.inputs if one is not None)

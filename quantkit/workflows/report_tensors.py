"""The tensors of a report: statistics, and ranges by method and by candidate."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import onnx_ir as ir

from quantkit.config.method import METHODS, Method, method_words
from quantkit.graph.model import read_model
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.read import activation_qparams
from quantkit.numerics import QParams, Range
from quantkit.report.data import MethodRange, ReportTensor
from quantkit.runs.folder import QuantizedRecord, RunFolder
from quantkit.stats.file import Statistics
from quantkit.stats.solve import solve_observed
from quantkit.targets import ORT, TARGETS, Target
from quantkit.workflows.compare import ModelComparison
from quantkit.workflows.quantize_task import QuantizeOptions


@dataclass(frozen=True)
class _Choice:
    """A method and target, with the candidates that use them."""

    label: str
    method: Method
    target: Target
    keep_outliers: bool
    used_by: tuple[str, ...]


def _choices(made: Mapping[str, QuantizedRecord]) -> list[_Choice]:
    """Return every combination of method, target and outlier option among the candidates."""
    plain = {name: entry for name, entry in made.items() if "recipe" not in entry.options}
    settings: dict[tuple[str, bool], Target] = {}
    for entry in plain.values():
        settings.setdefault((entry.target, entry.keeps_outliers), recorded_options(entry).target(TARGETS[entry.target]))
    found = []
    for (target_name, keep), target in (settings or {(ORT.name, False): ORT}).items():
        where = f", {target_name}" if len({name for name, _ in settings}) > 1 else ""
        where += ", outliers kept" if keep else ""
        of_setting = {
            name: one for name, one in plain.items() if (one.target, one.keeps_outliers) == (target_name, keep)
        }
        methods = dict.fromkeys([kind() for kind in METHODS.values()] + [one.solved_by for one in of_setting.values()])
        for method in methods:
            users = tuple(name for name, entry in of_setting.items() if entry.solved_by == method)
            found.append(_Choice(f"{method_words(method)}{where}", method, target, keep, users))
    return found


def recorded_options(entry: QuantizedRecord) -> QuantizeOptions:
    """Return the quantization options of a model of the run."""
    known = {field.name for field in fields(QuantizeOptions)}
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.options.items()
    }
    return QuantizeOptions(**{key: value for key, value in given.items() if key in known})


def report_tensors(
    model: ir.Model,
    statistics: Statistics,
    folder: RunFolder | None,
    made: Mapping[str, QuantizedRecord],
    comparison: ModelComparison,
) -> tuple[ReportTensor, ...]:
    """Return every observed tensor and the result of every integer layer, in the order of the network."""
    choices = _choices(made)
    solved = [solve_observed(statistics, one.method, one.target, keep_outliers=one.keep_outliers) for one in choices]
    written = _written_ranges(folder, made)
    producers = {str(value.name): node for node in prepare(model).model.graph for value in node.outputs}
    layers = (drift.name for answers in comparison.answers for drift in answers.layers)
    names = dict.fromkeys([*statistics.tensors, *layers])
    inputs, results = [name for name in names if name not in producers], [name for name in producers if name in names]
    found = []
    for name in [*inputs, *results]:
        node = producers.get(name)
        found.append(
            ReportTensor(
                name=name,
                op_type="" if node is None else node.op_type,
                layer="" if node is None else str(node.name),
                inputs=() if node is None else tuple(_observed_sources(node, names)),
                statistics=statistics.tensors.get(name),
                ranges=_ranges(
                    [(choice, of[name]) for choice, of in zip(choices, solved, strict=True) if name in of],
                    {candidate: of[name] for candidate, of in written.items() if name in of},
                ),
            )
        )
    return tuple(found)


def _ranges(solved: Sequence[tuple[_Choice, Range]], written: Mapping[str, QParams]) -> tuple[MethodRange, ...]:
    """Return the range of a tensor by every method, and the range in each file that differs.

    The range in a file differs from that of the method if tensors share a range, as the inputs of a concatenation do,
    or if `tune` refined it.
    """
    found: list[MethodRange] = []
    placed: set[str] = set()
    for choice, range_ in solved:
        step = float(choice.target.activations.qparams(range_).scale)
        users = tuple(
            name for name in choice.used_by if name in written and math.isclose(written[name].scale, step, rel_tol=1e-6)
        )
        placed.update(users)
        found.append(MethodRange(method=choice.label, range=range_, step=step, used_by=users))
    others: dict[tuple[float, float, float], list[str]] = {}
    for name, qparams in written.items():
        if name not in placed:
            scale, zero = float(qparams.scale), int(qparams.zero_point)
            key = ((qparams.qmin - zero) * scale, (qparams.qmax - zero) * scale, scale)
            others.setdefault(key, []).append(name)
    for (lo, hi, scale), names in others.items():
        found.append(MethodRange(method="as written", range=Range(lo, hi), step=scale, used_by=tuple(names)))
    return tuple(found)


def _written_ranges(folder: RunFolder | None, made: Mapping[str, QuantizedRecord]) -> dict[str, dict[str, QParams]]:
    """Return the quantization parameters of the activations in the file of each candidate, by tensor."""
    return {
        name: activation_qparams(read_model(folder.path / entry.file, allow_quantized=True))
        for name, entry in made.items()
        if folder is not None and (folder.path / entry.file).is_file()
    }


def _observed_sources(node: ir.Node, names: Mapping[str, None]) -> Iterator[str]:
    """Yield the nearest tensors of the report among the ancestors of a node, each once."""
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

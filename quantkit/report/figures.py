"""The figures of a report that its charts are drawn from: plain values, made ready so that the page only draws."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from quantkit.evaluation.drift import TensorDrift
from quantkit.numerics import Range
from quantkit.report.data import ReportData, ReportTensor
from quantkit.report.tables import ABSENT, MINUS, decibels, points, share
from quantkit.stats.bins import signed_edges
from quantkit.stats.tensor import TensorStatistics

HISTOGRAM_BINS = 240
# A view that shows the narrowest range is offered where that is less than this share of all values' span.
_NARROW = 0.6
# Space left beside the widest or narrowest range, as a share of the view.
_BESIDE = 0.08


def report_figures(data: ReportData) -> dict[str, Any]:
    """Return what the page's script reads, JSON-ready: no infinities, numbers rounded to what a chart can show."""
    drifts = [_by_name(model.tensors) for model in data.comparison.candidates]
    shown = [index for index, drift in enumerate(drifts) if drift]
    return {
        "reference": data.comparison.reference.name,
        "deltas": _deltas(data),
        "tradeoff": tradeoff(data),
        "series": [data.comparison.candidates[index].name for index in shown],
        "tensors": [_tensor(data, tensor, [drifts[index] for index in shown]) for tensor in data.network],
        "classes": _classes(data),
        "margins": _margins(data),
        "convergence": _convergence(data),
    }


def tradeoff(data: ReportData) -> dict[str, Any] | None:
    """Return accuracy against latency, or against size where latency was not measured; None without two to compare."""
    models = data.comparison.models
    if not data.comparison.labelled or len(models) < 3:
        return None
    timed = all(model.latency_ms is not None for model in models)
    costs = [model.latency_ms if timed else None if model.bytes is None else model.bytes / 1e6 for model in models]
    if any(cost is None for cost in costs) or len(set(costs)) < 2:
        return None
    dots = []
    for model, cost in zip(models, costs, strict=True):
        top1 = model.versus.top1 if model.versus is not None else None
        reference = data.comparison.reference.top1 or 0.0
        dots.append(
            {
                "name": model.name,
                "cost": cost,
                "top1": model.top1,
                "lo": None if top1 is None else reference + top1.ci95.lo,
                "hi": None if top1 is None else reference + top1.ci95.hi,
                "bytes": model.bytes,
            }
        )
    return {"cost": "latency of one image, ms" if timed else "size, MB", "models": dots}


def histogram(statistics: TensorStatistics, lo: float, hi: float) -> dict[str, Any]:
    """Return the number of values in equal bins over [lo, hi], those of a stored bin taken as evenly spread in it."""
    bins, counts = statistics.ascending()
    lower, upper = signed_edges(bins)
    ends = np.cumsum(counts).astype(np.float64)
    knots, heights = np.empty(2 * bins.size), np.empty(2 * bins.size)
    knots[0::2], knots[1::2] = np.maximum(lower, statistics.lo), np.minimum(upper, statistics.hi)
    heights[0::2], heights[1::2] = ends - counts, ends
    edges = np.linspace(lo, hi, HISTOGRAM_BINS + 1)
    below = np.interp(edges, knots, heights, left=0.0, right=float(statistics.count))
    # Rounded before the difference is taken, so that a single value on an edge is drawn once and not lost.
    return {"lo": lo, "hi": hi, "counts": np.diff(np.rint(below)).astype(np.int64).tolist()}


def share_outside(statistics: TensorStatistics, range_: Range) -> float:
    """Return the share of the values beyond a range, to the resolution of the stored bins."""
    bins, counts = statistics.ascending()
    lower, upper = signed_edges(bins)
    outside = (upper <= range_.lo) | (lower > range_.hi)
    return float(counts[outside].sum() / statistics.count) if statistics.count else 0.0


def _deltas(data: ReportData) -> list[dict[str, Any]]:
    found = []
    for model in data.comparison.candidates:
        top1 = model.versus.top1 if model.versus is not None else None
        if top1 is not None:
            label = points(top1.value, top1.ci95)
            found.append(
                {"name": model.name, "value": top1.value, "lo": top1.ci95.lo, "hi": top1.ci95.hi, "label": label}
            )
    return found


def _by_name(tensors: Sequence[TensorDrift]) -> dict[str, TensorDrift]:
    return {tensor.name: tensor for tensor in tensors}


def _tensor(data: ReportData, tensor: ReportTensor, drifts: Sequence[dict[str, TensorDrift]]) -> dict[str, Any]:
    own = _by_name(data.model.tensors).get(tensor.name)
    return {
        "name": tensor.name,
        "op": tensor.op_type,
        "sqnr": [_rounded(drift[tensor.name].sqnr_db) if tensor.name in drift else None for drift in drifts],
        "local": None if tensor.local is None else _rounded(tensor.local.sqnr_db),
        "views": [] if tensor.statistics is None else _views(tensor.statistics, tensor),
        "ranges": [_range(tensor, index) for index in range(len(tensor.ranges))],
        "facts": _facts(tensor, own),
    }


def _views(statistics: TensorStatistics, tensor: ReportTensor) -> list[dict[str, Any]]:
    """The whole histogram, and one over the narrowest range where the whole would show it as a sliver."""
    if statistics.count == 0:
        return []
    span = Range.around(statistics.lo, statistics.hi)
    views = [_view("all values", statistics, [span, *(chosen.range for chosen in tensor.ranges)])]
    if tensor.ranges:
        narrowest = min((chosen.range for chosen in tensor.ranges), key=lambda chosen: chosen.hi - chosen.lo)
        if narrowest.hi - narrowest.lo < _NARROW * (views[0]["hi"] - views[0]["lo"]):
            views.append(_view("narrowest range", statistics, [narrowest]))
    return views


def _view(name: str, statistics: TensorStatistics, ranges: Sequence[Range]) -> dict[str, Any]:
    lo, hi = min(chosen.lo for chosen in ranges), max(chosen.hi for chosen in ranges)
    beside = _BESIDE * (hi - lo) or 1.0
    return {"name": name, **histogram(statistics, lo - (beside if lo < 0 else beside / 4), hi + beside)}


def _range(tensor: ReportTensor, index: int) -> dict[str, Any]:
    chosen = tensor.ranges[index]
    outside = None if tensor.statistics is None else share_outside(tensor.statistics, chosen.range)
    return {
        "method": chosen.method,
        "lo": chosen.range.lo,
        "hi": chosen.range.hi,
        "step": f"{chosen.step:.4g}",
        "outside": share(outside, digits=4),
        "used": chosen.used,
    }


def _facts(tensor: ReportTensor, drift: TensorDrift | None) -> list[tuple[str, str]]:
    facts = [("layer", tensor.layer), ("operator", tensor.op_type), ("left in float", tensor.reason)]
    if drift is not None:
        facts += [
            ("SQNR end to end", f"{decibels(drift.sqnr_db)} dB"),
            ("worst channel", _worst_channel(drift)),
            ("greatest error", ABSENT if drift.max_err_steps is None else f"{drift.max_err_steps:.1f} steps"),
            ("cosine", f"{drift.cosine:.6f}"),
            ("clipped", share(drift.clipped, digits=4)),
            ("integers used", ABSENT if drift.levels_used is None else f"{drift.levels_used}"),
            ("share of the range used", share(drift.range_used, digits=0)),
            ("greatest bias of a channel", _bias(drift)),
        ]
    if tensor.local is not None:
        facts.append(("SQNR of this layer alone", f"{decibels(tensor.local.sqnr_db)} dB"))
    if tensor.statistics is not None and tensor.statistics.count:
        statistics = tensor.statistics
        facts += [
            ("values seen", f"{statistics.count:,}"),
            ("least and greatest", f"{_plain(statistics.lo)} to {_plain(statistics.hi)}"),
            ("zeros", share(statistics.zeros / statistics.count, digits=1)),
        ]
    return [(name, value) for name, value in facts if value and value != ABSENT]


def _worst_channel(drift: TensorDrift) -> str:
    if drift.worst_channel is None:
        return ""
    return f"{decibels(drift.worst_channel_sqnr_db)} dB, channel {drift.worst_channel}"


def _bias(drift: TensorDrift) -> str:
    bias = f"{drift.worst_bias:+.3g}" if drift.scale is None else f"{drift.worst_bias / drift.scale:+.2f} steps"
    return bias.replace("-", MINUS)


def _classes(data: ReportData) -> list[tuple[str, float, int]]:
    """Classes whose accuracy moved, most lost first: name, change in points, images."""
    versus = data.model.versus
    moved = [] if versus is None else [found for found in versus.classes if found.lost or found.gained]
    ranked = sorted(moved, key=lambda found: (found.delta, found.label))
    return [(data.class_name(found.label), round(100 * found.delta, 3), found.images) for found in ranked]


def _margins(data: ReportData) -> list[dict[str, Any]]:
    versus = data.model.versus
    return [
        {
            "lo": margin.lo,
            "hi": margin.hi,
            "rate": 100 * margin.rate,
            "ci": [100 * margin.interval.lo, 100 * margin.interval.hi],
            "images": margin.images,
            "flips": margin.flips,
        }
        for margin in (() if versus is None else versus.margins)
    ]


def _convergence(data: ReportData) -> dict[str, Any] | None:
    if not data.convergence:
        return None
    methods = list(dict.fromkeys(method for point in data.convergence for method in point.movement))
    return {
        "methods": methods,
        "images": [point.images for point in data.convergence],
        "movement": [
            [None if method not in point.movement else 100 * point.movement[method] for point in data.convergence]
            for method in methods
        ],
    }


def _plain(value: float) -> str:
    return f"{value:.5g}".replace("-", MINUS)


def _rounded(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None

"""The selected tensor: calibration statistics, range by method, and figures of every candidate."""

import math
from collections.abc import Sequence
from typing import Any

from quantkit.evaluation.drift import TensorDrift
from quantkit.numerics import Range
from quantkit.report.data import ReportData, ReportTensor, by_name
from quantkit.report.histogram import histogram, share_outside
from quantkit.report.html import element, fragment
from quantkit.report.layout import Chart, Section
from quantkit.report.tables import ABSENT, MINUS, decibels, share
from quantkit.stats.tensor import TensorStatistics

# A view of the narrowest range is offered if the range is less than this share of the span of all values.
_NARROW = 0.6
# Margin on both sides of the widest or narrowest range, as a share of the view.
_MARGIN = 0.08


def tensor_section(data: ReportData) -> Section | None:
    """Return the section of the selected tensor with the values of all tensors; None without tensors."""
    shared = {"tensors": tensor_values(data), "candidates": [model.name for model in data.candidates]}
    if not data.network:
        return None
    chart = Chart(name="histogram", caption="Values in calibration, and the range by method", kind="histogram")
    observed = any(tensor.statistics is not None or tensor.ranges for tensor in data.tensors)
    chooser = element(
        "div",
        element("label", "Tensor", for_="choose"),
        element("select", id="choose"),
        element("button", "Previous", type="button", id="previous"),
        element("button", "Next", type="button", id="next"),
        class_="chooser",
    )
    views = element("fieldset", element("legend", "View"), id="views", class_="views", hidden=True)
    return Section(
        id="tensor",
        heading="Values and ranges of a tensor",
        content=fragment(
            chooser,
            views if observed else None,
            chart.figure if observed else None,
            element("div", id="ranges"),
            element("div", id="figures-of"),
            element("dl", id="facts", class_="facts"),
            element("p", id="chosen", class_="unseen", aria_live="polite"),
        ),
        charts=(chart,) if observed else (),
        shared=shared,
    )


def tensor_values(data: ReportData) -> list[dict[str, Any]]:
    """Return the values of every tensor for the page's script, without infinities, rounded for display."""
    network = data.network
    places = {tensor.name: place for place, tensor in enumerate(network)}
    accumulated = [by_name(model.tensors) for model in data.candidates]
    isolated = [by_name(model.layers) for model in data.candidates]
    return [
        {
            "name": tensor.name,
            "op": tensor.op_type,
            "inputs": [places[name] for name in tensor.inputs if name in places],
            "sqnr": [_sqnr(of.get(tensor.name)) for of in accumulated],
            "isolated": [_sqnr(of.get(tensor.name)) for of in isolated],
            "views": [] if tensor.statistics is None else _views(tensor.statistics, tensor),
            "ranges": [_range(tensor, place) for place in range(len(tensor.ranges))],
            "figures": _figures([of.get(tensor.name) for of in accumulated], [of.get(tensor.name) for of in isolated]),
            "facts": _facts(tensor),
        }
        for tensor in network
    ]


def _views(statistics: TensorStatistics, tensor: ReportTensor) -> list[dict[str, Any]]:
    """Return the complete histogram, and one over the narrowest range if that is too narrow in the former."""
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
    margin = _MARGIN * (hi - lo) or 1.0
    return {"name": name, **histogram(statistics, lo - (margin if lo < 0 else margin / 4), hi + margin)}


def _range(tensor: ReportTensor, place: int) -> dict[str, Any]:
    chosen = tensor.ranges[place]
    outside = None if tensor.statistics is None else share_outside(tensor.statistics, chosen.range)
    return {
        "method": chosen.method,
        "lo": chosen.range.lo,
        "hi": chosen.range.hi,
        "step": f"{chosen.step:.4g}",
        "outside": share(outside, digits=4),
        "used": list(chosen.used_by),
    }


def _figures(accumulated: Sequence[TensorDrift | None], isolated: Sequence[TensorDrift | None]) -> list[list[str]]:
    """Return rows of a name and one value per candidate; rows without any value are left out."""
    rows = [
        ["SQNR, dB", *(ABSENT if one is None else decibels(one.sqnr_db) for one in accumulated)],
        ["isolated SQNR, dB", *(ABSENT if one is None else decibels(one.sqnr_db) for one in isolated)],
        ["worst channel", *map(_worst_channel, accumulated)],
        ["max error, steps", *(_optional(None if one is None else one.max_err_steps, ".1f") for one in accumulated)],
        ["cosine", *(_optional(None if one is None else one.cosine, ".6f") for one in accumulated)],
        ["clipped", *(ABSENT if one is None else share(one.clipped, digits=4) for one in accumulated)],
        ["integers used", *(_optional(None if one is None else one.levels_used, "d") for one in accumulated)],
        ["range used", *(ABSENT if one is None else share(one.range_used, digits=0) for one in accumulated)],
        ["largest bias of a channel", *map(_bias, accumulated)],
    ]
    return [row for row in rows if any(value != ABSENT for value in row[1:])]


def _facts(tensor: ReportTensor) -> list[tuple[str, str]]:
    facts = [("layer", tensor.layer), ("operator", tensor.op_type), ("in float, because", tensor.reason)]
    if tensor.statistics is not None and tensor.statistics.count:
        statistics = tensor.statistics
        facts += [
            ("observed values", f"{statistics.count:,}"),
            ("minimum and maximum", f"{_plain(statistics.lo)} to {_plain(statistics.hi)}"),
            ("zeros", share(statistics.zeros / statistics.count, digits=1)),
        ]
    return [(name, value) for name, value in facts if value]


def _worst_channel(drift: TensorDrift | None) -> str:
    if drift is None or drift.worst_channel is None:
        return ABSENT
    return f"{decibels(drift.worst_channel_sqnr_db)} dB, channel {drift.worst_channel}"


def _bias(drift: TensorDrift | None) -> str:
    if drift is None:
        return ABSENT
    bias = f"{drift.worst_bias:+.3g}" if drift.scale is None else f"{drift.worst_bias / drift.scale:+.2f} steps"
    return bias.replace("-", MINUS)


def _optional(value: float | None, form: str) -> str:
    return ABSENT if value is None else format(value, form)


def _plain(value: float) -> str:
    return f"{value:.5g}".replace("-", MINUS)


def _sqnr(drift: TensorDrift | None) -> float | None:
    return round(drift.sqnr_db, 2) if drift is not None and math.isfinite(drift.sqnr_db) else None

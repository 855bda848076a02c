"""Accuracy of all models: the table, the differences with their intervals, and accuracy against cost."""

from typing import Any

from quantkit.evaluation.result import Comparison, ModelResult
from quantkit.report.data import ReportData
from quantkit.report.html import element, fragment
from quantkit.report.layout import SPACE, Cell, Chart, Section, interval_row, muted, table
from quantkit.report.tables import ABSENT, milliseconds, p_value, percent, points, size


def accuracy_section(data: ReportData) -> Section:
    """Return the table of all models, with the charts of differences and of cost."""
    comparison = data.comparison
    timed = any(model.latency_ms is not None for model in comparison.models)
    labelled = comparison.labelled
    headings = ["model"]
    headings += ["top-1 %", "top-5 %", "Δ top-1, points", "Δ top-5, points", "p"] if labelled else []
    headings += ["agreement %", "KL, nats", *(["ECE %"] if labelled else []), "size"]
    headings += ["latency, ms"] if timed else []
    charts = _charts(comparison) if labelled else ()
    explained = (
        "Differences are paired on the same images, with Tango’s 95 % score interval; p is McNemar’s exact test. "
        "Agreement is the share of images in the class of the reference. KL is the mean divergence of the softmax "
        "outputs from those of the reference. ECE is the expected calibration error, the mean gap between confidence "
        "and accuracy."
    )
    if timed:
        explained += " Latency is the median time of one image on one thread, with the 10th and 90th percentile."
    return Section(
        id="accuracy",
        heading="Accuracy",
        content=fragment(
            table("Models", headings, [_row(model, labelled, timed) for model in comparison.models]),
            element("div", *(chart.figure for chart in charts), class_="pair") if charts else None,
            muted(explained),
        ),
        charts=charts,
    )


def tradeoff(comparison: Comparison) -> dict[str, Any] | None:
    """Return accuracy against latency, or against size without latency; None without two different costs."""
    models = comparison.models
    if not comparison.labelled or len(models) < 3:
        return None
    timed = all(model.latency_ms is not None for model in models)
    costs = [model.latency_ms if timed else None if model.bytes is None else model.bytes / 1e6 for model in models]
    if any(cost is None for cost in costs) or len(set(costs)) < 2:
        return None
    reference = comparison.reference.top1 or 0.0
    dots = []
    for model, cost in zip(models, costs, strict=True):
        top1 = model.versus.top1 if model.versus is not None else None
        dots.append(
            {
                "name": model.name,
                "cost": cost,
                "top1": model.top1,
                "lo": None if top1 is None else reference + top1.ci95.lo,
                "hi": None if top1 is None else reference + top1.ci95.hi,
            }
        )
    return {"cost": "latency of one image, ms" if timed else "size, MB", "models": dots}


def _charts(comparison: Comparison) -> tuple[Chart, ...]:
    deltas = Chart(
        name="deltas",
        caption=f"Difference in top-1 to the reference, with its 95{SPACE}% interval",
        kind="intervals",
        values={
            "title": f"top-1 minus that of {comparison.reference.name}, points",
            "rows": [
                interval_row(model.name, model.versus.top1.value, model.versus.top1.ci95)
                for model in comparison.candidates
                if model.versus is not None and model.versus.top1 is not None
            ],
        },
    )
    cost = tradeoff(comparison)
    if cost is None:
        return (deltas,)
    caption = f"Accuracy against cost, with 95{SPACE}% intervals"
    return (deltas, Chart(name="tradeoff", caption=caption, kind="tradeoff", values=cost))


def _row(model: ModelResult, labelled: bool, timed: bool) -> list[object]:
    versus = model.versus
    row: list[object] = [model.name]
    if labelled:
        row += [percent(model.top1), percent(model.top5)]
        deltas = (None, None) if versus is None else (versus.top1, versus.top5)
        row += [
            ABSENT if delta is None else Cell(points(delta.value, delta.ci95), value=delta.value) for delta in deltas
        ]
        p = None if deltas[0] is None else deltas[0].mcnemar_p
        row.append(ABSENT if p is None else Cell(p_value(p), value=p))
    row.append(ABSENT if versus is None else percent(versus.agreement))
    row.append(ABSENT if versus is None or versus.kl is None else f"{versus.kl:.4f}")
    row += [percent(model.ece)] if labelled else []
    row.append(Cell(size(model.bytes), value=model.bytes))
    row += [Cell(milliseconds(model), value=model.latency_ms)] if timed else []
    return row

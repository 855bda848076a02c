"""The head of a report: one sentence per candidate, gates, figures, and the layers with the largest loss."""

from quantkit.evaluation.result import Comparison, ModelResult
from quantkit.report.data import Loss, ReportData, greatest_losses
from quantkit.report.html import Html, element, fragment
from quantkit.report.layout import SPACE, definitions, tensor_button
from quantkit.report.tables import notes, p_value, points, size

_CONFIDENCE = f"95{SPACE}% interval"


def verdict(comparison: Comparison, model: ModelResult) -> str:
    """Return the verdict on a candidate in one sentence."""
    versus, reference = model.versus, comparison.reference.name
    assert versus is not None  # candidates have been compared
    if versus.top1 is None:
        same = f"{versus.agreement:.2f} % of {comparison.images:,} images"
        return f"{model.name} puts {same} in the same class as {reference}."
    value, ci = versus.top1.value, versus.top1.ci95
    if versus.top1.is_significant and value < 0:
        return (
            f"{model.name} loses {-value:.2f} points of top-1 against {reference} "
            f"({_CONFIDENCE} {-ci.hi:.2f} to {-ci.lo:.2f})."
        )
    if versus.top1.is_significant:
        return (
            f"{model.name} gains {value:.2f} points of top-1 over {reference} "
            f"({_CONFIDENCE} {ci.lo:.2f} to {ci.hi:.2f})."
        )
    return (
        f"{model.name} shows no statistically significant change of top-1 against {reference} on "
        f"{comparison.images:,} images: {points(value)} points ({_CONFIDENCE} {points(ci.lo)} to {points(ci.hi)})."
    )


def verdict_section(data: ReportData) -> Html:
    """Return the head of the page."""
    said = notes(data.comparison)
    return fragment(
        *(_candidate(data, model) for model in data.candidates),
        _gates(data) if data.verdicts else None,
        _losses(data),
        element("ul", *(element("li", note) for note in said), class_="notes") if said else None,
    )


def _candidate(data: ReportData, model: ModelResult) -> Html:
    versus = model.versus
    assert versus is not None
    figures: list[tuple[object, object]] = [
        ("images", f"{data.comparison.images:,}"),
        ("agreement", f"{versus.agreement:.2f} %"),
    ]
    if versus.top1 is not None:
        p = p_value(versus.top1.mcnemar_p)
        figures += [
            ("lost / gained images", f"{versus.top1.lost:,} / {versus.top1.gained:,}"),
            ("McNemar’s exact p", p.replace("<", "below ")),
        ]
    if model.bytes is not None:
        figures.append(("size", f"{size(data.comparison.reference.bytes)} → {size(model.bytes)}"))
    coverage = dict(data.coverage).get(model.name)
    if coverage is not None:
        figures.append(("int8", coverage.summary()))
    lead = element("p", verdict(data.comparison, model), class_="verdict")
    return element("div", lead, definitions(figures, "figures"), class_="candidate")


def _gates(data: ReportData) -> Html:
    failed = sum(not verdict.passed for verdict in data.verdicts)
    total = len(data.verdicts)
    text = f"{failed} of {total} gate verdicts failed." if failed else f"All {total} gate verdicts passed."
    text = text if total > 1 else f"The gate {'failed' if failed else 'passed'}."
    return element("p", element("a", text, href="#gates"), class_=f"gates {'failed' if failed else 'passed'}")


def _losses(data: ReportData) -> Html | None:
    found = [(model.name, greatest_losses(data, model)) for model in data.candidates]
    found = [(name, losses) for name, losses in found if losses]
    if not found:
        return None
    lists = (_list(name if len(data.candidates) > 1 else None, losses) for name, losses in found)
    return element(
        "div", element("h2", "Layers with the largest loss of precision"), element("div", *lists, class_="side"),
        class_="losses",
    )  # fmt: skip


def _list(name: str | None, losses: tuple[Loss, ...]) -> Html:
    items = (
        element("li", tensor_button(loss.tensor), " ", element("span", loss.why, class_="muted")) for loss in losses
    )
    return element("div", element("h3", name) if name else None, element("ol", *items))

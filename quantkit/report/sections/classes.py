"""Classes: accuracy of each class in all models, and pairs of classes whose confusions changed."""

from typing import Any

from quantkit.evaluation.classes import SIGNIFICANCE, ClassDelta
from quantkit.report.data import ReportData
from quantkit.report.html import Html, element, fragment
from quantkit.report.layout import Cell, Chart, Section, muted, table
from quantkit.report.tables import p_value, points

# With fewer images, the accuracy of a class jumps by tens of points with each image.
MIN_IMAGES = 5
_SHOWN = 12


def class_section(data: ReportData) -> Section | None:
    """Return accuracy by class and confusions; None if no class changed."""
    moved = {found.label for of in _by_model(data) for found in of.values() if found.lost or found.gained}
    if not moved and not data.confusions:
        return None
    chart = _chart(data)
    return Section(
        id="classes",
        heading="Classes",
        content=fragment(
            _accuracy(data, moved, chart) if data.comparison.labelled else None,
            _confusions(data) if data.confusions else None,
        ),
        charts=() if chart is None else (chart,),
    )


def _by_model(data: ReportData) -> list[dict[int, ClassDelta]]:
    return [
        {} if model.versus is None else {found.label: found for found in model.versus.classes}
        for model in data.candidates
    ]


def _accuracy(data: ReportData, moved: set[int], chart: Chart | None) -> Html:
    of_model = _by_model(data)
    enough = [label for label, found in of_model[0].items() if found.images >= MIN_IMAGES]
    lead = f"The accuracy of {len(moved):,} of {len(of_model[0]):,} classes changed. "
    significant = [
        (model.name, sum(found.p_adjusted < SIGNIFICANCE for found in of.values()))
        for model, of in zip(data.candidates, of_model, strict=True)
    ]
    lead += "Statistically significant after correction for the number of classes (Benjamini and Hochberg, 0.05): "
    lead += ", ".join(f"{count or 'none'} in {name}" for name, count in significant) + "."
    if not enough:
        few = f"No class has {MIN_IMAGES} or more images, so accuracy by class is not shown."
        return fragment(element("p", lead), muted(few))

    def evidence(label: int) -> tuple[float, float, int, int]:
        found = [of[label] for of in of_model]
        worst = min(found, key=lambda one: (one.p_adjusted, one.p, one.delta))
        return (worst.p_adjusted, worst.p, worst.gained - worst.lost, label)

    ranked = sorted(enough, key=evidence)
    changed = [label for label in ranked if label in moved]
    left_out = len(of_model[0]) - len(enough)
    return fragment(
        element("p", lead),
        None if chart is None else chart.figure,
        element("h3", "Classes with the most evidence of a change") if changed else None,
        _table(data, of_model, changed[:_SHOWN]) if changed else None,
        element("details", element("summary", f"All {len(ranked):,} classes"), _table(data, of_model, ranked))
        if len(ranked) > _SHOWN or not changed
        else None,
        muted(f"{left_out:,} classes with fewer than {MIN_IMAGES} images are left out.") if left_out else None,
    )


def _table(data: ReportData, of_model: list[dict[int, ClassDelta]], labels: list[int]) -> Html:
    names = [model.name for model in data.candidates]
    # Side by side, the counts of lost and gained images would take more room than the page has.
    counted = len(names) == 1
    groups = [("", 3)] + [(name, 5 if counted else 3) for name in names]
    headings = ["class", "images", f"{data.comparison.reference.name} %"]
    headings += ["top-1 %", "Δ, points", *(["lost", "gained"] if counted else []), "p, corrected"] * len(names)
    rows = []
    for label in labels:
        first = of_model[0][label]
        row: list[object] = [data.class_name(label), f"{first.images:,}"]
        row.append(f"{100 * first.reference_correct / first.images:.1f}")
        for of in of_model:
            found = of[label]
            row += [
                f"{100 * found.candidate_correct / found.images:.1f}",
                points(100 * found.delta),
                *([f"{found.lost}", f"{found.gained}"] if counted else []),
                Cell(p_value(found.p_adjusted), value=found.p_adjusted),
            ]
        rows.append(row)
    return table("Accuracy by class", headings, rows, groups=groups)


def _chart(data: ReportData) -> Chart | None:
    """Return the chart of classes with enough images that changed in any candidate, sorted by the first candidate."""
    series: list[dict[str, Any]] = []
    of_model = _by_model(data)
    labels = sorted(
        {found.label for of in of_model for found in of.values()
         if found.images >= MIN_IMAGES and (found.lost or found.gained)},
        key=lambda label: (min(of[label].delta for of in of_model), label),
    )  # fmt: skip
    if len(labels) < 3:
        return None
    for model, of in zip(data.candidates, of_model, strict=True):
        series.append({"name": model.name, "values": [round(100 * of[label].delta, 3) for label in labels]})
    names = [f"{data.class_name(label)} ({of_model[0][label].images:,} images)" for label in labels]
    return Chart(
        name="classes", caption="Change of top-1 by class, most lost first", kind="bars", readout=True,
        values={"series": series, "names": names, "title": "change of top-1, points"},
    )  # fmt: skip


def _confusions(data: ReportData) -> Html:
    labelled = data.comparison.labelled
    models = data.comparison.models if labelled else data.candidates
    rows = []
    for pair in data.confusions:
        counts = pair.counts if labelled else pair.counts[1:]
        rows.append([data.class_name(pair.expected), data.class_name(pair.answered), *map(str, counts)])
    expected = "true class" if labelled else f"class by {data.comparison.reference.name}"
    headings = [expected, "answered", *(model.name for model in models)]
    shown = rows[:_SHOWN]
    return fragment(
        element("h3", "Confusions that changed"),
        table("Confusions", headings, shown, text_columns=2),
        element("details", element("summary", f"{len(rows)} pairs of classes"),
                table("All confusions", headings, rows, text_columns=2))
        if len(rows) > _SHOWN else None,
    )  # fmt: skip

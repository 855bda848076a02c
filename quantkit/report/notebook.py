"""HTML for ``_repr_html_`` of results in notebooks, in the style of the notebook."""

from collections.abc import Iterable, Sequence

from quantkit.evaluation.result import Comparison
from quantkit.report.html import Html, element, fragment
from quantkit.report.tables import ABSENT, accuracy_rows, decibels, notes, points, share
from quantkit.sensitivity.result import Sensitivity

_LAYERS = 20


def comparison_html(comparison: Comparison) -> Html:
    """Return the accuracy of all models and the notes."""
    headings, rows = accuracy_rows(comparison)
    title = f"{comparison.images:,} images, differences to {comparison.reference.name} with 95 % intervals"
    return fragment(element("p", title), _table(headings, rows), *(element("p", note) for note in notes(comparison)))


def sensitivity_html(found: Sensitivity) -> Html:
    """Return the first layers in the order of the result, and the noise of the full int8 model."""
    labelled = found.whole.accuracy is not None
    figures = ["noise added", "SQNR, dB", "noise removed", *(["Δ top-1, points"] if labelled else [])]
    rows = []
    for layer in found.layers[:_LAYERS]:
        row = [layer.skip, layer.node, layer.op_type, share(layer.macs_share, 1), share(layer.isolated.share, 1)]
        row += [decibels(layer.isolated.sqnr_db), share(layer.leave_one_out.share, 1)]
        if labelled:
            accuracy = layer.isolated.accuracy
            row.append(ABSENT if accuracy is None else points(accuracy.delta_top1, accuracy.delta_top1_ci95))
        rows.append(row)
    title = f"{found.model}, {found.target}, {found.method}: SQNR of the scores {decibels(found.whole.sqnr_db)} dB"
    more = len(found.layers) - len(rows)
    return fragment(
        element("p", f"{title}, on {found.images:,} {found.source}"),
        _table(["layer", "node", "operator", "multiply-adds", *figures], rows),
        element("p", f"and {more} more layers") if more else None,
    )


def figures_html(title: str, figures: Iterable[tuple[str, str]]) -> Html:
    """Return names and values as a table of two columns."""
    rows = (element("tr", element("th", name, scope="row"), element("td", value)) for name, value in figures)
    return fragment(element("p", title), element("table", *rows))


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    head = element("tr", *(element("th", heading, scope="col") for heading in headings))
    body = (element("tr", *(element("td", cell) for cell in row)) for row in rows)
    return element("table", element("thead", head), element("tbody", *body))

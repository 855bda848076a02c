"""Building blocks of report sections: charts, tables, lists of names and values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantkit.evaluation.paired import Interval
from quantkit.report.html import Html, element
from quantkit.report.tables import points

# A space that keeps a number and its unit on one line.
SPACE = "\u00a0"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart: a place in the page with the values that the script draws.

    Attributes:
        name: unique name in the page.
        caption: heading of the chart.
        kind: name of the drawing function in ``report_charts.js`` or ``report_network.js``.
        values: JSON values for the function, without infinities.
        readout: whether a line below the chart describes the item at the pointer.
    """

    name: str
    caption: str
    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)
    readout: bool = False

    @property
    def figure(self) -> Html:
        """Return the element of the chart."""
        return element(
            "figure",
            element("figcaption", self.caption, id=f"{self.name}-caption"),
            element("div", class_="chart", id=f"{self.name}-chart", data_chart=self.name),
            element("p", class_="readout", id=f"{self.name}-readout", aria_hidden="true") if self.readout else None,
        )


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of a report.

    Attributes:
        id: anchor and key.
        heading: heading of the section and in the navigation.
        content: content below the heading, with the figures of the charts.
        charts: charts drawn by the script.
        shared: further values for the script, by key.
    """

    id: str
    heading: str
    content: Html
    charts: Sequence[Chart] = ()
    shared: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A table cell that sorts by a value other than its text.

    Attributes:
        content: text or markup.
        value: number it sorts by; None sorts last.
        class_: CSS class of the cell.
    """

    content: object
    value: float | None = None
    class_: str | None = None


def table(
    caption: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    text_columns: int = 1,
    groups: Sequence[tuple[str, int]] = (),
) -> Html:
    """Return a sortable table in a box that scrolls horizontally on narrow pages.

    Args:
        caption: name of the table for screen readers.
        headings: headings of the columns.
        rows: cells in the order of the headings; a `Cell` sorts by its value.
        text_columns: number of text columns from the left, which are aligned left.
        groups: name and number of columns of each group, in a row above the headings.
    """
    heads = [
        element("th", element("button", heading, type="button"), scope="col", class_=_text(place, text_columns))
        for place, heading in enumerate(headings)
    ]
    above = [element("th", name, colspan=span, scope="colgroup" if name else None) for name, span in groups]
    body = [
        element(
            "tr",
            *(
                _cell(cell, scope="row" if place == 0 else None, class_=_text(place, text_columns))
                for place, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    drawn = element(
        "table",
        element("caption", caption, class_="unseen"),
        element("thead", element("tr", *above, class_="groups") if above else None, element("tr", *heads)),
        element("tbody", *body),
        class_="sortable",
    )
    return element("div", drawn, class_="scroll", tabindex=0, role="region", aria_label=caption)


def interval_row(name: str, value: float, interval: Interval) -> dict[str, Any]:
    """Return one row of a chart of kind ``intervals``, in percentage points."""
    return {"name": name, "value": value, "lo": interval.lo, "hi": interval.hi, "label": points(value, interval)}


def definitions(pairs: Iterable[tuple[object, object]], class_: str) -> Html:
    """Return names and values as a definition list."""
    return element(
        "dl", *(element("div", element("dt", name), element("dd", value)) for name, value in pairs), class_=class_
    )


def tensor_button(name: str) -> Html:
    """Return a button that selects a tensor in the page."""
    return element("button", name, type="button", class_="tensor", data_tensor=name)


def muted(text: str) -> Html:
    """Return an explanatory paragraph."""
    return element("p", text, class_="muted")


def _text(place: int, text_columns: int) -> str | None:
    return "text" if place < text_columns else None


def _cell(cell: object, *, scope: str | None, class_: str | None) -> Html:
    content, value = (cell.content, cell.value) if isinstance(cell, Cell) else (cell, None)
    if isinstance(cell, Cell) and cell.class_:
        class_ = f"{class_} {cell.class_}" if class_ else cell.class_
    sort = None if value is None else f"{value:.17g}"
    return element("td" if scope is None else "th", content, scope=scope, class_=class_, data_value=sort)

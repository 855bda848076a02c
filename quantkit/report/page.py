"""The report as one HTML file that works offline.

The charts are drawn by scripts of some 30 kB; a plotting library would add several MB to every report and would not be
accessible by keyboard or screen reader. A content security policy prevents the page from loading resources and running
other scripts.
"""

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from quantkit.files import write_text
from quantkit.report.data import ReportData
from quantkit.report.html import Html, element, embedded_json, fragment
from quantkit.report.sections import sections
from quantkit.report.sections.verdict import verdict_section

_SCRIPTS = ("report_axes.js", "report_charts.js", "report_network.js", "report.js")


def report_html(data: ReportData) -> str:
    """Return the report as one HTML page."""
    shown = sections(data)
    names = ", ".join(model.name for model in data.candidates)
    against = f"{names} against {data.comparison.reference.name}"
    figures: dict[str, Any] = {"tensors": [], "candidates": []}
    figures |= {key: value for section in shown for key, value in section.shared.items()}
    figures["charts"] = {
        chart.name: {"kind": chart.kind, **chart.values} for section in shown for chart in section.charts
    }
    return document(
        title=f"{data.title}: {against}",
        above=against,
        heading=data.title,
        head=fragment(
            element("section", verdict_section(data), id="verdict", aria_label="Verdict"),
            element(
                "nav",
                *(element("a", section.heading, href=f"#{section.id}") for section in shown),
                aria_label="Sections",
            ),
        ),
        body=fragment(
            *(
                element(
                    "section",
                    element("h2", section.heading),
                    section.content,
                    id=section.id,
                    aria_label=section.heading,
                )
                for section in shown
            )
        ),
        made_by="quantkit compare",
        figures=figures,
    )


def document(
    *,
    title: str,
    above: str,
    heading: str,
    head: Html,
    body: Html,
    made_by: str,
    figures: Mapping[str, Any] | None = None,
) -> str:
    """Return a page in the style of the reports.

    Args:
        title: title of the window.
        above: line above the heading.
        heading: heading of the page.
        head: content before the sections.
        body: the sections.
        made_by: the command that wrote the page.
        figures: JSON values for the script.
    """
    style, script = _resource("report.css"), "\n".join(_resource(name) for name in _SCRIPTS)
    return Template(_resource("report.html")).substitute(
        policy=_policy(style, script),
        title=element("title", title),
        style=style,
        above=fragment(above),
        heading=fragment(heading),
        head=head,
        body=body,
        made_by=fragment(made_by),
        figures=embedded_json(figures or {"tensors": [], "candidates": [], "charts": {}}),
        script=script,
    )


def write_report(data: ReportData, path: Path) -> None:
    """Write the report as one HTML file.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text(path, report_html(data))


def _policy(style: str, script: str) -> Html:
    allowed = f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}"
    return Html(allowed)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _resource(name: str) -> str:
    return (files("quantkit.report") / name).read_text(encoding="utf-8")

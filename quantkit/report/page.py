"""One HTML file that shows a comparison: it opens without a network, and nothing in it came from one.

The charts are drawn by a script of our own, some 30 kB; a plotting library would add several MB to every report and
draw pictures that a keyboard or a screen reader cannot enter. The page forbids itself, by content security policy, to
load anything and to run any script but this one.
"""

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from string import Template

from quantkit.files import write_text
from quantkit.report.data import ReportData
from quantkit.report.figures import report_figures
from quantkit.report.html import Html, element, embedded_json, fragment
from quantkit.report.sections import sections, verdict_section

_SCRIPTS = ("report_axes.js", "report_charts.js", "report.js")


def report_html(data: ReportData) -> str:
    """Return the report as one HTML page."""
    style = _resource("report.css")
    script = "\n".join(_resource(name) for name in _SCRIPTS)
    shown = sections(data)
    links = [element("a", name.capitalize(), href=f"#{name}") for name, _, _ in shown]
    body = [
        element("section", element("h2", heading), content, id=name, aria_label=heading)
        for name, heading, content in shown
    ]
    return Template(_resource("report.html")).substitute(
        policy=_policy(style, script),
        title=element("title", f"{data.title}: {data.subject} against {data.comparison.reference.name}"),
        style=style,
        heading=fragment(data.title),
        pairing=fragment(f"{data.subject} against {data.comparison.reference.name}"),
        verdict=verdict_section(data),
        links=fragment(*links),
        body=fragment(*body),
        figures=embedded_json(report_figures(data)),
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

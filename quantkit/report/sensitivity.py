"""The page of ``quantkit sensitivity --html``."""

from collections.abc import Sequence

from quantkit.report.html import element, fragment
from quantkit.report.layout import muted
from quantkit.report.page import document
from quantkit.report.sections.sensitivity import sensitivity_table, summary
from quantkit.sensitivity.result import Sensitivity


def sensitivity_page(found: Sensitivity, decision: Sequence[str] = ()) -> str:
    """Return the sensitivity as one HTML page that works offline.

    Args:
        found: the figures.
        decision: the recommendation in sentences.
    """
    body = element(
        "section",
        element("h2", "Sensitivity of the layers"),
        *(element("p", line) for line in summary(found)),
        sensitivity_table(found),
        *(muted(f"Note: {note}") for note in found.notes),
        id="sensitivity",
        aria_label="Sensitivity of the layers",
    )
    return document(
        title=f"{found.model}: sensitivity of each layer to int8",
        above="Sensitivity of each layer to int8",
        heading=found.model,
        head=fragment(*(element("p", line, class_="verdict") for line in decision)),
        body=body,
        made_by="quantkit sensitivity",
    )

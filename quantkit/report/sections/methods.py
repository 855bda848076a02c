"""How method ``auto`` chose the calibration method of each model."""

from collections.abc import Mapping
from typing import Any

from quantkit.report.data import MethodChoice, ReportData
from quantkit.report.html import Html, element, fragment
from quantkit.report.layout import Section, muted, table
from quantkit.report.tables import ABSENT, decibels


def method_section(data: ReportData) -> Section | None:
    """Return the comparison of the methods for each model; None where all methods were named."""
    if not data.choices:
        return None
    return Section(
        id="methods",
        heading="Choice of the method",
        content=fragment(
            *(_choice(choice) for choice in data.choices),
            muted(
                "The int8 model of each method ran calibration images that biases are not corrected on. The distance "
                "of its scores from those of fp32 is relative to that of the chosen method. Methods that are further "
                "by more than chance explains drop out after few images. Where biases are corrected, which is done for "
                "the chosen method only, all figures leave out the mean change of each score."
            ),
        ),
    )


def _choice(choice: MethodChoice) -> Html:
    headings = ["method", "outcome", "images", "distance", "SQNR of the scores, dB", "agreement %"]
    rows = [_row(row) for row in choice.rows]
    return element(
        "div",
        element("h3", choice.model),
        element("p", f"{choice.reason}."),
        table(f"Methods compared for {choice.model}", headings, rows, text_columns=2) if rows else None,
    )


def _row(row: Mapping[str, Any]) -> list[object]:
    name = element("strong", row["method"]) if row["outcome"] == "chosen" else row["method"]
    return [
        name,
        row["outcome"],
        f"{row['images']}" if row["images"] else ABSENT,
        ABSENT if row["distance"] is None else f"{row['distance']:.2f}",
        ABSENT if row["sqnr_db"] is None else decibels(row["sqnr_db"]),
        ABSENT if row["agreement"] is None else f"{row['agreement']:.1f}",
    ]

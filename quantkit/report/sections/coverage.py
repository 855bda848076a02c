"""Coverage: layers and multiply-adds in int8 of each candidate, and the reasons for float."""

from quantkit.graph.coverage import percent
from quantkit.report.data import ReportData
from quantkit.report.html import element, fragment
from quantkit.report.layout import Cell, Section, table
from quantkit.report.tables import ABSENT


def coverage_section(data: ReportData) -> Section | None:
    """Return the layers in int8 and the layers in float; None if no candidate's coverage is known."""
    if not data.coverage:
        return None
    rows = [
        [
            name,
            f"{found.int8_layers} of {found.layers}",
            Cell(percent(found.share) if found.multiply_adds else ABSENT, value=found.share),
            f"{found.multiply_adds / 1e6:,.1f} M" if found.multiply_adds else ABSENT,
        ]
        for name, found in data.coverage
    ]
    in_float = [
        [layer.name, name, layer.op_type, _millions(layer.multiply_adds), layer.why]
        for name, found in data.coverage
        for layer in found.float_layers
    ]
    headings = ["layer in float", "model", "operator", "multiply-adds", "reason"]
    listed = table("Layers in float", headings, in_float, text_columns=1) if in_float else None
    if len(in_float) > 10:
        listed = element("details", element("summary", f"All {len(in_float)} layers in float"), listed)
    return Section(
        id="coverage",
        heading="Coverage",
        content=fragment(
            table("Coverage", ["model", "layers in int8", "multiply-adds in int8", "multiply-adds"], rows),
            listed if in_float else element("p", "No layer is in float."),
        ),
    )


def _millions(count: int | None) -> object:
    return ABSENT if count is None else Cell(f"{count / 1e6:,.2f} M", value=count)

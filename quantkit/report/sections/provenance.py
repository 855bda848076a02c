"""Provenance of the report."""

from quantkit.report.data import ReportData
from quantkit.report.layout import Section, definitions


def provenance_section(data: ReportData) -> Section | None:
    """Return names and values; None if there are none."""
    if not data.provenance:
        return None
    return Section(id="provenance", heading="Provenance", content=definitions(data.provenance, "provenance"))

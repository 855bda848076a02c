"""The sections of a report, one module each: text, tables and chart values.

A section is a function that takes `ReportData` and returns a `Section`, or None if it has no content.
"""

from collections.abc import Callable

from quantkit.report.data import ReportData
from quantkit.report.layout import Section
from quantkit.report.sections.accuracy import accuracy_section
from quantkit.report.sections.classes import class_section
from quantkit.report.sections.convergence import convergence_section
from quantkit.report.sections.coverage import coverage_section
from quantkit.report.sections.drift import drift_section
from quantkit.report.sections.gates import gate_section
from quantkit.report.sections.images import image_section
from quantkit.report.sections.methods import method_section
from quantkit.report.sections.network import network_section
from quantkit.report.sections.provenance import provenance_section
from quantkit.report.sections.sensitivity import sensitivity_section
from quantkit.report.sections.tensor import tensor_section
from quantkit.report.sections.tuning import tuning_section

SECTIONS: tuple[Callable[[ReportData], Section | None], ...] = (
    accuracy_section,
    gate_section,
    drift_section,
    network_section,
    tensor_section,
    sensitivity_section,
    method_section,
    tuning_section,
    coverage_section,
    class_section,
    image_section,
    convergence_section,
    provenance_section,
)


def sections(data: ReportData) -> tuple[Section, ...]:
    """Return the sections with content, in the order of the page."""
    return tuple(section for build in SECTIONS if (section := build(data)) is not None)

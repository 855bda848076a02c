"""The verdicts of the gates: every condition on every candidate."""

from quantkit.evaluation.gate import GateMode
from quantkit.report.data import ReportData
from quantkit.report.html import element, fragment
from quantkit.report.layout import Cell, Section, muted, table
from quantkit.report.tables import MINUS

_MODES = {
    GateMode.FAIL_IF: "fails if measured",
    GateMode.FAIL_IF_PROVEN: "fails if proven",
    GateMode.FAIL_UNLESS_PROVEN: "fails unless proven",
}
_PROVEN = {True: "proven", False: "excluded", None: "undecided"}


def gate_section(data: ReportData) -> Section | None:
    """Return the table of verdicts, None without gates."""
    if not data.verdicts:
        return None
    rows = [
        [
            str(verdict.gate),
            _MODES[verdict.gate.mode],
            verdict.model,
            "; ".join(f"{name} {figure}".replace("-", MINUS) for name, figure in verdict.figures.items()),
            _PROVEN[verdict.proven],
            Cell(
                element("span", "passed" if verdict.passed else "FAILED",
                        class_=f"tag {'gained' if verdict.passed else 'lost'}"),
                value=float(verdict.passed),
            ),
        ]
        for verdict in data.verdicts
    ]  # fmt: skip
    return Section(
        id="gates",
        heading="Gates",
        content=fragment(
            table("Gates", ["condition", "mode", "model", "measured", "at 95 %", "verdict"], rows, text_columns=5),
            muted(
                "A condition is proven if every value in the 95 % interval meets it, excluded if none does, and "
                "undecided otherwise."
            ),
        ),
    )

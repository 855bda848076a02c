"""Drift along the network: SQNR of every tensor in every candidate."""

from quantkit.evaluation.drift import TensorDrift
from quantkit.evaluation.result import ModelResult
from quantkit.report.data import ReportData, by_name
from quantkit.report.html import element, fragment
from quantkit.report.layout import Cell, Chart, Section, muted, table, tensor_button
from quantkit.report.tables import ABSENT, decibels, share


def drift_section(data: ReportData) -> Section | None:
    """Return the chart of SQNR along the network and the table of all tensors; None if drift was not measured."""
    measured = [model for model in data.candidates if model.tensors or model.layers]
    if not measured:
        return None
    chart = Chart(
        name="drift", caption="SQNR of each tensor from input to output", kind="drift", readout=True,
        values={"series": [model.name for model in measured],
                "places": [data.candidates.index(model) for model in measured]},
    )  # fmt: skip
    drawn, count = _details(data, measured[0]) if len(measured) == 1 else _side_by_side(data, measured)
    return Section(
        id="drift",
        heading="Drift along the network",
        content=fragment(
            muted(
                "SQNR is the ratio of signal to quantization noise; 6 dB are one bit. The accumulated SQNR of a tensor "
                "(lines) includes the noise of all layers before it. The isolated SQNR of a layer (rings) is measured "
                "with the inputs of the fp32 model. Select a tensor in the chart (arrow keys step through "
                "it) or in the table."
            ),
            chart.figure,
            element("details", element("summary", f"All {count} tensors"), drawn),
        ),
        charts=(chart,),
    )


def _details(data: ReportData, model: ModelResult) -> tuple[object, int]:
    """Return all figures of the only candidate."""
    isolated = by_name(model.layers)
    headings = ["tensor", "operator", "SQNR, dB", "isolated SQNR, dB", "worst channel, dB", "max error, steps"]
    headings += ["clipped", "range used"]
    rows = []
    for drift in model.tensors or model.layers:
        accumulated = drift if model.tensors else None
        rows.append(
            [
                Cell(tensor_button(drift.name)),
                drift.op_type,
                _sqnr(accumulated),
                _sqnr(isolated.get(drift.name)),
                decibels(drift.worst_channel_sqnr_db),
                ABSENT if drift.max_err_steps is None else f"{drift.max_err_steps:.1f}",
                share(drift.clipped, digits=4),
                share(drift.range_used, digits=0),
            ]
        )
    return table("Drift of every tensor", headings, rows, text_columns=2), len(rows)


def _side_by_side(data: ReportData, models: list[ModelResult]) -> tuple[object, int]:
    """Return the SQNR of every candidate, accumulated and isolated."""
    accumulated, isolated = ([by_name(one) for one in found] for found in (
        [model.tensors for model in models], [model.layers for model in models]
    ))  # fmt: skip
    names = [model.name for model in models]
    rows = [
        [
            Cell(tensor_button(tensor.name)),
            tensor.op_type,
            *(_sqnr(of.get(tensor.name)) for of in accumulated),
            *(_sqnr(of.get(tensor.name)) for of in isolated),
        ]
        for tensor in data.network
    ]
    groups = [("", 2), ("SQNR, dB", len(models)), ("isolated SQNR, dB", len(models))]
    headings = ["tensor", "operator", *names, *names]
    return table("Drift of every tensor", headings, rows, text_columns=2, groups=groups), len(rows)


def _sqnr(drift: TensorDrift | None) -> object:
    return ABSENT if drift is None else Cell(decibels(drift.sqnr_db), value=drift.sqnr_db)

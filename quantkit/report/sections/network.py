"""The network as a graph, coloured by the error of its tensors."""

from quantkit.report.data import ReportData
from quantkit.report.html import element, fragment
from quantkit.report.layout import Chart, Section, muted

# Maximum number of tensors for a readable graph.
_MOST = 600


def network_section(data: ReportData) -> Section | None:
    """Return the graph view; None if the network or its drift is unknown."""
    measured = [
        (index, model) for index, model in enumerate(data.candidates) if model.tensors or model.layers
    ]  # fmt: skip
    linked = sum(bool(tensor.inputs) for tensor in data.tensors)
    if not measured or not linked or len(data.network) > _MOST:
        return None
    choices = []
    for index, model in measured:
        choices += [(f"sqnr:{index}", f"{model.name}: accumulated SQNR")] if model.tensors else []
        choices += [(f"isolated:{index}", f"{model.name}: isolated SQNR")] if model.layers else []
    chart = Chart(name="network", caption="Tensors of the network by their SQNR", kind="network", readout=True)
    return Section(
        id="network",
        heading="Network",
        content=fragment(
            muted(
                "Each square is a tensor, with lines from the tensors it is computed from. Select one to see it below."
            ),
            element(
                "div",
                element("label", "Colour", for_="colour"),
                element("select", *(element("option", name, value=value) for value, name in choices), id="colour"),
                class_="chooser",
            ),
            chart.figure,
        ),
        charts=(chart,),
    )

"""Convergence of the ranges by the number of calibration images."""

from quantkit.report.data import ReportData
from quantkit.report.html import element, fragment
from quantkit.report.layout import Chart, Section, muted, tensor_button
from quantkit.report.tables import share


def convergence_section(data: ReportData) -> Section | None:
    """Return the changes of the ranges by number of images; None if not recorded."""
    if not data.convergence:
        return None
    methods = list(dict.fromkeys(method for point in data.convergence for method in point.movement))
    chart = Chart(
        name="convergence",
        caption="Largest change of any range by the number of calibration images",
        kind="lines",
        values={
            "series": [
                {
                    "name": method,
                    "values": [
                        100 * point.movement[method] if method in point.movement else None for point in data.convergence
                    ],
                }
                for method in methods
            ],
            "x": [point.images for point in data.convergence],
            "x_title": "calibration images",
            "y_title": "largest change, % of the width",
        },
    )
    last = data.convergence[-1]
    movers = [
        element("li", f"{method}: {share(moved)} at ", tensor_button(last.tensor[method]))
        for method, moved in last.movement.items()
        if last.tensor.get(method)
    ]
    return Section(
        id="convergence",
        heading="Convergence of the ranges",
        content=fragment(
            muted(
                "Each point is the largest change of any range since the previous point, relative to the width of the "
                "range. If the line of a method is at a few percent, more images hardly change its ranges."
            ),
            chart.figure,
            element("p", f"Largest change up to {last.images:,} images:") if movers else None,
            element("ul", *movers) if movers else None,
        ),
        charts=(chart,),
    )

"""Sensitivity of the layers: the recommendation, and the table with its bars, drawn without a script."""

from collections.abc import Iterable, Iterator

from quantkit.report.data import ReportData
from quantkit.report.html import Html, element, fragment, void
from quantkit.report.layout import Cell, Section, muted, table
from quantkit.report.tables import ABSENT, MINUS, decibels, points, share
from quantkit.sensitivity.result import Figures, LayerSensitivity, Sensitivity

_WIDTH, _HEIGHT = 110, 14


def sensitivity_section(data: ReportData) -> Section | None:
    """Return the cost of each layer, for every sensitivity of the run; None without one."""
    if not data.sensitivities:
        return None
    parts = []
    for finding in data.sensitivities:
        found = finding.result
        parts.append(
            element(
                "div",
                element("h3", f"Target {found.target}, method {found.method}"),
                element("ul", *(element("li", line) for line in finding.decision), class_="decision"),
                element("pre", finding.command) if finding.command else None,
                *(element("p", line) for line in summary(found)),
                sensitivity_table(found),
            )
        )
    return Section(id="sensitivity", heading="Sensitivity", content=fragment(*parts))


def summary(found: Sensitivity) -> Iterator[str]:
    """Yield the figures of the full int8 model, and the sum of the isolated noises."""
    whole = found.whole
    said = f"full int8 model ({found.target}, {found.method}): SQNR of the scores {decibels(whole.sqnr_db)} dB"
    said += f", KL {whole.kl:.2g} nats"
    if whole.accuracy is not None:
        accuracy = whole.accuracy
        said += f", top-1 {accuracy.top1:.2f}, {points(accuracy.delta_top1, accuracy.delta_top1_ci95)} points"
        said += f", agreement {accuracy.agreement:.2f} %"
    device = "" if found.device == "cpu" else f"; all models ran on {found.device}"
    yield f"{said}, on {found.images:,} {found.source}{device}"
    yield (
        f"the isolated noises of the {len(found.layers)} layers add up to {share(found.sum_made, 0)} of its noise; "
        "they add up to 100 % only if they are uncorrelated"
    )


def sensitivity_table(found: Sensitivity) -> Html:
    """Return the table of all layers, with an explanation of its bars."""
    labelled = found.whole.accuracy is not None
    figures = ["noise", "SQNR, dB", "KL, nats", *(["Δ top-1, points", "agreement %"] if labelled else [])]
    groups = [("", 4), ("only this layer in int8: noise added", len(figures))]
    groups += [("all layers but this in int8: noise removed", len(figures))]
    headings = ["layer", "node", "operator", "multiply-adds", *(figures * 2)]
    lo, hi = _limits(found.layers)
    rows = [
        [
            ABSENT if layer.conv_index is None else layer.skip,
            layer.node,
            layer.op_type,
            Cell(share(layer.macs_share, 1), value=layer.macs_share),
            *_cells(layer.isolated, "made", lo, hi),
            *_cells(layer.leave_one_out, "saved", lo, hi),
        ]
        for layer in found.layers
    ]
    return fragment(
        table("Sensitivity of the layers", headings, rows, text_columns=3, groups=groups),
        muted(
            "Noise is a share of the noise of the full int8 model. All bars have one scale; a bar to the left of the "
            "line means that the noise grows. KL is the divergence of the softmax outputs from those of fp32."
        ),
    )


def _cells(figures: Figures, kind: str, lo: float, hi: float) -> Iterator[Cell]:
    noise = share(figures.share, 1).replace("-", MINUS)
    yield Cell(fragment(_bar(figures.share, kind, lo, hi), noise), value=figures.share, class_="bar")
    yield Cell(decibels(figures.sqnr_db), value=figures.sqnr_db)
    yield Cell(f"{figures.kl:.2g}", value=figures.kl)
    if figures.accuracy is not None:
        accuracy = figures.accuracy
        yield Cell(points(accuracy.delta_top1, accuracy.delta_top1_ci95), value=accuracy.delta_top1)
        yield Cell(f"{accuracy.agreement:.2f}", value=accuracy.agreement)


def _bar(value: float, kind: str, lo: float, hi: float) -> Html:
    """Return a bar from zero to a value between the limits."""
    scale = _WIDTH / (hi - lo)
    zero, end = -lo * scale, (value - lo) * scale
    drawn = void(
        "rect",
        x=f"{min(zero, end):.1f}",
        y=2,
        width=f"{abs(end - zero):.1f}",
        height=_HEIGHT - 4,
        class_=kind if value >= 0 else "worse",
    )
    axis = void("line", x1=f"{zero:.1f}", x2=f"{zero:.1f}", y1=0, y2=_HEIGHT)
    # In SVG an element without content must be closed.
    shapes = fragment(*(Html(f"{shape[:-1]}/>") for shape in (drawn, axis)))
    return element(
        "svg", shapes, width=_WIDTH, height=_HEIGHT, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", aria_hidden="true", class_="bar"
    )


def _limits(layers: Iterable[LayerSensitivity]) -> tuple[float, float]:
    """Return the smallest and largest share, including zero, and never equal."""
    shares = [0.0, *(figures.share for layer in layers for figures in (layer.isolated, layer.leave_one_out))]
    return min(shares), max(*shares, 1e-6)

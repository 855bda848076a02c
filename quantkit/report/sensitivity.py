"""The sensitivity of a network as one HTML page: a table whose rows carry their bars, drawn without a script."""

import base64
import hashlib
from collections.abc import Iterable, Iterator

from quantkit.report.html import Html, element, fragment, void
from quantkit.report.tables import ABSENT, MINUS, decibels, points, share
from quantkit.sensitivity.result import Figures, LayerSensitivity, Sensitivity

_WIDTH, _HEIGHT = 140, 14
_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1e22; --muted: #59616b; --rule: #d9dee4;
  --made: #c04d00; --saved: #0072b2; --worse: #a8478a; }
@media (prefers-color-scheme: dark) { :root { --ground: #15181b; --ink: #e6e9ec; --muted: #a0a9b3; --rule: #343b42;
  --made: #f2955c; --saved: #56b4e9; --worse: #e29ac8; } }
body { margin: 0 auto; padding: 2rem 1.5rem 3rem; max-width: 84rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums; }
h1 { margin: 0 0 .5rem; font-size: 1.7rem; line-height: 1.2; }
p { max-width: 52rem; margin: 0 0 .75rem; }
.muted, caption { color: var(--muted); font-size: .92rem; }
.wide { overflow-x: auto; margin-top: 1.5rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
caption { text-align: left; padding-bottom: .5rem; }
th, td { padding: .15rem .45rem; text-align: right; white-space: nowrap; font-weight: 400; }
thead th { border-bottom: 1px solid var(--rule); font-weight: 600; vertical-align: bottom; }
tbody tr:hover { outline: 1px solid var(--rule); }
.text { text-align: left; }
tbody th { max-width: 20rem; overflow: hidden; text-overflow: ellipsis; }
td.bar { padding-right: 0; }
svg { display: block; }
.made { fill: var(--made); } .saved { fill: var(--saved); } .worse { fill: var(--worse); }
line { stroke: var(--muted); }
"""


def sensitivity_page(found: Sensitivity) -> str:
    """Return the page; it needs no network and runs no script."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    title = f"{found.model}: what each layer costs in int8"
    head = element(
        "head",
        void("meta", charset="utf-8"),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        void(
            "meta",
            http_equiv="Content-Security-Policy",
            content=f"default-src 'none'; style-src 'sha256-{digest}'",
        ),
        element("title", title),
        element("style", Html(_STYLE)),
    )
    body = element(
        "body",
        element("h1", title),
        *(element("p", line) for line in summary(found)),
        *(element("p", f"Note: {note}", class_="muted") for note in found.notes),
        element("div", _table(found), class_="wide"),
        element("p", "Made by quantkit sensitivity", class_="muted"),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def summary(found: Sensitivity) -> Iterator[str]:
    """Yield what has to be said of the whole: its noise, and how far the layers' noises add up to it."""
    whole = found.whole
    said = f"whole int8 model ({found.target}, {found.method}): SQNR of the scores {decibels(whole.sqnr_db)} dB"
    said += f", KL {whole.kl:.2g} nats"
    if whole.accuracy is not None:
        accuracy = whole.accuracy
        said += f", top-1 {accuracy.top1:.2f}, {points(accuracy.delta_top1, accuracy.delta_top1_ci95)} points"
        said += f", agreement {accuracy.agreement:.2f} %"
    yield f"{said}, on {found.images:,} {found.source}"
    yield (
        f"the {len(found.layers)} layers one by one make {share(found.sum_made, 0)} of its noise: "
        "noises of several layers add up only where they have nothing to do with each other"
    )


def _table(found: Sensitivity) -> Html:
    labelled = found.whole.accuracy is not None
    figures = ("noise", "SQNR dB", "KL", *(("Δ top-1", "agree %") if labelled else ()))
    groups = element(
        "tr",
        element("th", colspan=4),
        element("th", "isolated: the noise of this layer alone in int8", colspan=len(figures) + 1, class_="text"),
        element("th", "leave-one-out: the noise saved by this layer in float", colspan=len(figures) + 1, class_="text"),
    )
    headings = [
        *(element("th", name, class_="text", scope="col") for name in ("layer", "node", "op")),
        element("th", "MACs", scope="col"),
        *([element("th", class_="bar"), *(element("th", name, scope="col") for name in figures)] * 2),
    ]
    lo, hi = _limits(found.layers)
    rows = [
        element(
            "tr",
            element("td", ABSENT if layer.conv_index is None else layer.skip, class_="text"),
            element("th", layer.node, class_="text", scope="row", title=layer.node),
            element("td", layer.op_type, class_="text"),
            element("td", share(layer.macs_share, 1)),
            *_cells(layer.isolated, "made", lo, hi),
            *_cells(layer.leave_one_out, "saved", lo, hi),
        )
        for layer in found.layers
    ]
    caption = "Bars are shares of the noise of the whole int8 model, all to one scale; left of the line it grows."
    return element(
        "table",
        element("caption", caption),
        element("thead", groups, element("tr", *headings)),
        element("tbody", *rows),
    )


def _cells(figures: Figures, kind: str, lo: float, hi: float) -> Iterator[Html]:
    yield element("td", _bar(figures.share, kind, lo, hi), class_="bar")
    yield element("td", share(figures.share, 1).replace("-", MINUS))
    yield element("td", decibels(figures.sqnr_db))
    yield element("td", f"{figures.kl:.2g}")
    if figures.accuracy is not None:
        yield element("td", points(figures.accuracy.delta_top1, figures.accuracy.delta_top1_ci95))
        yield element("td", f"{figures.accuracy.agreement:.2f}")


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
    # Inside of SVG an element without content has to be closed.
    shapes = fragment(*(Html(f"{shape[:-1]}/>") for shape in (drawn, axis)))
    return element("svg", shapes, width=_WIDTH, height=_HEIGHT, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", aria_hidden="true")


def _limits(layers: Iterable[LayerSensitivity]) -> tuple[float, float]:
    """Return least and greatest share, zero among them, never the same."""
    shares = [0.0, *(figures.share for layer in layers for figures in (layer.isolated, layer.leave_one_out))]
    return min(shares), max(*shares, 1e-6)

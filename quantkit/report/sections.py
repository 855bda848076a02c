"""The sections of a report as HTML: all words and tables, readable without the script that draws the charts."""

import base64
from collections.abc import Sequence
from pathlib import PurePath

from quantkit.evaluation.classes import SIGNIFICANCE, ClassDelta
from quantkit.evaluation.drift import TensorDrift
from quantkit.evaluation.result import Comparison, ModelResult
from quantkit.report.data import FLIP_KINDS, Answer, Blame, FlippedImage, ReportData, layers_to_blame
from quantkit.report.figures import tradeoff
from quantkit.report.html import Html, element, fragment, void
from quantkit.report.tables import ABSENT, decibels, notes, p_value, points, share, size

_CLASSES_SHOWN = 12
# With fewer images a class, its accuracy jumps by whole tens of points and a chart of it would only alarm.
_IMAGES_PER_CLASS = 5
# A space that keeps a number and its unit on one line.
_SPACE = "\u00a0"
_SURELY = f"with 95{_SPACE}% confidence"
# Room for pictures, so that a report stays easy to mail; later images are shown by name.
THUMBNAIL_BYTES = 4_000_000


def sections(data: ReportData) -> list[tuple[str, str, Html]]:
    """Return identifier, heading and content of each section that has something to show."""
    model = data.model
    found = [("accuracy", "Accuracy", accuracy_section(data))]
    if model.tensors:
        found.append(("drift", "Drift along the network", drift_section(data)))
    if any(tensor.statistics is not None or tensor.ranges for tensor in data.tensors):
        found.append(("tensor", "Values and ranges of a tensor", tensor_section()))
    if model.versus is not None and any(c.lost or c.gained for c in model.versus.classes):
        found.append(("classes", "Classes", class_section(data)))
    found.append(("flips", "Images that changed class", flip_section(data)))
    if data.convergence:
        found.append(("convergence", "Convergence of the ranges", convergence_section(data)))
    if data.provenance:
        found.append(("provenance", "Provenance", provenance_section(data)))
    return found


def verdict(comparison: Comparison, model: ModelResult) -> str:
    """Say in one sentence what a candidate costs."""
    versus, reference = model.versus, comparison.reference.name
    assert versus is not None  # candidates have been compared
    if versus.top1 is None:
        same = f"{versus.agreement:.2f} % of {comparison.images:,} images"
        return f"{model.name} puts {same} in the same class as {reference}."
    value, ci = versus.top1.value, versus.top1.ci95
    if ci.hi < 0:
        bounds = f"{_SURELY} between {-ci.hi:.2f} and {-ci.lo:.2f}"
        return f"{model.name} loses {-value:.2f} points of top-1 against {reference}, {bounds}."
    if ci.lo > 0:
        bounds = f"{_SURELY} between {ci.lo:.2f} and {ci.hi:.2f}"
        return f"{model.name} gains {value:.2f} points of top-1 over {reference}, {bounds}."
    return (
        f"{model.name} shows no loss of top-1 that {comparison.images:,} images could prove: {points(value)} points "
        f"against {reference}, {_SURELY} between {points(ci.lo)} and {points(ci.hi)}."
    )


def verdict_section(data: ReportData) -> Html:
    """The sentence, the figures beside it, and the layers to blame."""
    model, versus = data.model, data.model.versus
    assert versus is not None
    figures = [("images", f"{data.comparison.images:,}"), ("same class as before", f"{versus.agreement:.2f} %")]
    if versus.top1 is not None:
        p = p_value(versus.top1.mcnemar_p)
        figures += [
            ("lost / gained images", f"{versus.top1.lost:,} / {versus.top1.gained:,}"),
            ("McNemar’s exact p", p.replace("<", "below ")),
        ]
    figures.append(("size", f"{size(data.comparison.reference.bytes)} → {size(model.bytes)}"))
    said = notes(data.comparison)
    blamed = layers_to_blame(data)
    return fragment(
        element("p", verdict(data.comparison, model), class_="verdict"),
        element("dl", *(element("div", element("dt", k), element("dd", v)) for k, v in figures), class_="figures"),
        _blame(blamed, proven=versus.top1 is not None and versus.top1.ci95.hi < 0) if blamed else None,
        element("ul", *(element("li", note) for note in said), class_="notes") if said else None,
    )


def _blame(blamed: Sequence[Blame], *, proven: bool) -> Html:
    items = [
        element("li", _tensor_button(blame.tensor), " ", element("span", blame.why, class_="muted")) for blame in blamed
    ]
    # Where nothing is lost there is nothing to blame, and still something to learn.
    heading = "The layers to blame" if proven else "The layers that lose most precision"
    return element("div", element("h2", heading), element("ol", *items), class_="blame")


def accuracy_section(data: ReportData) -> Html:
    """Table of all models, with the charts of differences and of cost."""
    comparison = data.comparison
    timed = any(model.latency_ms is not None for model in comparison.models)
    headings = ["model", "top-1 %", "top-5 %", "Δ top-1, points [95 %]", "Δ top-5, points [95 %]", "p"]
    headings += ["same class %", "KL, nats", "ECE %", "size", *(["ms"] if timed else [])]
    charts = [_chart("deltas", f"Difference of top-1 to the reference, with its 95{_SPACE}% interval")]
    if tradeoff(data) is not None:
        charts.append(_chart("tradeoff", f"Accuracy against cost, with 95{_SPACE}% intervals"))
    return fragment(
        _table("Models", headings, [_accuracy_row(model, timed) for model in comparison.models]),
        element("div", *charts, class_="pair") if comparison.labelled else None,
        element(
            "p",
            "Differences are paired on the same images. The interval is Tango’s score interval; p is McNemar’s exact "
            "test; KL is the mean divergence of the softmax outputs from the reference; ECE is the mean gap between "
            "confidence and accuracy.",
            class_="muted",
        ),
    )


def _accuracy_row(model: ModelResult, timed: bool) -> list[str]:
    versus = model.versus
    top1, top5 = (None, None) if versus is None else (versus.top1, versus.top5)
    return [
        model.name,
        _percent(model.top1),
        _percent(model.top5),
        ABSENT if top1 is None else points(top1.value, top1.ci95),
        ABSENT if top5 is None else points(top5.value, top5.ci95),
        ABSENT if top1 is None else p_value(top1.mcnemar_p),
        ABSENT if versus is None else _percent(versus.agreement),
        ABSENT if versus is None or versus.kl is None else f"{versus.kl:.4f}",
        _percent(model.ece),
        size(model.bytes),
        *([ABSENT if model.latency_ms is None else f"{model.latency_ms:.3g}"] if timed else []),
    ]


def drift_section(data: ReportData) -> Html:
    """Chart of SQNR along the network, and the table of every tensor."""
    local = {tensor.name: tensor.local for tensor in data.tensors if tensor.local is not None}
    headings = [
        "tensor",
        "operator",
        "SQNR dB",
        "alone dB",
        "worst channel dB",
        "max error, steps",
        "clipped",
        "range used",
    ]
    rows = [_drift_row(drift, local.get(drift.name)) for drift in data.model.tensors]
    return fragment(
        element(
            "p",
            "SQNR is signal over quantization noise. End to end, the noise of all layers before adds up; alone, a "
            "layer is fed what the fp32 model feeds it. Choose a tensor in the chart (arrow keys step through it) or "
            "in the table.",
            class_="muted",
        ),
        _chart("drift", "SQNR of each tensor from input to output", readout=True),
        element(
            "details",
            element("summary", f"All {len(rows)} tensors"),
            _table("Drift of every tensor", headings, rows, sortable=True),
        ),
    )


def _drift_row(drift: TensorDrift, local: TensorDrift | None) -> list[object]:
    return [
        _tensor_button(drift.name),
        drift.op_type,
        decibels(drift.sqnr_db),
        ABSENT if local is None else decibels(local.sqnr_db),
        decibels(drift.worst_channel_sqnr_db),
        ABSENT if drift.max_err_steps is None else f"{drift.max_err_steps:.1f}",
        share(drift.clipped, digits=4),
        share(drift.range_used, digits=0),
    ]


def tensor_section() -> Html:
    """The place where the chosen tensor is drawn."""
    selector = element(
        "div",
        element("label", "Tensor", for_="choose"),
        element("select", id="choose"),
        element("button", "Previous", type="button", id="previous"),
        element("button", "Next", type="button", id="next"),
        class_="selector",
    )
    views = element("fieldset", element("legend", "View"), id="views", class_="views", hidden=True)
    return fragment(
        selector,
        views,
        _chart("histogram", "Values seen in calibration, and the range each method chose"),
        element("div", id="ranges"),
        element("dl", id="facts", class_="facts"),
        element("p", id="chosen", class_="unseen", aria_live="polite"),
    )


def class_section(data: ReportData) -> Html:
    """Classes that moved: a chart of all, and a table of either end."""
    versus = data.model.versus
    assert versus is not None
    moved = sorted(
        (found for found in versus.classes if found.lost or found.gained),
        key=lambda found: (found.p_adjusted, found.p, found.gained - found.lost, found.label),
    )
    proven = sum(found.p_adjusted < SIGNIFICANCE for found in moved)
    lead = (
        f"{len(moved):,} of {len(versus.classes):,} classes moved. After correction for looking at all of them, "
        f"{proven or 'none'} {'stands' if proven == 1 else 'stand'} out (Benjamini and Hochberg, below 0.05)."
    )
    few = max(found.images for found in moved) < _IMAGES_PER_CLASS
    headings = ["class", "images", "Δ top-1, points", "lost", "gained", "p, corrected"]
    return fragment(
        element("p", lead),
        None if few else _chart("classes", "Change of top-1 of every class that moved, most lost first", readout=True),
        element("h3", "Classes with the most evidence of a change"),
        _table("Classes", headings, [_class_row(data, found) for found in moved[:_CLASSES_SHOWN]]),
    )


def _class_row(data: ReportData, found: ClassDelta) -> list[str]:
    return [
        data.class_name(found.label),
        f"{found.images:,}",
        points(100 * found.delta),
        f"{found.lost}",
        f"{found.gained}",
        p_value(found.p_adjusted),
    ]


def flip_section(data: ReportData) -> Html:
    """How often images flip by their margin, and the images themselves."""
    versus, reference, left = data.model.versus, data.comparison.reference.name, THUMBNAIL_BYTES
    assert versus is not None
    cards = []
    for flip in data.flips:
        left -= len(flip.thumbnail or b"")
        cards.append(_card(data, flip, with_picture=left >= 0))
    missing = versus.changed - len(data.flips)
    choices = [element("button", "all", type="button", data_kind="all", aria_pressed="true")]
    choices += [
        element("button", kind, type="button", data_kind=kind, aria_pressed="false")
        for kind in FLIP_KINDS
        if any(flip.kind == kind for flip in data.flips)
    ]
    return fragment(
        element(
            "p",
            f"{versus.changed:,} of {data.comparison.images:,} images are in another class. An image’s margin is the "
            f"distance of {reference}’s first class from its second, in nats of log-odds: the smaller, the less noise "
            "turns it.",
        ),
        _chart("margins", "Share of the images that change class, from the least sure to the surest tenth"),
        element("div", *choices, class_="filter", role="group", aria_label="Show images") if len(choices) > 2 else None,
        element("ul", *cards, class_="cards", id="cards") if cards else None,
        element("button", "Show all", type="button", id="all-cards", hidden=True),
        element("p", f"{missing:,} more are not in this report.", class_="muted") if missing > 0 else None,
    )


def _card(data: ReportData, flip: FlippedImage, *, with_picture: bool) -> Html:
    picture, name = None, PurePath(flip.name).name
    if flip.thumbnail is not None and with_picture:
        picture = void("img", src=_data_uri(flip.thumbnail), alt=name, width=96, height=96, loading="lazy")

    def said(answer: Answer) -> str:
        return f"{data.class_name(answer.label)} ({100 * answer.confidence:.0f}{_SPACE}%)"

    rows = [(data.comparison.reference.name, said(flip.reference)), (data.subject, said(flip.candidate))]
    if flip.label is not None:
        rows.insert(0, ("truth", data.class_name(flip.label)))
    return element(
        "li",
        picture,
        element(
            "div",
            element(
                "p", element("span", flip.kind, class_=f"tag {flip.kind}"), " ", name, class_="name", title=flip.name
            ),
            element("dl", *(fragment(element("dt", who), element("dd", value)) for who, value in rows)),
        ),
        data_kind=flip.kind,
    )


def convergence_section(data: ReportData) -> Html:
    """Chart of how far the ranges moved as images came in, and who moved last."""
    last = data.convergence[-1]
    movers = [
        element("li", f"{method} at {last.images:,} images: {share(moved)} at ", _tensor_button(last.tensor[method]))
        for method, moved in last.movement.items()
        if last.tensor.get(method)
    ]
    return fragment(
        element(
            "p",
            "Each point says how far the range that moved most had moved since the point before, relative to its "
            "width. Where a method’s line has come down to a few percent, more images would not change its ranges.",
            class_="muted",
        ),
        _chart("convergence", "Greatest move of any range, by the number of calibration images"),
        element("p", "What moved most at the last point:") if movers else None,
        element("ul", *movers) if movers else None,
    )


def provenance_section(data: ReportData) -> Html:
    """What the report was made from."""
    rows = [fragment(element("dt", name), element("dd", value)) for name, value in data.provenance]
    return element("dl", *rows, class_="provenance")


def _chart(name: str, caption: str, *, readout: bool = False) -> Html:
    return element(
        "figure",
        element("figcaption", caption, id=f"{name}-caption"),
        element("div", class_="chart", id=f"{name}-chart"),
        element("p", class_="readout", id=f"{name}-readout", aria_hidden="true") if readout else None,
    )


def _table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[object]], *, sortable: bool = False) -> Html:
    heads = [
        element("th", element("button", heading, type="button") if sortable else heading, scope="col")
        for heading in headings
    ]
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    ]
    table = element(
        "table",
        element("caption", caption, class_="unseen"),
        element("thead", element("tr", *heads)),
        element("tbody", *body),
        class_="sortable" if sortable else None,
    )
    # A wide table scrolls inside its own box, which the keyboard can reach.
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _tensor_button(name: str) -> Html:
    return element("button", name, type="button", class_="tensor", data_tensor=name)


def _data_uri(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _percent(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f}"

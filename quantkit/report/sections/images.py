"""Images that changed class: rate by margin, and the images."""

import base64
from typing import Any

from quantkit.report.data import CHANGE_KINDS, ChangedImage, ReportData
from quantkit.report.html import Html, element, fragment, void
from quantkit.report.layout import SPACE, Chart, Section, muted

# Maximum bytes of thumbnails, so that a report can be mailed; further images are listed without one.
PICTURE_BYTES = 4_000_000


def image_section(data: ReportData) -> Section:
    """Return the share of changed images by margin, and cards of the images."""
    total, left, cards = data.comparison.images, PICTURE_BYTES, []
    for image in data.images:
        left -= len(image.picture or b"")
        cards.append(_card(data, image, with_picture=left >= 0))
    counts = [f"{model.versus.changed:,} in {model.name}" for model in data.candidates if model.versus is not None]
    chart = _margins(data)
    return Section(
        id="images",
        heading="Images that changed class",
        content=fragment(
            element(
                "p",
                f"Of {total:,} images, the class changed for {', '.join(counts)}. The margin of an image is the "
                f"difference of {data.comparison.reference.name}’s first and second log-probability, in nats: the "
                "smaller it is, the less noise changes the class.",
            ),
            chart.figure,
            _filters(data) if cards else None,
            element("ul", *cards, class_="cards", id="cards") if cards else None,
            element("p", "No image of this kind.", id="no-cards", hidden=True) if cards else None,
            element("button", "Show all", type="button", id="all-cards", hidden=True) if cards else None,
            muted(f"The report contains {len(cards):,} images, the highest confidence first.") if cards else None,
            element("dialog", element("button", "Close", type="button", id="close-picture"),
                    element("div", id="picture"), id="viewer", aria_label="Image") if cards else None,
        ),
        charts=(chart,),
    )  # fmt: skip


def _margins(data: ReportData) -> Chart:
    series = [
        {
            "name": model.name,
            "bins": [
                {
                    "lo": margin.lo,
                    "hi": margin.hi,
                    "rate": 100 * margin.rate,
                    "ci": [100 * margin.interval.lo, 100 * margin.interval.hi],
                }
                for margin in model.versus.margins
            ],
        }
        for model in data.candidates
        if model.versus is not None
    ]
    return Chart(
        name="margins",
        caption=f"Share of the images that change class by margin, with 95{SPACE}% intervals",
        kind="margins",
        values={"series": series, "reference": data.comparison.reference.name},
    )


def _filters(data: ReportData) -> Html:
    kinds = [kind for kind in CHANGE_KINDS if any(kind in image.kinds for image in data.images)]
    buttons = [
        element("button", kind, type="button", data_kind=kind, aria_pressed="true" if kind == "all" else "false")
        for kind in ("all", *kinds)
    ]
    chooser: Html | None = None
    if len(data.candidates) > 1:
        options = [element("option", "any model", value="")]
        options += [element("option", model.name, value=index) for index, model in enumerate(data.candidates)]
        chooser = element(
            "span", element("label", "changed in", for_="changed-in"), " ", element("select", *options, id="changed-in")
        )
    return element("div", *buttons, chooser, class_="filter", role="group", aria_label="Show images")


def _card(data: ReportData, image: ChangedImage, *, with_picture: bool) -> Html:
    models = data.comparison.models
    rows: list[Html] = []
    if image.label is not None:
        rows.append(fragment(element("dt", "true class"), element("dd", data.class_name(image.label))))
    for model, answer, kind in zip(models, image.answers, (None, *image.kinds), strict=True):
        said = f"{data.class_name(answer.label)} ({100 * answer.confidence:.0f}{SPACE}%)"
        tag: Any = None if kind is None else fragment(" ", element("span", kind, class_=f"tag {kind}"))
        rows.append(fragment(element("dt", model.name), element("dd", said, tag)))
    picture = None
    if image.picture is not None and with_picture:
        drawn = void("img", src=_data_uri(image.picture), alt=image.name, width=96, height=96, decoding="async")
        picture = element("button", drawn, type="button", class_="enlarge", aria_label=f"Enlarge {image.name}")
    return element(
        "li",
        picture,
        element("div", element("p", image.name, class_="name"), element("dl", *rows)),
        data_kinds=",".join(kind or "" for kind in image.kinds),
    )


def _data_uri(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"

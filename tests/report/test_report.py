"""The report as text: verdicts, figures, escaping, size, colours; the browser's part is in test_compare_report_page."""

import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantkit.errors import OutputError, UsageError
from quantkit.evaluation.paired import Interval
from quantkit.evaluation.predictions import Predictions
from quantkit.numerics import Range
from quantkit.report.data import Blame, ReportTensor, flipped_images, layers_to_blame
from quantkit.report.figures import HISTOGRAM_BINS, histogram, report_figures, share_outside, tradeoff
from quantkit.report.html import Html, element, embedded_json, fragment, void
from quantkit.report.page import report_html, write_report
from quantkit.report.sections import verdict
from quantkit.stats.observer import Observer

VOID = {"meta", "img", "input", "link", "br"}


class Page(HTMLParser):
    """Checks the nesting, and collects elements with their attributes and text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(report_data):
    return Page(report_html(report_data))


@given(st.text(), st.text())
def test_any_text_stays_text(content, attribute):
    page = Page(element("p", content, title=attribute, data_x=True, hidden=False, class_=None))
    # HTML's own rules: carriage returns and NUL do not survive parsing.
    [(tag, attributes)] = page.elements
    assert (tag, set(attributes)) == ("p", {"title", "data-x"})
    assert attributes["title"] == attribute
    assert "".join(page.words) == content


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_embedded_json_reads_back_and_cannot_end_its_element(value):
    text = embedded_json(value)
    assert json.loads(text) == value
    assert not re.search("[<>&\u2028\u2029]", text)


def test_markup_is_not_escaped_twice():
    assert fragment(element("b", "1 < 2"), None, " & ") == "<b>1 &lt; 2</b> &amp; "
    assert void("img", alt='"', width=3) == '<img alt="&quot;" width="3">'
    assert isinstance(fragment("x"), Html)


def test_the_page_is_well_formed_and_can_be_reached(page):
    assert page.open == []
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {link["href"][1:] for link in page.all("a")} <= set(identifiers)
    assert all(image["alt"] for image in page.all("img"))
    assert all(button["type"] == "button" for button in page.all("button"))
    assert [label["for"] for label in page.all("label")] == ["choose"]
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_nothing_is_loaded_from_elsewhere(page, report_data):
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert page.all("link") == []
    assert not any("src" in script for script in page.all("script"))
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert len(report_html(report_data).encode()) < 1_000_000


def test_the_same_data_give_the_same_bytes(report_data):
    assert report_html(report_data) == report_html(report_data)


def test_names_from_files_are_escaped_everywhere(other_reports):
    text = report_html(other_reports["hostile"])
    assert "<img src=x" not in text
    assert "</script><script>document" not in text
    assert Page(text).open == []


def test_pictures_stay_within_their_room(report_data):
    heavy = tuple(replace(flip, thumbnail=b"\xff\xd8" + bytes(400_000)) for flip in report_data.flips)
    text = report_html(replace(report_data, flips=heavy))
    assert text.count("data:image/jpeg") == 9
    assert len(text.encode()) < 8_000_000


@pytest.mark.parametrize(
    ("value", "interval", "said"),
    [
        (-1.7, (-2.66, -0.8), "int8 loses 1.70 points of top-1 against fp32, with 95_% confidence between 0.80 and 2.66."),  # noqa: E501
        (0.9, (0.2, 1.6), "int8 gains 0.90 points of top-1 over fp32, with 95_% confidence between 0.20 and 1.60."),
        (-0.1, (-0.5, 0.3), "int8 shows no loss of top-1 that 2,000 images could prove: −0.10 points against fp32, with 95_% confidence between −0.50 and +0.30."),  # noqa: E501
    ],
    ids=["loss", "gain", "unproven"],
)  # fmt: skip
def test_the_verdict_says_what_the_interval_allows(report_data, value, interval, said):
    model = report_data.model
    top1 = replace(model.versus.top1, value=value, ci95=Interval(*interval))
    model = replace(model, name="int8", versus=replace(model.versus, top1=top1))
    assert verdict(report_data.comparison, model) == said.replace("_", "\u00a0")


def test_tensors_that_only_the_drift_knows_stand_where_it_has_them(report_data):
    names = [tensor.name for tensor in report_data.tensors]
    known = replace(report_data, tensors=report_data.tensors[:5] + report_data.tensors[8:20])
    assert [tensor.name for tensor in known.network] == names
    assert known.network[6].statistics is None
    assert [tensor.name for tensor in replace(report_data, tensors=()).network] == names


def test_classes_with_few_images_have_no_chart_and_a_loss_needs_proof_for_blame(report_data):
    text = report_html(report_data)
    assert 'id="classes-chart"' in text
    assert "The layers to blame" in text
    models = list(report_data.comparison.models)
    versus = models[1].versus
    single = tuple(replace(found, images=1) for found in versus.classes)
    unproven = replace(versus.top1, ci95=Interval(-1.0, 1.0))
    models[1] = replace(models[1], versus=replace(versus, classes=single, top1=unproven))
    text = report_html(replace(report_data, comparison=replace(report_data.comparison, models=tuple(models))))
    assert 'id="classes-chart"' not in text
    assert "The layers that lose most precision" in text


def test_of_a_class_the_first_synonym_is_shown(report_data):
    named = replace(report_data, class_names=("tench, Tinca tinca", " ,odd"))
    assert [named.class_name(label) for label in (0, 1, 2)] == ["tench", "class 1", "class 2"]


def test_without_labels_the_verdict_is_the_agreement(other_reports):
    data = other_reports["unlabelled"]
    assert re.fullmatch(
        r"int8-percentile puts 8[0-9.]+ % of 2,000 images in the same class as fp32\.",
        verdict(data.comparison, data.model),
    )
    assert tradeoff(data) is None


def test_a_report_is_about_a_model_of_the_comparison(report_data):
    with pytest.raises(UsageError, match="no candidate 'int4'; choose one of int8-percentile, int8-kl, int8-minmax"):
        replace(report_data, subject="int4")


def test_figures_are_plain_json_without_infinities(report_data):
    perfect = replace(report_data.tensors[3].local, sqnr_db=float("inf"))
    tensors = list(report_data.tensors)
    tensors[3] = replace(tensors[3], local=perfect)
    figures = report_figures(replace(report_data, tensors=tuple(tensors)))
    assert json.loads(json.dumps(figures, allow_nan=False)) == json.loads(json.dumps(figures))
    assert figures["tensors"][3]["local"] is None
    assert ("SQNR of this layer alone", "∞ dB") in figures["tensors"][3]["facts"]
    assert len(figures["tensors"]) == len(report_data.tensors)
    assert figures["series"] == ["int8-percentile", "int8-kl", "int8-minmax"]


def test_layers_to_blame_are_the_worst_alone_and_never_the_input(report_data):
    blamed = layers_to_blame(report_data)
    alone = {tensor.name: tensor.local.sqnr_db for tensor in report_data.tensors if tensor.name != "input"}
    assert [b.tensor for b in blamed] == sorted(alone, key=alone.get)[:3]


def test_without_local_drift_the_blame_falls_where_sqnr_falls(report_data):
    names = ("a", "b", "c", "d")
    inputs = ((), ("a",), ("a", "b"), ("c",))
    drifts = [
        replace(report_data.model.tensors[0], name=n, sqnr_db=db) for n, db in zip(names, (40, 30, 29, 31), strict=True)
    ]
    models = list(report_data.comparison.models)
    models[1] = replace(models[1], tensors=tuple(drifts))
    tensors = tuple(ReportTensor(name=n, inputs=i) for n, i in zip(names, inputs, strict=True))
    data = replace(report_data, comparison=replace(report_data.comparison, models=tuple(models)), tensors=tensors)
    assert layers_to_blame(data) == (
        Blame(tensor="b", why="SQNR falls by 10.0 dB here"),
        Blame(tensor="c", why="SQNR falls by 1.0 dB here"),
    )
    measured = (Blame(tensor="d", why="0.3 points"),)
    assert layers_to_blame(replace(data, blame=measured)) == measured


@given(hnp.arrays(np.float32, 60, elements=st.floats(-8, 8, width=32)), st.floats(-8, 0), st.floats(0, 8))
def test_a_histogram_has_numpys_counts_to_within_the_stored_bins(values, lo, hi):
    observer = Observer()
    observer.observe(values)
    statistics = observer.statistics()
    view = histogram(statistics, -10.0, 10.0)
    assert len(view["counts"]) == HISTOGRAM_BINS
    assert sum(view["counts"]) == values.size
    assert min(view["counts"]) >= 0
    outside = ((values < lo) | (values > hi)).mean()
    # A stored bin is 2^-10 of its magnitude wide, and 2^-136 at zero; values this near an end may fall on either side.
    near = sum((np.abs(values - end) <= abs(end) * 2**-9 + 2**-136).mean() for end in (lo, hi))
    assert abs(share_outside(statistics, Range(lo, hi)) - outside) <= near + 1e-9


def test_a_histogram_keeps_the_shape():
    values = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    observer = Observer()
    observer.observe(values)
    view = histogram(observer.statistics(), -4.0, 4.0)
    exact, _ = np.histogram(values, HISTOGRAM_BINS, (-4.0, 4.0))
    assert np.abs(np.asarray(view["counts"]) - exact).max() <= 0.03 * exact.max()
    assert abs(sum(view["counts"]) - exact.sum()) <= 30


def test_flipped_images_come_in_kinds_and_the_surest_first():
    labels = np.asarray([0, 0, 1, 2, 2, 0])
    before = np.eye(3)[[0, 0, 0, 1, 2, 0]] * np.asarray([[1], [9], [1], [1], [1], [1]])
    after = np.eye(3)[[1, 2, 1, 0, 2, 0]]
    names = [f"{i}.jpg" for i in range(6)]
    one, two = Predictions.from_scores(before, names, labels), Predictions.from_scores(after, names, labels)
    flips = flipped_images(one, two, thumbnail=lambda name: name.encode())
    assert [(f.name, f.kind) for f in flips] == [
        ("1.jpg", "lost"), ("0.jpg", "lost"), ("2.jpg", "gained"), ("3.jpg", "changed"),
    ]  # fmt: skip
    assert flips[0].thumbnail == b"1.jpg"
    assert (flips[0].reference.label, flips[0].candidate.label, flips[0].label) == (0, 2, 0)
    assert flips[0].reference.confidence == pytest.approx(np.exp(9) / (np.exp(9) + 2))
    assert [f.kind for f in flipped_images(one, two, limit=3)] == ["lost", "gained", "changed"]
    assert [f.name for f in flipped_images(one, two, limit=1)] == ["1.jpg"]
    bare = [Predictions.from_scores(scores, names) for scores in (before, after)]
    assert {f.kind for f in flipped_images(*bare)} == {"changed"}


def test_a_report_that_cannot_be_written_is_one_line(report_data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot create the folder"):
        write_report(report_data, tmp_path / "file" / "report.html")


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "print"])
def test_text_and_series_stand_out_from_the_ground(scheme):
    """WCAG 2.2: 4.5 for text, and the series' colours are used for text too."""
    style = (files("quantkit.report") / "report.css").read_text()
    block = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
    for name in ("ink", "muted", "accent", *(f"s{i}" for i in range(6))):
        for ground in ("ground", "panel"):
            if ground == "panel" and name.startswith("s"):
                continue
            lighter, darker = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (name, ground)

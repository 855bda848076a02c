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
from quantkit.report.data import Confusion, Loss, ReportTensor, changed_images, confusion_pairs, greatest_losses
from quantkit.report.histogram import HISTOGRAM_BINS, histogram, share_outside
from quantkit.report.html import Html, element, embedded_json, fragment, void
from quantkit.report.page import report_html, write_report
from quantkit.report.sections import sections
from quantkit.report.sections.accuracy import tradeoff
from quantkit.report.sections.tensor import tensor_values
from quantkit.report.sections.verdict import verdict
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
def test_page_any_text_stays_text(content, attribute):
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


def test_page_markup_is_not_escaped_twice():
    assert fragment(element("b", "1 < 2"), None, " & ") == "<b>1 &lt; 2</b> &amp; "
    assert void("img", alt='"', width=3) == '<img alt="&quot;" width="3">'
    assert isinstance(fragment("x"), Html)


def test_report_page_is_well_formed_and_accessible(page):
    assert page.open == []
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {link["href"][1:] for link in page.all("a")} <= set(identifiers)
    assert all(image["alt"] for image in page.all("img"))
    assert all(button["type"] == "button" for button in page.all("button"))
    assert [label["for"] for label in page.all("label")] == ["colour", "choose", "changed-in"]
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_report_page_loads_nothing_from_elsewhere(page, report_data):
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert page.all("link") == []
    assert not any("src" in script for script in page.all("script"))
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert len(report_html(report_data).encode()) < 1_000_000


def test_report_of_same_data_has_same_bytes(report_data):
    assert report_html(report_data) == report_html(report_data)


def test_report_names_from_files_are_escaped_everywhere(other_reports):
    text = report_html(other_reports["hostile"])
    assert "<img src=x" not in text
    assert "</script><script>document" not in text
    assert Page(text).open == []


def test_report_pictures_stay_within_size_limit(report_data):
    heavy = tuple(replace(image, picture=b"\xff\xd8" + bytes(400_000)) for image in report_data.images)
    text = report_html(replace(report_data, images=heavy))
    assert text.count("data:image/jpeg") == 9
    assert len(text.encode()) < 8_000_000


@pytest.mark.parametrize(
    ("value", "interval", "p", "said"),
    [
        (-1.7, (-2.66, -0.8), 0.001, "int8 loses 1.70 points of top-1 against fp32 (95_% interval 0.80 to 2.66)."),
        (0.9, (0.2, 1.6), 0.02, "int8 gains 0.90 points of top-1 over fp32 (95_% interval 0.20 to 1.60)."),
        (-0.1, (-0.5, 0.3), 0.8, "int8 shows no statistically significant change of top-1 against fp32 on 2,000 images: −0.10 points (95_% interval −0.50 to +0.30)."),  # noqa: E501
        (2.0, (0.08, 5.03), 0.125, "int8 shows no statistically significant change of top-1 against fp32 on 2,000 images: +2.00 points (95_% interval +0.08 to +5.03)."),  # noqa: E501
    ],
    ids=["loss", "gain", "unproven", "exact test not"],
)  # fmt: skip
def test_report_verdict_says_what_interval_and_exact_test_allow(report_data, value, interval, p, said):
    model = report_data.candidates[0]
    top1 = replace(model.versus.top1, value=value, ci95=Interval(*interval), mcnemar_p=p)
    model = replace(model, name="int8", versus=replace(model.versus, top1=top1))
    assert verdict(report_data.comparison, model) == said.replace("_", "\u00a0")


def test_report_tensors_known_only_from_drift_are_in_its_order(report_data):
    names = [tensor.name for tensor in report_data.tensors]
    known = replace(report_data, tensors=report_data.tensors[:5] + report_data.tensors[8:20])
    assert [tensor.name for tensor in known.network] == names
    assert known.network[6].statistics is None
    assert [tensor.name for tensor in replace(report_data, tensors=()).network] == names


def with_candidate(data, **changes):
    """Replace values of the first candidate."""
    models = list(data.comparison.models)
    models[1] = replace(models[1], **changes)
    return replace(data, comparison=replace(data.comparison, models=tuple(models)))


def test_report_shows_every_candidate_in_comparing_sections(report_data):
    text = {section.id: section.content for section in sections(report_data)}
    assert set(text) == {
        "accuracy", "gates", "drift", "network", "tensor", "sensitivity", "tuning", "coverage", "classes", "images",
        "convergence", "methods", "provenance",
    }  # fmt: skip
    for name in ("int8-percentile", "int8-kl", "int8-minmax"):
        for section in ("accuracy", "gates", "drift", "network", "classes", "images"):
            assert name in text[section], (name, section)
        assert f"{name} loses" in report_html(report_data)


def test_report_shows_latency_with_spread(report_data):
    [accuracy] = [section for section in sections(report_data) if section.id == "accuracy"]
    assert "14.8 [13.3, 17.8]" in accuracy.content


def test_report_shows_failed_gates_in_head_and_table(report_data):
    page = Page(report_html(report_data))
    failed = [one.model for one in report_data.verdicts if not one.passed]
    assert failed
    assert f"{len(failed)} of 3 gate verdicts failed." in page.words
    assert page.words.count("FAILED") == len(failed)


def test_report_shows_tuning_stages_with_gain_and_time(report_data):
    [tuning] = [section for section in sections(report_data) if section.id == "tuning"]
    assert "5 recipes were tried in 130 s" not in tuning.content
    assert "The goal is met. 5 recipes were tried in 2 min." in tuning.content
    assert "rounding (kept)" in tuning.content
    assert "+2.00" in tuning.content
    assert tuning.charts[0].values["rows"][1]["value"] == -0.2


def test_report_shows_methods_of_auto_with_what_was_not_measured(report_data):
    [methods] = [section for section in sections(report_data) if section.id == "methods"]
    page = Page(f"<table>{methods.content}</table>")
    assert "<strong>percentile</strong>" in methods.content
    assert "percentile: no method is nearer to fp32." in page.words
    assert "not tried" in methods.content
    assert "0.97" in methods.content


def test_report_classes_of_few_images_have_no_accuracy_rows(report_data):
    few = replace(report_data, class_names=())
    models = []
    for model in few.comparison.models:
        versus = model.versus
        if versus is not None:
            versus = replace(versus, classes=tuple(replace(found, images=1) for found in versus.classes))
        models.append(replace(model, versus=versus))
    few = replace(few, comparison=replace(few.comparison, models=tuple(models)))
    assert "−100.00" not in report_html(few)
    assert "No class has 5 or more images" in report_html(few)
    assert 'id="classes-chart"' not in report_html(few)


def test_report_class_name_is_first_synonym(report_data):
    named = replace(report_data, class_names=("tench, Tinca tinca", " ,odd"))
    assert [named.class_name(label) for label in (0, 1, 2)] == ["tench", "class 1", "class 2"]


def test_report_verdict_without_labels_is_agreement(other_reports):
    data = other_reports["unlabelled"]
    assert re.fullmatch(
        r"int8-percentile puts 8[0-9.]+ % of 2,000 images in the same class as fp32\.",
        verdict(data.comparison, data.candidates[0]),
    )
    assert tradeoff(data.comparison) is None


def test_report_without_candidates_is_refused(report_data):
    alone = replace(report_data.comparison, models=report_data.comparison.models[:1])
    with pytest.raises(UsageError, match="needs a comparison of two or more models"):
        replace(report_data, comparison=alone)


def test_report_values_of_tensors_are_json_without_infinities(report_data):
    layers = list(report_data.candidates[0].layers)
    layers[3] = replace(layers[3], sqnr_db=float("inf"))
    values = tensor_values(with_candidate(report_data, layers=tuple(layers)))
    assert json.loads(json.dumps(values, allow_nan=False)) == json.loads(json.dumps(values))
    assert values[3]["isolated"][0] is None
    assert values[3]["figures"][1][:2] == ["isolated SQNR, dB", "∞"]
    assert len(values) == len(report_data.tensors)
    assert all(len(one["sqnr"]) == 3 for one in values)
    assert [values[place]["inputs"] for place in (0, 1, 2)] == [[], [0], [1]]


def test_report_greatest_losses_are_worst_isolated_layers(report_data):
    model = report_data.candidates[0]
    alone = {layer.name: layer.sqnr_db for layer in model.layers if layer.name != "input"}
    assert [loss.tensor for loss in greatest_losses(report_data, model)] == sorted(alone, key=alone.get)[:3]


def test_report_greatest_losses_without_isolated_drift_are_falls_of_sqnr(report_data):
    names = ("a", "b", "c", "d")
    inputs = ((), ("a",), ("a", "b"), ("c",))
    model = report_data.candidates[0]
    drifts = [replace(model.tensors[0], name=n, sqnr_db=db) for n, db in zip(names, (40, 30, 29, 31), strict=True)]
    tensors = tuple(ReportTensor(name=n, inputs=i) for n, i in zip(names, inputs, strict=True))
    data = with_candidate(replace(report_data, tensors=tensors), tensors=tuple(drifts), layers=())
    assert greatest_losses(data, data.candidates[0]) == (
        Loss(tensor="b", why="accumulated SQNR falls by 10.0 dB"),
        Loss(tensor="c", why="accumulated SQNR falls by 1.0 dB"),
    )


@given(hnp.arrays(np.float32, 60, elements=st.floats(-8, 8, width=32)), st.floats(-8, 0), st.floats(0, 8))
def test_report_histogram_counts_equal_numpy_within_bins(values, lo, hi):
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


def test_report_histogram_keeps_shape():
    values = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    observer = Observer()
    observer.observe(values)
    view = histogram(observer.statistics(), -4.0, 4.0)
    exact, _ = np.histogram(values, HISTOGRAM_BINS, (-4.0, 4.0))
    assert np.abs(np.asarray(view["counts"]) - exact).max() <= 0.03 * exact.max()
    assert abs(sum(view["counts"]) - exact.sum()) <= 30


def three_models(labels):
    before = np.eye(3)[[0, 0, 0, 1, 2, 0]] * np.asarray([[1], [9], [1], [1], [1], [1]])
    after, other = np.eye(3)[[1, 2, 1, 0, 2, 0]], np.eye(3)[[0, 0, 0, 1, 2, 2]]
    names = [f"dir/{i}.jpg" for i in range(6)]
    return [Predictions.from_scores(scores, names, labels) for scores in (before, after, other)]


LABELS = np.asarray([0, 0, 1, 2, 2, 0])


def test_report_changed_images_are_ordered_by_kind_and_confidence():
    images = changed_images(three_models(LABELS), picture=lambda name: name.encode())
    assert [(one.name, one.kinds) for one in images] == [
        ("dir/1.jpg", ("lost", None)), ("dir/0.jpg", ("lost", None)), ("dir/5.jpg", (None, "lost")),
        ("dir/2.jpg", ("gained", None)), ("dir/3.jpg", ("changed", None)),
    ]  # fmt: skip
    assert images[0].picture == b"dir/1.jpg"
    assert [answer.label for answer in images[0].answers] == [0, 2, 0]
    assert images[0].label == 0
    assert images[0].answers[0].confidence == pytest.approx(np.exp(9) / (np.exp(9) + 2))


def test_report_changed_images_within_limit_are_of_all_kinds():
    assert [one.name for one in changed_images(three_models(LABELS), limit=1)] == ["dir/1.jpg"]
    found = changed_images(three_models(LABELS)[:2], limit=3)
    assert [one.kinds[0] for one in found] == ["lost", "gained", "changed"]
    assert {kind for one in changed_images(three_models(None)) for kind in one.kinds} == {"changed", None}


def test_report_confusion_pairs_count_images_of_every_model():
    # By hand: fp32 answers 2 -> 1 (image 3) and 1 -> 0 (image 2) wrongly; the others as listed.
    assert confusion_pairs(three_models(LABELS)) == (
        Confusion(expected=0, answered=1, counts=(0, 1, 0)),
        Confusion(expected=0, answered=2, counts=(0, 1, 1)),
        Confusion(expected=2, answered=0, counts=(0, 1, 0)),
        Confusion(expected=1, answered=0, counts=(1, 0, 1)),
        Confusion(expected=2, answered=1, counts=(1, 0, 1)),
    )
    unlabelled = confusion_pairs(three_models(None))
    assert {(one.expected, one.answered) for one in unlabelled} == {(0, 1), (0, 2), (1, 0)}


def test_write_report_to_impossible_place_is_refused(report_data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot create the folder"):
        write_report(report_data, tmp_path / "file" / "report.html")


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "print"])
def test_report_colours_have_enough_contrast(scheme):
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

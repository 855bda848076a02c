"""Tables, Markdown and CSV of a comparison."""

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest
from quantizers import fake_quantize
from rich.console import Console

from quantkit.evaluation.compare_models import EvaluatedModel, compare_models
from quantkit.evaluation.drift import DriftAccumulator
from quantkit.evaluation.paired import Interval
from quantkit.evaluation.predictions import Predictions
from quantkit.numerics import Range, affine_qparams
from quantkit.report import tables as render

LONG = "/features/features.12/expand3x3_activation/Relu_output_0_QuantizeLinear_Input"


def comparison(name="int8", *, labels=True, latency=None, flipped=40, runaway=1.0, drift_images=4):
    rng = np.random.default_rng(0)
    images = 300
    truth = rng.integers(0, 10, images)
    base = rng.normal(size=(images, 10)) + 3 * np.eye(10)[truth]
    other = base.copy()
    other[:flipped] = other[:flipped, ::-1]
    given = [
        Predictions.from_scores(scores, [str(i) for i in range(images)], truth if labels else None)
        for scores in (base, other)
    ]
    x = rng.normal(size=(drift_images, 8, 5, 5)).astype(np.float32)
    x[0] *= np.float32(runaway)
    qparams = affine_qparams(Range(-2, 2), qmin=0, qmax=255, dtype=np.uint8)
    drift = DriftAccumulator(LONG, qparams=qparams)
    drift.add(drift.measure(x, fake_quantize(x, qparams)))
    plain = DriftAccumulator("logits")
    plain.add(plain.measure(x, x))
    return compare_models(
        [
            EvaluatedModel(name="fp32", predictions=given[0], bytes=102_000_000, latency_ms=latency),
            EvaluatedModel(name=name, predictions=given[1], bytes=25_700_000, tensors=(plain.result(), drift.result())),
        ]
    )


@pytest.mark.parametrize(("runaway", "drift_images", "said"), [(1.0, 12, False), (100.0, 12, True), (100.0, 4, False)])
def test_notes_image_causing_most_of_the_error_is_named(runaway, drift_images, said):
    """Its error drowns that of all others; among few images one easily does."""
    told = render.notes(comparison(runaway=runaway, drift_images=drift_images))
    assert (
        any("int8: one image causes more than half of the error of 1 of the 2 tensors" in note for note in told) == said
    )


def printed(table):
    written = io.StringIO()
    Console(width=80, file=written, legacy_windows=False).print(table)
    return written.getvalue()


@pytest.mark.parametrize("latency", [None, 123.456], ids=["untimed", "timed"])
@pytest.mark.parametrize("flipped", [3, 290])
def test_accuracy_table_fits_80_columns(latency, flipped):
    text = printed(
        render.accuracy_table(comparison("int8-percentile-per-channel-power2", latency=latency, flipped=flipped))
    )
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.count("…") == 1  # the long model name and nothing else is cut
    assert "25.7 MB" in text
    assert ("123" in text) == (latency is not None)


def test_drift_table_fits_80_columns_and_keeps_ends_of_names():
    text = printed(render.drift_table(comparison().models[1]))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "/features" in text
    assert "antizeLinear_Input" in text
    assert "∞" in text
    assert text.index("antizeLinear") < text.index("logits")  # worst first


def test_accuracy_table_without_labels_shows_divergence():
    text = printed(render.accuracy_table(comparison(labels=False)))
    assert "KL, nats" in text
    assert "top-1" not in text
    assert "without labels" in text


def test_tables_square_brackets_in_name_are_not_markup():
    text = printed(render.accuracy_table(comparison("[red]int8[/red]")))
    assert "[red]int8[/red]" in text


def test_notes_say_what_images_can_show():
    said = render.notes(comparison(flipped=3))
    assert said[0].startswith("int8: 300 images detect a top-1 loss of 2.6 points or more (power 80 %); about ")
    assert render.notes(comparison(flipped=200)) == []  # a loss in plain sight needs no such words


def test_notes_equal_sentences_name_all_models():
    one, other = comparison(flipped=3), comparison(flipped=2)
    [same], [different] = one.candidates, other.candidates
    several = replace(one, models=(*one.models, replace(same, name="kl"), replace(different, name="mse")))
    said = render.notes(several)
    assert [note.partition(":")[0] for note in said] == ["int8, kl", "mse"]


def test_markdown_escapes_names_and_keeps_its_columns():
    text = render.markdown(comparison("a|b_<i>\n*c*"))
    row = next(line for line in text.splitlines() if line.startswith("| a"))
    assert row.startswith(r"| a\|b\_\<i\> \*c\* | ")
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = {line.replace(r"\|", "").count("|") for line in tables}
    assert widths == {8, 7}  # seven figures a model, six a tensor


def test_csv_holds_plain_numbers_that_read_back():
    result = comparison("name, with comma")
    rows = list(csv.DictReader(io.StringIO(render.csv_text(result))))
    assert [row["name"] for row in rows] == ["fp32", "name, with comma"]
    delta = result.models[1].versus.top1
    assert float(rows[1]["delta_top1"]) == delta.value
    assert float(rows[1]["delta_top1_lo"]) == delta.ci95.lo
    assert int(rows[1]["lost"]) == delta.lost
    assert rows[0]["delta_top1"] == ""
    assert rows[1]["latency_ms"] == ""


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (render.points(-0.4, Interval(-1.02, 0.211)), "−0.40 [−1.02, +0.21]"),
        (render.points(-0.001), "+0.00"),
        (render.p_value(0.00099), "<.001"),
        (render.p_value(1.0), "1.000"),
        (render.size(None), "–"),
        (render.size(999), "999 B"),
        (render.size(1000), "1 kB"),
        (render.size(4_956_208), "4.96 MB"),
        (render.size(102_500_000), "102 MB"),
        (render.size(2_400_000_000), "2.4 GB"),
        (render.decibels(-3.14), "−3.1"),
        (render.share(-0.004, 0), "0 %"),
        (render.share(-0.006, 0), "-1 %"),
        (render.decibels(math.inf), "∞"),
        (render.decibels(-math.inf), "−∞"),
    ],
)
def test_tables_numbers_are_written_as_stated(given, text):
    assert given == text

"""Predictions reduce scores to classes, confidence and margins; the oracle is scipy and plain sorting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special, stats

from quantkit.errors import LabelError, ModelError, NumericError
from quantkit.evaluation.label_diagnosis import label_problem
from quantkit.evaluation.predictions import (
    Collector,
    Predictions,
    Scores,
    kind_of_scores,
    kl_divergence,
    log_probabilities,
)


def names(count: int) -> list[str]:
    return [f"{index}.jpg" for index in range(count)]


# Few distinct values, so that ties are common.
tied_scores = hnp.arrays(np.float32, (6, 8), elements=st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0]))


@given(tied_scores)
def test_predictions_top_equals_stable_sort(scores):
    predictions = Predictions.from_scores(scores, names(6))
    assert np.array_equal(predictions.top, np.argsort(-scores, axis=1, kind="stable")[:, :5])


@given(tied_scores)
def test_predictions_tied_is_a_shared_first_place(scores):
    predictions = Predictions.from_scores(scores, names(6))
    shared = [(row == row.max()).sum() > 1 for row in scores]
    assert predictions.tied.tolist() == shared
    assert predictions.constant.tolist() == [np.unique(row).size == 1 for row in scores]
    assert not Predictions.from_scores(np.asarray([[1.0, 1.0 + 1e-12]]), ["a"]).tied.any()


@given(hnp.arrays(np.float32, (4, 7), elements=st.floats(-500, 500, width=32)))
def test_log_probabilities_equal_scipy(scores):
    expected = special.log_softmax(scores.astype(np.float64), axis=1)
    np.testing.assert_allclose(log_probabilities(scores), expected, rtol=1e-12, atol=1e-12)


@given(hnp.arrays(np.float32, (2, 3, 5), elements=st.floats(-30, 30, width=32)))
def test_kl_divergence_equals_scipy_entropy(pair):
    p, q = special.softmax(pair.astype(np.float64), axis=2)
    np.testing.assert_allclose(kl_divergence(pair[0], pair[1]), stats.entropy(p, q, axis=1), rtol=1e-9, atol=1e-12)


def test_kl_divergence_far_logits_does_not_overflow():
    far = np.asarray([[1e4, -1e4]], np.float32)
    assert kl_divergence(far, -far) == pytest.approx(2e4)
    assert kl_divergence(far, far) == 0.0


def test_predictions_of_softmax_output_equal_those_of_logits():
    logits = np.random.default_rng(0).normal(0, 3, (20, 10)).astype(np.float32)
    probabilities = special.softmax(logits, axis=1).astype(np.float32)
    assert kind_of_scores(logits) is Scores.LOGITS
    assert kind_of_scores(probabilities) is Scores.PROBABILITIES
    one = Predictions.from_scores(logits, names(20))
    other = Predictions.from_scores(probabilities, names(20), kind=Scores.PROBABILITIES)
    np.testing.assert_allclose(one.confidence, other.confidence, rtol=1e-5)
    np.testing.assert_allclose(one.margin, other.margin, rtol=1e-3)


def test_kl_divergence_integer_probability_of_zero_is_finite():
    reference = np.asarray([[0.99, 0.009, 0.001]], np.float32)
    rounded = np.round(reference * 255) / 255
    assert rounded[0, 2] == 0
    assert 0 < kl_divergence(reference, rounded, kind=Scores.PROBABILITIES)[0] < 0.1


def test_predictions_top_of_three_classes_has_all():
    predictions = Predictions.from_scores(np.asarray([[0.1, 2.0, 1.0]]), ["a"], [0])
    assert predictions.top.tolist() == [[1, 2, 0]]
    assert predictions.correct(5).all()
    assert not predictions.correct(1).any()


def test_predictions_top_leaves_out_the_sixth_class():
    predictions = Predictions.from_scores(np.arange(12.0).reshape(2, 6), names(2), [0, 1])
    assert predictions.correct(5).tolist() == [False, True]


@pytest.mark.parametrize(
    ("scores", "labels", "error", "match"),
    [
        (
            np.zeros((2, 3, 4)),
            None,
            ModelError,
            r"a classifier returns \[images, classes\]; this output is \[2, 3, 4\]",
        ),
        (np.zeros((3, 4)), None, ModelError, r"\[3, 4\] for 2 images"),
        (np.zeros((2, 1)), None, ModelError, r"\[2, 1\]"),
        (np.asarray([[0, 1], [np.nan, 1]]), None, NumericError, r"1\.jpg: the model's output contains NaN or infinity"),
        (np.asarray([[np.inf, 1], [0, 1]]), None, NumericError, r"0\.jpg: the model's output"),
        (np.eye(2), [0], LabelError, "there are 1 labels for 2 images"),
        (np.eye(2), [0, 2], LabelError, r"1\.jpg: the label 2 is out of range: the model has 2 classes \(0 to 1\)"),
        (np.eye(2), [-1, 1], LabelError, r"0\.jpg: the label -1 is out of range"),
    ],
    ids=["rank", "count", "one class", "nan", "inf", "labels short", "label high", "label negative"],
)
def test_predictions_bad_scores_and_labels_are_refused(scores, labels, error, match):
    with pytest.raises(error, match=match):
        Predictions.from_scores(scores, names(2), labels)


def test_predictions_correct_without_labels_is_refused():
    with pytest.raises(LabelError, match="needs the true class of every image; give the labels"):
        Predictions.from_scores(np.eye(2), names(2)).correct()


def test_predictions_concatenated_batches_equal_the_whole():
    scores = np.random.default_rng(0).normal(size=(10, 4))
    labels = np.arange(10) % 4
    whole = Predictions.from_scores(scores, names(10), labels)
    parts = [
        Predictions.from_scores(scores[i : i + 3], names(10)[i : i + 3], labels[i : i + 3]) for i in range(0, 10, 3)
    ]
    joined = Predictions.concatenate(parts)
    assert joined.names == whole.names
    for key in ("top", "confidence", "margin", "tied", "constant", "labels"):
        assert np.array_equal(getattr(joined, key), getattr(whole, key))


def test_predictions_concatenate_unlike_batches_is_refused():
    some = Predictions.from_scores(np.eye(2), names(2), [0, 1])
    with pytest.raises(LabelError, match="some batches have labels"):
        Predictions.concatenate([some, Predictions.from_scores(np.eye(2), names(2))])
    with pytest.raises(ModelError, match="differs between batches"):
        Predictions.concatenate([some, Predictions.from_scores(np.eye(3), names(3))])
    with pytest.raises(ModelError, match="no image was given"):
        Predictions.concatenate([])


def test_predictions_ordered_like_pairs_by_name():
    scores = np.random.default_rng(0).normal(size=(5, 4))
    straight = Predictions.from_scores(scores, names(5), [0, 1, 2, 3, 0])
    turned = Predictions.from_scores(scores[::-1], names(5)[::-1], [0, 3, 2, 1, 0])
    back = turned.ordered_like(straight.names)
    assert np.array_equal(back.top, straight.top)
    assert np.array_equal(back.labels, straight.labels)
    with pytest.raises(LabelError, match=r"1 of 5 have no prediction, for example '9\.jpg'"):
        turned.ordered_like(["0.jpg", "1.jpg", "2.jpg", "3.jpg", "9.jpg"])
    with pytest.raises(LabelError, match="different images"):
        turned.ordered_like(["0.jpg", "1.jpg"])


@pytest.mark.parametrize("batch", [1, 7, 300, 600])
def test_collector_any_batches_give_same_predictions(batch):
    rng = np.random.default_rng(0)
    scores = [rng.normal(size=(600, 5)) for _ in range(2)]
    labels = rng.integers(0, 5, 600)
    collector, buffer = Collector(2), [np.empty((batch, 5)) for _ in range(2)]
    for start in range(0, 600, batch):
        piece = slice(start, start + batch)
        for held, whole in zip(buffer, scores, strict=True):
            held[: len(whole[piece])] = whole[piece]  # a caller may use its arrays again
        count = len(labels[piece])
        collector.update([held[:count] for held in buffer], names(600)[piece], labels[piece])
    for model in range(2):
        expected = Predictions.from_scores(scores[model], names(600), labels)
        for key in ("top", "confidence", "margin", "tied", "constant", "labels"):
            assert np.array_equal(getattr(collector.predictions(model), key), getattr(expected, key))
    assert collector.divergence(0) is None
    np.testing.assert_array_equal(collector.divergence(1), kl_divergence(*scores))


def test_collector_detects_softmax_and_stops_at_first_bad_image():
    scores = special.softmax(np.random.default_rng(0).normal(size=(3, 5)), axis=1)
    collector = Collector(2)
    collector.update([scores, scores], names(3))
    assert collector.predictions(0).confidence == pytest.approx(scores.max(axis=1), rel=1e-5)
    with pytest.raises(NumericError, match=r"8\.jpg: the model's output contains NaN"):
        collector.update([scores[:1], np.full((1, 5), np.nan)], ["8.jpg"])
    collector.update([scores[:1], scores[:1]], ["9.jpg"], [0])
    with pytest.raises(LabelError, match="some batches have labels"):
        collector.update([scores[:1], scores[:1]], ["10.jpg"])


def test_collector_models_of_other_classes_are_refused():
    with pytest.raises(ModelError, match=r"model 2 returns scores of shape \[2, 3\] and the first model \[2, 2\]"):
        Collector(2).update([np.eye(2), np.zeros((2, 3))], names(2))


def labelled(predicted, labels, classes):
    scores = np.eye(classes)[predicted]
    return Predictions.from_scores(scores, names(len(predicted)), labels)


@pytest.mark.parametrize(("shift", "fault"), [(-1, "count from 1"), (1, "lack the background class")])
def test_label_problem_labels_off_by_one_are_named(shift, fault):
    truth = np.arange(1, 9).repeat(6)
    problem = label_problem(labelled(truth, truth - shift, 10))
    assert problem is not None
    assert f"the labels seem to {fault}" in problem
    assert "0.0 % as given and 100.0 % otherwise" in problem


def test_label_problem_classes_in_other_order_are_named():
    order = np.random.default_rng(3).permutation(10)
    labels = np.repeat(np.arange(10), 6)
    problem = label_problem(labelled(order[labels], labels, 10))
    assert problem is not None
    assert "another order" in problem


def test_label_problem_poor_or_collapsed_model_has_none():
    labels = np.repeat(np.arange(10), 6)
    assert label_problem(labelled(np.zeros(60, int), labels, 10)) is None
    assert label_problem(labelled(np.random.default_rng(0).integers(0, 10, 60), labels, 10)) is None
    assert label_problem(labelled(labels, labels, 10)) is None


def test_label_problem_order_is_evaluated_on_other_images() -> None:
    """Two answers a class in turn: an order fitted on one half of the images explains none of the other half."""
    labels = np.repeat(np.arange(10), 6)
    predicted = np.where(np.arange(60) % 2 == 0, labels + 3, labels + 5) % 10
    assert label_problem(labelled(predicted, labels, 10)) is None


def test_label_problem_order_that_explains_few_images_has_none() -> None:
    labels, places = np.repeat(np.arange(5), 4), np.arange(20)
    renamed, other = (labels + 2) % 5, (labels + 3) % 5
    for explained, named in ((9, False), (20, True)):  # of the ten images that the order is not fitted on: 4 and all
        predicted = np.where((places % 2 == 0) | (places < explained), renamed, other)
        assert (label_problem(labelled(predicted, labels, 5)) is not None) == named


def test_label_problem_few_images_has_none():
    assert label_problem(labelled(np.asarray([1, 2, 3]), np.asarray([0, 1, 2]), 10)) is None

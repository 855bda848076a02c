"""A whole comparison: figures against a second count by hand, the JSON contract, classes, margins and warnings."""

import itertools
import json

import numpy as np
import pytest
from scipy import stats

from quantkit.errors import LabelError, ModelError, UsageError
from quantkit.evaluation.classes import class_deltas
from quantkit.evaluation.compare_models import EvaluatedModel, compare_models
from quantkit.evaluation.confidence import expected_calibration_error, flips_by_margin
from quantkit.evaluation.paired import PairedOutcomes, score_interval
from quantkit.evaluation.predictions import Predictions

IMAGES, CLASSES = 400, 10


def names(count):
    return [f"{index}.jpg" for index in range(count)]


@pytest.fixture(scope="module")
def scores():
    """Scores of a float model and of two noisy copies, with the true classes."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, CLASSES, IMAGES)
    base = rng.normal(size=(IMAGES, CLASSES)) + 2.0 * np.eye(CLASSES)[labels]
    return [base, base + 0.2 * rng.normal(size=base.shape), base + rng.normal(size=base.shape)], labels


@pytest.fixture(scope="module")
def predictions(scores):
    models, labels = scores
    return [Predictions.from_scores(model, names(IMAGES), labels) for model in models]


@pytest.fixture(scope="module")
def comparison(predictions):
    kl = np.linspace(0.0, 0.2, IMAGES)
    return compare_models(
        [
            EvaluatedModel(name="fp32", predictions=predictions[0], bytes=4000),
            EvaluatedModel(name="int8", predictions=predictions[1], bytes=1000, kl=kl, latency_ms=1.5),
            EvaluatedModel(name="card", predictions=predictions[2]),
        ]
    )


def test_compare_models_figures_equal_those_counted_by_hand(comparison, scores):
    (base, noisy, _), labels = scores
    right, now = base.argmax(1) == labels, noisy.argmax(1) == labels
    model = comparison.models[1]
    assert model.top1 == pytest.approx(100 * now.mean())
    assert model.versus.top1.value == pytest.approx(100 * (now.mean() - right.mean()))
    assert model.versus.top1.lost == (right & ~now).sum()
    assert model.versus.top1.gained == (now & ~right).sum()
    assert model.versus.agreement == pytest.approx(100 * (base.argmax(1) == noisy.argmax(1)).mean())
    assert model.versus.kl == pytest.approx(0.1)
    five = np.asarray([label in np.argsort(-row)[:5] for row, label in zip(noisy, labels, strict=True)])
    assert model.top5 == pytest.approx(100 * five.mean())


def test_compare_models_json_has_contract_keys(comparison):
    value = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert value["images"] == IMAGES
    first, *others = value["models"]
    assert set(first) >= {"name", "top1", "top5", "bytes"}
    assert "delta_top1" not in first
    for other in others:
        assert set(other) >= {"delta_top1", "delta_top1_ci95", "mcnemar_p", "agreement", "worst_tensors"}
        lo, hi = other["delta_top1_ci95"]
        assert lo <= other["delta_top1"] <= hi
        assert 0 <= other["mcnemar_p"] <= 1
    assert others[1]["bytes"] is None
    assert others[1]["kl"] is None


def test_compare_models_interval_is_score_interval_in_points(comparison):
    delta = comparison.models[2].versus.top1
    interval = score_interval(PairedOutcomes(IMAGES, delta.lost, delta.gained))
    assert (delta.ci95.lo, delta.ci95.hi) == pytest.approx((100 * interval.lo, 100 * interval.hi))


def test_compare_models_whole_counts_give_whole_percentages():
    labels = np.zeros(100, np.int64)
    answers = Predictions.from_scores(np.eye(2)[[0] * 57 + [1] * 43], names(100), labels)
    other = Predictions.from_scores(np.eye(2)[[0] * 56 + [1] * 44], names(100), labels)
    models = [EvaluatedModel(name=name, predictions=given) for name, given in (("a", answers), ("b", other))]
    result = compare_models(models).to_json()["models"]
    assert (result[0]["top1"], result[1]["delta_top1"], result[1]["agreement"]) == (57.0, -1.0, 99.0)


def test_compare_models_without_labels_has_agreement_and_no_accuracy(scores):
    bare = [Predictions.from_scores(model, names(IMAGES)) for model in scores[0]]
    result = compare_models([EvaluatedModel(name=str(i), predictions=p) for i, p in enumerate(bare)])
    value = result.to_json()["models"][1]
    assert not result.labelled
    assert value["top1"] is None
    assert value["delta_top1_ci95"] is None
    assert value["classes"] == []
    assert value["agreement"] > 80


def test_compare_models_other_order_is_paired_by_name(scores, predictions):
    models, labels = scores
    turned = Predictions.from_scores(models[1][::-1], names(IMAGES)[::-1], labels[::-1])
    straight, back = (
        compare_models(
            [EvaluatedModel(name="a", predictions=predictions[0]), EvaluatedModel(name="b", predictions=other)]
        )
        for other in (predictions[1], turned)
    )
    assert straight == back


def test_compare_models_unlabelled_candidate_takes_labels_of_reference(scores, predictions):
    bare = Predictions.from_scores(scores[0][1], names(IMAGES))
    models = [EvaluatedModel(name="a", predictions=predictions[0]), EvaluatedModel(name="b", predictions=bare)]
    assert compare_models(models).models[1].top1 == pytest.approx(100 * predictions[1].correct().mean())


def test_compare_models_unpairable_models_are_refused(scores, predictions):
    fp32 = EvaluatedModel(name="fp32", predictions=predictions[0])
    with pytest.raises(UsageError, match="at least two models"):
        compare_models([fp32])
    with pytest.raises(UsageError, match="the model 'fp32' is named twice"):
        compare_models([fp32, fp32])
    narrow = Predictions.from_scores(scores[0][1][:, :7], names(IMAGES))
    with pytest.raises(ModelError, match="card: has 7 classes and the reference 10"):
        compare_models([fp32, EvaluatedModel(name="card", predictions=narrow)])
    other = Predictions.from_scores(scores[0][1], names(IMAGES), (scores[1] + 1) % CLASSES)
    with pytest.raises(LabelError, match=r"card: 400 images have another label .* first is '0\.jpg'"):
        compare_models([fp32, EvaluatedModel(name="card", predictions=other)])


def test_comparison_repr_leaves_out_tensors(comparison):
    assert "name='int8'" in repr(comparison)
    assert "tensors=" not in repr(comparison)


def test_compare_models_constant_tied_and_absent_classes_are_warned_of():
    labels = np.asarray([0, 1, 2, 0])
    good = Predictions.from_scores(np.eye(4)[labels] + np.arange(4) / 10, names(4), labels)
    dead = Predictions.from_scores(np.zeros((4, 4)), names(4))
    tied = Predictions.from_scores(np.asarray([[2, 2, 1, 0]] * 4), names(4))
    models = [EvaluatedModel(name=n, predictions=p) for n, p in (("fp32", good), ("dead", dead), ("tied", tied))]
    warnings = compare_models(models, warnings=["12 images are in the calibration set too"]).warnings
    assert warnings == (
        "12 images are in the calibration set too",
        "1 of 4 classes have no image here",
        "dead: all classes have the same score on 4 of 4 images; they count as class 0",
        "tied: the best scores are tied on 100.0 % of the images; the lower class index is used",
    )


def test_calibration_error_equals_hand_worked_example():
    """Four images at confidence 0.9 (three right) and two at 0.6 (one right): (4 |.75-.9| + 2 |.5-.6|) / 6."""
    logits = np.log(np.asarray([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 2))
    answers = Predictions.from_scores(logits, names(6), [0, 0, 0, 1, 0, 1])
    assert expected_calibration_error(answers) == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)
    # One bin nets the gaps of all images: |4/6 - 0.8|.
    assert expected_calibration_error(answers, bins=1) == pytest.approx(0.8 - 4 / 6)


def test_flips_by_margin_gather_at_small_margins(predictions):
    bins = flips_by_margin(predictions[0], predictions[2])
    assert [b.images for b in bins] == [40] * 10
    assert sum(b.flips for b in bins) == (predictions[0].top1 != predictions[2].top1).sum()
    assert bins[0].rate > bins[-1].rate
    assert all(a.hi <= b.lo for a, b in itertools.pairwise(bins))
    assert all(b.rate in b.interval for b in bins)


def test_flips_by_margin_three_images_make_three_bins():
    answers = Predictions.from_scores(np.eye(3), names(3))
    assert [b.images for b in flips_by_margin(answers, answers)] == [1, 1, 1]


def test_class_deltas_are_corrected_over_classes_that_could_stand_out():
    """Class 0 loses 12 of 30; class 1 loses and gains 4; class 2 loses 3, which no split could make significant."""
    labels = np.repeat([0, 1, 2], 30)
    before = labels.copy()
    before[30:34] = 0
    after = labels.copy()
    after[:12] = 2
    after[34:38] = 0
    after[60:63] = 0
    one, two = (Predictions.from_scores(np.eye(3)[answers], names(90), labels) for answers in (before, after))
    deltas = class_deltas(one, two)
    assert [(d.lost, d.gained) for d in deltas] == [(12, 0), (4, 4), (3, 0)]
    alone = [stats.binomtest(12, 12).pvalue, 1.0, stats.binomtest(3, 3).pvalue]
    assert [d.p for d in deltas] == pytest.approx(alone)
    by_hand = stats.false_discovery_control([alone[0], alone[1]])
    assert [d.p_adjusted for d in deltas] == pytest.approx([*by_hand, 1.0])
    assert deltas[0].delta == pytest.approx(-0.4)


def test_class_deltas_leave_out_classes_without_images():
    answers = Predictions.from_scores(np.eye(5)[[1, 1, 3]], names(3), [1, 1, 3])
    assert [d.label for d in class_deltas(answers, answers)] == [1, 3]
    with pytest.raises(LabelError, match="per-class results need"):
        class_deltas(*[Predictions.from_scores(np.eye(5), names(5))] * 2)

"""Evidence for one preprocessing against another: with labels, without, and with scores that are no numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from quantkit.errors import LabelError
from quantkit.evaluation.predictions import Scores
from quantkit.evaluation.preprocessing_evidence import Answers, contrast, information


def answers(scores: np.ndarray, labels: np.ndarray | None = None) -> Answers:
    return Answers.of(scores, Scores.LOGITS, labels)


def of_correct(right: list[bool]) -> Answers:
    """Answers that are right where it is asked for, of two classes, the first one true."""
    scores = np.where(np.array(right)[:, None], [1.0, 0.0], [0.0, 1.0])
    return answers(scores, np.zeros(len(right), np.int64))


def test_contrast_with_labels_is_mcnemars_exact_test() -> None:
    # By hand: of nine images that differ eight are gained, p = 2 * (C(9,0) + C(9,1)) / 2^9.
    before = of_correct([False] * 8 + [True] + [True] * 11)
    after = of_correct([True] * 8 + [False] + [True] * 11)
    found = contrast(before, after)
    assert found.p == pytest.approx(20 / 512, abs=1e-15)
    assert (found.reference, found.value) == (60.0, 95.0)
    assert found.outcomes is not None
    assert (found.outcomes.lost, found.outcomes.gained) == (1, 8)


def test_contrast_of_the_same_answers_has_no_trend() -> None:
    same = of_correct([True, False, True])
    found = contrast(same, same)
    assert (found.difference, found.p, found.trend) == (0.0, 1.0, 0.0)


def test_answers_that_are_no_numbers_are_wrong() -> None:
    scores = np.array([[1.0, 0.0], [np.nan, 0.0], [np.inf, 0.0]])
    found = answers(scores, np.zeros(3, np.int64))
    assert found.correct.tolist() == [True, False, False]
    assert np.isfinite(found.log_likelihood).all()
    assert np.isfinite(information(answers(scores), answers(scores))[0]).all()


def test_answers_with_a_label_beyond_the_classes_are_refused() -> None:
    with pytest.raises(LabelError, match="labels go up to 2, and the model has 2 classes"):
        answers(np.zeros((1, 2)), np.array([2]))


def test_information_is_entropy_of_the_mean_less_mean_entropy() -> None:
    scores = np.random.default_rng(0).normal(size=(40, 7)) * 3
    [found] = information(answers(scores))
    one = answers(scores)
    # The same at the spread that was chosen, with scipy's entropies; the spread is found from the mean entropy.
    spreads = np.linspace(0.01, 20, 20000)
    entropies = [stats.entropy(np.exp(s * one.logits), axis=1).mean() for s in spreads[::200]]
    assert min(entropies) < 0.3 * np.log(7) < max(entropies)
    spread = np.interp(-0.3 * np.log(7), -np.array(entropies), spreads[::200])
    p = np.exp(spread * one.logits)
    p /= p.sum(axis=1, keepdims=True)
    expected = stats.entropy(p.mean(axis=0)) - stats.entropy(p, axis=1).mean()
    assert found.mean() == pytest.approx(expected, abs=0.01)


@settings(max_examples=20)
@given(st.floats(0.05, 50.0), st.floats(-100.0, 100.0))
def test_information_does_not_depend_on_size_or_offset_of_the_scores(factor: float, offset: float) -> None:
    scores = np.random.default_rng(1).normal(size=(30, 5))
    found = contrast(answers(scores), answers(factor * scores + offset))
    assert abs(found.difference) < 1e-9


def test_information_of_a_confident_answer_that_is_always_the_same_is_none() -> None:
    rng = np.random.default_rng(2)
    same = np.tile([9.0, 0.0, 0.0, 0.0], (50, 1)) + 0.01 * rng.normal(size=(50, 4))
    varied = np.eye(4)[rng.integers(0, 4, 50)] * 3 + 0.5 * rng.normal(size=(50, 4))
    found = contrast(answers(same), answers(varied))
    assert found.reference < 0.01
    assert found.value > 0.5
    assert found.p < 1e-6
    assert found.outcomes is None

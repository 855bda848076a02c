"""The search for a preprocessing: what it finds, what it does not, and how little it asks for."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.evaluation.paired import PairedOutcomes, mcnemar_exact
from quantkit.evaluation.predictions import Scores
from quantkit.evaluation.preprocessing_alternatives import Alternative, Dimension
from quantkit.evaluation.preprocessing_evidence import Answers
from quantkit.evaluation.preprocessing_search import (
    FIRST_LOOK,
    SearchStage,
    can_find,
    holm,
    least_gain,
    looks,
    search,
)


def pipeline(number: int) -> Pipeline:
    return Pipeline(ops=(Decode(), ToTensor(divisor=float(number + 1))))


def alternative(number: int) -> Alternative:
    return Alternative(Dimension.SCALING, f"divisor {number + 1}", pipeline(number))


class Simulated:
    """Answers of a model whose accuracy depends on the pipeline: images differ in difficulty, and answers by chance."""

    def __init__(self, accuracies: Sequence[float], images: int, seed: int) -> None:
        self.asked: dict[Pipeline, int] = {}
        self._rng = np.random.default_rng(seed)
        difficulty = self._rng.normal(size=images)
        self._answers = {}
        for number, accuracy in enumerate(accuracies):
            strength = stats.norm.ppf(accuracy) * np.sqrt(1.5)
            margin = strength - difficulty + np.sqrt(0.5) * self._rng.normal(size=images)
            self._answers[pipeline(number)] = np.stack([margin, np.zeros(images)], axis=1)

    def plan(self, pipelines: Sequence[Pipeline], count: int) -> None:
        """Ignore it."""

    def __call__(self, pipeline: Pipeline, count: int) -> Answers:
        self.asked[pipeline] = max(count, self.asked.get(pipeline, 0))
        return Answers.of(self._answers[pipeline][:count], Scores.LOGITS, np.zeros(count, np.int64))


def stage(numbers: Sequence[int], level: float = 0.05) -> SearchStage:
    return SearchStage(lambda given: [alternative(number) for number in numbers], level)


def test_looks_double_up_to_all_images() -> None:
    assert looks(500) == (32, 64, 128, 256, 500)
    assert looks(20) == (20,)
    assert looks(32) == (32,)
    assert looks(100) == (32, 64, 100)


@given(st.integers(1, 5000))
def test_looks_grow_and_end_with_all_images(images: int) -> None:
    found = looks(images)
    assert found[-1] == images
    assert all(b > a for a, b in pairwise(found))
    assert found[0] == min(images, FIRST_LOOK)


def test_holm_of_a_worked_example() -> None:
    # Four hypotheses: 4 * 0.005, 3 * 0.01, 2 * 0.03, and 0.04 not below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
def test_holm_is_between_p_and_bonferroni_and_keeps_order(p: list[float]) -> None:
    found = holm(p)
    assert all(raw <= one <= min(1.0, len(p) * raw) + 1e-12 for raw, one in zip(p, found, strict=True))
    assert [found[i] for i in sorted(range(len(p)), key=p.__getitem__)] == sorted(found)


def test_search_names_an_equally_good_preprocessing_as_rarely_as_its_level_says() -> None:
    level, searches = 0.05, 200
    named = 0
    for seed in range(searches):
        ask = Simulated([0.8] * 7, 300, seed)
        named += bool(search(pipeline(0), [stage(range(1, 7), level)], ask, 300, level).moves)
    # One-sided, so half of the level at most; the bound is exceeded in one of a thousand such tests.
    assert named <= stats.binom.ppf(0.999, searches, level / 2)


def test_search_does_not_name_a_worse_preprocessing() -> None:
    for seed in range(40):
        ask = Simulated([0.8, 0.7, 0.6], 300, seed)
        assert search(pipeline(0), [stage([1, 2])], ask, 300, 0.05).best == pipeline(0)


def test_search_finds_ten_points_with_five_hundred_images() -> None:
    found = 0
    for seed in range(30):
        result = search(pipeline(0), [stage(range(1, 7))], Simulated([0.78, *[0.6] * 5, 0.88], 500, seed), 500, 0.05)
        assert result.best in (pipeline(0), pipeline(6))
        found += result.best == pipeline(6)
    assert found >= 27


def test_search_asks_for_few_images_of_what_is_clearly_worse() -> None:
    ask = Simulated([0.8, 0.2, 0.1], 500, 0)
    search(pipeline(0), [stage([1, 2])], ask, 500, 0.05)
    assert ask.asked == {pipeline(0): 32, pipeline(1): 32, pipeline(2): 32}


def test_search_stops_at_the_first_look_where_one_is_clearly_better() -> None:
    ask = Simulated([0.1, 0.9], 2000, 0)
    result = search(pipeline(0), [stage([1])], ask, 2000, 0.05)
    assert result.best == pipeline(1)
    assert result.tried[0].contrast.images == 32
    # The difference is measured on more images than it takes to see it.
    assert result.overall is not None
    assert result.overall.images == 256


def test_search_with_a_screen_drops_what_is_worse_before_the_first_look() -> None:
    ask = Simulated([0.8, 0.1, 0.1], 500, 0)
    search(pipeline(0), [stage([1, 2])], ask, 500, 0.05, screen=8)
    assert ask.asked == {pipeline(0): 8, pipeline(1): 8, pipeline(2): 8}


def test_search_with_a_screen_decides_nothing_on_it() -> None:
    result = search(pipeline(0), [stage([1])], Simulated([0.01, 0.99], 500, 0), 500, 0.05, screen=16)
    assert result.best == pipeline(1)
    assert result.tried[0].contrast.images == 32


def test_search_takes_the_best_of_several_better_ones_and_goes_on_from_there() -> None:
    result = search(pipeline(0), [stage([1, 2, 3])], Simulated([0.05, 0.5, 0.9, 0.7], 400, 0), 400, 0.05)
    assert result.best == pipeline(2)
    last = [one for one in result.tried if one.round == result.tried[-1].round]
    assert pipeline(2) not in [one.alternative.pipeline for one in last]
    assert not any(one.chosen for one in last)


def test_search_prefers_the_commoner_of_two_equal_candidates() -> None:
    def both(given: Pipeline) -> list[Alternative]:
        return [alternative(1), replace(alternative(2), near=True)] if given == pipeline(0) else []

    for seed in range(10):
        result = search(pipeline(0), [SearchStage(both, 0.05)], Simulated([0.1, 0.9, 0.9], 200, seed), 200, 0.05)
        assert result.best == pipeline(1)
    result = search(pipeline(0), [SearchStage(both, 0.05)], Simulated([0.1, 0.5, 0.95], 200, 0), 200, 0.05)
    assert result.best == pipeline(2)


def test_search_changes_one_stage_after_the_other() -> None:
    second = SearchStage(lambda given: [alternative(2)] if given == pipeline(1) else [], 0.025)
    result = search(pipeline(0), [stage([1], 0.025), second], Simulated([0.2, 0.6, 0.95], 400, 0), 400, 0.05)
    assert [move.words for move in result.moves] == ["divisor 2", "divisor 3"]
    assert result.best == pipeline(2)


def test_search_without_alternatives_keeps_the_given_one() -> None:
    result = search(pipeline(0), [stage([])], Simulated([0.5], 100, 0), 100, 0.05)
    assert (result.best, result.moves, result.overall) == (pipeline(0), (), None)


@given(st.integers(10, 600), st.integers(1, 10), st.sampled_from([0.05, 0.01]))
def test_least_gain_is_the_smallest_that_can_be_significant(images: int, alternatives: int, level: float) -> None:
    least = least_gain(images, alternatives, level)
    assert least == images or can_find(images, least, alternatives, level)
    assert not can_find(images, least - 1, alternatives, level)
    p = mcnemar_exact(PairedOutcomes(images, 0, least)) * alternatives * len(looks(images))
    assert least == images or p <= level

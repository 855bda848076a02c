"""What a search says at its end: the goal, the figures, whether they decide, and what to do next."""

from dataclasses import replace
from typing import Any

import pytest

from quantkit.config.method import Mse
from quantkit.evaluation.paired import PairedOutcomes, score_interval, wilson_interval
from quantkit.evaluation.selection import Closeness
from quantkit.search.conclusion import conclusion
from quantkit.search.recipe import Recipe, WeightCorrection
from quantkit.search.stages import LOOK_CONFIDENCE, Goal, HoldoutResult, Outcome, Trial, Verdict

NEAR = Closeness(kl=0.1, expected_kl=0.1, sqnr_db=20.0, agreement=0.9)
START = Recipe(method=Mse())


def trial(stage: str, lost: int, gained: int, differing: int, images: int = 700, **changes: Any) -> Trial:
    """Return a trial that lost and gained so many correct images, with so many other top classes than fp32."""
    outcomes = PairedOutcomes(images=images, lost=lost, gained=gained)
    agreeing = images - differing
    holdout = HoldoutResult(
        images=images,
        top1=0.5,
        delta=outcomes.delta,
        ci95=score_interval(outcomes),
        interval=score_interval(outcomes, LOOK_CONFIDENCE),
        agreement=agreeing / images,
        agreement_interval=wilson_interval(agreeing, images, LOOK_CONFIDENCE),
    )
    recipe = START.changed(**changes)
    return Trial(stage=stage, recipe=recipe, closeness=NEAR, float_macs=0.0, seconds=1.0, holdout=holdout)


def said(best: Trial, goal: Goal, *others: Trial, out_of_time: bool = False) -> tuple[str, ...]:
    held = best.holdout
    assert held is not None
    verdict = Verdict.MET if held.proves(goal) else Verdict.LIKELY if held.suggests(goal) else Verdict.MISSED
    return conclusion(Outcome(best, verdict, out_of_time), goal, [*others, best])


def test_conclusion_names_goal_and_figures_with_intervals() -> None:
    lines = said(trial("default", 3, 1, 5), Goal(max_drop=0.5, min_agreement=99.3))
    assert lines[0] == "goal: top-1 at most 0.5 points below fp32, agreement with fp32 at least 99.3 %"
    low, high = (100.0 * end for end in wilson_interval(695, 700, LOOK_CONFIDENCE).to_json())
    assert f"agreement 99.29 % ({low:.2f} to {high:.2f})" in lines[1]
    assert "on 700 held-out images: top-1 -0.29 points (" in lines[1]


@pytest.mark.parametrize(
    ("lost", "goal", "decision", "next_step"),
    [
        (0, Goal(max_drop=5.0), "the goal is met, with significance", None),
        (4, Goal(max_drop=0.6), "the goal is met, but not significantly", "evaluate more images, about"),
        (4, Goal(max_drop=0.5), "the goal is missed by the estimate of top-1, but not significantly", "evaluate more"),
        (90, Goal(max_drop=0.5), "the goal is missed, with significance: the interval of top-1", "--max-float"),
        (4, Goal(max_drop=5.0, min_agreement=99.5), "missed by the estimate of agreement", "evaluate more images"),
    ],
)
def test_conclusion_says_whether_figures_decide(lost: int, goal: Goal, decision: str, next_step: str | None) -> None:
    lines = said(trial("default", lost, 0, max(lost, 3)), goal)
    assert decision in lines[2]
    assert len(lines) == (3 if next_step is None else 4)
    assert next_step is None or next_step in lines[3]


def test_conclusion_number_of_images_would_decide_at_the_same_rates() -> None:
    """With as many times the images, and the same rates, the goal is met or missed significantly; with half not."""
    goal = Goal(max_drop=0.5, min_agreement=98.0)
    for differing in (10, 20):
        [line] = [one for one in said(trial("default", 0, 0, differing), goal) if "more images" in one]
        factor = int(line.split("about ")[1].split(" ")[0].replace(",", "")) / 700
        for times, decided in ((1.1 * factor, True), (0.5 * factor, False)):
            images = int(700 * times)
            lines = said(trial("default", 0, 0, round(differing / 700 * images), images), goal)
            assert ("with significance" in lines[2]) is decided


def test_conclusion_points_out_an_earlier_trial_that_is_as_good_or_better() -> None:
    goal = Goal(max_drop=0.5)
    best = trial("rounding", 5, 0, 8, correction=WeightCorrection.ROUNDING)
    equal, better, worse = (trial("default", lost, 0, 8 if lost == 5 else 7) for lost in (5, 4, 6))
    assert not any("there: top-1" in line for line in said(best, goal, worse))
    assert not any("there: top-1" in line for line in said(best, goal, replace(better, holdout=None)))
    assert "the default trial (mse, biases) is better there: top-1 -0.57 points" in said(best, goal, better)[3]
    assert "is as good there: top-1 -0.71 points, agreement 98.86 %" in said(best, goal, equal)[3]


def test_conclusion_says_that_time_ended_the_search() -> None:
    lines = said(trial("default", 0, 0, 0), Goal(max_drop=5.0), out_of_time=True)
    assert "the same command resumes it" in lines[-1]

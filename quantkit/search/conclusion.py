"""What a search found, in sentences: the goal, the measured figures, whether they decide, and what to do next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quantkit.evaluation.paired import Interval
from quantkit.search.stages import LOOKS, Goal, HoldoutResult, Outcome, Trial, Verdict, holdout_of


@dataclass(frozen=True)
class _Criterion:
    """A part of the goal, with what was measured; in points or percent."""

    name: str
    unit: str
    goal: str
    wanted: float
    measured: float
    interval: Interval

    @property
    def is_met(self) -> bool:
        return self.measured >= self.wanted

    @property
    def is_decided(self) -> bool:
        return not self.interval.lo < self.wanted <= self.interval.hi

    def images_to_decide(self, images: int) -> float:
        """Return about how many images would decide, if the figure stays: widths shrink with the root of the number."""
        gap = abs(self.measured - self.wanted)
        end = self.interval.lo if self.is_met else self.interval.hi
        return images * (abs(self.measured - end) / gap) ** 2 if gap else float("inf")


def conclusion(outcome: Outcome, goal: Goal, trials: Sequence[Trial]) -> tuple[str, ...]:
    """Return what a search found, one sentence each.

    Args:
        outcome: the result of the search.
        goal: the accuracy to reach.
        trials: the recipes that were made.
    """
    held = holdout_of(outcome.best)
    parts = list(_criteria(held, goal))
    measured = ", ".join(f"{one.name} {one.measured:.2f}{one.unit} ({_range(one.interval)})" for one in parts)
    return (
        f"goal: {', '.join(one.goal for one in parts)}",
        f"measured on {held.images:,} held-out images: {measured}; the intervals allow for {LOOKS} evaluations",
        _decision(outcome.verdict, parts),
        *_rivals(outcome.best, trials),
        *_next(outcome, parts, held.images),
    )


def _criteria(held: HoldoutResult, goal: Goal) -> Iterator[_Criterion]:
    words = f"top-1 at most {goal.max_drop:g} points below fp32"
    yield _Criterion("top-1", " points", words, -goal.max_drop + 0.0, 100.0 * held.delta, held.interval.scaled(100.0))
    if goal.min_agreement is not None:
        share, interval = 100.0 * held.agreement, held.agreement_interval.scaled(100.0)
        words = f"agreement with fp32 at least {goal.min_agreement:g} %"
        yield _Criterion("agreement", " %", words, goal.min_agreement, share, interval)


def _decision(verdict: Verdict, parts: Sequence[_Criterion]) -> str:
    missed = " and ".join(one.name for one in parts if not one.is_met)
    if verdict is Verdict.MET:
        return "the goal is met, with significance: it is met at the lower end of every interval"
    if verdict is Verdict.LIKELY:
        return "the goal is met, but not significantly: an interval reaches below it"
    if any(one.is_decided and not one.is_met for one in parts):
        return f"the goal is missed, with significance: the interval of {missed} is below it"
    return f"the goal is missed by the estimate of {missed}, but not significantly: the interval includes it"


def _rivals(best: Trial, trials: Sequence[Trial]) -> Iterator[str]:
    """Yield the first other trial that is at least as good as the best one on the held-out images."""
    kept = holdout_of(best)
    for one in trials:
        held = one.holdout
        if held is None or one.recipe == best.recipe:
            continue
        if held.agreement >= kept.agreement and held.delta >= kept.delta:
            equal = (held.agreement, held.delta) == (kept.agreement, kept.delta)
            yield (
                f"the {one.stage} trial ({one.recipe.describe()}) is {'as good' if equal else 'better'} there: top-1 "
                f"{100.0 * held.delta:.2f} points, agreement {100.0 * held.agreement:.2f} %; the kept model is nearer "
                "to fp32 on the selection split, which has no part in these figures"
            )
            return


def _next(outcome: Outcome, parts: Sequence[_Criterion], images: int) -> Iterator[str]:
    if outcome.out_of_time:
        yield "the time limit ended the search: the same command resumes it"
    if outcome.verdict is Verdict.MET:
        return
    if all(one.is_decided for one in parts if not one.is_met) and outcome.verdict is Verdict.MISSED:
        yield "to get nearer: leave more layers in float (--max-float, --max-skips), or lower the goal"
        return
    needed = max(one.images_to_decide(images) for one in parts if not one.is_decided)
    number = f"about {_rounded(needed):,} would do, if the figures stay" if needed < 1e7 else "as many as there are"
    yield f"to decide: evaluate more images, {number}"


def _range(interval: Interval) -> str:
    return f"{interval.lo:.2f} to {interval.hi:.2f}"


def _rounded(number: float) -> int:
    """Return a number upwards with two digits."""
    digits = 10 ** max(len(str(int(number))) - 2, 0)
    return int(-(-number // digits) * digits)

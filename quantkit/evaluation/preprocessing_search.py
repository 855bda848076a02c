"""The search for a better preprocessing: one dimension after the other, images doubled while undecided.

A stage tries all alternatives that differ from the present preprocessing in some dimensions, on the first few images;
what looks worse is dropped, and the rest is tried on twice as many. An alternative is better where its p, corrected
by Holm for the number of alternatives and by Bonferroni for the number of looks, is at most the stage's share of the
significance level; the stage is then repeated from it. Where the preprocessing given is the best one, the probability
that any other is named is therefore at most the significance level. Dropping alternatives early only lowers it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from scipy import special

from quantkit.config.pipeline import Pipeline
from quantkit.evaluation.paired import CONFIDENCE
from quantkit.evaluation.preprocessing_alternatives import Alternative
from quantkit.evaluation.preprocessing_evidence import Answers, Contrast, contrast, least_p

FIRST_LOOK = 32
# The difference found is measured on at least so many images, where there are as many.
FINAL_IMAGES = 256
# Below so many standard errors an alternative is dropped, unless it is right on more images with a p below this.
_WORSE = -1.0
_HARDLY = 0.2
# From so many standard errors on, two alternatives are told apart.
_TOLD_APART = 2.0
# Scaling and order can both be wrong, and a first choice among several better ones can be corrected.
_MOST_MOVES = 6
# Without labels: least gain of information, as a share of the most there can be. Less moves the confidence and no
# answer.
_LEAST_INFORMATION = 0.02


class Ask(Protocol):
    """The answers of a model under any pipeline."""

    def plan(self, pipelines: Sequence[Pipeline], count: int) -> None:
        """Announce that the answers of these pipelines to the first images are asked for next."""

    def __call__(self, pipeline: Pipeline, count: int) -> Answers:
        """Return the answers of one pipeline to the first images, as many as asked for."""


@dataclass(frozen=True)
class SearchStage:
    """Alternatives that are tried side by side.

    Attributes:
        alternatives: returns those of a pipeline.
        level: significance level of the stage.
    """

    alternatives: Callable[[Pipeline], Sequence[Alternative]]
    level: float


@dataclass(frozen=True)
class TriedPreprocessing:
    """An alternative that was compared with the preprocessing it was derived from, on the same images.

    Attributes:
        alternative: what was tried: its ``dimension``, ``words`` and ``pipeline``.
        contrast: with the preprocessing of the round: ``images``, ``reference``, ``value``, ``difference``, ``ci95``.
        p: of the difference, corrected for the number of alternatives (Holm) and of looks (Bonferroni).
        better: better beyond chance.
        chosen: the best of the round; the next one starts from it.
        round: from 0; each round starts from the best preprocessing so far.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> guess = quantkit.guess_preprocessing("mini_iresnet.onnx", images="images/test", pipeline="digits", limit=50)
        >>> tried = [one.alternative for one in guess.tried]
        >>> sorted(one.words for one in tried if one.dimension == "scaling")[0]
        "MNIST's mean and std"
    """

    alternative: Alternative
    contrast: Contrast
    p: float
    better: bool = False
    chosen: bool = False
    round: int = 0


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        start: the preprocessing given.
        best: the one found; the one given where none is better beyond chance.
        moves: what was changed, in order.
        tried: all that was tried, round by round.
        overall: best against start, on the images of the last look or `FINAL_IMAGES`; None where both are the same.
    """

    start: Pipeline
    best: Pipeline
    moves: tuple[Alternative, ...]
    tried: tuple[TriedPreprocessing, ...]
    overall: Contrast | None

    @property
    def p(self) -> float:
        """The largest corrected p value of the moves, which is that of the whole finding; 1 where nothing was moved."""
        return max((one.p for one in self.tried if one.chosen), default=1.0)


def looks(images: int) -> tuple[int, ...]:
    """Return the numbers of images of each look: `FIRST_LOOK`, doubled up to all."""
    sizes = [min(FIRST_LOOK, images)]
    while sizes[-1] < images:
        # A last look at a few images more would cost all others some power.
        sizes.append(images if 3 * sizes[-1] > images else 2 * sizes[-1])
    return tuple(sizes)


def search(
    start: Pipeline, stages: Sequence[SearchStage], ask: Ask, images: int, level: float, *, screen: int = FIRST_LOOK
) -> SearchResult:
    """Search for a preprocessing that is better than the one given, beyond chance.

    Args:
        start: the preprocessing given.
        stages: what to try, the most damaging first; their levels sum to ``level``.
        ask: returns the answers of a pipeline to the first images.
        images: how many there are.
        level: significance level of the whole search.
        screen: drop what looks worse on so many images, before the first look; nothing is decided there.
    """
    sizes = looks(images)
    current, number, seen = start, 0, 0
    tried, moves = list[TriedPreprocessing](), list[Alternative]()
    for stage in stages:
        for _ in range(_MOST_MOVES):
            done = [replace(one, round=number) for one in _round(current, stage, ask, sizes, screen)]
            tried, number = [*tried, *done], number + 1
            chosen = next((one.alternative for one in done if one.chosen), None)
            if chosen is None:
                break
            current = chosen.pipeline
            moves.append(chosen)
            seen = max(seen, *(one.contrast.images for one in done))
    if not moves or current == start:
        return SearchResult(start, start, (), tuple(tried), None)
    size = max(seen, min(FINAL_IMAGES, images))
    overall = contrast(ask(start, size), ask(current, size))
    if overall.difference <= 0.0 or overall.p > level:  # the images after the decision speak against it
        return SearchResult(start, start, (), tuple(tried), overall)
    return SearchResult(start, current, tuple(moves), tuple(tried), overall)


def can_find(images: int, wrong: int, alternatives: int, level: float) -> bool:
    """Return whether any answers to so many labelled images could show a better preprocessing.

    Args:
        images: how many there are.
        wrong: those that the model gets wrong now.
        alternatives: how many are tried.
        level: significance level.
    """
    return least_p(images, wrong) * alternatives * len(looks(images)) <= level


def least_gain(images: int, alternatives: int, level: float) -> int:
    """Return how many more of so many labelled images one of several alternatives must be right on to be named."""
    needed = level / (max(alternatives, 1) * len(looks(images)))
    return next((gained for gained in range(1, images) if least_p(images, gained) <= needed), images)


def least_information(images: int, classes: int) -> float:
    """Return by how many nats an alternative has to be better on so many images to be named, without labels."""
    return _LEAST_INFORMATION * math.log(min(images, classes))


def holm(p: Sequence[float]) -> list[float]:
    """Return p values adjusted by Holm's step-down procedure (Scandinavian Journal of Statistics 6:65-70, 1979)."""
    adjusted, greatest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda index: p[index])):
        greatest = max(greatest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = greatest
    return adjusted


def _round(base: Pipeline, stage: SearchStage, ask: Ask, sizes: Sequence[int], screen: int) -> list[TriedPreprocessing]:
    """Return the alternatives of one stage that were tried from one preprocessing, the best one marked."""
    alternatives = [one for one in stage.alternatives(base) if one.pipeline != base]
    tried: dict[int, TriedPreprocessing] = {}
    active = list(range(len(alternatives)))
    least = least_gain(sizes[-1], len(alternatives), stage.level)
    for size in (screen, *sizes) if screen < sizes[0] else sizes:
        if not active:
            break
        ask.plan([base, *(alternatives[index].pipeline for index in active)], size)
        given = ask(base, size)
        contrasts = {index: contrast(given, ask(alternatives[index].pipeline, size)) for index in active}
        # Those dropped count as not better, and still in the number of alternatives.
        raw = [contrasts[index].p if index in contrasts else 1.0 for index in range(len(alternatives))]
        adjusted = [min(1.0, p * len(sizes)) for p in holm(raw)]
        for index in active:
            found = TriedPreprocessing(alternatives[index], contrasts[index], adjusted[index])
            better_now = size >= sizes[0] and _is_better(found, given, stage.level)
            tried[index] = replace(found, better=better_now)
        better = [one for one in tried.values() if one.better]
        if better:
            rivals = [one for one in tried.values() if one.contrast.images == size]
            chosen = _choose(better, {one.alternative: ask(one.alternative.pipeline, size) for one in rivals}, rivals)
            return [replace(one, chosen=one is chosen) for _, one in sorted(tried.items())]
        active = [index for index in active if _is_promising(contrasts[index], sizes[-1], least)]
    return [one for _, one in sorted(tried.items())]


def _choose(
    better: Sequence[TriedPreprocessing], answers: Mapping[Alternative, Answers], rivals: Sequence[TriedPreprocessing]
) -> TriedPreprocessing:
    """Return the best of the alternatives that are better than the base, or a commoner one that is as good.

    Args:
        better: those that are better beyond chance.
        answers: of each of the rivals.
        rivals: all that were tried on the same images.
    """
    # By the answers' log probability, which varies less than the number of right ones.
    best = max(better, key=lambda one: one.contrast.gain)
    if not best.alternative.near:
        return best
    alike = [
        one
        for one in rivals
        if not one.alternative.near
        and one.contrast.difference > 0.0
        and contrast(answers[best.alternative], answers[one.alternative]).trend > -_TOLD_APART
    ]
    return max(alike, key=lambda one: one.contrast.gain, default=best)


def _is_better(found: TriedPreprocessing, given: Answers, level: float) -> bool:
    least = least_information(*given.log_p.shape) if given.labels is None else 0.0
    return found.contrast.difference > least and found.p <= level


def _is_promising(found: Contrast, images: int, least: int) -> bool:
    """Return whether it is worth while to try an alternative on more images.

    Args:
        found: what was seen so far.
        images: how many there are.
        least: on how many more of all images it must be right.
    """
    if found.trend == 0.0:  # all answers are the same
        return False
    if found.outcomes is not None:
        most = float(special.gammaincinv(found.outcomes.gained + 1, CONFIDENCE))  # upper bound of a Poisson mean
        if (most - found.outcomes.lost) * images / found.images < least:
            return False
    return found.trend > _WORSE or (found.difference > 0.0 and found.p < _HARDLY)

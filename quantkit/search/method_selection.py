"""Method ``auto``: the calibration methods compared by the int8 models that they make, on held-back calibration images.

All methods are solved from the same statistics. Methods whose ranges are nearly equal are one candidate. The int8 model
of each candidate runs a few images; those that are further from fp32 than the best by more than chance explains drop
out, and the others run twice as many, and so on. Of the candidates that chance does not tell from the best, the first
is taken: they are ordered from simple to elaborate. Variants of a method are solved and tried where the method itself
is as near as the nearest after the first round. The result depends on neither chance nor time.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from quantkit.config.method import (
    Kl,
    Method,
    MinMax,
    Mse,
    Percentile,
    method_json,
    method_words,
    recorded_method,
)
from quantkit.engine.scores import ScoreSession
from quantkit.evaluation.score_sqnr import score_sqnr_db
from quantkit.evaluation.selection import DistanceEstimate, distance_estimate, without_mean_change
from quantkit.numerics import Range
from quantkit.progress import ProgressCallback
from quantkit.records import Records, plain_fields
from quantkit.types import Float32Array

# The candidates from simple to elaborate; the first is used where nothing can be compared.
CANDIDATES: tuple[Method, ...] = (
    Percentile(),
    MinMax(),
    Mse(),
    Percentile(fraction=0.9999),
    Kl(),
    Kl(definition="relay"),
)
# Variants are tried where the method that they vary is as near as the nearest after the first round: the other search
# for the least divergence takes the longest to solve and mostly ends near the first.
VARIANT_OF: Mapping[Method, Method] = {Kl(definition="relay"): Kl()}
# Ranges are nearly equal where no end differs by more than this share of the width: by less than 0.1 dB of noise.
SAME_RANGES = 0.01
# Images of the first round; each further one has twice as many.
FIRST_IMAGES = 8
# Candidates drop out where they are further from fp32 than the nearest with this one-sided confidence: two standard
# errors on many images, and more on few, where the error is itself uncertain. Those that are left and within this
# factor of the least distance, 1 dB of noise, are as near as the nearest.
CONFIDENCE, TIED_FACTOR = 0.975, 1.25


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """One method of a comparison.

    Attributes:
        method: the method.
        same_as: another candidate whose ranges are nearly equal, which was measured in its place; None for none.
        images: images that its int8 model was run on; 0 where it was not.
        distance: from fp32, relative to that of the chosen method on the same images; smaller is nearer.
        sqnr_db: SQNR of the scores in dB (see `quantkit.evaluation.score_sqnr`), biases as if corrected where they will
            be; None where it was not measured.
        agreement: percent of these images with the top class of fp32, of the same scores.
        outcome: ``chosen``, ``tied`` with the chosen one, ``further`` from fp32, ``same``, or ``not tried``, for a
            variant of a method that is further.

    Example:
        >>> import quantkit
        >>> quantkit.MethodResult(method=quantkit.Mse(), images=8, distance=1.2, outcome="further").name
        'mse'
    """

    method: Method
    same_as: Method | None = None
    images: int = 0
    distance: float | None = None
    sqnr_db: float | None = None
    agreement: float | None = None
    outcome: str

    @property
    def name(self) -> str:
        """The method in words."""
        return method_words(self.method)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        same_as = None if self.same_as is None else method_json(self.same_as)
        return plain_fields(self) | {"method": method_json(self.method), "same_as": same_as}


@dataclass(frozen=True, kw_only=True)
class MethodSelection(Records):
    """The choice of method ``auto``.

    Attributes:
        method: the chosen one.
        reason: why, in a sentence.
        results: of every candidate, from simple to elaborate; empty where nothing could be compared.
        corrected: the figures leave out the mean change of each score, which the correction of biases removes.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> done = quantkit.quantize("run", method="auto", out="auto.onnx")
        >>> [row["method"] for row in done.selection.rows()][:3]
        ['percentile', 'minmax', 'mse']
    """

    method: Method
    reason: str
    results: tuple[MethodResult, ...] = ()
    corrected: bool = False

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a candidate: method, images, distance (that of the chosen one is 1), dB, percent, outcome."""
        return [
            {
                "method": one.name,
                "images": one.images,
                "distance": one.distance,
                "sqnr_db": one.sqnr_db,
                "agreement": one.agreement,
                "outcome": one.outcome if one.same_as is None else f"as {method_words(one.same_as)}",
            }
            for one in self.results
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return plain_fields(self) | {"method": method_json(self.method)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "MethodSelection":
        """Return a selection from plain values.

        Raises:
            KeyError: a field is missing.
            TypeError: a field is of another kind.
            UsageError: a method does not exist.
        """
        results = [
            MethodResult(
                **{
                    **one,
                    "method": _method(one["method"]),
                    "same_as": None if one["same_as"] is None else _method(one["same_as"]),
                }
            )
            for one in plain["results"]
        ]
        return cls(
            method=_method(plain["method"]),
            reason=str(plain["reason"]),
            results=tuple(results),
            corrected=bool(plain["corrected"]),
        )


def select_method(
    prepared: ir.Model,
    methods: Sequence[Method],
    solve: Callable[[Method], Mapping[str, Range]],
    write: Callable[[Mapping[str, Range]], ir.Model],
    images: Sequence[Float32Array],
    *,
    corrected: bool,
    threads: int,
    progress: ProgressCallback | None = None,
) -> MethodSelection:
    """Return the method whose int8 model is nearest to fp32.

    Args:
        prepared: the fp32 model.
        methods: the candidates, from simple to elaborate, a variant behind the method that it varies.
        solve: returns the ranges of a method.
        write: makes the int8 model of ranges.
        images: at least two, ``[N, C, H, W]`` each, that corrections are not fitted on.
        corrected: biases will be corrected, so a change of scores that is the same for all images does not count.
        threads: images run side by side.
        progress: called with the number of int8 models run, and of all there are to run so far.

    Raises:
        ModelError: the fp32 model or an int8 model cannot be run.
    """
    comparison = _Comparison(_Reference(prepared, images, threads), solve, write, corrected, progress)
    rounds = _rounds(len(images))
    first = [method for method in methods if VARIANT_OF.get(method) not in methods]
    comparison.enter(first, rounds[0])
    comparison.enter([method for method in methods if comparison.is_worth(method)], rounds[0])
    for count in rounds[1:]:
        if len(comparison.live) == 1:
            break
        comparison.measure(comparison.live, count)
    return comparison.selection(methods)


class _Comparison:
    """The candidates of a comparison.

    Attributes:
        live: those that are not further from fp32 than another.
    """

    def __init__(
        self,
        reference: "_Reference",
        solve: Callable[[Method], Mapping[str, Range]],
        write: Callable[[Mapping[str, Range]], ir.Model],
        corrected: bool,
        progress: ProgressCallback | None,
    ) -> None:
        self.live: list[_Candidate] = []
        self._reference, self._solve, self._write = reference, solve, write
        self._corrected, self._progress, self._done = corrected, progress, 0
        self._entered: dict[Method, _Candidate] = {}
        self._ranges: dict[Method, Mapping[str, Range]] = {}

    def enter(self, methods: Sequence[Method], count: int) -> None:
        """Measure further methods on the first images; one with the ranges of another shares its candidate."""
        new: list[_Candidate] = []
        for method in methods:
            ranges = self._solve(method)
            equal = (other for other, held in self._ranges.items() if _nearly_equal(ranges, held))
            if (other := next(equal, None)) is not None:
                self._entered[method] = self._entered[other]
                continue
            self._ranges[method] = ranges
            new.append(_Candidate(method, self._write(ranges)))
            self._entered[method] = new[-1]
        self.live += new
        self.measure(new, count)

    def is_worth(self, method: Method) -> bool:
        """Return whether a method that has not entered varies one that chance does not tell from the nearest."""
        varied = self._entered.get(VARIANT_OF[method]) if method not in self._entered else None
        return varied in self.live and varied is not None and not varied.is_further(self._nearest(), TIED_FACTOR)

    def measure(self, candidates: Sequence["_Candidate"], count: int) -> None:
        """Measure candidates on the first images, and drop those that are further than the nearest beyond chance."""
        total = self._done + len(candidates)
        for one in candidates:
            one.measure(self._reference, count, self._corrected)
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, total)
        nearest = self._nearest()
        for one in [one for one in self.live if one.is_further(nearest)]:
            self.live.remove(one)
            one.close()

    def selection(self, methods: Sequence[Method]) -> MethodSelection:
        """Return the first of those that are as near as the nearest."""
        nearest = self._nearest()
        tied = [one for one in self.live if not one.is_further(nearest, TIED_FACTOR)]
        chosen = min(tied, key=lambda one: list(methods).index(one.method))
        results = tuple(self._result(method, chosen, tied) for method in methods)
        reason = self._reason(chosen, nearest)
        return MethodSelection(method=chosen.method, reason=reason, results=results, corrected=self._corrected)

    def _nearest(self) -> "_Candidate":
        return min(self.live, key=lambda one: one.estimate.log)

    def _result(self, method: Method, chosen: "_Candidate", tied: Sequence["_Candidate"]) -> MethodResult:
        one = self._entered.get(method)
        if one is None:
            return MethodResult(method=method, outcome="not tried")
        result = MethodResult(
            method=method,
            images=one.images,
            distance=one.relative(chosen),
            sqnr_db=one.sqnr_db if math.isfinite(one.sqnr_db) else None,
            agreement=100.0 * one.agreement,
            outcome="chosen" if one is chosen else "tied" if one in tied else "further",
        )
        return result if one.method == method else replace(result, same_as=one.method, outcome="same")

    def _reason(self, chosen: "_Candidate", nearest: "_Candidate") -> str:
        words, images = method_words(chosen.method), f"on {chosen.images} calibration images"
        if len(self._ranges) == 1:
            return f"{words}: all methods give nearly equal ranges"
        if not math.isfinite(chosen.estimate.log):
            return f"{words}: no int8 model has finite scores"
        if chosen is nearest:
            return f"{words}: nearest to fp32 {images}"
        return f"{words}: no method is nearer to fp32 beyond chance {images}; of those as near, the simplest is taken"


class _Reference:
    """The scores of fp32, of as many images as are needed."""

    def __init__(self, prepared: ir.Model, images: Sequence[Float32Array], threads: int) -> None:
        self.images, self.threads = images, threads
        self._session, self._scores = ScoreSession(prepared), np.zeros((0, 0), np.float32)

    def scores(self, count: int) -> Float32Array:
        """Return those of the first images."""
        self._scores = _extended(self._scores, self._session, self.images[:count], self.threads)
        return self._scores[:count]


class _Candidate:
    """The int8 model of a method, and how far it is from fp32."""

    def __init__(self, method: Method, model: ir.Model) -> None:
        self.method, self.images = method, 0
        self.estimate = DistanceEstimate(math.inf, np.zeros(0))
        self.sqnr_db, self.agreement = -math.inf, 0.0
        self._session: ScoreSession | None = ScoreSession(model)
        self._scores = np.zeros((0, 0), np.float32)
        self._history: dict[int, float] = {}

    def measure(self, reference: _Reference, count: int, corrected: bool) -> None:
        """Compare the scores of the first images with those of fp32."""
        assert self._session is not None
        wanted = reference.scores(count)
        self._scores = _extended(self._scores, self._session, reference.images[:count], reference.threads)
        self.images, scores = count, self._scores
        if np.isfinite(scores).all():
            if corrected:
                wanted, scores = without_mean_change(wanted, scores)
            self.agreement = float((scores.argmax(axis=1) == wanted.argmax(axis=1)).mean())
            self.sqnr_db = score_sqnr_db(wanted, scores)
        self.estimate = distance_estimate(wanted, scores)
        self._history[count] = self.estimate.log

    def is_further(self, nearest: "_Candidate", factor: float = math.inf) -> bool:
        """Return whether it is further from fp32 than another beyond chance, or by more than a factor."""
        if self is nearest:
            return False
        if not math.isfinite(self.estimate.log):
            return True
        more = self.estimate.log - nearest.estimate.log
        return more > math.log(factor) or self.estimate.exceeds(nearest.estimate, CONFIDENCE)

    def relative(self, other: "_Candidate") -> float | None:
        """Return the distance relative to that of another on the same images; None where either is not finite."""
        own, its = self._history[self.images], other._history[self.images]
        return math.exp(own - its) if math.isfinite(own) and math.isfinite(its) else None

    def close(self) -> None:
        """Give the memory of the model back."""
        self._session = None


def _extended(known: Float32Array, session: ScoreSession, images: Sequence[Float32Array], threads: int) -> Float32Array:
    """Return the scores of images of which those of the first are known."""
    if len(known) >= len(images):
        return known
    scores = session.scores(images[len(known) :], threads=threads)
    return scores if not len(known) else np.concatenate([known, scores])


def _rounds(images: int) -> list[int]:
    """Return how many images each round has: 8, 16, 32 and so on, and all in the last."""
    counts = [min(FIRST_IMAGES, images)]
    while counts[-1] < images:
        counts.append(min(2 * counts[-1], images))
    return counts


def _nearly_equal(ranges: Mapping[str, Range], others: Mapping[str, Range]) -> bool:
    return all(_close(range_, others[name]) for name, range_ in ranges.items())


def _close(one: Range, other: Range) -> bool:
    slack = SAME_RANGES * max(one.hi - one.lo, other.hi - other.lo)
    return abs(one.lo - other.lo) <= slack and abs(one.hi - other.hi) <= slack


def _method(plain: Mapping[str, Any]) -> Method:
    return recorded_method(str(plain["name"]), plain)

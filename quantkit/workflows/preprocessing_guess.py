"""The result of `quantkit.guess_preprocessing`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantkit.config.pipeline import Pipeline
from quantkit.evaluation.paired import Interval
from quantkit.evaluation.preprocessing_evidence import Contrast, EvidenceKind
from quantkit.records import Records, plain, plain_fields


@dataclass(frozen=True)
class TriedPreprocessing:
    """An alternative that was compared with the preprocessing it was derived from, on the same images.

    Attributes:
        round: from 0; each round starts from the best preprocessing so far.
        dimension: what it changes: scaling, channel order, resize and crop, or interpolation.
        words: what it changes that to.
        pipeline: the whole preprocessing.
        images: how many images it was tried on: twice as many as long as it looked promising.
        reference: top-1 of the round's preprocessing in percent; without labels, information in the scores in nats.
        value: the same of this one.
        ci95: 95 % interval of the difference, not corrected for the number of alternatives.
        p: of the difference, corrected for the number of alternatives (Holm) and of looks (Bonferroni).
        better: better beyond chance.
        chosen: the best of the round; the next one starts from it.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> guess = quantkit.guess_preprocessing("mini_iresnet.onnx", images="images/test", pipeline="digits", limit=50)
        >>> sorted(one.words for one in guess.tried if one.dimension == "scaling")[0]
        "MNIST's mean and std"
    """

    round: int
    dimension: str
    words: str
    pipeline: Pipeline
    images: int
    reference: float
    value: float
    ci95: Interval
    p: float
    better: bool
    chosen: bool

    @property
    def difference(self) -> float:
        """This one less the round's preprocessing."""
        return self.value - self.reference


@dataclass(frozen=True)
class PreprocessingGuess(Records):
    """What `guess_preprocessing` found.

    Attributes:
        model: the file.
        start: the preprocessing that was given.
        best: the one found; ``start`` where no other is better beyond chance.
        evidence: ``labels``, or ``scores`` where there are none, which is weaker.
        images: how many images there were to try.
        tried: the alternatives.
        overall: best against start, its p not corrected for the number of alternatives; None where they are the same.
        computed: how many times the model was run on an image.
        known: how many answers were in the cache.
        cache: folder of the cache.
        elapsed_s: seconds it took.
        verdict: what was found, in one sentence.
        notes: what should be known of it.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> guess = quantkit.guess_preprocessing("mini_iresnet.onnx", images="images/test", pipeline="digits")
        >>> guess.found_better, guess.best == quantkit.PRESETS["digits"]
        (False, True)
    """

    model: Path
    start: Pipeline
    best: Pipeline
    evidence: EvidenceKind
    images: int
    tried: tuple[TriedPreprocessing, ...]
    overall: Contrast | None
    computed: int
    elapsed_s: float
    verdict: str
    notes: tuple[str, ...] = ()
    known: int = 0
    cache: Path | None = None

    @property
    def found_better(self) -> bool:
        """Whether another preprocessing is better beyond chance."""
        return self.best != self.start

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each alternative; top-1 in percent, or information in nats without labels."""
        return [
            {
                "round": one.round,
                "dimension": one.dimension,
                "alternative": one.words,
                "images": one.images,
                "reference": one.reference,
                "value": one.value,
                "difference": one.difference,
                "difference_lo": one.ci95.lo,
                "difference_hi": one.ci95.hi,
                "p": one.p,
                "better": one.better,
                "chosen": one.chosen,
            }
            for one in self.tried
        ]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        overall = None if self.overall is None else plain(asdict(self.overall))
        own = {name: value for name, value in plain_fields(self).items() if name != "cache"}
        return {**own, "found_better": self.found_better, "overall": overall, "tried": self.rows()}

"""The result of `quantkit.guess_preprocessing`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantkit.config.pipeline import Pipeline
from quantkit.evaluation.preprocessing_evidence import Contrast, EvidenceKind
from quantkit.evaluation.preprocessing_search import TriedPreprocessing
from quantkit.records import Records, plain, plain_fields


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
                "dimension": str(one.alternative.dimension),
                "alternative": one.alternative.words,
                "images": one.contrast.images,
                "reference": one.contrast.reference,
                "value": one.contrast.value,
                "difference": one.contrast.difference,
                "difference_lo": one.contrast.ci95.lo,
                "difference_hi": one.contrast.ci95.hi,
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

"""The result of a comparison of a reference model with others on the same images, and its JSON form.

Shares of images are in percent here and in the JSON (``top1: 69.4``), differences in percentage points, divergence in
nats, sizes in bytes, latency in milliseconds.
"""

from dataclasses import dataclass, field
from typing import Any

from quantkit.engine.placement import DevicePlacement
from quantkit.evaluation.classes import ClassDelta
from quantkit.evaluation.confidence import MarginBin
from quantkit.evaluation.drift import TensorDrift
from quantkit.evaluation.paired import Interval
from quantkit.records import Records, plain

JSON_SCHEMA = 1
WORST_TENSORS = 10
PERCENT = 100.0
_COLUMNS = (
    *("top1", "top5", "delta_top1", "delta_top1_lo", "delta_top1_hi", "mcnemar_p"),
    *("agreement", "kl", "bytes", "latency_ms"),
)

_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Delta:
    """A paired difference of accuracy in percentage points; below 0 the candidate is worse.

    Attributes:
        value: candidate minus reference.
        ci95: Tango's score interval, the one reported.
        bootstrap95: interval of the paired bootstrap, as a check.
        mcnemar_p: McNemar's exact p of no difference.
        lost: number of images that are correct only in the reference.
        gained: number of images that are correct only in the candidate.
        minimum_detectable: the smallest loss that this number of images detects with a power of 80 %.
    """

    value: float
    ci95: Interval
    bootstrap95: Interval
    mcnemar_p: float
    lost: int
    gained: int
    minimum_detectable: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0 and McNemar's exact test rejects equality at 5 %.

        Where few answers differ, the score interval can exclude 0 although the exact test, which is stricter, does not
        reject: 0 lost and 4 gained images of 200 give [0.08, 5.03] points and p = 0.125.
        """
        return 0.0 not in self.ci95 and self.mcnemar_p < _LEVEL


@dataclass(frozen=True, kw_only=True)
class Versus:
    """Comparison of a candidate with the reference.

    Attributes:
        top1: paired difference in top-1, None without labels.
        top5: paired difference of top-5, None without labels.
        agreement: percent of images that both models put in the same class.
        agreement_ci95: its 95 % interval (Wilson).
        changed: number of images in another class.
        kl: mean divergence of the softmax outputs in nats, None if outputs are not available.
        kl_ci95: its 95 % interval (Student).
        classes: per-class results; empty without labels.
        margins: rate of changed classes by the reference's margin.
        sample_size: one sentence about the loss that this number of images detects; None without labels.
    """

    top1: Delta | None
    top5: Delta | None
    agreement: float
    agreement_ci95: Interval
    changed: int
    kl: float | None
    kl_ci95: Interval | None
    classes: tuple[ClassDelta, ...]
    margins: tuple[MarginBin, ...]
    sample_size: str | None


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """A model of a comparison.

    Attributes:
        name: name of the model.
        bytes: size of the file, None without a file.
        top1: top-1 in percent, None without labels.
        top5: top-5 in percent, None without labels.
        ece: expected calibration error in percent, None without labels.
        tie_rate: percentage of images with tied best scores.
        constant: number of images with equal scores of all classes.
        latency_ms: median latency of one image, None if not measured.
        latency_spread_ms: 10th and 90th percentile of the latency, None if not measured.
        tensors: accumulated drift of every measured tensor, in the order of the network.
        layers: isolated drift of each integer layer, by its output tensor, in the order of the network.
        versus: the comparison with the reference; None for the reference.
        ran_on: the device that answered, None for results of a card.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> result = quantkit.compare(["fp32", "kl"], run="run", images="images/test", limit=50, drift_images=0)
        >>> result.models[1].name, result.models[1].versus.changed <= 5
        ('kl', True)
    """

    name: str
    bytes: int | None
    top1: float | None
    top5: float | None
    ece: float | None
    tie_rate: float
    constant: int
    latency_ms: float | None
    tensors: tuple[TensorDrift, ...] = field(repr=False)
    versus: Versus | None
    layers: tuple[TensorDrift, ...] = field(default=(), repr=False)
    latency_spread_ms: Interval | None = None
    ran_on: DevicePlacement | None = None

    @property
    def worst_tensors(self) -> tuple[TensorDrift, ...]:
        """The tensors with the lowest SQNR, worst first."""
        return tuple(sorted(self.tensors, key=lambda tensor: tensor.sqnr_db)[:WORST_TENSORS])

    @property
    def worst_layers(self) -> tuple[TensorDrift, ...]:
        """The layers with the lowest isolated SQNR, worst first: the causes of accumulated drift."""
        return tuple(sorted(self.layers, key=lambda layer: layer.sqnr_db)[:WORST_TENSORS])

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; missing and infinite figures are null."""
        own = {
            "name": self.name,
            "top1": self.top1,
            "top5": self.top5,
            "bytes": self.bytes,
            "ece": self.ece,
            "tie_rate": self.tie_rate,
            "constant_outputs": self.constant,
            "latency_ms": self.latency_ms,
            "latency_ms_p10_p90": plain(self.latency_spread_ms),
            "ran_on": plain(self.ran_on),
        }
        if self.versus is None:
            return own
        drift = {"worst_tensors": plain(self.worst_tensors), "worst_layers": plain(self.worst_layers)}
        return own | _versus_json(self.versus) | drift


@dataclass(frozen=True, kw_only=True)
class Comparison(Records):
    """Models compared on the same images; the first is the reference.

    Attributes:
        images: number of images.
        labelled: whether the true classes are known.
        models: the reference, then the candidates.
        warnings: suspected problems, one sentence each.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> result = quantkit.compare(["fp32", "kl"], run="run", images="images/test", limit=50, drift_images=0)
        >>> [row["model"] for row in result.rows()]
        ['fp32', 'kl']
    """

    images: int
    labelled: bool
    models: tuple[ModelResult, ...]
    warnings: tuple[str, ...] = ()

    @property
    def reference(self) -> ModelResult:
        """The model that the others are measured against."""
        return self.models[0]

    @property
    def candidates(self) -> tuple[ModelResult, ...]:
        """All models except the reference."""
        return self.models[1:]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per model, the reference first: percent, points, bytes, nats and milliseconds."""
        return [_row(self.images, model) for model in self.models]

    def _repr_html_(self) -> str:
        """Return the accuracy table for notebooks."""
        from quantkit.report.notebook import comparison_html

        return comparison_html(self)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``quantkit compare --json``: `images`, `models` and more."""
        return {
            "schema": JSON_SCHEMA,
            "images": self.images,
            "labelled": self.labelled,
            "warnings": list(self.warnings),
            "models": plain(self.models),
        }


def _versus_json(versus: Versus) -> dict[str, Any]:
    return {
        **_accuracy_json(versus.top1, "top1"),
        **_accuracy_json(versus.top5, "top5"),
        "sample_size": versus.sample_size,
        "agreement": versus.agreement,
        "agreement_ci95": plain(versus.agreement_ci95),
        "changed": versus.changed,
        "kl": versus.kl,
        "kl_ci95": plain(versus.kl_ci95),
        "margins": [
            {
                "lo": margin.lo,
                "hi": margin.hi,
                "images": margin.images,
                "changed": PERCENT * margin.flips / margin.images,
                "changed_ci95": plain(margin.interval.scaled(PERCENT)),
            }
            for margin in versus.margins
        ],
        "classes": [
            {
                "label": moved.label,
                "images": moved.images,
                "delta_top1": PERCENT * moved.delta,
                "lost": moved.lost,
                "gained": moved.gained,
                "p_adjusted": moved.p_adjusted,
            }
            for moved in versus.classes
            if moved.lost or moved.gained
        ],
    }


def _accuracy_json(delta: Delta | None, metric: str) -> dict[str, Any]:
    p = "mcnemar_p" if metric == "top1" else f"mcnemar_p_{metric}"
    keys = (f"delta_{metric}", f"delta_{metric}_ci95", f"delta_{metric}_bootstrap95", p)
    counts = (f"lost_{metric}", f"gained_{metric}", f"minimum_detectable_difference_{metric}")
    if delta is None:
        return dict.fromkeys(keys + counts)
    figures = (delta.value, plain(delta.ci95), plain(delta.bootstrap95), delta.mcnemar_p)
    return dict(zip(keys + counts, (*figures, delta.lost, delta.gained, delta.minimum_detectable), strict=True))


def _row(images: int, model: ModelResult) -> dict[str, Any]:
    found = model.to_json()
    interval = found.get("delta_top1_ci95") or (None, None)
    found |= zip(("delta_top1_lo", "delta_top1_hi"), interval, strict=True)
    return {"model": model.name, "images": images} | {column: found.get(column) for column in _COLUMNS}

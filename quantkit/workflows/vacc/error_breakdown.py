"""``quantkit compare --breakdown``: how much the card's preprocessing, half precision and int8 each take.

Between a model here and the same model on the card lie three changes. Each is made alone, and all are made one after
the other, on the same images:

- the card's preprocessing: pictures squashed to a square and sampled without antialias, mean and std in half precision;
  the vendor's two runtimes differ in what they hand to the card (`Runtime`);
- fp16: every tensor rounded to half precision, computed in float32 (`quantkit.graph.half_precision`);
- int8: the scheme of the card's compiler as far as it is known, with the run's options. What stays in floating point
  there is float32 here; so the int8 row differs from the fp16 row by int8 in place of fp16, not on top of it.
"""

import math
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from quantkit.config.pipeline import Decode, EvenSides, Normalize, Pipeline, PipelineOp, Resize
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.sources.open import ImagesLike
from quantkit.errors import VendorFileError
from quantkit.evaluation.compare_models import EvaluatedModel, compare_models
from quantkit.evaluation.result import Delta, ModelResult
from quantkit.graph.half_precision import half_model
from quantkit.progress import NamedProgress, Progress, as_progress
from quantkit.runs.folder import FP32
from quantkit.vendors.vacc.vdsp import in_half
from quantkit.workflows.compare import evaluate_models
from quantkit.workflows.presets import PresetSource, preprocessing_of
from quantkit.workflows.vacc.build_file import choices_of_run
from quantkit.workflows.vacc.compiler_simulator import MODEL_OF_THE_COMPILER, CompilerSimulator

# How the vendor's programs hand a picture to the card. ``vamp``: as ``quantkit vamp inputs`` writes it. ``vsx``: its
# Python classification script, of which the accuracies in the README files of its model zoo come; OpenCV decodes, which
# turns pictures by their EXIF orientation, and odd sides are shrunk to even ones first
# (Vastai/VastModelZOO, cv/classification/common/vsx/classification.py).
Runtime = Literal["vamp", "vsx"]
RUNTIMES: dict[Runtime, str] = {
    "vamp": "preprocessing: as vamp runs the inputs that quantkit writes",
    "vsx": "preprocessing: as the vendor's vsx script, EXIF orientation applied and odd sides shrunk to even first",
}

FP16 = "fp16"
INT8 = "vacc-int8"
NOTES = (
    "fp16: every tensor rounded to half precision and back, sums in float32",
    f"int8: {MODEL_OF_THE_COMPILER}; what is not int8 there is float32",
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One change between a model here and on the card.

    Attributes:
        name: what was changed.
        top1: percent right after this change and all before it.
        agreement: percent of answers still those of the start, after this change and all before it.
        of_step: difference of top-1 to the step before.
        in_all: difference of top-1 to the start.
        alone: difference of top-1 to the start when only this is changed.
    """

    name: str
    top1: float
    agreement: float
    of_step: Delta
    in_all: Delta
    alone: Delta

    def to_json(self) -> dict[str, Any]:
        """Return plain values, in percent and percentage points."""
        deltas = {"of_step": self.of_step, "in_all": self.in_all, "alone": self.alone}
        return {
            "name": self.name,
            "top1": self.top1,
            "agreement": self.agreement,
            **{
                key: {"delta_top1": one.value, "ci95": [one.ci95.lo, one.ci95.hi], "mcnemar_p": one.mcnemar_p}
                for key, one in deltas.items()
            },
        }


@dataclass(frozen=True, kw_only=True)
class ErrorBreakdown:
    """Where the points went.

    Attributes:
        images: how many images all were measured on.
        top1: percent right at the start: fp32 with its own preprocessing.
        steps: the card's preprocessing, fp16, int8.
        notes: what the figures rest on, and what makes them doubtful.
    """

    images: int
    top1: float
    steps: tuple[Step, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "images": self.images,
            "top1": self.top1,
            "steps": [step.to_json() for step in self.steps],
            "notes": list(self.notes),
        }


def card_pipeline(pipeline: Pipeline, runtime: Runtime = "vamp") -> Pipeline:
    """Return what the card makes of a pipeline, as its ``vdsp_params`` say it.

    A resize of the shorter side becomes a squash to a square of that side; every resize is bilinear without antialias;
    mean and std are rounded to half precision.

    Args:
        pipeline: the preprocessing of the model.
        runtime: the program that runs the card. ``vsx`` first turns pictures by their EXIF orientation and shrinks odd
            sides to even ones.

    Raises:
        VendorFileError: mean or std do not fit into half precision.
    """
    decode, *others = (_on_device(op) for op in pipeline.ops)
    if runtime == "vsx":
        assert isinstance(decode, Decode)
        others = [op for op in others if not isinstance(op, EvenSides)]
        return Pipeline(ops=(decode.model_copy(update={"exif": True}), EvenSides(), *others))
    return Pipeline(ops=(decode, *others))


def error_breakdown(
    run: Path,
    *,
    images: ImagesLike | None = None,
    labels: Path | None = None,
    names: Path | None = None,
    exclude: Path | CalibrationSet | None = None,
    pipeline: PresetSource | None = None,
    runtime: Runtime = "vamp",
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ErrorBreakdown:
    """Separate what the card's preprocessing, half precision and int8 take from a run's fp32 model.

    Args:
        run: run folder of `calibrate`; its method and layers left in float are those of the int8 step.
        images: evaluation images; absent, the folder of the calibration set without the set.
        labels: their label file.
        names: class names, one a line.
        exclude: calibration set whose images are left out.
        pipeline: preprocessing of the start, as `evaluate_models` takes it; absent, the run's.
        runtime: the vendor's program whose preprocessing is the first step.
        limit: evaluate at most so many images.
        threads: workers; as many as there are processors when absent.
        progress: receives the progress.

    Raises:
        UsageError: this is no run folder.
        ProvenanceError: model or statistics are not those of the run.
        ModelError: the model cannot be quantized or run.
        LabelError: labels are missing, malformed, or no classes of the model.
        CalibrationSetError: there are no images.
        ImageError: an image cannot be decoded.
        VendorFileError: mean or std do not fit into half precision.
    """
    simulator = CompilerSimulator.of_run(run)
    own = preprocessing_of(pipeline, simulator.record)
    assert own is not None
    with tempfile.TemporaryDirectory(prefix="quantkit-attribute-") as folder:
        half, int8 = Path(folder) / f"{FP16}.onnx", Path(folder) / f"{INT8}.onnx"
        simulator.prepared.save(half_model(simulator.prepared.model), half)
        simulator.write(choices_of_run(simulator.record), int8)
        evaluate = partial(
            evaluate_models,
            [FP32, half, int8],
            run=run,
            images=images,
            labels=labels,
            names=names,
            exclude=exclude,
            limit=limit,
            drift_images=0,
            threads=threads,
            progress=NamedProgress(as_progress(progress), "breaking down the error"),
        )
        here, card = (evaluate(pipeline=one) for one in (own, card_pipeline(own, runtime)))
    start, *changed = here.answers
    on_device = card.answers
    path = [start, *on_device]
    alone = [on_device[0], *changed]
    steps = [
        _step(name, start, path[index], path[index + 1], alone[index])
        for index, name in enumerate(("preprocessing", FP16, "int8"))
    ]
    count = len(start.predictions)
    reference = here.comparison.reference
    assert reference.top1 is not None
    notes = (RUNTIMES[runtime], *NOTES, *here.comparison.warnings)
    return ErrorBreakdown(images=count, top1=reference.top1, steps=tuple(steps), notes=notes)


def _step(
    name: str, start: EvaluatedModel, before: EvaluatedModel, after: EvaluatedModel, alone: EvaluatedModel
) -> Step:
    """Compare one step with the one before it, and with the start together with the others and alone."""
    in_all = _versus(start, after)
    assert in_all.top1 is not None
    assert in_all.versus is not None
    return Step(
        name=name,
        top1=in_all.top1,
        agreement=in_all.versus.agreement,
        of_step=_delta(_versus(before, after)),
        in_all=_delta(in_all),
        alone=_delta(_versus(start, alone)),
    )


def _versus(reference: EvaluatedModel, candidate: EvaluatedModel) -> ModelResult:
    # Divergences were measured from other references than this one.
    pair = [replace(one, name=name, kl=None) for one, name in ((reference, "before"), (candidate, "after"))]
    return compare_models(pair).candidates[0]


def _delta(result: ModelResult) -> Delta:
    assert result.versus is not None
    assert result.versus.top1 is not None  # evaluation images have labels
    return result.versus.top1


def _on_device(op: PipelineOp) -> PipelineOp:
    match op:
        case Resize(size=size):
            return Resize(size=(size, size) if isinstance(size, int) else size, antialias=False)
        case Normalize():
            mean, std = in_half(op.mean), in_half(op.std)
            if not all(math.isfinite(value) for value in (*mean, *std)) or 0.0 in std:
                raise VendorFileError(
                    f"mean {list(op.mean)} and std {list(op.std)} do not fit into half precision",
                    where="normalize",
                    fix="scale them",
                )
            return Normalize(mean=tuple(mean), std=tuple(std))
        case _:
            return op

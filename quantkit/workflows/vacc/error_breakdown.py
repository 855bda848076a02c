"""``quantkit compare --breakdown``: accuracy loss by the card's preprocessing, half precision and int8.

A model on the card differs from the fp32 model by three changes. Each is applied alone, and all are applied one after
the other, on the same images:

- the card's preprocessing: images squashed to a square and sampled without antialias, mean and std in half precision;
  the vendor's two runtimes pass different inputs to the card (`Runtime`);
- fp16: every tensor rounded to half precision, computed in float32 (`quantkit.graph.precision`);
- int8: the scheme of the card's compiler as far as it is known, with the run's options. Layers that stay in float on
  the card are float32 here, so the int8 step replaces fp16; it is not added to it.
"""

import math
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from quantkit.config.pipeline import Decode, EvenSides, Normalize, Pipeline, PipelineOp, Resize
from quantkit.data.sources.open import ImagesLike
from quantkit.errors import VendorFileError
from quantkit.evaluation.compare_models import EvaluatedModel, compare_models
from quantkit.evaluation.result import Delta, ModelResult
from quantkit.graph.precision import half_model
from quantkit.progress import NamedProgress, Progress, as_progress
from quantkit.records import plain_fields
from quantkit.runs.configuration import recorded_with
from quantkit.runs.folder import FP32
from quantkit.vendors.vacc.vdsp import in_half
from quantkit.workflows.compare import compare
from quantkit.workflows.presets import PresetSource, preprocessing_of
from quantkit.workflows.vacc.build_file import choices_of_run
from quantkit.workflows.vacc.compiler_simulator import MODEL_OF_THE_COMPILER, CompilerSimulator

# How the vendor's programs pass an image to the card. ``vamp``: as ``quantkit vamp inputs`` writes it. ``vsx``: its
# Python classification script, the source of the accuracies in the README files of its model zoo; OpenCV decodes, which
# applies the EXIF orientation, and odd sides are shrunk to even ones first
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
    f"int8: {MODEL_OF_THE_COMPILER}; everything else is float32",
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One change between the fp32 model and the card.

    Attributes:
        name: description of the change.
        top1: top-1 in percent with this change and all before it.
        agreement: agreement with the start in percent, with this change and all before it.
        of_step: difference in top-1 to the previous step.
        in_all: difference in top-1 to the start.
        alone: difference in top-1 to the start with only this change.
    """

    name: str
    top1: float
    agreement: float
    of_step: Delta
    in_all: Delta
    alone: Delta

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, in percent and percentage points."""
        deltas = {"of_step": self.of_step, "in_all": self.in_all, "alone": self.alone}
        return {
            "name": self.name,
            "top1": self.top1,
            "agreement": self.agreement,
            **{
                key: {"delta_top1": one.value, "ci95": one.ci95.to_json(), "mcnemar_p": one.mcnemar_p}
                for key, one in deltas.items()
            },
        }


@dataclass(frozen=True, kw_only=True)
class ErrorBreakdown:
    """Accuracy loss by step.

    Attributes:
        images: number of images.
        top1: top-1 in percent at the start: fp32 with its own preprocessing.
        steps: the card's preprocessing, fp16, int8.
        notes: assumptions and limitations of the figures.
    """

    images: int
    top1: float
    steps: tuple[Step, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return plain_fields(self)


def card_pipeline(pipeline: Pipeline, runtime: Runtime = "vamp") -> Pipeline:
    """Return the pipeline that the card executes in place of a pipeline, as in its ``vdsp_params``.

    A resize of the shorter side becomes a squash to a square of that side; every resize is bilinear without antialias;
    mean and std are rounded to half precision.

    Args:
        pipeline: the preprocessing of the model.
        runtime: the program that runs the card. ``vsx`` first applies the EXIF orientation and shrinks odd sides to
            even ones.

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
    pipeline: PresetSource | None = None,
    runtime: Runtime = "vamp",
    threads: int | None = None,
    progress: Progress | None = None,
) -> ErrorBreakdown:
    """Measure the accuracy loss of a run's fp32 model by the card's preprocessing, half precision and int8.

    Args:
        run: run folder of `calibrate`; the int8 step uses its method and its layers left in float.
        images: evaluation images; by default the folder of the calibration set without the set.
        pipeline: preprocessing of the start, as for `compare`; by default that of the run.
        runtime: the vendor's program that defines the preprocessing of the first step.
        threads: number of worker threads; one per processor by default.
        progress: receives the progress.

    Raises:
        UsageError: this is not a run folder.
        ProvenanceError: model or statistics are not those of the run.
        ModelError: the model cannot be quantized or run.
        LabelError: labels are missing, malformed or out of range for the model.
        CalibrationSetError: there are no images.
        ImageError: an image cannot be decoded.
        VendorFileError: mean or std do not fit into half precision.
    """
    simulator = CompilerSimulator.of_run(run)
    own = preprocessing_of(pipeline, simulator.run.record)
    assert own is not None
    with tempfile.TemporaryDirectory(prefix="quantkit-attribute-") as folder:
        half, int8 = Path(folder) / f"{FP16}.onnx", Path(folder) / f"{INT8}.onnx"
        simulator.run.prepared.save(half_model(simulator.run.prepared.model), half)
        simulator.write(choices_of_run(simulator.run.record), int8)
        evaluate = partial(
            compare,
            [FP32, half, int8],
            run=run,
            images=images,
            drift_images=0,
            threads=threads,
            progress=NamedProgress(as_progress(progress), "breaking down the error"),
        )
        with recorded_with("compare", None):
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
    reference = here.reference
    assert reference.top1 is not None
    notes = (RUNTIMES[runtime], *NOTES, *here.warnings)
    return ErrorBreakdown(images=count, top1=reference.top1, steps=tuple(steps), notes=notes)


def _step(
    name: str, start: EvaluatedModel, before: EvaluatedModel, after: EvaluatedModel, alone: EvaluatedModel
) -> Step:
    """Compare one step with the previous one and with the start, cumulatively and alone."""
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
    # Divergences were measured against other references.
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

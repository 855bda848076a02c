"""``quantkit vamc advise``: search the options of the card's compiler by simulation on evaluation images.

The statistics of the run contain everything that the calibration methods need, so no method needs another pass over the
calibration images. The candidates run in parallel over the evaluation images. One half of the images, the selection
split, selects a candidate; the other half, the evaluation split, gives its accuracy, because the accuracy of the best
of many candidates is biased on the images that selected it.
"""

import math
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from quantkit.config.method import Kl, MinMax, Mse, Percentile, method_name
from quantkit.data.parallel import available_cpus
from quantkit.errors import UsageError
from quantkit.evaluation.compare_models import EvaluatedModel, compare_models
from quantkit.evaluation.paired import PairedOutcomes, score_interval
from quantkit.evaluation.result import PERCENT, Comparison, ModelResult
from quantkit.evaluation.score_sqnr import score_sqnr_db
from quantkit.files import write_text
from quantkit.graph.qdq.plan import Plan
from quantkit.progress import NamedProgress, Progress, as_progress
from quantkit.ptq.run_correction import images_of
from quantkit.runs.configuration import recorded_with
from quantkit.runs.editable_files import write_editable
from quantkit.runs.folder import FP32, RunFolder
from quantkit.runs.inputs import model_inputs
from quantkit.runs.outliers import set_without_outliers
from quantkit.sensitivity.measure import LayerScorer, Quantization
from quantkit.types import BoolArray
from quantkit.vendors.vacc.write import BuildFile, VamcOptions, WeightScale, vendor_method
from quantkit.workflows.compare import ModelComparison, compare
from quantkit.workflows.vacc.build_file import ADVISED, CompilerOptions, choices_of_run, vamc_of_run
from quantkit.workflows.vacc.compiler_simulator import MODEL_OF_THE_COMPILER, CompilerSimulator

JSON_SCHEMA = 1
# From this agreement with fp32 on, in percent, a layer in float is not worth its time.
AGREES_ENOUGH = 99.0
MOST_SKIPS = 3
# The order of the layers is stable after few images; each layer costs a session.
SENSITIVITY_IMAGES = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """One combination of options with its results.

    Attributes:
        choices: the options.
        skip_convs: indices in graph order of convolutions left in float.
        chosen_on: result on the selection split.
        evaluated_on: result on the evaluation split.
        agrees: bool, agreement with fp32 on each image of the selection split.
    """

    choices: CompilerOptions
    skip_convs: tuple[int, ...]
    chosen_on: ModelResult
    evaluated_on: ModelResult
    agrees: BoolArray

    @property
    def weight_scale(self) -> WeightScale:
        """Rule for weight scales, in the vendor's terms."""
        return "power2" if self.choices.power_of_two else "max"

    def to_json(self) -> dict[str, Any]:
        """Return the options in the vendor's terms, and the results on both splits."""
        return {
            "calibrate_mode": vendor_method(self.choices.method),
            "quantize_per_channel": self.choices.per_channel,
            "weight_scale": self.weight_scale,
            "skip_conv_layers": list(self.skip_convs),
            "chosen_on": _figures(self.chosen_on),
            "evaluated_on": _figures(self.evaluated_on),
        }


@dataclass(frozen=True, kw_only=True)
class ConvSensitivity:
    """Sensitivity of a convolution.

    Attributes:
        conv: index in graph order.
        node: name of the node.
        gain_db: gain in the SQNR of the scores when only this convolution is left in float, in dB.
    """

    conv: int
    node: str
    gain_db: float


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Result of `advise`.

    Attributes:
        images: number of images in the selection split and in the evaluation split.
        candidates: every combination of options, then those with skipped convolutions, in the order tried.
        best: the candidate with the written options.
        sensitivities: sensitivities of the convolutions, the most costly first; empty if none was tried.
        path: the build file.
        command: the command that writes the same file.
        notes: remarks for the user.
    """

    images: tuple[int, int]
    candidates: tuple[Candidate, ...]
    best: Candidate
    sensitivities: tuple[ConvSensitivity, ...]
    path: Path
    command: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; infinite figures are null."""
        return {
            "schema": JSON_SCHEMA,
            "scheme": MODEL_OF_THE_COMPILER,
            "images": {"chosen_on": self.images[0], "evaluated_on": self.images[1]},
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "best": self.best.to_json(),
            "sensitivities": [
                {"conv": one.conv, "node": one.node, "gain_db": one.gain_db if math.isfinite(one.gain_db) else None}
                for one in self.sensitivities
            ],
            "file": str(self.path),
            "command": self.command,
            "notes": list(self.notes),
        }


def advise(
    run: Path,
    *,
    skips: int = MOST_SKIPS,
    out: Path | None = None,
    options: VamcOptions | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    **evaluated: Any,
) -> Advice:
    """Simulate every combination of compiler options on evaluation images, and write the best one as a build file.

    The best candidate has the highest agreement with fp32 on the selection split; of equals, the higher top-1, then the
    one tried first. A convolution in float costs time on the card, so a candidate with more skipped convolutions is
    selected only if its gain in agreement is significant: the 95 % interval of the paired difference is above zero.

    Args:
        run: run folder of `calibrate`; its layers in float are in float in every candidate.
        skips: maximum number of sensitive convolutions to try in float; 0 for none.
        out: build file to write; in the run folder by default.
        options: further options of the build file; its weight scale is set by the search.
        threads: number of worker threads; one per processor by default.
        progress: receives the progress.
        evaluated: what is evaluated: ``images``, ``labels``, ``names``, ``exclude`` and ``limit`` of `compare`.

    Raises:
        UsageError: this is not a run folder, or there is only one evaluation image.
        ProvenanceError: model or statistics are not those of the run.
        ModelError: the model cannot be quantized or run.
        LabelError: labels are missing, malformed or out of range for the model.
        CalibrationSetError: there are no images.
        ImageError: an image cannot be decoded.
        OutputError: the file cannot be written.
    """
    options = options or VamcOptions()
    vamc_of_run(run, options=options)  # raises before the work if the build file cannot be written
    simulator = CompilerSimulator.of_run(run)
    threads = threads or available_cpus()
    evaluate = partial(
        compare,
        run=run,
        drift_images=0,
        threads=threads,
        progress=NamedProgress(as_progress(progress), "simulating"),
        **evaluated,
    )
    base = choices_of_run(simulator.run.record)
    candidates, evaluation = _try(simulator, list(_combinations(base)), evaluate)
    best = _most_agreeing(candidates)
    notes = list(evaluation.warnings)
    sensitivities: tuple[ConvSensitivity, ...] = ()
    if skips and _agreement(best) < AGREES_ENOUGH:
        sensitivities = sensitivities_of(simulator, best.choices, threads=threads)
        if not sensitivities:
            notes.append("no convolution was tried in float: the calibration images are not available")
        if trials := list(_skip_lists(best.choices, sensitivities, skips)):
            skipping, _ = _try(simulator, trials, evaluate)
            candidates += skipping
            best = worth_skipping(best, skipping)
    path = out or run / ADVISED
    build, command = _build(run, best, path, replace(options, weight_scale=best.weight_scale))
    if out is None:
        folder = RunFolder(run)
        with folder.locked():
            notes += write_editable(folder, path, build.text)
    else:
        write_text(path, build.text)
    count = evaluation.images
    return Advice(
        images=(count - count // 2, count // 2),
        candidates=tuple(candidates),
        best=best,
        sensitivities=sensitivities,
        path=path,
        command=command,
        notes=(*notes, *build.notes),
    )


def sensitivities_of(
    simulator: CompilerSimulator, choices: CompilerOptions, *, threads: int
) -> tuple[ConvSensitivity, ...]:
    """Return the sensitivity of each convolution, the most costly first; empty without the calibration images.

    Outlier images are left out, unless the compiler gets them.

    Args:
        simulator: simulator of the run.
        choices: options of the int8 model, in which one convolution at a time is left in float.
        threads: number of images run in parallel.

    Raises:
        ImageError: an image cannot be decoded.
        ModelError: the model cannot be run.
    """
    images = images_of(simulator.run.record)
    made = simulator.plan(choices)
    if images is None or len(made.layers) < 2:
        return ()
    prepared = simulator.run.prepared.model
    outliers = () if choices.keep_outliers else simulator.run.record.set.outliers
    taken = set_without_outliers(images.chosen, outliers).items[:SENSITIVITY_IMAGES]
    inputs = model_inputs(prepared, taken, images.pipeline, threads)
    quantization = Quantization(target=choices.target, ranges=simulator.ranges(choices), left_out=choices.left_out)
    scorer = LayerScorer(prepared, quantization, inputs, threads=threads)
    whole = score_sqnr_db(scorer.reference, scorer.int8)
    gains = [
        ConvSensitivity(
            conv=made.conv_index[layer.node],
            node=layer.node,
            gain_db=score_sqnr_db(scorer.reference, scorer.leave_one_out(layer)) - whole,
        )
        for layer in scorer.layers
        if layer.node in made.conv_index
    ]
    return tuple(sorted(gains, key=lambda one: -one.gain_db))


def worth_skipping(best: Candidate, skipping: Sequence[Candidate]) -> Candidate:
    """Return the best candidate, with skipped convolutions only if each longer list gains significantly.

    Args:
        best: the best candidate without skipped convolutions.
        skipping: candidates with an increasing number of skipped convolutions.
    """
    for one in skipping:
        if score_interval(PairedOutcomes.of(best.agrees, one.agrees)).lo > 0.0:
            best = one
    return best


def _combinations(base: CompilerOptions) -> Iterator[CompilerOptions]:
    """Yield every combination of method and weight scheme; percentile keeps the run's fraction."""
    percentile = base.method if isinstance(base.method, Percentile) else Percentile()
    for method in (percentile, Kl(), MinMax(), Mse()):
        for per_channel in (True, False):
            for power_of_two in (False, True):
                yield replace(base, method=method, per_channel=per_channel, power_of_two=power_of_two)


def _skip_lists(
    best: CompilerOptions, sensitivities: Sequence[ConvSensitivity], most: int
) -> Iterator[CompilerOptions]:
    """Yield the best options with the most sensitive convolution in float, with the two most sensitive, and so on."""
    costly = [one.conv for one in sensitivities if one.gain_db > 0.0]
    for count in range(1, min(most, len(costly), len(sensitivities) - 1) + 1):
        yield _skipping(best, costly[:count])


def _skipping(choices: CompilerOptions, convs: Sequence[int]) -> CompilerOptions:
    left_out = choices.left_out
    return replace(choices, left_out=replace(left_out, skip_convs=tuple(sorted({*left_out.skip_convs, *convs}))))


def _try(
    simulator: CompilerSimulator, trials: Sequence[CompilerOptions], evaluate: Callable[..., ModelComparison]
) -> tuple[list[Candidate], ModelComparison]:
    """Run the int8 models of all trials over the images, and compare them on each split."""
    with tempfile.TemporaryDirectory(prefix="quantkit-advise-") as folder:
        paths = [
            simulator.write(choices, Path(folder) / f"candidate{index}.onnx") for index, choices in enumerate(trials)
        ]
        with recorded_with("compare", None):
            evaluation = evaluate([FP32, *paths])
    if evaluation.images < 2:
        raise UsageError("needs at least two images", where=evaluation.source.root, fix="give more images")
    selection, holdout_images = (_half(evaluation.answers, start) for start in (0, 1))
    reference, *answers = (answer.predictions.top1[::2] for answer in evaluation.answers)
    rows = zip(trials, selection.candidates, holdout_images.candidates, answers, strict=True)
    return [
        Candidate(
            choices=choices,
            skip_convs=_floats(simulator.plan(choices)),
            chosen_on=chosen_on,
            evaluated_on=evaluated_on,
            agrees=answer == reference,
        )
        for choices, chosen_on, evaluated_on, answer in rows
    ], evaluation


def _half(answers: Sequence[EvaluatedModel], start: int) -> Comparison:
    """Compare on every other image, so that both splits contain all classes if the images are sorted by class."""
    taken = range(start, len(answers[0].predictions), 2)
    return compare_models(
        [
            replace(one, predictions=one.predictions.only(taken), kl=None if one.kl is None else one.kl[start::2])
            for one in answers
        ]
    )


def _floats(made: Plan) -> tuple[int, ...]:
    integer = {layer.node for layer in made.layers}
    return tuple(index for node, index in made.conv_index.items() if node not in integer)


def _most_agreeing(candidates: Sequence[Candidate]) -> Candidate:
    return max(candidates, key=lambda one: (int(one.agrees.sum()), one.chosen_on.top1 or 0.0))


def _agreement(candidate: Candidate) -> float:
    return PERCENT * float(candidate.agrees.mean())


def _build(run: Path, best: Candidate, out: Path, options: VamcOptions) -> tuple[BuildFile, str]:
    """Return the build file of the best options, and the command that writes the same file."""
    choices = best.choices
    build, _ = vamc_of_run(
        run,
        method=choices.method,
        per_channel=choices.per_channel,
        skip_convs=best.skip_convs,
        bias_correction=False,  # as the candidates were simulated
        options=options,
    )
    words = ["quantkit", "vamc", "write", "--run", str(run), "--method", method_name(choices.method)]
    if isinstance(choices.method, Percentile):
        words += ["--fraction", f"{choices.method.fraction!r}"]
    words += ["--per-channel" if choices.per_channel else "--per-tensor", "--weight-scale", best.weight_scale]
    for conv in best.skip_convs:
        words += ["--skip-conv", str(conv)]
    words += ["--no-bias-correction", "--dialect", options.dialect]
    if options.calibration_folder is not None:
        words += ["--calibration-folder", str(options.calibration_folder)]
    return build, shlex.join([*words, "--out", str(out)])


def _figures(result: ModelResult) -> dict[str, Any]:
    """Return the figures of one split that candidates are compared by."""
    wanted = ("top1", "delta_top1", "delta_top1_ci95", "mcnemar_p", "agreement", "agreement_ci95", "changed", "kl")
    whole = result.to_json()
    return {key: whole[key] for key in wanted}

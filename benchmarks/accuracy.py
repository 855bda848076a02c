"""What int8 costs and what tuning wins back, on real models, with other quantizers beside ours, in one table.

    python benchmarks/accuracy.py [--models a,b] [--targets ort,ort-per-tensor,vacc] [--peers none|all] [--json FILE]
    python benchmarks/accuracy.py --methods [--models a,b] [--targets ort,vacc] [--peers none|all]
    python benchmarks/accuracy.py --model FILE --set SET.csv --images FOLDER --preset NAME_OR_YAML [--unlabelled] ...

``default`` is what ``quantkit calibrate`` makes, ``tuned`` what ``quantkit tune`` makes of it: for ``ort`` towards a
drop of 0.3 points and an agreement set for each model, with no layer in float unless ``--max-float`` allows it; for
``vacc`` towards a drop of one point with at most three convolutions skipped. Calibration and evaluation images are
disjoint. ``latency`` is the time of one image, one thread, against fp32, both in turn. Peers get the same calibration
images and are evaluated on the same others: onnxruntime's quantize_static by each of its methods, and nncf where it is
installed. With ``--methods``, nothing is tuned: the models of ``quantkit calibrate`` by each method and by ``auto``,
without their latency, for ``ort`` unless ``--targets`` names others. The models and images are those kept beside the
checkout, or with ``--model`` any others: a calibration set, and a folder of labelled images without those of the set;
with ``--unlabelled``, for images of other classes than the model's, the answers of fp32 are their labels.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from inputs import SHARED
from onnxruntime_static import write_static

from quantkit.config.method import METHODS, method_words
from quantkit.config.pipeline import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PRESETS,
    CenterCrop,
    Decode,
    Normalize,
    Pipeline,
    Resize,
    ToTensor,
)
from quantkit.config.project import Project
from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.folder import find_labelled_images
from quantkit.data.overlap import overlap
from quantkit.data.parallel import available_cpus
from quantkit.data.preprocess import preprocess
from quantkit.data.source import ImageSource
from quantkit.engine.classifier import read_classifier
from quantkit.engine.scores import scores_of
from quantkit.evaluation.result import Comparison, ModelResult
from quantkit.runs.folder import FP32
from quantkit.runs.inputs import ModelInputs
from quantkit.search.mixed_precision import FloatBudget
from quantkit.search.stages import Goal
from quantkit.targets import ORT, VACC, Target
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.project import choose_pipeline
from quantkit.workflows.quantize import quantize
from quantkit.workflows.quantize_task import QuantizeOptions
from quantkit.workflows.tune import TuneOptions, tune

CIFAR_AT_128 = Pipeline(
    ops=(Decode(), Resize(size=(128, 128)), ToTensor(), Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD))
)

# Inception's scaling, (x - 127) / 128 of 0..255, on crops of 256 pixels resized by bicubic interpolation.
LITE = Pipeline(
    ops=(
        Decode(),
        Resize(size=256, interpolation="bicubic"),
        CenterCrop(size=(224, 224)),
        ToTensor(),
        Normalize(mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
    )
)


@dataclass(frozen=True)
class Case:
    """One model with its images.

    Attributes:
        model: its file.
        pipeline: its preprocessing.
        chosen: calibration set.
        holdout_images: the evaluation images.
        min_agreement: percent of the answers that tuning aims for.
    """

    model: Path
    pipeline: Pipeline
    chosen: CalibrationSet
    holdout_images: ImageSource
    min_agreement: float


@dataclass(frozen=True)
class Form:
    """One way a model is to run: a target and its weights."""

    target: Target
    options: QuantizeOptions


FORMS = {
    "ort": Form(ORT, QuantizeOptions()),
    "ort-per-tensor": Form(ORT, QuantizeOptions(per_channel=False)),
    "vacc": Form(VACC, QuantizeOptions()),
}


def main() -> int:
    """Measure, print and write."""
    arguments = parse()
    cases = CASES if arguments.model is None else {arguments.model.stem: lambda _: given(arguments)}
    if arguments.model is None and not SHARED.is_dir():
        print(f"skipped: needs real models and photographs in {SHARED}")
        return 0
    found: dict[str, Any] = {"models": {}}
    with tempfile.TemporaryDirectory(prefix="quantkit-accuracy-") as name:
        folder = Path(name)
        for model in arguments.models.split(",") if arguments.model is None else cases:
            case = cases[model](folder)
            found["models"][model] = measure(case, folder / model, arguments)
            print_table(model, found["models"][model])
            if arguments.json is not None:
                arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(CASES))
    parser.add_argument("--targets", help="default: all, and with --methods ort")
    parser.add_argument("--methods", action="store_true", help="compare the calibration methods, and tune nothing")
    parser.add_argument("--peers", choices=("none", "all"), default="all")
    parser.add_argument("--max-float", type=float, default=0.0, help="share of multiply-adds tuning may leave in float")
    parser.add_argument("--json", type=Path)
    own = parser.add_argument_group("a model of your own")
    own.add_argument("--model", type=Path, help="ONNX classifier")
    own.add_argument("--set", type=Path, help="calibration set")
    own.add_argument("--images", type=Path, help="folder of labelled images")
    own.add_argument("--preset", help="preprocessing: a preset's name, or a YAML file with ops")
    own.add_argument("--unlabelled", action="store_true", help="take the answers of fp32 for labels")
    own.add_argument("--min-agreement", type=float, default=98.0, help="percent of the answers that tuning aims for")
    arguments = parser.parse_args()
    if arguments.model is not None and None in (arguments.set, arguments.images, arguments.preset):
        parser.error("--model needs --set, --images and --preset")
    arguments.targets = arguments.targets or ("ort" if arguments.methods else ",".join(FORMS))
    for asked, known in ((arguments.models, CASES), (arguments.targets, FORMS)):
        if unknown := set(asked.split(",")) - known.keys():
            parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return arguments


def given(arguments: argparse.Namespace) -> Case:
    """Return the case of a model on the command line."""
    pipeline, chosen = choose_pipeline(arguments.preset, Project()), CalibrationSet.load(arguments.set)
    assert pipeline is not None
    holdout_images = without(find_labelled_images(arguments.images, None, None), chosen)
    if arguments.unlabelled:
        model = read_classifier(arguments.model).core
        inputs = ModelInputs(model, holdout_images.items, partial(preprocess, pipeline=pipeline))
        labels = scores_of(model, inputs, threads=available_cpus()).argmax(axis=1)
        holdout_images = replace(holdout_images, labels=labels)
    return Case(arguments.model, pipeline, chosen, holdout_images, arguments.min_agreement)


def squeezenet(folder: Path) -> Case:
    """300 of the 1,000 photographs calibrate; the others are for evaluation."""
    photos = find_labelled_images(SHARED / "imagenet_samples", None, None)
    chosen = saved(build_calibration_set(photos.root, count=300, seed=0), folder / "squeezenet.csv")
    return Case(SHARED / "squeezenet1_1.onnx", PRESETS["imagenet"], chosen, without(photos, chosen), 97.0)


def resnet20(folder: Path) -> Case:
    """500 training images calibrate; the 10,000 test images are for evaluation."""
    chosen = saved(build_calibration_set(unpacked("cifar10_train2k", folder), count=500, seed=0), folder / "resnet.csv")
    holdout_images = find_labelled_images(unpacked("cifar10_test", folder), None, None)
    return Case(SHARED / "cifar_resnet20.onnx", PRESETS["cifar10"], chosen, holdout_images, 99.3)


def mobilenetv2(folder: Path) -> Case:
    """200 training images calibrate; the first 200 test images of each class are for evaluation."""
    chosen = saved(build_calibration_set(unpacked("cifar10_train2k", folder), count=200, seed=0), folder / "mobile.csv")
    tests = find_labelled_images(unpacked("cifar10_test", folder), None, None)
    assert tests.labels is not None
    first = [int(place) for label in range(10) for place in np.flatnonzero(tests.labels == label)[:200]]
    return Case(SHARED / "mobilenetv2_cifar10.onnx", CIFAR_AT_128, chosen, tests.only(sorted(first)), 95.0)


def efficientnet_lite0(folder: Path) -> Case:
    """300 of the 1,000 photographs calibrate; the others are for evaluation."""
    photos = find_labelled_images(SHARED / "imagenet_samples", None, None)
    chosen = saved(build_calibration_set(photos.root, count=300, seed=7), folder / "lite0.csv")
    return Case(SHARED / "efficientnet_lite0.onnx", LITE, chosen, without(photos, chosen), 99.3)


CASES: dict[str, Callable[[Path], Case]] = {
    "squeezenet1_1": squeezenet,
    "cifar_resnet20": resnet20,
    "mobilenetv2_cifar10": mobilenetv2,
    "efficientnet_lite0": efficientnet_lite0,
}


def saved(chosen: CalibrationSet, path: Path) -> CalibrationSet:
    """Write a set, so that a run can name it, and read it again."""
    chosen.save(path)
    return CalibrationSet.load(path)


def unpacked(name: str, folder: Path) -> Path:
    """Return the folder of an archive, unpacked where it is not yet."""
    if not (folder / name).is_dir():
        with zipfile.ZipFile(SHARED / f"{name}.zip") as archive:
            archive.extractall(folder)
    return folder / name


def without(images: ImageSource, chosen: CalibrationSet) -> ImageSource:
    """Return the images that are not in a set."""
    taken = set(overlap(chosen, images.items))
    return images.only([place for place in range(len(images.names)) if place not in taken])


def measure(case: Case, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one model: every target, default and tuned, and the peers."""
    found: dict[str, Any] = {}
    for name in arguments.targets.split(","):
        if arguments.methods:
            found[f"methods of {name}"] = measure_methods(case, folder / name, FORMS[name])
        else:
            found[name] = measure_form(case, folder / name, FORMS[name], arguments.max_float)
    if arguments.peers == "all":
        found["peers"] = dict(measure_peers(case, folder))
    return found


def measure_form(case: Case, run: Path, form: Form, max_float: float) -> dict[str, Any]:
    """Return the figures of one model for one target."""
    start_s = time.perf_counter()
    manifest = run.parent.parent / f"{run.parent.name}-{run.name}.csv"
    case.chosen.save(manifest)
    done = calibrate(case.model, manifest, case.pipeline, run=run, target=form.target, options=form.options)
    default_s = time.perf_counter() - start_s
    start_s = time.perf_counter()
    tuned = tune(
        run, options_of(case, form, max_float), target=form.target, options=form.options, images=case.holdout_images
    )
    tuned_s = time.perf_counter() - start_s
    result = compare(
        [FP32, done.quantized.name, tuned.name], run=run, images=case.holdout_images, drift_images=0, latency=True
    )
    default, best = result.candidates
    trial = tuned.outcome.best
    return {
        "fp32_top1": result.reference.top1,
        "default": figures(result, default)
        | {"float_macs_percent": 100.0 * tuned.trials[0].float_macs, "seconds": default_s},
        "tuned": figures(result, best)
        | {
            "float_macs_percent": 100.0 * trial.float_macs,
            "seconds": tuned_s,
            "recipe": trial.recipe.describe(),
            "verdict": tuned.outcome.verdict.value,
        },
        "steps": [
            {"recipe": one.recipe.describe(), "agreement": 100.0 * one.holdout.agreement}
            | {"delta_top1": 100.0 * one.holdout.delta}
            for one in tuned.trials
            if one.holdout is not None
        ],
    }


def measure_methods(case: Case, run: Path, form: Form) -> dict[str, Any]:
    """Return the figures of every method and of auto for one target."""
    manifest = run.parent.parent / f"{run.parent.name}-{run.name}.csv"
    case.chosen.save(manifest)
    forms = {"target": form.target, "options": form.options}
    start_s = time.perf_counter()
    done = calibrate(case.model, manifest, case.pipeline, run=run, method="auto", **forms)
    seconds = [time.perf_counter() - start_s]
    for name in METHODS:
        start_s = time.perf_counter()
        quantize(run, method=name, out=run / f"by-{name}.onnx", **forms)
        seconds.append(time.perf_counter() - start_s)
    result = compare(
        [FP32, done.quantized.name, *(f"by-{name}" for name in METHODS)],
        run=run,
        images=case.holdout_images,
        drift_images=0,
    )
    labels = [f"auto: {method_words(done.quantized.method)}", *METHODS]
    rows = zip(labels, result.candidates, seconds, strict=True)
    return {label: figures(result, one) | {"seconds": spent} for label, one, spent in rows}


def options_of(case: Case, form: Form, max_float: float) -> TuneOptions:
    """Return what tuning aims at, and what it may spend."""
    if form.target.name == VACC.name:
        return TuneOptions(goal=Goal(max_drop=1), budget=FloatBudget(layers=3, convs_only=True))
    goal = Goal(max_drop=0.3, min_agreement=case.min_agreement)
    return TuneOptions(goal=goal, budget=FloatBudget(macs=100.0 * max_float, layers=None if max_float else 0))


def figures(result: Comparison, one: ModelResult) -> dict[str, Any]:
    """Return what the table shows of a model."""
    assert one.versus is not None
    assert one.versus.top1 is not None
    assert one.versus.top1.ci95 is not None
    fp32_ms = result.reference.latency_ms
    return {
        "fp32_top1": result.reference.top1,
        "top1": one.top1,
        "delta_top1": one.versus.top1.value,
        "delta_top1_ci95": [one.versus.top1.ci95.lo, one.versus.top1.ci95.hi],
        "agreement": one.versus.agreement,
        "latency_ratio_to_fp32": one.latency_ms / fp32_ms if one.latency_ms and fp32_ms else None,
    }


def measure_peers(case: Case, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the figures of other quantizers."""
    images = [preprocess(image, case.pipeline)[None] for image in case.chosen.items]
    folder.mkdir(exist_ok=True)
    makers: dict[str, Callable[[Path], None]] = {}
    for method in ("MinMax", "Entropy", "Percentile"):
        makers[f"onnxruntime {method.lower()}"] = lambda out, method=method: by_onnxruntime(case, images, method, out)
    if importlib.util.find_spec("nncf") is not None:
        makers["nncf mixed"] = lambda out: by_nncf(case, images, out)
    else:
        print("nncf is not installed: left out")
    for name, make in makers.items():
        out = folder / f"{name.replace(' ', '-')}.onnx"
        start_s = time.perf_counter()
        try:
            make(out)
        except Exception as error:  # a peer's failure is a result, and ends nothing
            print(f"{name} failed: {type(error).__name__}: {error}")
            continue
        seconds = time.perf_counter() - start_s
        result = compare(
            [case.model, out], pipeline=case.pipeline, images=case.holdout_images, drift_images=0, latency=True
        )
        yield name, figures(result, result.candidates[0]) | {"seconds": seconds}


def by_onnxruntime(case: Case, images: list[np.ndarray], method: str, out: Path) -> None:
    """Quantize with onnxruntime, on at most 100 images: its percentile keeps every activation of every image."""
    feed = ort.InferenceSession(case.model).get_inputs()[0].name
    write_static(case.model, feed, images[:100], out, method)


def by_nncf(case: Case, images: list[np.ndarray], out: Path) -> None:
    """Quantize with nncf's mixed preset and its fast bias correction."""
    import nncf
    import onnx

    feed = ort.InferenceSession(case.model).get_inputs()[0].name
    dataset = nncf.Dataset([{feed: image} for image in images])
    preset = nncf.QuantizationPreset.MIXED
    onnx.save(nncf.quantize(onnx.load(case.model), dataset, subset_size=len(images), preset=preset), out)


def print_table(model: str, found: dict[str, Any]) -> None:
    """Print one model's figures."""
    first = next(iter(found.values()))
    first = next(iter(first.values())) if "fp32_top1" not in first else first
    print(f"\n{model}: top-1 of fp32 {first['fp32_top1']:.2f}")
    print(f"{'':44}{'top-1':>7} {'difference, 95 % interval':>27} {'agree':>7} {'float':>7} {'latency':>8} {'s':>6}")
    for target, forms in found.items():
        listed = target not in FORMS  # by name
        for name, one in forms.items() if listed else [(k, forms[k]) for k in ("default", "tuned")]:
            label = name if listed else f"{target} {name} {one.get('recipe', '')}"
            low, high = one["delta_top1_ci95"]
            difference = f"{one['delta_top1']:+.2f} [{low:+.2f}, {high:+.2f}]"
            share, ratio = one.get("float_macs_percent", 0.0), one["latency_ratio_to_fp32"]
            row = f"{label[:43]:44}{one['top1']:7.2f} {difference:>27} {one['agreement']:7.2f} {share:6.1f}%"
            print(f"{row} {'–' if ratio is None else f'{ratio:.2f}':>8} {one['seconds']:6.0f}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

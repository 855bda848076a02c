"""Tuning of a run: the files it writes, resumption after an interruption, and the files for the card."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from models import copied_run, uneven_model, write_images
from progress_log import ProgressLog

from quantkit.config.choices import Stage
from quantkit.config.method import Percentile
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data import decoded, preprocess
from quantkit.data.build_set import build_calibration_set
from quantkit.data.folder import find_labelled_images
from quantkit.data.overlap import digest_of
from quantkit.errors import CalibrationSetError, UsageError
from quantkit.graph.analysis.selection import conv2d_nodes
from quantkit.graph.model import read_model
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import PlanOptions, plan
from quantkit.ptq.input_folding import LEVELS, Levels, with_input_folding
from quantkit.runs.folder import RunFolder
from quantkit.search import deadline
from quantkit.search import stages as search
from quantkit.search import tuning_data as tune_material
from quantkit.search.budget import FloatBudget
from quantkit.search.candidate_builder import CandidateBuilder
from quantkit.search.stages import Goal, Verdict
from quantkit.search.tuning_data import SELECTION_STRIDE, tuning_data
from quantkit.targets import ORT, VACC
from quantkit.vendors.vacc.convert import read_spec
from quantkit.vendors.vacc.dialects import BuildSpec
from quantkit.vendors.vacc.document import Document
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.quantize_task import QuantizeOptions
from quantkit.workflows.tune import TuneOptions, Tuning, _coverage, tune

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))
EVERYTHING = TuneOptions(goal=Goal(max_drop=0, min_agreement=100), budget=FloatBudget(macs=60))


@pytest.fixture
def run(uneven_run: Path, tmp_path: Path) -> Path:
    return copied_run(uneven_run, tmp_path)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the recipes that are made, in order."""
    recipes: list[object] = []
    make = CandidateBuilder.make

    def counted(self, recipe, progress=None):
        recipes.append(recipe)
        return make(self, recipe, progress)

    monkeypatch.setattr(CandidateBuilder, "make", counted)
    return recipes


def build_file(done: Tuning) -> Path:
    return next(path for path in done.files if path.name == "vamc-tuned.yaml")


def spec_of(path: Path) -> BuildSpec:
    return read_spec(Document.load(path))


def scores(path: Path, count: int = 6) -> np.ndarray:
    session = ort.InferenceSession(path)
    shape = [size if isinstance(size, int) else count for size in session.get_inputs()[0].shape]
    x = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def test_tune_kept_model_has_figures_of_log(run: Path) -> None:
    done = tune(run, EVERYTHING)
    log = json.loads(done.log.read_text())
    assert log == json.loads(json.dumps(done.to_json()))
    assert {one["stage"] for one in log["trials"]} >= {"default", "equalization", "rounding"}
    best = done.outcome.best
    assert best.holdout is not None
    distances = [one.closeness.distance for one in done.trials]
    assert best.closeness.distance <= distances[0], "the default is the first trial"
    result = compare(["fp32", "int8-tuned"], run=run, drift_images=0)
    versus = result.candidates[0].versus
    assert versus is not None
    assert versus.agreement == pytest.approx(100 * best.holdout.agreement)
    assert result.images == best.holdout.images


def test_tune_rows_distances_rank_the_trials(run: Path) -> None:
    done = tune(run, EVERYTHING)
    distances = [row["distance"] for row in done.rows()]
    best = done.trials.index(done.outcome.best)
    assert distances[best] == 1.0
    assert distances[0] == done.trials[0].closeness.distance / done.outcome.best.closeness.distance
    exact = replace(done.outcome.best, closeness=replace(done.outcome.best.closeness, expected_kl=0.0))
    equal = replace(done, outcome=replace(done.outcome, best=exact))
    assert {row["distance"] for row in equal.rows()} == {None}


def test_tune_first_trial_is_model_of_calibrate(run: Path) -> None:
    done = tune(run, replace(EVERYTHING, goal=Goal(max_drop=100)))
    assert done.outcome.verdict is Verdict.MET
    assert len(done.trials) == 1
    assert done.trials[0].recipe.method == Percentile(fraction=0.999)
    assert done.trials[0].float_macs == 0.0


def test_tune_repeated_or_interrupted_gives_same_bits(
    run: Path, made: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tune(run, EVERYTHING)
    wanted, log = whole.path.read_bytes(), whole.outcome.best.closeness
    made.clear()
    again = tune(run, EVERYTHING)
    assert again.path.read_bytes() == wanted
    assert not made, "the model that is kept is on disk"
    again.path.write_bytes(b"another file")
    assert tune(run, EVERYTHING).path.read_bytes() == wanted
    assert len(made) == 1, "the model that is kept, and no other"

    counted = CandidateBuilder.make

    def interrupted(self, recipe, progress=None):
        if len(made) == 4:
            raise KeyboardInterrupt
        return counted(self, recipe, progress)

    made.clear()
    monkeypatch.setattr(CandidateBuilder, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(run, EVERYTHING, fresh=True)
    before = len(made)
    monkeypatch.setattr(CandidateBuilder, "make", counted)
    resumed = tune(run, EVERYTHING)
    assert resumed.path.read_bytes() == wanted
    assert resumed.outcome.best.closeness == log
    assert len(made) - before < len(resumed.trials)
    assert not list(run.glob("tune-candidate*"))


def test_tune_after_a_pass_over_more_images_repeats_the_trials(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", per_class=30)
    build_calibration_set(images, count=60).save(tmp_path / "set.csv")
    given = (uneven_model(tmp_path / "tiny.onnx"), tmp_path / "set.csv", PIPELINE)
    goal = replace(EVERYTHING, goal=Goal(max_drop=100))
    assert len(calibrate(*given, run=tmp_path / "run", until_stable=1000).statistics.images) == 24
    [before] = tune(tmp_path / "run", goal).trials
    assert len(calibrate(*given, run=tmp_path / "run").statistics.images) == 60
    [after] = tune(tmp_path / "run", goal).trials
    [again] = tune(tmp_path / "run", goal, fresh=True).trials
    assert after.closeness == again.closeness != before.closeness


def test_tune_interrupted_leaves_the_best_model_so_far(
    run: Path, made: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = CandidateBuilder.make

    def interrupted(self, recipe, progress=None):
        if made:
            raise KeyboardInterrupt
        return counted(self, recipe, progress)

    monkeypatch.setattr(CandidateBuilder, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(run, EVERYTHING)
    assert len(made) == 1
    assert np.isfinite(scores(run / "int8-tuned.onnx")).all()
    assert compare(["fp32", "int8-tuned"], run=run, drift_images=0).candidates[0].versus is not None


def test_tune_decodes_no_image_twice(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decodings: list[Path] = []
    read = preprocess.pixels_of

    def counted(data: bytes, pipeline: Pipeline, where: Path):
        decodings.append(where)
        return read(data, pipeline, where)

    monkeypatch.setattr(decoded, "pixels_of", counted)
    monkeypatch.setattr(preprocess, "pixels_of", counted)
    tune(run, EVERYTHING)
    assert decodings
    assert len(decodings) == len(set(decodings))


def test_tune_estimates_its_time_once(run: Path) -> None:
    first, again = ProgressLog(), ProgressLog()
    tune(run, EVERYTHING, progress=first)
    assert len([text for text in first.messages if "estimated time" in text]) == 1
    tune(run, EVERYTHING, progress=again)
    assert not any("estimated time" in text for text in again.messages), "all trials are cached"
    assert not any("is built again" in text for text in first.messages)
    assert any("nothing is built again" in text for text in again.messages)


def test_tune_result_of_search_is_not_made_twice(
    run: Path, made: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "EARNED", dict.fromkeys(Stage, 0.0))
    done = tune(run, replace(EVERYTHING, budget=FloatBudget(layers=0)))
    assert done.outcome.best.stage == "default", "nothing earned its place"
    assert min(done.trials, key=lambda one: one.closeness.distance).stage != "default"
    assert len(made) == len(set(made)) == len(done.trials)


def test_tune_damaged_cache_entries_are_tried_again(run: Path) -> None:
    first = tune(run, EVERYTHING)
    for entry in (run / "cache/trials").iterdir():
        entry.write_bytes(entry.read_bytes()[:200])
    assert tune(run, EVERYTHING).path.read_bytes() == first.path.read_bytes()


def test_tune_other_labels_are_evaluated_again(run: Path, tmp_path: Path) -> None:
    images = find_labelled_images(tmp_path / "images", None, None)
    assert images.labels is not None
    evaluated = [
        tune(run, EVERYTHING, images=replace(images, labels=labels)).outcome.best.holdout
        for labels in (images.labels, (images.labels + 1) % 4)
    ]
    assert evaluated[0].agreement == evaluated[1].agreement
    assert evaluated[0].delta != evaluated[1].delta


def test_tune_selection_and_fit_images_are_disjoint(run: Path, tmp_path: Path) -> None:
    model = prepare(read_model(tmp_path / "tiny.onnx")).model
    chosen = build_calibration_set(tmp_path / "images", count=56)
    outliers = chosen.images[4].sha256
    held = tuning_data(model, chosen, {outliers}, PIPELINE, threads=2)
    work, selection = ({image.tobytes() for image in images} for images in (held.work, held.selection))
    assert not work & selection
    assert len(held.selection) == len(chosen) // SELECTION_STRIDE
    assert len(held.work) + len(held.selection) == len(chosen) - 1
    assert digest_of(held.observed[held.outliers[0]]) == outliers
    assert {image.tobytes() for image in held.ranging} == work, "there are no others"


def test_tune_refines_ranges_on_images_of_their_own(run: Path, tmp_path: Path, monkeypatch) -> None:
    model = prepare(read_model(tmp_path / "tiny.onnx")).model
    chosen = build_calibration_set(tmp_path / "images", count=56)
    for name, count in (("FIT_IMAGES", 10), ("MAX_FIT_IMAGES", 10), ("LEAST_RANGING", 8), ("RANGING", 8)):
        monkeypatch.setattr(tune_material, name, count)
    held = tuning_data(model, chosen, (), PIPELINE, threads=2)
    work, ranging, selection = ({one.tobytes() for one in part} for part in (held.work, held.ranging, held.selection))
    assert (len(work), len(ranging)) == (10, 8)
    assert not ranging & (work | selection)


def vacc(run: Path, **options) -> Tuning:
    budget = FloatBudget(macs=100, layers=1, convs_only=True)
    return tune(run, replace(EVERYTHING, budget=budget, **options), target=VACC)


def test_tune_files_for_the_compiler_match_the_simulation(run: Path, tmp_path: Path) -> None:
    """A run of its own on the rewritten fp32 model, with the options of the build file, makes the same int8 model."""
    done = vacc(run, write_fp32=tmp_path / "better.onnx")
    best = done.outcome.best.recipe
    assert done.fp32 == tmp_path / "better.onnx"
    spec = spec_of(build_file(done))
    assert spec.frontend.checkpoint == str(tmp_path / "better.onnx")
    calibrate(
        done.fp32,
        tmp_path / "set.csv",
        PIPELINE,
        run=tmp_path / "again",
        method=best.method,
        target=VACC,
        options=QuantizeOptions(
            per_channel=spec.backend.quantize.quantize_per_channel,
            power_of_two=spec.backend.quantize.weight_scale == "power2",
            skip=tuple(f"conv:{index}" for index in spec.backend.quantize.skip_conv_layers or ()),
            bias_correction=False,
        ),
    )
    np.testing.assert_array_equal(scores(tmp_path / "again" / "int8-vacc.onnx"), scores(done.path))


def test_tune_for_vacc_names_skipped_convolutions_by_index(run: Path) -> None:
    done = vacc(run)
    spec = spec_of(build_file(done))
    model = prepare(read_model(Path(str(spec.frontend.checkpoint)))).model
    convs = conv2d_nodes(model.graph)
    assert [convs[index] for index in spec.backend.quantize.skip_conv_layers or ()] == list(
        done.outcome.best.recipe.skip
    )


def test_tune_coverage_explains_layer_of_input_folding(run: Path) -> None:
    model = prepare(read_model(run.parent / "tiny.onnx")).model
    levels = Levels(np.zeros(3), np.full(3, 1.0 / 255.0))
    made = plan(with_input_folding(model, levels), ORT, PlanOptions(skip=(LEVELS,)))
    subject: Any = SimpleNamespace(run=SimpleNamespace(record=RunFolder(run).read()))
    found = _coverage(subject, made)
    [layer] = found.float_layers
    assert layer.why.startswith("added by input folding")
    assert layer.why in str(found)


def test_tune_rescaling_alone_keeps_function(run: Path) -> None:
    done = vacc(run)
    if done.outcome.best.recipe.equalization:
        assert done.rescaling_change is not None
        assert done.rescaling_change <= 1e-4


def test_tune_for_vacc_without_rewriting_keeps_original(run: Path, tmp_path: Path) -> None:
    done = vacc(run, rewrite=False)
    assert done.fp32 is None
    assert spec_of(build_file(done)).frontend.checkpoint == str((tmp_path / "tiny.onnx").resolve())
    assert {one.stage for one in done.trials} <= {"default", "method", "precision"}


def test_tune_out_of_time_gives_up_begun_work(run: Path, monkeypatch) -> None:
    """The clock stands until the first range is refined, and is then far beyond the limit."""
    clock, begun = [0.0], []

    class Watch(ProgressLog):
        def task(self, name, unit):
            if "refined" in name:
                begun.append(name)
                return lambda done, total: clock.__setitem__(0, 1e6)
            return super().task(name, unit)

    monkeypatch.setattr(deadline, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    done = tune(run, replace(EVERYTHING, seconds=1000.0), progress=Watch(), fresh=True)
    assert done.outcome.out_of_time
    assert len(begun) == 1
    assert not any(trial.recipe.refined for trial in done.trials)
    assert done.path.exists()


def test_tune_without_time_leaves_default(run: Path) -> None:
    done = tune(run, replace(EVERYTHING, seconds=0.0), fresh=True)
    assert done.outcome.out_of_time
    assert len(done.trials) == 1


def test_tune_missing_images_are_named(run: Path, tmp_path: Path) -> None:
    next((tmp_path / "images").rglob("*.png")).unlink()
    for path in (tmp_path / "images").rglob("*.png"):
        path.unlink()
    with pytest.raises(CalibrationSetError, match=r"gone|no images"):
        tune(run, EVERYTHING, images=tmp_path / "images")


def test_tune_too_few_images_are_refused(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", per_class=4)
    build_calibration_set(images, count=4).save(tmp_path / "set.csv")
    calibrate(uneven_model(tmp_path / "tiny.onnx"), tmp_path / "set.csv", PIPELINE, run=tmp_path / "run")
    with pytest.raises(CalibrationSetError, match="at least"):
        tune(tmp_path / "run", EVERYTHING)


def test_tune_never_overwrites_original(run: Path) -> None:
    with pytest.raises(UsageError, match="name of the original model"):
        tune(run, replace(EVERYTHING, goal=Goal(max_drop=100)), out=run / "fp32.onnx", target=ORT)

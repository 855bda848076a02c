"""Method auto in a run: what is recorded, on which images methods are compared, and what happens without images."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from models import copied_run, tiny_model, write_images
from progress_log import ProgressLog

from quantkit.config.method import Auto, Kl, Method, MinMax, Mse, Percentile, recorded_method
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.decoded import DecodedImages
from quantkit.errors import UsageError
from quantkit.ptq.bias_correction import HELD_BACK
from quantkit.ptq.run_correction import IMAGES, Images
from quantkit.runs.folder import RunFolder
from quantkit.runs.inputs import calibrated, model_inputs
from quantkit.search import method_selection
from quantkit.search.method_selection import CANDIDATES, MethodSelection
from quantkit.stats.solve import solve_all
from quantkit.targets import ORT, VACC
from quantkit.vendors.vacc.write import VamcOptions
from quantkit.workflows import auto_method
from quantkit.workflows.auto_method import images_read_again
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.quantize import quantize
from quantkit.workflows.quantize_task import QuantizeOptions, QuantizeTask
from quantkit.workflows.quantized_files import method_of_run
from quantkit.workflows.vacc.backend import VaccBackend

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))
COMPARING = ("comparing methods", "models")


@pytest.fixture
def chosen(tmp_path: Path) -> CalibrationSet:
    build_calibration_set(write_images(tmp_path / "images", per_class=10), count=40).save(tmp_path / "set.csv")
    return CalibrationSet.load(tmp_path / "set.csv")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.onnx")


@pytest.fixture(scope="module")
def calibrated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with model, images, calibration set and run."""
    folder = tmp_path_factory.mktemp("auto")
    build_calibration_set(write_images(folder / "images", per_class=10), count=40).save(folder / "set.csv")
    calibrate(tiny_model(folder / "tiny.onnx"), folder / "set.csv", PIPELINE, run=folder / "run")
    return folder


@pytest.fixture
def run(calibrated_folder: Path, tmp_path: Path) -> Path:
    return copied_run(calibrated_folder, tmp_path)


def without_images(run: Path) -> None:
    for path in (run.parent / "images").rglob("*.png"):
        path.unlink()


def test_auto_default_method_compares_all_and_records_choice(run: Path) -> None:
    entry = RunFolder(run).read().quantized["int8"]
    assert entry.selection is not None
    selection = MethodSelection.from_json(entry.selection)
    assert [one.method for one in selection.results] == list(CANDIDATES)
    assert entry.solved_by == selection.method
    assert [one.method for one in selection.results if one.outcome == "chosen"] == [selection.method]
    assert RunFolder(run).read().configuration["commands"]["calibrate"]["settings"]["method"]["value"] == {
        "name": "auto"
    }
    plain = json.loads((run / "run.json").read_text())["quantized"]["int8"]["selection"]
    assert plain["reason"].startswith(entry.method)


def test_auto_model_equals_that_of_chosen_method(run: Path) -> None:
    auto = (run / "int8.onnx").read_bytes()
    named = quantize(run, method=RunFolder(run).read().quantized["int8"].solved_by, out=run / "named.onnx")
    assert named.path.read_bytes() == auto
    assert named.selection is None


def test_auto_named_method_compares_nothing(tmp_path: Path, model: Path, chosen: CalibrationSet) -> None:
    log = ProgressLog()
    done = calibrate(model, chosen, PIPELINE, run=tmp_path / "named", method="percentile", progress=log)
    assert (done.quantized.method, done.quantized.selection) == (Percentile(), None)
    assert COMPARING not in log.tasks
    assert not [note for note in done.notes if "auto" in note]
    assert RunFolder(tmp_path / "named").read().quantized["int8"].selection is None


def test_auto_choice_is_same_for_any_threads_and_cached(tmp_path: Path, model: Path, chosen: CalibrationSet) -> None:
    logs = [ProgressLog() for _ in range(3)]
    done = [
        calibrate(model, chosen, PIPELINE, run=tmp_path / name, threads=threads, progress=log)
        for name, threads, log in zip(("one", "two", "two"), (1, 2, 2), logs, strict=True)
    ]
    assert done[0].quantized.selection == done[1].quantized.selection == done[2].quantized.selection
    assert [COMPARING in log.tasks for log in logs] == [True, True, False]


@pytest.mark.parametrize(
    "options",
    [QuantizeOptions(bias_correction=False), QuantizeOptions(skip=("conv:0",)), QuantizeOptions(per_channel=False)],
    ids=["bias", "skip", "per-tensor"],
)
def test_auto_other_options_are_compared_anew(run: Path, options: QuantizeOptions) -> None:
    log = ProgressLog()
    assert quantize(run, method=Auto(), options=options, out=run / "other.onnx", progress=log).selection is not None
    assert COMPARING in log.tasks


def test_auto_quantize_without_images_uses_earlier_comparison(run: Path) -> None:
    before = RunFolder(run).read().quantized["int8"]
    without_images(run)
    done = quantize(run)
    assert done.method == before.solved_by
    assert done.selection is not None
    assert done.selection.results


def test_auto_quantize_without_images_and_comparison_uses_percentile_with_note(run: Path) -> None:
    without_images(run)
    done = quantize(run, method="auto", target=VACC)
    assert done.method == Percentile()
    assert done.selection is not None
    assert done.selection.results == ()
    note = next(note for note in done.notes if note.startswith("method auto: percentile, without a comparison"))
    assert "the calibration images are not found; put them back, or run quantkit relink RUN" in note


def test_auto_images_missing_at_end_of_set_are_noticed(run: Path, chosen: CalibrationSet) -> None:
    record = RunFolder(run).read()
    images = Images(chosen, record.pipeline, DecodedImages(record.pipeline))
    subject = QuantizeTask(
        run=calibrated(RunFolder(run), record),
        requested=ORT,
        options=QuantizeOptions(per_channel=False),
        images=images,
    )
    without_images(run)
    method, selection = auto_method.resolve_method(Auto(), subject, ProgressLog())
    assert method == Percentile()
    assert selection is not None
    assert "calibration images are missing or changed; put them back" in selection.reason


def test_auto_too_few_images_use_percentile_and_say_how_many_are_needed(tmp_path: Path, model: Path) -> None:
    few = build_calibration_set(write_images(tmp_path / "few", per_class=7), count=28)
    done = calibrate(model, few, PIPELINE, run=tmp_path / "run")
    assert done.quantized.method == Percentile()
    assert any("takes 32 calibration images without outliers, and there are 28" in note for note in done.notes)


@pytest.fixture
def compared_on(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the images that methods are compared on."""
    seen: list[object] = []
    original: Callable[..., MethodSelection] = method_selection.select_method

    def watched(prepared, methods, solve, write, images, **options):
        seen.extend(images)
        return original(prepared, methods, solve, write, images, **options)

    monkeypatch.setattr(auto_method, "select_method", watched)
    return seen


@pytest.mark.parametrize(("per_class", "overlap"), [(10, True), (32, False)], ids=["small set", "large set"])
def test_auto_compares_on_images_that_no_correction_is_fitted_on(
    tmp_path: Path, model: Path, compared_on: list, per_class: int, overlap: bool
) -> None:
    images = build_calibration_set(write_images(tmp_path / "more", per_class=per_class), count=4 * per_class)
    calibrate(model, images, PIPELINE, run=tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    prepared = calibrated(folder, folder.read()).prepared
    inputs = [image.tobytes() for image in model_inputs(prepared.model, images.items, PIPELINE, 1)]
    places = [inputs.index(image.tobytes()) for image in compared_on]
    assert len(places) >= 8
    again = images_read_again(images.items, Auto(), corrected=False)
    assert {images.items[place] for place in places} <= set(again)
    fitted = [place for place in range(min(IMAGES, len(inputs))) if place % HELD_BACK]
    assert not set(places) & set(fitted)
    assert overlap == any(place < IMAGES for place in places)


def test_auto_choice_is_start_of_tuning_and_sensitivity(run: Path) -> None:
    parent, method = run.parent, Kl(definition="relay")
    calibrate(parent / "tiny.onnx", parent / "set.csv", PIPELINE, run=run, method=method)
    assert method_of_run(RunFolder(run).read(), ORT) == Kl(definition="relay")
    assert method_of_run(RunFolder(run).read(), VACC) == Kl(definition="relay")


@pytest.mark.parametrize(
    "method", [MinMax(), Mse(), Percentile(fraction=0.999, of="value"), Kl(definition="ort")], ids=repr
)
def test_auto_recorded_method_is_whole_method(run: Path, method: Method) -> None:
    quantize(run, method=method, out=run / "x.onnx")
    entry = RunFolder(run).read().quantized["x"]
    assert entry.solved_by == method
    assert recorded_method(entry.method, entry.options) == method


@pytest.mark.parametrize("dialect", ["build", "compile"])
def test_auto_for_the_card_compares_what_its_compiler_has(tmp_path, model, chosen, dialect) -> None:
    backends = {"vacc": VaccBackend(VamcOptions(dialect=dialect))}
    done = calibrate(model, tmp_path / "set.csv", PIPELINE, run=tmp_path / "run", target=VACC, backends=backends)
    selection = done.quantized.selection
    assert selection is not None
    methods = [one.method for one in selection.results]
    assert Kl(definition="relay") not in methods
    assert (Mse() in methods) == (dialect == "compile")
    names = {"minmax": "max", "percentile": "percentile", "kl": "kl_divergence", "mse": "mse"}
    key = "calibrate_mode" if dialect == "compile" else "quant_mode"
    mode = names[RunFolder(tmp_path / "run").read().quantized["int8-vacc"].method]
    assert f"{key}: {mode}" in (tmp_path / "run/vamc.yaml").read_text()


def test_auto_is_no_method_that_ranges_are_solved_by() -> None:
    with pytest.raises(UsageError, match="auto compares int8 models on calibration images"):
        solve_all({}, "auto", ORT)

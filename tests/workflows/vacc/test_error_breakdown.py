"""Error breakdown: each change is measured on its own, and a change without effect is reported as zero."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import tiny_model, write_images
from PIL import Image
from typer.testing import CliRunner

from quantkit.cli.app import app
from quantkit.cli.commands import COMMAND_MODULES
from quantkit.config.pipeline import PRESETS, CenterCrop, Decode, EvenSides, Normalize, Pipeline, Resize, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.data.preprocess import preprocess
from quantkit.errors import UsageError, VendorFileError
from quantkit.vendors.vacc.vdsp import recognise, vdsp_from_pipeline
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.vacc.build_file import choices_of_run
from quantkit.workflows.vacc.compiler_simulator import CompilerSimulator
from quantkit.workflows.vacc.error_breakdown import RUNTIMES, card_pipeline, error_breakdown

OWN = Pipeline(
    ops=(Decode(), Resize(size=8), CenterCrop(size=(8, 8)), ToTensor(), Normalize(mean=(0.485,) * 3, std=(0.229,) * 3))
)


def stretched(images: Path) -> Path:
    """Widen every picture, so that a squash is another picture than a crop."""
    for path in images.rglob("*.png"):
        picture = Image.open(path)
        wide = Image.new("RGB", (24, 8), (255, 0, 0))
        wide.paste(picture, (8, 0))
        wide.save(path)
    return images


def calibrated(folder: Path, model: Path, pipeline: Pipeline) -> Path:
    images = stretched(write_images(folder / "images", per_class=10))
    build_calibration_set(images, count=8).save(folder / "set.csv")
    calibrate(model, folder / "set.csv", pipeline, run=folder / "run")
    return folder / "run"


@pytest.fixture(autouse=True)
def _commands() -> None:
    for module in COMMAND_MODULES:
        importlib.import_module(module)  # adds its commands to the app


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return calibrated(tmp_path, tiny_model(tmp_path / "tiny.onnx", seed=5), OWN)


@pytest.mark.parametrize("preset", ["imagenet", "cifar10"])
def test_card_pipeline_equals_that_of_vdsp_params(preset: str) -> None:
    card = card_pipeline(PRESETS[preset])
    assert recognise(vdsp_from_pipeline(card).params).pipeline == card
    (resize,) = (op for op in card.ops if isinstance(op, Resize))
    side = 256 if preset == "imagenet" else 32
    assert resize == Resize(size=(side, side), antialias=False)
    (normalize,) = (op for op in card.ops if isinstance(op, Normalize))
    assert normalize.mean == (0.485107421875, 0.4560546875, 0.406005859375)
    assert card_pipeline(card) == card


def test_vsx_pipeline_turns_by_exif_and_evens_sides_first() -> None:
    vamp, vsx = (card_pipeline(OWN, runtime) for runtime in ("vamp", "vsx"))
    assert vsx.ops == (Decode(exif=True), EvenSides(), *vamp.ops[1:])
    assert card_pipeline(vsx, "vsx") == vsx
    assert vsx.output_size == vamp.output_size == (8, 8)


def test_vsx_pixels_are_those_of_the_vendors_script(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless, which quantkit does not depend on")
    rng = np.random.default_rng(3)
    pipeline = Pipeline(ops=(Decode(), Resize(size=(9, 11)), ToTensor(divisor=1.0)))
    for index, (height, width) in enumerate([(31, 40), (40, 31), (31, 31), (40, 40), (2, 3)]):
        path = tmp_path / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        if height % 2 or width % 2:
            pixels = cv2.resize(pixels, (width // 2 * 2, height // 2 * 2))
        expected = cv2.resize(pixels, (11, 9)).transpose(2, 0, 1)
        np.testing.assert_array_equal(preprocess(path, card_pipeline(pipeline, "vsx")), expected)


def test_vsx_breakdown_differs_from_vamp_on_odd_sides_only(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.onnx", seed=5)
    run = calibrated(tmp_path, model, OWN)  # pictures of 24 x 8
    vamp, vsx = (error_breakdown(run, runtime=runtime) for runtime in ("vamp", "vsx"))
    assert vsx.steps == vamp.steps
    assert (vamp.notes[0], vsx.notes[0]) == (RUNTIMES["vamp"], RUNTIMES["vsx"])
    for path in (tmp_path / "images").rglob("*.png"):
        Image.open(path).resize((25, 9)).save(path)
    vamp, vsx = (error_breakdown(run, runtime=runtime) for runtime in ("vamp", "vsx"))
    assert vsx.top1 == vamp.top1  # the start is the same
    card = compare(["fp32", "int8"], run=run, pipeline=card_pipeline(OWN, "vsx"), drift_images=0)
    assert vsx.steps[0].top1 == card.reference.top1


def test_card_pipeline_std_beyond_half_precision_is_refused() -> None:
    pipeline = Pipeline(ops=(Decode(), ToTensor(), Normalize(mean=(0.0,) * 3, std=(1e-9,) * 3)))
    with pytest.raises(VendorFileError, match="do not fit into half precision"):
        card_pipeline(pipeline)


def test_error_breakdown_steps_equal_comparisons_of_models(run: Path, tmp_path: Path) -> None:
    found = error_breakdown(run)
    assert [step.name for step in found.steps] == ["preprocessing", "fp16", "int8"]
    simulator = CompilerSimulator.of_run(run)
    int8 = simulator.write(choices_of_run(simulator.run.record), tmp_path / "card.onnx")
    here = compare(["fp32", int8], run=run, drift_images=0)
    card = compare(["fp32", int8], run=run, pipeline=card_pipeline(OWN), drift_images=0)
    preprocessing, _, last = found.steps
    assert found.images == here.images == 32
    assert found.top1 == here.reference.top1
    assert last.alone == here.candidates[0].versus.top1
    assert preprocessing.top1 == card.reference.top1
    assert last.top1 == card.candidates[0].top1
    assert preprocessing.of_step == preprocessing.in_all == preprocessing.alone
    assert preprocessing.agreement < 100.0
    assert sum(step.of_step.value for step in found.steps) == pytest.approx(last.in_all.value)
    assert last.in_all.value == pytest.approx(last.top1 - found.top1)


def test_error_breakdown_of_blind_model_is_zero(tmp_path: Path) -> None:
    model = onnx.load(tiny_model(tmp_path / "blind.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros((16, 3, 3, 3), np.float32), "w1"))
    onnx.save(model, tmp_path / "blind.onnx")
    found = error_breakdown(calibrated(tmp_path, tmp_path / "blind.onnx", OWN))
    for step in found.steps:
        assert step.agreement == 100.0
        assert [one.value for one in (step.of_step, step.in_all, step.alone)] == [0.0, 0.0, 0.0]
        assert 0.0 in step.in_all.ci95


def test_compare_breakdown_is_printed_and_in_json(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    words = ["compare", "fp32", "int8", "--run", str(run), "--breakdown", "--drift-images", "0", "--json", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "then preprocessing" in result.output
    assert "only fp16" in result.output
    assert "a model of the compiler" in result.output
    table = [line for line in result.output.splitlines() if line.startswith(("fp32  ", "then", "only", "─"))]
    assert max(map(len, table)) <= 80
    assert json.loads(out.read_text())["breakdown"] == json.loads(json.dumps(error_breakdown(run).to_json()))


def test_compare_breakdown_runtime_is_printed_and_checked(run: Path) -> None:
    words = ["compare", "fp32", "int8", "--run", str(run), "--breakdown", "--drift-images", "0", "--runtime"]
    result = CliRunner().invoke(app, [*words, "vsx"])
    assert result.exit_code == 0, result.output
    assert RUNTIMES["vsx"] in " ".join(result.output.split())
    refused = CliRunner().invoke(app, [*words, "cuda"])
    assert "'cuda' is not one of" in str(refused.output + str(refused.exception))


def test_compare_breakdown_without_run_is_refused(run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copy(tmp_path / "tiny.onnx", tmp_path / f"{name}.onnx")
    words = ["compare", str(tmp_path / "one.onnx"), str(tmp_path / "two.onnx"), "--preset", "cifar10", "--breakdown"]
    result = CliRunner().invoke(app, [*words, "--images", str(tmp_path / "images")])
    assert isinstance(result.exception, UsageError)
    assert "--breakdown: needs a run; give --run" in result.exception.command_line

"""The main job on a small model: what each step leaves, and that it can be interrupted, repeated and refused."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import tiny_model, write_images
from progress_log import ProgressLog

from quantkit.config.method import Kl, Mse, Percentile
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationSet
from quantkit.engine.observe import complete
from quantkit.engine.tap import TappedSession
from quantkit.errors import (
    CalibrationSetError,
    ConfigError,
    LabelError,
    ModelError,
    OutputError,
    ProvenanceError,
    StatisticsError,
    UsageError,
)
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.taps import taps
from quantkit.progress import Resumed
from quantkit.runs.folder import RunFolder
from quantkit.stats.bins import bin_of
from quantkit.stats.file import load_statistics, save_statistics
from quantkit.stats.observed import Observed
from quantkit.stats.observer import Observer
from quantkit.targets import TENSORRT, VACC
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.quantize import quantize
from quantkit.workflows.quantize_task import QuantizeOptions

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))


class Place:
    """A folder with a model, images and a set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = tiny_model(folder / "tiny.onnx")
        self.images = write_images(folder / "images", per_class=8)
        self.set = build_calibration_set(self.images, count=16)
        self.run = folder / "run"

    def calibrate(self, **options: Any) -> Path:
        calibrate(self.model, self.set, PIPELINE, run=self.run, **options)
        return self.run


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_calibrate_writes_statistics_model_ranges_vendor_file_and_record(place: Place) -> None:
    run = place.calibrate()
    names = {path.name for path in run.iterdir()}
    files = {".lock", "int8.onnx", "cache", "ranges.csv", "run.json", "statistics.safetensors"}
    assert names == files | {"vamc.yaml"}
    onnx.checker.check_model(onnx.load(run / "int8.onnx"), full_check=True)
    record = RunFolder(run).read()
    assert record.set.digest == place.set.digest
    assert record.quantized["int8"].method == "percentile"
    rows = list(csv.DictReader((run / "ranges.csv").read_text().splitlines()))
    statistics = load_statistics(run / "statistics.safetensors")
    assert {row["tensor"] for row in rows} <= statistics.tensors.keys()
    assert all(float(row["lo"]) <= 0 <= float(row["hi"]) and float(row["scale"]) > 0 for row in rows)
    assert "calibrate_mode: percentile" in (run / "vamc.yaml").read_text()


def test_calibrate_same_inputs_give_same_bits(place: Place) -> None:
    run = place.calibrate(threads=1)
    first = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    place.run = place.folder / "again"
    again = place.calibrate(threads=2)
    for name in ("int8.onnx", "statistics.safetensors", "ranges.csv"):
        assert (again / name).read_bytes() == first[name]


def test_calibrate_uses_statistics_again_until_input_changes(place: Place) -> None:
    run = place.calibrate()
    again = calibrate(place.model, place.set, PIPELINE, run=run, method=Mse())
    assert again.reused
    assert not calibrate(place.model, place.set, PIPELINE, run=run, fresh=True).reused
    assert set(RunFolder(run).read().quantized) == {"int8"}


def _other_set(place: Place) -> None:
    place.set = build_calibration_set(place.images, count=16, seed=5)


def _other_model(place: Place) -> None:
    tiny_model(place.model, seed=3)


@pytest.mark.parametrize(("change", "named"), [(_other_set, "calibration set"), (_other_model, "model")])
def test_calibrate_into_a_run_of_other_inputs_is_refused_without_fresh(place: Place, change, named) -> None:
    run = place.calibrate()
    quantize(run, method=Mse())
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    change(place)
    with pytest.raises(UsageError, match=f"this run has another {named} .*--fresh to replace"):
        calibrate(place.model, place.set, PIPELINE, run=run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert not calibrate(place.model, place.set, PIPELINE, run=run, fresh=True).reused
    assert set(RunFolder(run).read().quantized) == {"int8"}
    assert not (run / "int8-mse.onnx").exists()


def test_calibrate_with_another_preprocessing_is_refused_without_fresh(place: Place) -> None:
    run = place.calibrate()
    halved = Pipeline(ops=(Decode(), ToTensor(divisor=128)))
    with pytest.raises(UsageError, match="another preprocessing"):
        calibrate(place.model, place.set, halved, run=run)
    assert not calibrate(place.model, place.set, halved, run=run, fresh=True).reused


def test_quantize_again_needs_no_image(place: Place) -> None:
    run = place.calibrate()
    for path in place.images.rglob("*.png"):
        path.unlink()
    before = (run / "int8.onnx").read_bytes()
    quantize(run, method=Percentile(fraction=0.9))
    assert (run / "int8.onnx").read_bytes() != before
    quantize(run, method=Percentile())
    assert (run / "int8.onnx").read_bytes() == before
    assert quantize(run, method=Kl(), target=VACC).path == run / "int8-vacc.onnx"
    assert quantize(run, target=TENSORRT, out=place.folder / "elsewhere.onnx").path.is_file()


@pytest.mark.parametrize(
    "options",
    [
        QuantizeOptions(per_channel=False),
        QuantizeOptions(activation_type="int8"),
        QuantizeOptions(weight_bits=7),
        QuantizeOptions(power_of_two=True),
        QuantizeOptions(skip=("conv:0",)),
    ],
    ids=lambda o: str({k: v for k, v in o.__dict__.items() if v}),
)
def test_quantize_every_option_changes_model(place: Place, options: QuantizeOptions) -> None:
    run = place.calibrate()
    plain = (run / "int8.onnx").read_bytes()
    assert quantize(run, options=options, out=run / "other.onnx").path.read_bytes() != plain


def test_compare_json_has_figures_other_programs_rely_on(place: Place) -> None:
    run = place.calibrate()
    result = compare(["fp32", "int8"], run=run, images=place.images, exclude=place.set).to_json()
    assert result["images"] == 16
    fp32, int8 = result["models"]
    assert {"name", "top1", "top5", "bytes"} <= fp32.keys()
    wanted = {"delta_top1", "delta_top1_ci95", "mcnemar_p", "agreement"}
    assert wanted <= int8.keys()
    assert fp32["bytes"] == place.model.stat().st_size
    assert int8["delta_top1_ci95"][0] <= int8["delta_top1"] <= int8["delta_top1_ci95"][1]
    assert int8["delta_top1"] == pytest.approx(int8["top1"] - fp32["top1"])
    assert len(int8["worst_tensors"]) > 2
    json.dumps(result, allow_nan=False)


def test_compare_without_images_uses_rest_of_folder_of_set(place: Place) -> None:
    manifest = place.folder / "set.csv"
    place.set.save(manifest)
    place.set = manifest  # type: ignore[assignment]
    run = place.calibrate()
    assert compare(["fp32", "int8"], run=run, drift_images=0).images == 16
    with_both = compare(["fp32", "int8"], run=run, images=place.images, drift_images=0)
    assert any("16 of 32 images are in the calibration set too" in warning for warning in with_both.warnings)


def test_compare_model_with_itself_agrees_in_everything(place: Place) -> None:
    copy = place.folder / "copy.onnx"
    copy.write_bytes(place.model.read_bytes())
    result = compare([place.model, copy], images=place.images, pipeline=PIPELINE).candidates[0].to_json()
    assert (result["agreement"], result["delta_top1"], result["mcnemar_p"], result["kl"]) == (100.0, 0.0, 1.0, 0.0)


def test_calibrate_stable_pass_stops_early_and_says_so(place: Place) -> None:
    place.set = build_calibration_set(write_images(place.folder / "many", per_class=30), count=100)
    done = calibrate(place.model, place.set, PIPELINE, run=place.run, until_stable=90)
    assert len(done.statistics.images) == 24
    assert RunFolder(place.run).read().set.images_used == 24
    again = [calibrate(place.model, place.set, PIPELINE, run=place.run, until_stable=most) for most in (95, 90, 2)]
    assert [one.reused for one in again] == [True, True, False]
    assert len(again[-1].statistics.images) > 24
    calibrate(place.model, place.set, PIPELINE, run=place.run, until_stable=90, fresh=True)
    assert not calibrate(place.model, place.set, PIPELINE, run=place.run).reused  # all images are wanted now


def test_calibrate_interrupted_resumes_to_same_bits(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantkit.engine.observe.CHUNK_SECONDS", 0.0)
    run = place.calibrate(threads=1)
    expected = (run / "statistics.safetensors").read_bytes()
    place.run = place.folder / "interrupted"

    def interrupt(name: str, done: int, total: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.calibrate(threads=1, progress=ProgressLog(interrupt))
    assert not (place.run / "statistics.safetensors").exists()
    log = ProgressLog()
    place.calibrate(threads=1, progress=log)
    [resumed] = [text for text in log.messages if isinstance(text, Resumed)]
    assert 0 < resumed.done <= 8
    partial = place.run / "statistics.partial.safetensors"
    assert resumed == f"resumed: {resumed.done} of 16 images from {partial}"
    assert log.counts[0] == (resumed.done, 16)
    assert log.counts[1][0] > resumed.done
    assert log.tasks[0] == ("calibrating", "images")
    assert (place.run / "statistics.safetensors").read_bytes() == expected
    assert not (place.run / "statistics.partial.safetensors").exists()


@pytest.mark.parametrize(
    ("other", "tracked"),
    [({"method": Kl()}, {"minmax", "percentile"}), ({"target": TENSORRT}, set()), ({}, {"minmax", "percentile"})],
)
def test_calibrate_interrupted_resumes_with_other_method_or_target(
    other: dict[str, Any], tracked: set[str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantkit.engine.observe.CHUNK_SECONDS", 0.0)
    place.set = build_calibration_set(write_images(place.folder / "many", per_class=30), count=60)

    def interrupt(name: str, done: int, total: int) -> None:
        if name == "calibrating" and done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(place.model, place.set, PIPELINE, run=place.run, threads=1, progress=ProgressLog(interrupt))
    resumed = calibrate(place.model, place.set, PIPELINE, run=place.run, threads=1, **other)
    assert resumed.resumed_images >= 36
    points = {point.images: set(point.movement) for point in resumed.statistics.convergence}
    assert points[36] == points[54] == tracked
    whole = calibrate(place.model, place.set, PIPELINE, run=place.folder / "whole", threads=1, **other)
    assert resumed.statistics.tensors.keys() == whole.statistics.tensors.keys()
    assert (resumed.statistics.extremes == whole.statistics.extremes).all()


def test_calibrate_run_in_use_by_other_process_is_refused(place: Place) -> None:
    with RunFolder(place.run).locked(), pytest.raises(UsageError, match="another quantkit process is using this run"):
        place.calibrate()
    place.calibrate()


def test_statistics_merged_equal_one_pass(place: Place) -> None:
    run = place.calibrate()
    whole = load_statistics(run / "statistics.safetensors")
    parts = []
    for index, part in enumerate((place.set.images[:5], place.set.images[5:])):
        half = CalibrationSet(place.set.root, part)
        parts.append(calibrate(place.model, half, PIPELINE, run=place.folder / f"part{index}").statistics)
    merged = parts[0].merge(parts[1])
    assert merged.images == whole.images
    assert all(merged.tensors[name].identical(one) for name, one in whole.tensors.items())
    np.testing.assert_array_equal(merged.extremes, whole.extremes)
    with pytest.raises(ProvenanceError, match="5 images are in both files"):
        merged.merge(parts[0])


def test_statistics_of_derived_tensors_equal_observed(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]>
    two (float[N, 3, 8, 8] input) => (float[N, 4] logits) {
        a = Conv <pads = [1, 1, 1, 1]> (input, w1)
        b = Conv <pads = [1, 1, 1, 1]> (input, w2)
        ar = Relu(a)
        c = Concat <axis = 1> (ar, b)
        d = Conv(c, w3)
        g = GlobalAveragePool(d)
        logits = Flatten(g)
    }"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (8, 3, 3, 3), "w2": (8, 3, 3, 3), "w3": (4, 16, 1, 1)}.items():
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    prepared = prepare(ir.from_proto(model))
    wanted = taps(prepared.model, ["input", "a", "ar", "b", "c", "d"])
    assert wanted.tapped == ("input", "a", "b", "d")
    session = TappedSession(prepared.model, wanted.wanted)
    x = rng.standard_normal((1, 3, 8, 8)).astype(np.float32)
    observers = {name: Observer() for name in wanted.wanted}
    for name, value in session.run(x)[1]:
        observers[name].observe(value)
    all_of_them = {name: observer.statistics() for name, observer in observers.items()}
    extremes = {name: (one.lo, one.hi) for name, one in all_of_them.items()}
    tapped = Observed(
        {name: all_of_them[name] for name in wanted.tapped},
        np.array([[extremes[name] for name in wanted.tapped]], np.float32),
    )
    derived = complete(tapped, wanted)
    assert list(derived.tensors) == ["input", "a", "b", "ar", "c", "d"]
    assert all(derived.tensors[name].identical(one) for name, one in all_of_them.items())
    np.testing.assert_array_equal(derived.extremes[0], [extremes[name] for name in derived.tensors])


def test_quantize_statistics_of_other_model_are_refused(place: Place) -> None:
    run = place.calibrate()
    tiny_model(place.model, seed=9)
    with pytest.raises(ProvenanceError, match="the fp32 model has changed since the calibration of this run"):
        quantize(run)
    place.model.unlink()
    with pytest.raises(ModelError, match=r"is missing; .*quantkit relink"):
        quantize(run)


@pytest.mark.parametrize("size", [0, 10, 100, 1000, -1])
def test_quantize_damaged_statistics_are_refused(place: Place, size: int) -> None:
    run = place.calibrate()
    path = run / "statistics.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StatisticsError, match=r"damaged .*run quantkit calibrate again"):
        quantize(run)


def test_statistics_round_trip_through_a_file_with_wide_counts_and_gaps(tmp_path: Path, place: Place) -> None:
    statistics = load_statistics(place.calibrate() / "statistics.safetensors")
    name, one = next(iter(statistics.tensors.items()))
    seven, minus_three = bin_of(np.array([7.0, -3.0], np.float32))
    bins = np.array([3, seven, minus_three], np.uint32)
    assert min(np.diff(bins.astype(int))) > 0xFFFF
    wide = type(one)(bins, np.array([1, 2**40, 5], np.int64), 2**40 + 6, 0, -3.0, 7.0, nan=2)
    statistics.tensors[name] = wide
    statistics.extremes[:, 0] = -3.0, 7.0
    save_statistics(replace(statistics, checkpoint={"place": 3}), tmp_path / "s.safetensors")
    loaded = load_statistics(tmp_path / "s.safetensors")
    assert loaded.tensors[name].identical(wide)
    np.testing.assert_array_equal(loaded.extremes, statistics.extremes)
    assert loaded.checkpoint == {"place": 3}


def test_calibrate_bad_input_is_refused_before_work(place: Place) -> None:
    with pytest.raises(UsageError, match="this is not a run folder; run quantkit calibrate first"):
        quantize(place.folder / "nowhere")
    with pytest.raises(ConfigError, match="the model needs 3 channels, and the pipeline gives 1"):
        calibrate(place.model, place.set, Pipeline(ops=(Decode(mode="L"), ToTensor())), run=place.run)
    with pytest.raises(CalibrationSetError, match="the set is empty"):
        calibrate(place.model, CalibrationSet(place.images, ()), PIPELINE, run=place.run)
    run = place.calibrate()
    with pytest.raises(UsageError, match="the run has no model 'int9'; it has fp32, int8"):
        compare(["fp32", "int9"], run=run, images=place.images)
    with pytest.raises(UsageError, match="at least two models"):
        compare(["fp32"], run=run, images=place.images)
    five = write_images(place.folder / "five", classes="abcde", per_class=1)
    with pytest.raises(LabelError, match="labels go up to 4, and the model has 4 classes"):
        compare(["fp32", "int8"], run=run, images=five)
    next(place.images.rglob("*.png")).write_bytes(b"other bytes")
    with pytest.raises(CalibrationSetError, match="the image has changed since the set was built"):
        calibrate(place.model, build_then_damage(place), PIPELINE, run=place.folder / "fresh")


def build_then_damage(place: Place) -> CalibrationSet:
    chosen = build_calibration_set(place.images, count=12)
    path = Path(str(chosen.items[0].where))
    path.write_bytes(Path(str(chosen.items[1].where)).read_bytes())
    return chosen


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_calibrate_run_folder_that_cannot_be_written_is_named(place: Place) -> None:
    place.run.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        place.calibrate()


def test_calibrate_run_folder_that_is_a_file_is_named(place: Place) -> None:
    place.run.write_text("")
    with pytest.raises(OutputError, match="cannot create the folder"):
        place.calibrate()

"""Files of other versions: statistics, records and predictions are named as such, and never used for other numbers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import tiny_model, write_images

from quantkit.config.method import Percentile
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.errors import ConfigError, ProvenanceError, StatisticsError, UsageError
from quantkit.evaluation.predictions_file import VERSION, load_predictions
from quantkit.numerics import NUMERIC_VERSION
from quantkit.runs.folder import RunFolder
from quantkit.stats.file import load_statistics, save_statistics
from quantkit.workflows.calibrate import Calibration, calibrate
from quantkit.workflows.quantize import quantize

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))


def _calibrate(folder: Path, **options: object) -> Calibration:
    model = folder / "tiny.onnx"
    chosen = build_calibration_set(folder / "images", count=100)
    return calibrate(model, chosen, PIPELINE, run=folder / "run", **options)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model(tmp_path / "tiny.onnx")
    write_images(tmp_path / "images", per_class=30)
    return tmp_path


def test_statistics_of_another_arithmetic_are_refused_by_quantize_and_observed_anew_by_calibrate(folder: Path) -> None:
    statistics = _calibrate(folder).statistics
    path = folder / "run/statistics.safetensors"
    older = replace(statistics, provenance=replace(statistics.provenance, numerics=NUMERIC_VERSION - 1))
    save_statistics(older, path)
    assert load_statistics(path).provenance.numerics == NUMERIC_VERSION - 1
    with pytest.raises(ProvenanceError, match=r"whose arithmetic is another .* run quantkit calibrate again"):
        quantize(folder / "run")
    with pytest.raises(ProvenanceError, match="with another arithmetic"):
        statistics.merge(older)
    assert not _calibrate(folder).reused
    assert load_statistics(path).provenance.numerics == NUMERIC_VERSION


def test_statistics_until_stable_are_used_again_only_for_the_same_settings_of_the_method(folder: Path) -> None:
    stable = {"until_stable": 90}
    assert len(_calibrate(folder, method=Percentile(), **stable).statistics.images) == 24
    assert _calibrate(folder, method=Percentile(), **stable).reused
    assert not _calibrate(folder, method=Percentile(fraction=0.9), **stable).reused
    assert _calibrate(folder, method=Percentile(fraction=0.9), **stable).reused
    assert not _calibrate(folder, method=Percentile(fraction=0.9), target="tensorrt", **stable).reused


@pytest.mark.parametrize("change", ["old key", "missing key", "later version"])
def test_record_of_another_version_says_so_and_what_to_do(folder: Path, change: str) -> None:
    path = RunFolder(_calibrate(folder).run).path / "run.json"
    plain = json.loads(path.read_text())
    if change == "old key":
        plain["set"]["ready_arrays"] = plain["set"].pop("array_shape")
    elif change == "missing key":
        del plain["pipeline"]
    else:
        plain["version"] = 2
    path.write_text(json.dumps(plain))
    said = r"was written by another version of quantkit \(\d.* or replace this one with quantkit calibrate --fresh"
    with pytest.raises(ConfigError, match=said):
        quantize(folder / "run")
    assert not _calibrate(folder, fresh=True).reused
    quantize(folder / "run")


@pytest.mark.parametrize("name", ["int8.onnx", "ranges.csv", "vamc.yaml", "calibration.csv", "vdsp_params.json"])
def test_calibrate_replaces_no_file_that_it_did_not_write(folder: Path, name: str) -> None:
    path = folder / "run" / name
    path.parent.mkdir()
    path.write_text("my own")
    with pytest.raises(UsageError, match=f"this is not a run folder, and its {name} would be replaced; give another"):
        _calibrate(folder)
    assert path.read_text() == "my own"
    _calibrate(folder, fresh=True)


def test_calibrate_set_with_the_name_of_a_file_of_the_run_is_refused(folder: Path) -> None:
    manifest = folder / "run/calibration.csv"
    build_calibration_set(folder / "images", count=100).save(manifest)
    before = manifest.read_bytes()
    for fresh in (False, True):
        with pytest.raises(UsageError, match="the calibration set has the name of a file of the run"):
            calibrate(folder / "tiny.onnx", manifest, PIPELINE, run=folder / "run", fresh=fresh)
    assert manifest.read_bytes() == before


@pytest.mark.parametrize("origin", [{"version": VERSION + 1}, {"version": VERSION, "classes": 3, "model_digest": ""}])
def test_predictions_of_another_version_say_so(tmp_path: Path, origin: dict[str, object]) -> None:
    path = tmp_path / "predictions.npz"
    np.savez(path, names=np.array(["a"]), origin=np.array(json.dumps(origin)))
    with pytest.raises(StatisticsError, match="another version of quantkit; run quantkit eval again"):
        load_predictions(path)

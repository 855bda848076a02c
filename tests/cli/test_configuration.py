"""The settings of a command: printed with their sources when it begins, and stored in the run."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import quantkit
from quantkit.config.method import Kl
from quantkit.config.project import parse_project
from quantkit.config.settings import Setting, Settings, settings_from_json, settings_to_json
from quantkit.data.preprocess import preprocess
from quantkit.runs.configuration import record_call, recorded_with, settings_of_run, with_settings
from quantkit.runs.folder import RunFolder

Run = Callable[..., tuple[str, str]]
PROJECT = """\
# The settings of this folder.
model: tiny.onnx
preset: pipeline.yaml

set: calib.csv
inputs: {}
skip:
  - conv:0
target: vacc   # the card
images: images
"""


@pytest.fixture
def place(calibrated: Path) -> Path:
    (calibrated / "quantkit.yaml").write_text(PROJECT)
    return calibrated


def shown(err: str) -> dict[str, str]:
    """Return the lines ``name  value``."""
    lines = (line.split("  ", 1) for line in err.splitlines() if "  " in line)
    return {name.strip(): text.strip() for name, text in lines}


def of_run(place: Path) -> dict[str, dict[str, Setting]]:
    return settings_of_run(RunFolder(place / "runs/tiny").read())


def test_settings_name_the_line_of_the_project_file_or_the_command_line() -> None:
    merged = Settings(parse_project(PROJECT, "quantkit.yaml"))
    merged.add("method", Kl(), given="kl", key="method")
    merged.add("target", "vacc", given=None, key="target")
    merged.add("skip", ("conv:0",), given=(), key="skip")
    merged.add("per channel", True, key="per_channel")
    merged.add("dialect", None, key="dialect")
    assert merged.by_name == {
        "method": Setting({"name": "kl", "definition": "auto"}, "command line"),
        "target": Setting("vacc", "quantkit.yaml:9"),
        "skip": Setting(["conv:0"], "quantkit.yaml:7"),
        "per channel": Setting(True),
    }
    assert settings_from_json(json.loads(json.dumps(settings_to_json(merged.by_name)))) == merged.by_name


def test_settings_are_printed_with_sources_where_they_are_no_defaults(place: Path, run: Run) -> None:
    lines = shown(run(place, "quantize", "--method", "kl")[1])
    assert lines["method"] == "kl  (command line)"
    assert lines["target"] == "vacc  (quantkit.yaml:9)"
    assert lines["skip"] == "conv:0  (quantkit.yaml:7)"
    assert lines["bias correction"] == "yes"
    lines = shown(run(place, "compare", "fp32", "int8", "--drift-images", "0")[1])
    assert lines["images"] == "images  (quantkit.yaml:10)"
    assert lines["preprocessing"].endswith("(run folder)")


def test_settings_of_every_command_that_writes_into_a_run_are_stored_there(place: Path, run: Run) -> None:
    run(place, "calibrate", "--method", "mse")
    run(place, "quantize", "--method", "kl")
    run(place, "sensitivity", "--count", "4", "--target", "ort")
    run(place, "tune", "--target", "ort", "--max-drop", "50", "--disable", "precision", "--disable", "rounding")
    run(place, "eval", "fp32")
    run(place, "compare", "fp32", "int8", "--drift-images", "0")
    found = of_run(place)
    assert set(found) == {
        "calibrate", "quantize int8-vacc-kl", "sensitivity ort", "tune int8-tuned", "eval fp32", "compare"
    }  # fmt: skip
    assert found["calibrate"]["method"] == Setting({"name": "mse"}, "command line")
    assert found["calibrate"]["target"].source == "quantkit.yaml:9"
    assert found["tune int8-tuned"]["max drop"] == Setting("50 points", "command line")
    assert found["tune int8-tuned"]["rewrite"] == Setting(True)
    # A new calibration of the same inputs keeps those of the models that it keeps.
    run(place, "calibrate", "--method", "minmax")
    assert set(of_run(place)) == set(found)
    run(place, "report", "--limit", "8")
    page = (place / "runs/tiny/report.html").read_text(encoding="utf-8")
    assert "settings of quantize int8-vacc-kl" in page
    assert "method kl (command line)" in page


def test_settings_of_older_runs_are_those_of_the_calibration(place: Path, run: Run) -> None:
    path = place / "runs/tiny/run.json"
    plain = json.loads(path.read_text())
    plain["configuration"] = {
        "method": {"name": "percentile", "fraction": 0.999},
        "target": "ort",
        "until_stable": None,
    }
    path.write_text(json.dumps(plain))
    assert of_run(place) == {
        "calibrate": {"method": Setting({"name": "percentile", "fraction": 0.999}), "target": Setting("ort")}
    }
    run(place, "compare", "fp32", "int8", "--drift-images", "0", "--html", "c.html")
    assert set(of_run(place)) == {"calibrate", "compare"}
    del plain["configuration"]
    path.write_text(json.dumps(plain))
    assert of_run(place) == {}


def test_settings_of_a_newer_form_are_left_alone(place: Path) -> None:
    folder = RunFolder(place / "runs/tiny")
    newer = folder.read().model_copy(update={"configuration": {"version": 99, "commands": {"calibrate": 3}}})
    assert settings_of_run(newer) == {}
    assert with_settings(newer, "compare", {"limit": Setting(8)}) == newer


def test_settings_are_not_stored_while_another_process_writes_the_run(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantkit.runs.configuration._WAIT_S", 0.05)
    folder = RunFolder(place / "runs/tiny")
    before = (place / "runs/tiny/run.json").read_bytes()
    with folder.locked():
        record_call(folder.path, "compare", {"limit": 8})
    assert (place / "runs/tiny/run.json").read_bytes() == before
    record_call(folder.path, "compare", {"limit": 8})
    assert settings_of_run(folder.read())["compare"] == {"limit": Setting(8)}
    with recorded_with("compare", None):
        record_call(folder.path, "compare", {"limit": 9})
    assert settings_of_run(folder.read())["compare"] == {"limit": Setting(8)}


def test_settings_of_calls_from_python_are_stored_without_sources(place: Path) -> None:
    runs, images = place / "runs/tiny", place / "images"
    quantkit.quantize(runs, method="kl")
    quantkit.sensitivity(runs, count=4)
    goal = quantkit.Goal(max_drop=50.0)
    quantkit.tune(runs, quantkit.TuneOptions(goal=goal, disable=frozenset(quantkit.Stage)), images=images)
    quantkit.evaluate("fp32", run=runs, images=quantkit.open_source(images), labels=None)
    quantkit.compare(["fp32", "int8-kl"], run=runs, images=images, limit=8, drift_images=0)
    found = of_run(place)
    assert set(found) >= {"quantize int8-kl", "sensitivity ort", "tune int8-tuned", "eval fp32", "compare"}
    assert found["quantize int8-kl"]["method"] == Setting({"name": "kl", "definition": "auto"})
    assert found["quantize int8-kl"]["bias correction"] == Setting(True)
    assert found["sensitivity ort"]["count"] == Setting(4)
    assert found["tune int8-tuned"]["max drop"] == Setting("50 points")
    assert found["eval fp32"]["images"] == Setting("ImageSource")
    assert found["compare"]["models"] == Setting(["fp32", "int8-kl"])
    assert found["compare"]["images"] == Setting(str(images))
    assert found["compare"]["limit"] == Setting(8)
    arrays = [preprocess(item, RunFolder(runs).read().pipeline) for item in quantkit.open_source(images).items[:2]]
    quantkit.evaluate("fp32", run=runs, images=(np.stack(arrays), [0, 1]))
    assert of_run(place)["eval fp32"]["images"] == Setting("tuple")

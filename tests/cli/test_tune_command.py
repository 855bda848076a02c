"""``quantkit tune`` as typed: what it prints and writes, and how it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models import tiny_model, write_images

from quantkit.cli.tune import parse_seconds
from quantkit.config.method import Percentile
from quantkit.config.settings import Setting
from quantkit.errors import UsageError
from quantkit.runs.configuration import settings_of_run
from quantkit.runs.folder import RunFolder

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def folder(tmp_path: Path, command: Run) -> Path:
    tiny_model(tmp_path / "tiny.onnx")
    write_images(tmp_path / "images", per_class=10)
    (tmp_path / "pipeline.yaml").write_text("ops:\n- op: decode\n- op: to_tensor\n")
    command("calib-set", "build", "--images", "images", "--count", "16", "--out", "calib.csv")
    return tmp_path


def test_tune_uncalibrated_model_is_calibrated_and_tuned(folder: Path, command: Run) -> None:
    out, _ = command(
        "tune", "tiny.onnx", "--set", "calib.csv", "--preset", "pipeline.yaml", "--max-drop", "100", "--json", "t.json"
    )
    assert "percentile, biases" in out
    assert "the goal is met" in out
    assert json.loads((folder / "t.json").read_text())["verdict"] == "met"
    assert (folder / "runs" / "tiny" / "int8-tuned.onnx").is_file()
    command("compare", "fp32", "int8", "int8-tuned")


def test_tune_for_vacc_writes_its_files(folder: Path, command: Run) -> None:
    command("calibrate", "--model", "tiny.onnx", "--set", "calib.csv", "--preset", "pipeline.yaml")
    out, _ = command("tune", "runs/tiny", "--target", "vacc", "--max-drop", "0", "--write-fp32", "better.onnx")
    log = json.loads((folder / "runs" / "tiny" / "tune-vacc.json").read_text())
    assert all(Path(name).is_file() for name in log["files"])
    assert "vamc-tuned.yaml" in out
    assert (folder / "better.onnx").is_file() == (log["fp32_change"] is not None)


def test_tune_stages_can_be_disabled(folder: Path, command: Run) -> None:
    command("calibrate", "--model", "tiny.onnx", "--set", "calib.csv", "--preset", "pipeline.yaml")
    left_out = ("--disable", "method", "--disable", "precision")
    command("tune", "runs/tiny", "--max-drop", "0", "--min-agreement", "100", *left_out, "--json", "t.json")
    taken = {trial["stage"] for trial in json.loads((folder / "t.json").read_text())["trials"]}
    assert {"default", "rounding"} <= taken <= {"default", "equalization", "ranges", "rounding"}


def test_tune_settings_name_run_and_excluded_images(folder: Path, command: Run) -> None:
    command("calibrate", "--model", "tiny.onnx", "--set", "calib.csv", "--preset", "pipeline.yaml")
    on = ("--images", "images", "--exclude", "calib.csv", "--max-drop", "100")
    _, err = command("tune", "runs/tiny", *on)
    shown = {tuple(line.split()[:2]) for line in err.splitlines()}
    assert {("run", "runs/tiny"), ("exclude", "calib.csv")} <= shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--write-fp32", "x.onnx"), "there is no rewritten fp32 model"),
        (("--time", "soon"), "invalid duration"),
        (("--max-float", "lots"), "invalid percentage"),
        (("--disable", "luck"), "'luck' is not one of method"),
        (("--target", "tpu"), "is not one of ort"),
    ],
)
def test_tune_bad_options_are_one_line(folder: Path, command: Run, arguments, said) -> None:
    command("calibrate", "--model", "tiny.onnx", "--set", "calib.csv", "--preset", "pipeline.yaml")
    _, err = command("tune", "runs/tiny", *arguments, code=2)
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_tune_without_run_says_what_to_do(folder: Path, command: Run) -> None:
    _, err = command("tune", "tiny.onnx", code=2)
    assert "calibrate" in err


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0)])
def test_parse_seconds_reads_times(text, seconds) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-3s", "1d", "1:30"])
def test_parse_seconds_refuses_other_text(text) -> None:
    with pytest.raises(UsageError, match="invalid duration"):
        parse_seconds(text)


SETTINGS = """
method: percentile
fraction: 0.999
dialect: build
calibration_folder: cards
per_channel: false
skip: [conv:0]
output: logits
"""


@pytest.mark.parametrize(
    "options", [(), ("--keep-outliers",), ("--per-channel", "--skip", "conv:1"), ("--device", "openvino")]
)
@pytest.mark.parametrize("target", [(), ("--target", "vacc"), ("--cluster", "local:2")])
def test_tune_with_a_set_calibrates_as_calibrate_does(
    folder: Path, command: Run, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], target: tuple[str, ...]
) -> None:
    calls: list[dict[str, Any]] = []

    def recorded(*arguments: Any, progress: Any, backends: dict[str, Any], **named: Any) -> None:
        card = {"card": backends["vacc"].options, "arguments": arguments}
        calls.append(card | {name: value for name, value in named.items() if value is not None})
        raise UsageError("recorded")

    monkeypatch.setattr("quantkit.workflows.calibrate.calibrate", recorded)
    (folder / "quantkit.yaml").write_text(f"preset: pipeline.yaml\n{SETTINGS}")
    shared = ("tiny.onnx", "--set", "calib.csv", *options, *target)
    for name in ("calibrate", "tune"):
        command(name, *shared, code=2)
    calibrated, tuned = calls
    defaults = {"fresh": False, "check_preprocessing": True}
    assert tuned == {name: value for name, value in calibrated.items() if defaults.get(name) != value}
    assert tuned["method"] == Percentile(fraction=0.999)
    assert (tuned["card"].dialect, tuned["card"].calibration_folder) == ("build", Path("cards"))
    assert tuned["options"].keep_outliers is ("--keep-outliers" in options)
    assert tuned.get("cluster") == ("local:2" if "--cluster" in target else None)


def test_tune_with_a_set_records_the_settings_of_both(folder: Path, command: Run) -> None:
    (folder / "quantkit.yaml").write_text("preset: pipeline.yaml\nmethod: kl\n")
    _, err = command("tune", "tiny.onnx", "--set", "calib.csv", "--max-drop", "100", "--keep-outliers")
    found = settings_of_run(RunFolder(folder / "runs/tiny").read())
    assert found["calibrate"]["method"] == Setting({"name": "kl", "definition": "auto"}, "quantkit.yaml:2")
    for step in ("calibrate", "tune int8-tuned"):
        assert found[step]["keep outliers"] == Setting(True, "command line")
    assert "quantkit.yaml:2" in err
    log = json.loads((folder / "runs/tiny/tune-ort.json").read_text())
    assert log["best"]["recipe"]["method"] == {"name": "kl", "definition": "auto"}

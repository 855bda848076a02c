"""What the command line says of options that a command does not have, and of arguments that go both ways."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., tuple[str, str]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("calibrate --limit 5", "--limit: there is no such option; here it is --count: Number of images to draw"),
        ("compare fp32 int8 --count 5", "--count: there is no such option; here it is --limit: Maximum number of"),
        ("sensitivity --limit 5", "--limit: there is no such option; here it is --count: "),
        ("calibrate --data x", "--data: there is no such option; here it is --images: "),
        ("calibrate --preprocess x", "--preprocess: there is no such option; here it is --preset: "),
        ("compare fp32 int8 --gate x", "--gate: there is no such option; here it is --fail-if: "),
        ("compare fp32 int8 --report x", "--report: there is no such option; here it is --html: "),
        ("report --out x", "--out: there is no such option; here it is --html: "),
        ("quantize --bits 7", "--bits: there is no such option; here it is --weight-bits: "),
        ("inspect --model x.onnx", "--model: there is no such option; it is given by position: ONNX file"),
        ("tune --model x.onnx", "--model: there is no such option; it is given by position: Run folder"),
        ("calibrate --methd kl", "--methd: there is no such option; did you mean --method?"),
        ("calibrate --epochs 3", "--epochs: there is no such option."),
        ("calib-set build --limit 3", "--limit: there is no such option; here it is --count: Number of images."),
    ],
)
def test_hint_unknown_option_names_the_one_meant(line: str, said: str, command: Command) -> None:
    _, err = command(*line.split(), code=2)
    assert err.startswith(f"error: {said}")
    named = " ".join(word for word in line.split()[: 2 if line.startswith("calib-set") else 1])
    assert err.endswith(f"See quantkit {named} --help.\n")


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("vamc write runs/tiny", "--run runs/tiny"),
        ("calib-set build images --out c.csv", "--images images"),
        ("calibrate tiny.onnx calib.csv", "--set calib.csv"),
        ("vamc write tiny.onnx", "--model tiny.onnx"),
    ],
)
def test_hint_extra_argument_names_its_option(line: str, meant: str, calibrated: Path, command: Command) -> None:
    _, err = command(*line.split(), code=2)
    assert f"; did you mean {meant}? See quantkit" in err


def test_hint_name_of_run_names_its_folder(calibrated: Path, command: Command) -> None:
    _, err = command("compare", "fp32", "int8", "--run", "tiny", code=2)
    assert err == "error: tiny: this is not a run folder; give runs/tiny\n"


def test_arguments_model_and_run_by_position_or_option_are_equal(project: Path, command: Command) -> None:
    (project / "quantkit.yaml").write_text("preset: pipeline.yaml\nimages: images\n")
    drawn = ("--images", "images", "--count", "8", "--preset", "pipeline.yaml")
    for model in (("tiny.onnx",), ("--model", "tiny.onnx")):
        out, _ = command("calibrate", *model, *drawn)
        assert "in runs/tiny" in out
    for run in ((), ("runs/tiny",), ("--run", "runs/tiny"), ("tiny.onnx",)):
        out, _ = command("quantize", *run, "--method", "kl")
        assert "next: quantkit compare fp32 int8-kl --run runs/tiny" in out
        assert "wrote " in command("report", *run, "--limit", "8")[0]
        assert "next: " in command("sensitivity", *run, "--count", "2")[0]
    for twice in (("calibrate", "tiny.onnx", "--model", "tiny.onnx"), ("quantize", "runs/tiny", "--run", "runs/tiny")):
        assert "was given twice" in command(*twice, code=2)[1]


def test_arguments_of_plan_are_names_sets_and_project(project: Path, command: Command) -> None:
    command("calib-set", "build", "--images", "images", "--count", "12", "--out", "calib.csv")
    command("calibrate", "--set", "calib.csv")

    def planned(line: str, code: int = 0) -> str:
        out, err = command("plan", *line.split(), code=code)
        return err if code else re.search(r"^\w+, [\d,]+ images", out, re.MULTILINE)[0]

    files = "tiny.onnx --preset pipeline.yaml"
    assert planned(f"eval {files} --images images") == "eval, 32 images"
    assert planned(f"eval {files} --images images --limit 10") == "eval, 10 images"
    assert planned(f"calibrate {files} --set calib.csv") == "calibrate, 12 images"
    assert planned("calibrate --run runs/tiny fp32") == "calibrate, 12 images"
    assert planned("calibrate") == "calibrate, 12 images", "model and set of quantkit.yaml"
    (project / "quantkit.yaml").unlink()
    assert planned("compare fp32 int8") == "compare, 20 images", "those that calibration has not seen"
    assert "images were given twice" in planned(f"eval {files} --images images --set calib.csv", 2)
    assert "no images were given; give --images, --set, --run" in planned(f"eval {files}", 2)
    assert "no model was given" in planned("eval --images images", 2)
    assert "the run has no model 'int9'" in planned("eval int9", 2)

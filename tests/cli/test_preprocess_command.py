"""``quantkit preprocess guess`` as a user types it."""

import json
from collections.abc import Callable
from pathlib import Path

from colour_model import colours, values

from quantkit.workflows.presets import load_preset

Command = Callable[..., tuple[str, str]]
RGB_PRESET = "ops:\n- op: decode\n- op: to_tensor\n"


def test_guess_prints_the_alternatives_and_writes_the_preset(command: Command, tmp_path: Path) -> None:
    colours(tmp_path, values("BGR", 255))
    (tmp_path / "start.yaml").write_text(RGB_PRESET)
    options = "--images images --labels labels.txt --preset start.yaml --out found.yaml --json found.json"
    out, _ = command("preprocess", "guess", "colours.onnx", *options.split())
    assert "colours in the order BGR" in out
    assert "top-1 of 60 images rises from" in out
    assert "wrote found.yaml, found.json" in out
    assert "next: quantkit calibrate --model colours.onnx --images images --preset found.yaml" in out
    assert load_preset(tmp_path / "found.yaml") == values("BGR", 255)
    assert json.loads((tmp_path / "found.json").read_text())["evidence"] == "labels"


def test_guess_without_out_says_how_the_preset_is_written(command: Command, tmp_path: Path) -> None:
    colours(tmp_path, values("BGR", 255))
    (tmp_path / "start.yaml").write_text(RGB_PRESET)
    options = "--images images --labels labels.txt --preset start.yaml"
    out, _ = command("preprocess", "guess", "colours.onnx", *options.split())
    assert "--out FILE writes it" in out
    assert sorted(path.name for path in tmp_path.glob("*.yaml")) == ["start.yaml"]


def test_guess_overwrites_no_file(command: Command, tmp_path: Path) -> None:
    colours(tmp_path, values("BGR", 255), images=20)
    (tmp_path / "mine.yaml").write_text("precious")
    _, err = command(*["preprocess", "guess", "colours.onnx", "--images", "images", "--out", "mine.yaml"], code=2)
    assert "mine.yaml: the file exists and is not overwritten" in err
    assert (tmp_path / "mine.yaml").read_text() == "precious"


def test_guess_without_labels_says_that_the_evidence_is_weaker(command: Command, tmp_path: Path) -> None:
    colours(tmp_path, values("BGR", 255))
    (tmp_path / "start.yaml").write_text(RGB_PRESET)
    options = "--images images --unlabelled --preset start.yaml --out found.yaml"
    out, _ = command("preprocess", "guess", "colours.onnx", *options.split())
    assert "weaker evidence than accuracy" in out
    assert "images without labels, which is weaker evidence" in (tmp_path / "found.yaml").read_text()


def test_guess_takes_model_images_and_preset_from_the_project(command: Command, tmp_path: Path) -> None:
    colours(tmp_path, values("BGR", 255))
    (tmp_path / "start.yaml").write_text(RGB_PRESET)
    (tmp_path / "quantkit.yaml").write_text(
        "model: colours.onnx\npreset: start.yaml\nimages: images\nlabels: labels.txt\n"
    )
    out, _ = command("preprocess", "guess")
    assert "colours in the order BGR: top-1" in out


def test_guess_without_model_or_images_is_refused(command: Command, tmp_path: Path) -> None:
    _, err = command("preprocess", "guess", code=2)
    assert "no model was given" in err
    colours(tmp_path, values("RGB", 255), images=20)
    _, err = command("preprocess", "guess", "colours.onnx", code=2)
    assert "no images were given" in err


def test_eval_check_can_be_turned_off(command: Command, tmp_path: Path) -> None:
    colours(tmp_path, values("BGR", 255))
    (tmp_path / "start.yaml").write_text(RGB_PRESET)
    line = ["eval", "colours.onnx", "--images", "images", "--labels", "labels.txt", "--preset", "start.yaml"]
    out, _ = command(*line)
    assert "warning: the preprocessing seems wrong" in out
    out, _ = command(*line, "--no-check-preprocessing")
    assert "the preprocessing seems wrong" not in out

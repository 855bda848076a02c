"""``quantkit report`` and what ``compare --html`` takes from a run."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from quantkit.config.pipeline import PRESETS, Decode, Normalize, Pad, Pipeline, ToTensor
from quantkit.runs.folder import RunFolder
from quantkit.workflows.compare import compare
from quantkit.workflows.provenance import pipeline_words
from quantkit.workflows.report import report_data

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def folder(calibrated: Path) -> Path:
    return calibrated


def test_report_of_run_has_all_models_and_results(folder: Path, command: Run) -> None:
    command("quantize", "--method", "kl")
    command("sensitivity")
    command("tune", "--images", "images")
    out, _ = command("report", "--images", "images", "--html", "all.html", "--latency")
    assert "wrote all.html" in out
    text = (folder / "all.html").read_text()
    sections = set(re.findall(r'<section id="(\w+)"', text))
    assert {"accuracy", "drift", "tensor", "sensitivity", "tuning", "coverage", "images", "provenance"} <= sections
    for name in ("int8", "int8-kl", "int8-tuned"):
        assert f">{name}</th>" in text
    assert "decode to RGB, then divide by 255" in text
    assert "percentile 0.99999 for target ort, bias correction on" in text
    assert "{&#x27;" not in text  # a Python dict


def test_report_of_named_models_and_of_a_run_without_models(folder: Path, command: Run, run: Run) -> None:
    command("quantize", "--method", "kl")
    command("report", "--images", "images", "--model", "int8-kl")
    assert ">int8</th>" not in (folder / "runs/tiny/report.html").read_text()
    record = RunFolder(folder / "runs/tiny").read()
    RunFolder(folder / "runs/tiny").write(record.model_copy(update={"quantized": {}}))
    _, err = run(folder, "report", "--images", "images", code=2)
    assert "the run has no quantized model" in err


def test_report_leaves_out_results_of_other_model(folder: Path, command: Run) -> None:
    command("sensitivity")
    path = folder / "runs/tiny/sensitivity-ort.json"
    kept = json.loads(path.read_text())

    def shown() -> int:
        evaluation = compare(["fp32", "int8"], run=folder / "runs/tiny", images=folder / "images")
        return len(report_data(evaluation).sensitivities)

    assert shown() == 1
    for changed in ("model", "output", "set", "images", "pipeline", "numerics"):
        path.write_text(json.dumps(kept | {"belongs_to": kept["belongs_to"] | {changed: "other"}}))
        assert shown() == 0, changed
    for damaged in ("", "[]", json.dumps({"belongs_to": kept["belongs_to"]})):
        path.write_text(damaged)
        assert shown() == 0


def test_report_ranges_are_those_of_file(folder: Path, command: Run) -> None:
    """Every activation of int8.onnx has one range that is used by int8, with the scale that onnx reads in the file."""
    evaluation = compare(["fp32", "int8"], run=folder / "runs/tiny", images=folder / "images")
    data = report_data(evaluation)
    model = onnx.load(folder / "runs/tiny/int8.onnx")
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    scales = {float(constants[node.input[1]]) for node in model.graph.node if node.op_type == "QuantizeLinear"}
    used = [one.step for tensor in data.tensors for one in tensor.ranges if "int8" in one.used_by]
    assert used
    assert all(min(abs(step - scale) for scale in scales) < 1e-6 * step for step in used)


def test_report_tuned_model_with_rescaled_channels_has_no_drift(folder: Path, command: Run) -> None:
    """Their inner tensors are not those of fp32, so comparing them would report an error that is not there."""
    command("tune", "--images", "images")
    path = folder / "runs/tiny"
    record = RunFolder(path).read()
    made = record.quantized["int8-tuned"]
    recipe = made.options["recipe"] | {"equalization": 1.0}
    changed = made.model_copy(update={"options": {"recipe": recipe}})
    RunFolder(path).write(record.model_copy(update={"quantized": record.quantized | {"int8-tuned": changed}}))
    result = compare(["fp32", "int8", "int8-tuned"], run=path, images=folder / "images")
    assert result.candidates[0].tensors
    assert result.candidates[1].tensors == result.candidates[1].layers == ()
    assert any("tune shifted or rescaled its channels" in warning for warning in result.warnings)


def test_report_corrected_fp32_model_never_replaces_int8_model(folder: Path, command: Run) -> None:
    command("quantize", "--target", "vacc", "--out", "runs/tiny/mine.onnx")
    kinds = {node.op_type for node in onnx.load(folder / "runs/tiny/mine.onnx").graph.node}
    assert "QuantizeLinear" in kinds
    fp32 = RunFolder(folder / "runs/tiny").read().quantized["mine"].fp32
    assert fp32 == "mine-fp32.onnx"


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        (PRESETS["imagenet"], ("decode to RGB, then resize the shorter side to 256 (bilinear, with antialiasing), "
         "then crop the center to 224 × 224, then divide by 255, "
         "then subtract the mean (0.485, 0.456, 0.406) and divide by (0.229, 0.224, 0.225)")),
        (Pipeline(ops=(Decode(mode="BGR", exif=True), Pad(value=7), ToTensor(divisor=1))),
         "decode to BGR, turned by EXIF, then pad to a square with 7, then divide by 1"),
        (Pipeline(ops=(Decode(mode="L"), ToTensor(), Normalize(mean=(0.5,), std=(0.25,)))),
         "decode to L, then divide by 255, then subtract the mean (0.5) and divide by (0.25)"),
    ],
    ids=["imagenet", "padded", "grey"],
)  # fmt: skip
def test_report_preprocessing_is_in_words(pipeline: Pipeline, words: str) -> None:
    assert pipeline_words(pipeline) == words

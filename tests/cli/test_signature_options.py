"""``--output`` and ``--input`` on the command line, and what is recorded of them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import write_images
from onnx import numpy_helper

Run = Callable[..., tuple[str, str]]

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
two (float[N, 3, 8, 8] image, float keep, float[N, 4] mask) => (float[N, 4] left, float[N, 4] right) {
    a = Conv <pads = [1, 1, 1, 1]> (image, w1)
    r = Relu (a)
    s = Mul (r, keep)
    g = GlobalAveragePool (s)
    f = Flatten (g)
    m = Gemm (f, w2)
    left = Mul (m, mask)
    right = Gemm (f, w3)
}
"""
FIXED = ("--input", "keep=0.5", "--input", "mask=mask.npy")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, rng = onnx.parser.parse_model(TEXT), np.random.default_rng(0)
    for name, shape in {"w1": (16, 3, 3, 3), "w2": (16, 4), "w3": (16, 4)}.items():
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(model, tmp_path / "two.onnx")
    np.save(tmp_path / "mask.npy", np.array([1.0, 0.0, 1.0, 1.0], np.float32))
    write_images(tmp_path / "images")
    (tmp_path / "pipeline.yaml").write_text("ops:\n- op: decode\n- op: to_tensor\n")
    return tmp_path


def test_signature_options_are_recorded_and_used_later(folder: Path, run: Run) -> None:
    given = ("--model", "two.onnx", "--images", "images", "--count", "16", "--preset", "pipeline.yaml")
    out, _ = run(folder, "calibrate", *given, *FIXED, "--output", "left")
    assert "the scores are the output 'left'" in out
    assert "the input 'keep' is fixed to 0.5" in out
    record = json.loads((folder / "runs/two/run.json").read_text())["model"]
    assert (record["output"], record["inputs"]) == ("left", {"keep": 0.5, "mask": [[1.0, 0.0, 1.0, 1.0]]})
    out, _ = run(folder, "compare", "fp32", "int8", "--run", "runs/two", "--images", "images")
    assert "'left'" in out
    run(folder, "quantize", "--run", "runs/two", "--method", "minmax")
    out, _ = run(folder, "eval", "two.onnx", "--run", "runs/two", "--images", "images", "--json", "left.json")
    assert json.loads((folder / "left.json").read_text())["output"] == "left"
    int8 = onnx.load(folder / "runs/two/int8.onnx").graph
    assert [value.name for value in int8.input] == ["image", "keep", "mask"]


def test_signature_options_are_read_from_project_file(folder: Path, run: Run) -> None:
    project = "model: two.onnx\npreset: pipeline.yaml\noutput: right\ninputs: {keep: 1.0, mask: mask.npy}\n"
    (folder / "quantkit.yaml").write_text(project)
    out, _ = run(folder, "calibrate", "--images", "images", "--count", "16")
    assert "the scores are the output 'right'" in out
    given = ("tune", "two.onnx", "--set", "runs/two/set.csv", "--run", "tuned", "--images", "images")
    run(folder, *given, "--max-drop", "100", "--max-skips", "0")
    record = json.loads((folder / "tuned/run.json").read_text())["model"]
    assert (record["output"], record["inputs"]["keep"]) == ("right", 1.0)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ((), 7, "the input 'keep' (not the image 'image') has no value; give --input keep=VALUE"),
        (FIXED, 7, "2 outputs could be the class scores: left, right; name one with --output"),
        ((*FIXED, "--output", "middle"), 7, "the model has no output 'middle'"),
        (("--input", "keep"), 2, "'keep' is not NAME=VALUE"),
        (("--input", "drop=1"), 2, "the model has no input 'drop'; its inputs are image, keep, mask"),
    ],
)
def test_signature_undecided_is_refused_with_deciding_option(
    options: tuple[str, ...], code: int, message: str, folder: Path, run: Run
) -> None:
    given = ("--model", "two.onnx", "--images", "images", "--count", "16", "--preset", "pipeline.yaml")
    _, err = run(folder, "calibrate", *given, *options, code=code)
    assert message in err

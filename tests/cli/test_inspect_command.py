"""``quantkit inspect``, coverage and notes as a user meets them."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from models import tiny_model, write_images

from quantkit.cli.inspect import parse_size
from quantkit.cli.show import parse_percent, print_notes
from quantkit.cli.terminal import session
from quantkit.errors import UsageError
from quantkit.notes import Note, NoteKind

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model(tmp_path / "tiny.onnx")
    write_images(tmp_path / "images", per_class=8)
    (tmp_path / "pipeline.yaml").write_text("ops:\n- op: decode\n- op: to_tensor\n")
    (tmp_path / "quantkit.yaml").write_text("model: tiny.onnx\npreset: pipeline.yaml\nimages: images\n")
    return tmp_path


def test_inspect_piped_has_one_line_a_fact(folder: Path, run: Run) -> None:
    out, err = run(folder, "inspect", "tiny.onnx")
    lines = out.splitlines()
    assert err == ""
    assert lines[0].startswith("file        tiny.onnx, ")
    assert "\x1b" not in out
    assert "input       input: float32 [N, 3, 8, 8], the image: NCHW, 3 channels, 8 x 8, any batch" in lines
    assert "output      logits: float32 [N, 4], the scores: 4 classes" in lines
    assert any(line.startswith("operators   Conv 2, Relu 2, ") and line.endswith("MaxPool 1") for line in lines)
    assert "int8        ort       3 of 3 layers, 100 % of multiply-adds" in lines


def test_inspect_terminal_keeps_to_80_columns(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantkit.cli.inspect.console._force_terminal", True)
    monkeypatch.setattr("quantkit.cli.inspect.console._width", 80)
    monkeypatch.setattr("quantkit.cli.inspect.console.no_color", True)
    out, _ = run(folder, "inspect", "tiny.onnx")
    commands = [line for line in out.splitlines() if "quantkit calibrate" in line]
    assert len(commands) == 1
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    assert max(len(line) for line in plain if "quantkit calibrate" not in line) <= 80


def test_inspect_without_a_model_takes_that_of_the_project(folder: Path, run: Run) -> None:
    out, _ = run(folder, "inspect")
    assert out.startswith("file        tiny.onnx, ")
    (folder / "quantkit.yaml").unlink()
    _, err = run(folder, "inspect", code=2)
    assert err == "error: no model was given; give an ONNX file, or name one in quantkit.yaml\n"


def test_inspect_json_is_all_of_standard_output(folder: Path, run: Run) -> None:
    out, _ = run(folder, "inspect", "tiny.onnx", "--json")
    held = json.loads(out)
    assert held["schema"] == 1
    assert held["targets"]["ort"]["coverage"]["layers"] == 3
    assert held["problems"] == []


def test_inspect_refused_model_prints_what_is_known_and_ends_with_7(folder: Path, run: Run) -> None:
    proto = onnx.load(folder / "tiny.onnx")
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    proto.graph.node.insert(0, onnx.helper.make_node("QuantizeLinear", ["input", "b1"], ["q"], "the_node"))
    (folder / "bad.onnx").write_bytes(proto.SerializeToString())
    out, err = run(folder, "inspect", "bad.onnx", code=7)
    assert "input: float64 [N, 3, 8, 8]" in out
    assert "error       is already quantized" in out
    assert err.startswith("error: bad.onnx: calibrate refuses it: ")
    assert err.count("\n") == 1
    out, _ = run(folder, "inspect", "bad.onnx", "--json", code=7)
    assert json.loads(out)["problems"][0]["severity"] == "error"


def test_inspect_non_model_prints_one_line(folder: Path, run: Run) -> None:
    for name in ("images", "pipeline.yaml", "nowhere.onnx"):
        out, err = run(folder, "inspect", name, code=7)
        assert out == ""
        assert err.startswith(f"error: {name}: ")
        assert err.count("\n") == 1


@pytest.mark.parametrize(("text", "size"), [(None, None), ("224", (224, 224)), ("192x256", (192, 256))])
def test_parse_size_reads_sizes(text: str | None, size: tuple[int, int] | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "x224", "224x", "-3", "2.5", "224x224x3"])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(UsageError, match="invalid size"):
        parse_size(text)


def test_parse_percent_takes_all_only_where_allowed() -> None:
    assert parse_percent("100%", "--require-coverage", all_allowed=True) == 100.0
    assert parse_percent("1", "--require-coverage", all_allowed=True) == 100.0
    with pytest.raises(UsageError, match="is not between 0% and 100%"):
        parse_percent("100%", "--until-stable")
    with pytest.raises(UsageError, match="is not between 0% and 100%"):
        parse_percent("101%", "--require-coverage", all_allowed=True)


def test_calibrate_quantize_and_tune_end_with_coverage(folder: Path, run: Run) -> None:
    last = "int8: 3 of 3 layers, 100 % of multiply-adds"
    out, _ = run(folder, "calibrate", "--images", "images", "--count", "24", "--require-coverage", "100%")
    assert out.splitlines()[-2] == last
    assert out.splitlines()[-1].startswith("next: quantkit compare fp32 int8")
    out, _ = run(folder, "quantize", "--method", "mse")
    assert out.splitlines()[-2] == last
    assert out.splitlines()[-1].startswith("next: quantkit compare fp32 int8")
    without = [part for name in ("method", "ranges", "rounding", "equalization") for part in ("--disable", name)]
    out, _ = run(folder, "tune", "--exclude", "runs/tiny/set.csv", "--max-float", "0%", *without, "--json", "t.json")
    assert out.splitlines()[-2].startswith("int8: ")
    assert json.loads((folder / "t.json").read_text())["coverage"]["layers"] >= 3


def test_coverage_low_is_a_warning_and_a_gate(folder: Path, run: Run) -> None:
    run(folder, "calibrate", "--images", "images", "--count", "8")
    before = (folder / "runs/tiny/int8.onnx").read_bytes()
    _, err = run(folder, "quantize", "--skip", "conv:1", "--require-coverage", "95%", code=21)
    assert err.startswith("error: --require-coverage: 95.0 % of the multiply-adds in int8 are required; int8: 2 of 3 l")
    assert (folder / "runs/tiny/int8.onnx").read_bytes() == before
    out, _ = run(folder, "quantize", "--skip", "conv:1", "--verbose")
    lines = out.splitlines()
    assert lines[-3].startswith("warning: int8: 2 of 3 layers, 15.8 % of multiply-adds; float: ")
    assert lines[-2].endswith(": left out as conv 1")


def test_print_notes_groups_by_kind_and_verbose_lists(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = ["first", *(Note(f"c{index}: 2 channels", NoteKind.WIDENED, number=2) for index in range(40))]
    print_notes(notes)
    assert capsys.readouterr().out.splitlines() == [
        "note: first",
        "note: weight scales widened for int32 biases: 80 channels of 40 layers; --verbose lists them",
    ]
    monkeypatch.setattr(session, "verbose", True)
    print_notes(notes)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 42
    assert lines[1] == "note: weight scales widened for int32 biases: 80 channels of 40 layers"
    assert lines[-1] == "    c39: 2 channels"


def test_calibrate_many_widened_scales_are_one_line(folder: Path, run: Run) -> None:
    proto = onnx.load(folder / "tiny.onnx")
    for tensor in proto.graph.initializer:
        if tensor.name in ("b1", "b2"):  # biases beyond what int32 holds at the scales of the weights
            values = onnx.numpy_helper.to_array(tensor) + 3e5
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        if tensor.name in ("w1", "w2"):
            values = onnx.numpy_helper.to_array(tensor) * 1e-6
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    (folder / "tiny.onnx").write_bytes(proto.SerializeToString())
    out, _ = run(folder, "calibrate", "--images", "images", "--count", "8", "--no-bias-correction")
    [line] = [line for line in out.splitlines() if "widened" in line]
    assert line.startswith("note: weight scales widened for int32 biases: ")
    assert line.endswith(" channels of 2 layers; --verbose lists them")
    out, _ = run(folder, "calibrate", "--images", "images", "--count", "8", "--no-bias-correction", "-v")
    assert len([line for line in out.splitlines() if "widened to fit the bias into int32" in line]) == 2

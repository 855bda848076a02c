"""`quantkit.inspect`: known figures, every fault with what is known nevertheless, and the coverage of calibrate."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import tiny_model, write_images
from onnx import TensorProto, helper, numpy_helper

import quantkit
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.errors import CoverageError, ModelError
from quantkit.workflows.model_summary import ModelSummary
from quantkit.workflows.summary_text import short_count, summary_rows

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))
# The layers of `tiny_model`, by hand: 3 to 16 and 16 to 16 channels of 3 x 3 on 8 x 8, and 16 to 4.
PARAMETERS = 16 * 27 + 16 + 16 * 144 + 16 + 64 + 4
MULTIPLY_ADDS = 64 * 16 * 27 + 64 * 16 * 144 + 64


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.onnx")


def changed(path: Path, change) -> Path:
    proto = onnx.load(path)
    change(proto)
    path.write_bytes(proto.SerializeToString())
    return path


def insert_behind_input(proto: onnx.ModelProto, node: onnx.NodeProto) -> None:
    proto.graph.node[0].input[0] = node.output[0]
    proto.graph.node.insert(0, node)


def test_inspect_figures_of_a_small_network(model: Path) -> None:
    summary = quantkit.inspect(str(model))
    assert isinstance(summary, ModelSummary)
    assert (summary.parameters, summary.multiply_adds) == (PARAMETERS, MULTIPLY_ADDS)
    assert summary.operators["Conv"] == 2
    assert (summary.image.channels, summary.image.height, summary.image.batch) == (3, 8, None)
    assert (summary.scores.name, summary.scores.classes) == ("logits", 4)
    assert [target.name for target in summary.targets] == ["ort", "tensorrt", "vacc"]
    assert all(target.coverage.share == 1.0 for target in summary.targets)
    assert summary.problems == ()
    assert summary.opsets == {"ai.onnx": 17}


def test_inspect_coverage_is_that_of_calibrate(model: Path, tmp_path: Path) -> None:
    chosen = build_calibration_set(write_images(tmp_path / "images"), count=8)
    done = quantkit.calibrate(model, chosen, PIPELINE, run=tmp_path / "run", require_coverage=100)
    assert done.coverage == quantkit.inspect(model).targets[0].coverage
    again = quantkit.quantize(tmp_path / "run", target=quantkit.VACC)
    assert again.coverage.multiply_adds == MULTIPLY_ADDS


def test_calibrate_low_coverage_is_refused_before_reading_images(model: Path, tmp_path: Path) -> None:
    options = quantkit.QuantizeOptions(skip=("conv:1",))
    share = (64 * 16 * 27 + 64) / MULTIPLY_ADDS
    chosen = build_calibration_set(write_images(tmp_path / "images"), count=8)
    wanted: dict[str, Any] = {"run": tmp_path / "run", "options": options}
    with pytest.raises(CoverageError, match=rf"int8: 2 of 3 layers, {100 * share:.1f} % of multiply-adds; float: "):
        quantkit.calibrate(model, chosen, PIPELINE, require_coverage=100.0 * share + 1.0, **wanted)
    assert not (tmp_path / "run").exists()
    done = quantkit.calibrate(model, chosen, PIPELINE, require_coverage=100.0 * share - 1.0, **wanted)
    before = done.quantized.path.read_bytes()
    with pytest.raises(CoverageError, match="left out as conv 0"):
        quantkit.quantize(
            tmp_path / "run", options=quantkit.QuantizeOptions(skip=("conv:0", "conv:1")), require_coverage=50
        )
    assert done.quantized.path.read_bytes() == before


def test_inspect_free_size_is_assumed_and_given(tmp_path: Path) -> None:
    path = changed(tiny_model(tmp_path / "open.onnx"), _free_sides)
    assert quantkit.inspect(path, size=(8, 8)).multiply_adds == MULTIPLY_ADDS
    assumed = quantkit.inspect(path)
    assert assumed.assumed_size == (224, 224)
    assert assumed.multiply_adds == (MULTIPLY_ADDS - 64) * 28 * 28 + 64


def _free_sides(proto: onnx.ModelProto) -> None:
    for axis, name in ((2, "H"), (3, "W")):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name


def test_inspect_quantized_model_is_described_and_refused(model: Path) -> None:
    def quantize(proto: onnx.ModelProto) -> None:
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(0.1, np.float32), "scale"))
        proto.graph.node.insert(0, helper.make_node("QuantizeLinear", ["input", "scale"], ["q"], "the_node"))
        proto.graph.node.insert(1, helper.make_node("DequantizeLinear", ["q", "scale"], ["d"]))

    summary = quantkit.inspect(changed(model, quantize))
    [problem] = summary.errors
    assert "is already quantized: node 'the_node'" in problem.what
    assert problem.fix == "give the fp32 model"
    assert summary.multiply_adds == MULTIPLY_ADDS
    assert summary.next_command is None


def test_inspect_nan_weight_is_described_and_refused(model: Path) -> None:
    def spoil(proto: onnx.ModelProto) -> None:
        weight = numpy_helper.to_array(proto.graph.initializer[0]).copy()
        weight.flat[0] = np.nan
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w1"))

    summary = quantkit.inspect(changed(model, spoil))
    assert [problem.what for problem in summary.errors] == ["the weight 'w1' contains NaN"]
    assert summary.multiply_adds == MULTIPLY_ADDS


def test_inspect_missing_external_data_is_described_and_refused(model: Path) -> None:
    onnx.save(onnx.load(model), model, save_as_external_data=True, location="weights.bin", size_threshold=0)
    whole = quantkit.inspect(model)
    assert (whole.parameters, whole.problems) == (PARAMETERS, ())
    (model.parent / "weights.bin").unlink()
    summary = quantkit.inspect(model)
    assert "its external data file 'weights.bin' is missing" in summary.errors[0].what
    assert (summary.parameters, summary.operators["Conv"]) == (PARAMETERS, 2)


def test_inspect_two_inputs_keep_the_rest_known(model: Path) -> None:
    def add_input(proto: onnx.ModelProto) -> None:
        proto.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 4]))
        proto.graph.node[-1].output[0] = "unmasked"
        proto.graph.node.append(helper.make_node("Mul", ["unmasked", "mask"], ["logits"]))

    summary = quantkit.inspect(changed(model, add_input))
    assert [one.name for one in summary.inputs] == ["input", "mask"]
    assert summary.multiply_adds == MULTIPLY_ADDS
    assert any("no value" in problem.what for problem in summary.errors)


def test_inspect_normalization_inside_gives_the_pipeline(model: Path) -> None:
    def divide(proto: onnx.ModelProto) -> None:
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(255.0, np.float32), "c"))
        insert_behind_input(proto, helper.make_node("Div", ["input", "c"], ["unit"]))

    summary = quantkit.inspect(changed(model, divide))
    assert summary.preprocessing.takes_bytes
    [warning] = summary.problems
    assert warning.severity == "warning"
    assert "to_tensor {divisor: 1} and without normalize" in warning.fix
    assert "--preset PIPELINE.yaml" in summary.next_command


def test_inspect_softmax_at_the_end_is_a_warning(model: Path) -> None:
    def append(proto: onnx.ModelProto) -> None:
        proto.graph.node[-1].output[0] = "raw"
        proto.graph.node.append(helper.make_node("Softmax", ["raw"], ["logits"], axis=1))

    summary = quantkit.inspect(changed(model, append))
    assert summary.scores.softmax
    assert "output of a Softmax" in str(summary.problems[0])


def test_inspect_model_without_layers_names_the_fault_and_still_counts(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 3, 8, 8] x) => (float[N, 192] y) { y = Flatten (x) }'
    path = tmp_path / "flat.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    summary = quantkit.inspect(path)
    assert any("no operator is left to quantize" in problem.what for problem in summary.errors)
    assert summary.operators == {"Flatten": 1}
    assert summary.targets[0].coverage.layers == 0


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("empty.onnx", b"", "has no graph"),
        ("table.csv", b"name,label\na.png,1\n", "is not an ONNX file"),
        ("text.onnx", b"this is no model\n", "is not an ONNX file|not a valid"),
        ("missing.onnx", None, "there is no such model file"),
    ],
)
def test_inspect_non_model_is_one_error(tmp_path: Path, name: str, content: bytes | None, match: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=match):
        quantkit.inspect(tmp_path / name)


def test_inspect_folder_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder; give the"):
        quantkit.inspect(tmp_path)


def test_inspect_file_cut_anywhere_is_refused_or_described(model: Path, tmp_path: Path) -> None:
    whole, path = model.read_bytes(), tmp_path / "cut.onnx"
    for end in range(0, len(whole) - 1, max(1, len(whole) // 30)):
        path.write_bytes(whole[:end])
        try:
            summary = quantkit.inspect(path)
        except ModelError:
            continue
        assert summary.errors


def test_inspect_leaves_no_fault_of_its_own(model: Path) -> None:
    summary = quantkit.inspect(model)
    assert json.loads(json.dumps(summary.to_json(), allow_nan=False))["multiply_adds"] == MULTIPLY_ADDS
    assert "3 of 3 layers, 100 % of multiply-adds" in str(summary)


def test_inspect_html_escapes_names(model: Path) -> None:
    def rename(proto: onnx.ModelProto) -> None:
        proto.producer_name = "<script>"

    html = quantkit.inspect(changed(model, rename))._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html


def test_inspect_rows_escape_control_characters_of_names(model: Path) -> None:
    def rename(proto: onnx.ModelProto) -> None:
        proto.producer_name = "a\x1b[31m\nb"

    text = str(quantkit.inspect(changed(model, rename)))
    assert "by a\\x1b[31m\\nb" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999"), (1000, "1 k"), (1_234_000, "1.23 M"), (4_089_000_000, "4.09 G"), (999_999, "1 M")],
)
def test_inspect_short_count_has_three_digits(count: int, text: str) -> None:
    assert short_count(count) == text


def test_inspect_rows_break_lists_between_items(model: Path) -> None:
    rows = {row.label: row for row in summary_rows(quantkit.inspect(model))}
    lines = rows["operators"].lines(30)
    assert all(len(line) <= 30 for line in lines)
    assert all(line.endswith(",") for line in lines[:-1])
    assert " ".join(lines) == rows["operators"].text


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "classes", "dataset", "layers", "preset"),
    [
        ("squeezenet1_1", 1000, "ImageNet-1k", 26, "imagenet"),
        ("efficientnet_lite0", 1000, "ImageNet-1k", 50, "imagenet"),
        ("cifar_resnet20", 10, "CIFAR-10", 20, "cifar10"),
        ("mobilenetv2_cifar10", 10, None, 54, "PIPELINE.yaml"),
    ],
)
def test_inspect_real_networks(
    shared_assets: Path, name: str, classes: int, dataset: str | None, layers: int, preset: str
) -> None:
    summary = quantkit.inspect(shared_assets / f"{name}.onnx")
    assert (summary.scores.classes, summary.scores.dataset) == (classes, dataset)
    assert {target.coverage.int8_layers for target in summary.targets} == {layers}
    assert summary.next_command.endswith(f"--preset {preset}")
    assert summary.problems == ()

"""The passes after torch's exporter: each with what it changes and what it must leave alone."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

pytest.importorskip("onnxscript", reason="needs quantkit[torch]")

from quantkit.export.tidy import tidy

HEADER = '<ir_version: 10, opset_import: ["": 18]>\n'


def tidied(text: str) -> tuple[ir.Model, list[str]]:
    """Tidy a model given as text, once it is shown that its output stays the same."""
    model = ir.from_onnx_text(HEADER + text)
    before = run(model)
    tidy(model, ["w", "b"])
    np.testing.assert_allclose(run(model), before, rtol=0, atol=1e-6)
    return model, [node.op_type for node in model.graph]


def run(model: ir.Model) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    batch = np.random.default_rng(0).standard_normal((3, 2, 4, 5)).astype(np.float32)
    return session.run(None, {"x": batch})[0]


@pytest.mark.parametrize(
    ("axes", "keepdims", "expected"),
    [
        ("2, 3", 1, ["GlobalAveragePool"]),
        ("-1, -2", 1, ["GlobalAveragePool"]),
        ("2, 3", 0, ["GlobalAveragePool", "Flatten"]),
        ("1, 2", 1, ["ReduceMean"]),
        ("3", 1, ["ReduceMean"]),
    ],
)
def test_tidy_mean_becomes_pool_over_the_whole_image_only(axes: str, keepdims: int, expected: list[str]) -> None:
    count = axes.count(",") + 1
    _, found = tidied(
        f"""m (float[n, 2, 4, 5] x) => (float y) <int64[{count}] axes = {{{axes}}}> {{
            y = ReduceMean <keepdims = {keepdims}> (x, axes)
        }}"""
    )
    assert found == expected


def test_tidy_mean_of_other_rank_stays() -> None:
    _, found = tidied(
        """m (float[n, 2, 4, 5] x) => (float y) <int64[1] shape = {-1}, int64[1] axes = {0}> {
            [flatten] flat = Reshape (x, shape)
            [mean] y = ReduceMean <keepdims = 0> (flat, axes)
        }"""
    )
    assert found == ["Reshape", "ReduceMean"]


def test_tidy_computed_flatten_shape_becomes_constant() -> None:
    model, found = tidied(
        """m (float[n, 2, 4, 5] x) => (float[n, 40] y) <int64[1] zero = {0}, int64[1] rest = {40}> {
            shape = Shape (x)
            batch = Gather (shape, zero)
            target = Concat <axis = 0> (batch, rest)
            y = Reshape <allowzero = 1> (x, target)
        }"""
    )
    assert found == ["Reshape"]
    (node,) = model.graph
    assert node.inputs[1] is not None
    assert node.inputs[1].const_value is not None
    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), [-1, 40])
    assert "allowzero" not in node.attributes


def test_tidy_reshape_unknown_in_two_dimensions_stays() -> None:
    _, found = tidied(
        """m (float[n, 2, h, 5] x) => (float[h, p] y) <int64[1] two = {2}, int64[1] rest = {-1}> {
            shape = Shape (x)
            height = Gather (shape, two)
            target = Concat <axis = 0> (height, rest)
            y = Reshape (x, target)
        }"""
    )
    assert "Shape" in found
    assert found[-1] == "Reshape"


@pytest.mark.parametrize(("bias", "inputs"), [("0, 0, 0", 2), ("0, 0.5, 0", 3)])
def test_tidy_zero_bias_is_dropped(bias: str, inputs: int) -> None:
    weights = ", ".join(["0.1", "-0.2"] * 3)
    model, _ = tidied(
        f"""m (float[n, 2, 4, 5] x) => (float[n, 3, 4, 5] y)
        <float[3, 2, 1, 1] w = {{{weights}}}, float[3] b = {{{bias}}}> {{
            y = Conv (x, w, b)
        }}"""
    )
    assert len(model.graph[0].inputs) == inputs


def test_tidy_constants_are_folded_and_named_after_reader() -> None:
    model, found = tidied(
        """m (float[n, 2, 4, 5] x) => (float[n, 2, 4, 3] y) <float[3, 5] w =
        {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6}> {
            turned = Transpose <perm = [1, 0]> (w)
            same = Identity (x)
            [project] y = MatMul (same, turned)
        }"""
    )
    assert found == ["MatMul"]
    assert list(model.graph.initializers) == ["project_input_1"]


def test_tidy_nodes_are_named_after_modules_without_metadata() -> None:
    model = ir.from_onnx_text(
        HEADER + "m (float[n, 2] x) => (float[n, 2] y) { a = Relu (x) b = Relu (a) c = Neg (b) y = Neg (c) }"
    )
    scopes = ["['', 'layer1', 'layer1.0', 'relu']", "['', 'layer1', 'layer1.0', 'relu_1']", "['', 'neg']"]
    for node, scope in zip(model.graph, scopes, strict=False):
        node.metadata_props["pkg.torch.onnx.name_scopes"] = scope
        node.metadata_props["pkg.torch.onnx.stack_trace"] = "File /home/someone/network.py"
    tidy(model, [])
    assert [node.name for node in model.graph][:3] == ["layer1.0/Relu", "layer1.0/Relu_1", "Neg"]
    assert [node.outputs[0].name for node in model.graph] == [
        "layer1.0/Relu_output_0",
        "layer1.0/Relu_1_output_0",
        "Neg_output_0",
        "y",
    ]
    assert not any(node.metadata_props for node in model.graph)

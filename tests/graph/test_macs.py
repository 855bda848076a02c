"""Multiply-adds: layers worked out by hand, and networks whose total is published."""

import numpy as np
import pytest
from graph_runs import text_model

from quantkit.graph.analysis.macs import multiply_adds
from quantkit.graph.model import read_model
from quantkit.graph.prepare import prepare

TEXT = """
<ir_version: 8, opset_import: ["": 17]>
g (float[{batch}, 4, {size}, {size}] input) => (float[{batch}, 5] logits) {{
    a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (input, w1)
    d = Conv <group = 6, pads = [1, 1, 1, 1]> (a, w2)
    r = Relu (d)
    u = ConvTranspose <strides = [2, 2], group = 2> (r, w3)
    p = GlobalAveragePool (u)
    f = Flatten (p)
    h = Gemm (f, w4)
    logits = Gemm <transB = 1> (h, w5)
}}
"""
SHAPES = {"w1": (6, 4, 3, 3), "w2": (6, 1, 3, 3), "w3": (6, 5, 2, 2), "w4": (10, 7), "w5": (5, 7)}
# 8 x 8 in; 4 x 4 behind the strided conv; each of the 6 x 4 x 4 values goes into 5 channels of 2 x 2.
BY_HAND = [6 * 4 * 4 * 4 * 9, 6 * 4 * 4 * 9, 6 * 4 * 4 * 5 * 4, 10 * 7, 7 * 5]


def model_of(batch: str, size: str):
    weights = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    return prepare(text_model(TEXT.format(batch=batch, size=size), **weights)).model


@pytest.mark.parametrize("batch", ["N", "1", "3"])
def test_multiply_adds_of_layers_equal_hand_count(batch: str) -> None:
    assert list(multiply_adds(model_of(batch, "8")).values()) == BY_HAND


def test_multiply_adds_open_sizes_are_those_of_input() -> None:
    model = model_of("N", "S")
    assert list(multiply_adds(model, (2, 4, 8, 8)).values()) == BY_HAND
    larger = list(multiply_adds(model, (1, 4, 16, 16)).values())
    assert larger == [4 * count for count in BY_HAND[:3]] + BY_HAND[3:]


def test_multiply_adds_unknown_sizes_are_left_out() -> None:
    assert list(multiply_adds(model_of("N", "S")).values()) == BY_HAND[3:]


def test_multiply_adds_leaves_model_unchanged() -> None:
    model = model_of("N", "S")
    before = [str(value.shape) for node in model.graph for value in node.outputs]
    multiply_adds(model, (1, 4, 8, 8))
    assert [str(value.shape) for node in model.graph for value in node.outputs] == before
    assert str(model.graph.inputs[0].shape) == "[N,4,S,S]"


def test_multiply_adds_products_of_two_activations_count() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N, 3, 5, 7] input) => (float[N, 3, 5, 5] y) {
        t = Transpose <perm = [0, 1, 3, 2]> (input)
        y = MatMul (input, t)
    }
    """
    assert list(multiply_adds(prepare(text_model(text)).model).values()) == [3 * 5 * 5 * 7]


# GFLOPS of torchvision's table for SqueezeNet 1.1; for ResNet-20 on CIFAR-10 counted from He et al. 2016, section 4.2.
RESNET20 = (
    32 * 32 * 9 * (3 * 16 + 6 * 16 * 16) + 16 * 16 * 9 * (16 * 32 + 5 * 32 * 32) + 8 * 8 * 9 * (32 * 64 + 5 * 64**2)
)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "total"), [("squeezenet1_1", 0.349e9), ("cifar_resnet20", RESNET20 + 64 * 10)])
def test_multiply_adds_equal_published_totals(shared_assets, name: str, total: float) -> None:
    model = prepare(read_model(shared_assets / f"{name}.onnx")).model
    assert sum(multiply_adds(model).values()) == pytest.approx(total, rel=0.001)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_multiply_adds_equal_torchvision_count(tmp_path, name: str) -> None:
    torchvision = pytest.importorskip("torchvision", reason="needs quantkit[torch]")
    torch = pytest.importorskip("torch", reason="needs quantkit[torch]")
    path = tmp_path / "network.onnx"
    network = torchvision.models.get_model(name, weights=None).eval()
    torch.onnx.export(network, (torch.zeros(1, 3, 224, 224),), path, dynamo=False)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    counted = sum(multiply_adds(prepare(read_model(path)).model).values())
    assert counted / 1e9 == pytest.approx(weights.meta["_ops"], abs=0.001)


def test_multiply_adds_size_lost_by_inference_is_that_of_file() -> None:
    # torch's exporter writes as_strided as a Gather with indices from a Range over the batch.
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[N, 4, 1, 1] input) => (float[N, 3] logits) <float[N, 4] gathered>
    {
        shape = Shape <start = 0, end = 1> (input)
        axes = Constant <value = int64[1] {0}> ()
        n = Squeeze (shape, axes)
        zero = Constant <value = int64 {0}> ()
        one = Constant <value = int64 {1}> ()
        rows = Range (zero, n, one)
        flat = Flatten (input)
        gathered = Gather (flat, rows)
        logits = Gemm (gathered, w)
    }
    """
    assert list(multiply_adds(text_model(text, w=np.ones((4, 3), np.float32))).values()) == [12]

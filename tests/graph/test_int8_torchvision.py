"""torchvision's classifiers and iResNet-50, as both of torch's exporters write them: random weights, real structure."""

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs quantkit[torch]")
torchvision = pytest.importorskip("torchvision", reason="needs quantkit[torch]")
pytest.importorskip("onnxscript", reason="needs quantkit[torch]")

from graph_runs import optimized_ops, quantize, run, sqnr_db  # noqa: E402

from quantkit.export.iresnet import iresnet50  # noqa: E402
from quantkit.export.random_weights import give_random_weights  # noqa: E402
from quantkit.graph.model import read_model  # noqa: E402
from quantkit.graph.prepare import prepare  # noqa: E402

pytestmark = pytest.mark.torch

# What no graph may be left with, and what a transformer may.
FLOAT_MATH = ("Conv", "FusedConv", "NchwcConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
CONVOLUTIONAL: frozenset[str] = frozenset()
TRANSFORMER = frozenset(
    {"LayerNormalization", "SkipLayerNormalization", "Softmax", "Gelu", "Add", "MatMulIntegerToFloat"}
)
# Integer kernels, what moves integers, and arithmetic on shapes and indices.
INTEGER = frozenset(
    [
        *("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QGemm", "QLinearMatMul", "QLinearAdd", "QLinearMul"),
        *(
            "QLinearConcat",
            "QLinearSigmoid",
            "QLinearAveragePool",
            "QLinearGlobalAveragePool",
            "NhwcMaxPool",
            "MaxPool",
        ),
        *("Transpose", "Reshape", "Flatten", "Split", "Squeeze", "Unsqueeze", "Slice", "Gather", "Concat", "Pad"),
        *("Expand", "Shape", "Range", "Equal", "Where"),
    ]
)


# Fewer of the blocks that these repeat: the same structure in a fraction of the time.
FEWER_BLOCKS = {
    "vit_b_16": lambda: torchvision.models.VisionTransformer(224, 16, 3, 12, 768, 3072),
    "swin_t": lambda: torchvision.models.SwinTransformer([4, 4], 96, [2, 2, 2, 2], [3, 6, 12, 24], [7, 7]),
}


@dataclass(frozen=True)
class Case:
    """A network, the SQNR its int8 model must reach, and what may be left of it in float."""

    factory: str
    floor_db: float
    float_ops: frozenset[str] = CONVOLUTIONAL
    side: int = 96


CASES = {
    "resnet18": Case("resnet18", 21),
    "resnet50": Case("resnet50", 18),
    "resnext50": Case("resnext50_32x4d", 17),
    "wide_resnet50": Case("wide_resnet50_2", 17),
    "mobilenet_v2": Case("mobilenet_v2", 5),
    "mobilenet_v3_small": Case("mobilenet_v3_small", 5),
    "mobilenet_v3_large": Case("mobilenet_v3_large", 3),
    "mnasnet": Case("mnasnet1_0", 7),
    "efficientnet_b0": Case("efficientnet_b0", 4),
    "shufflenet_v2": Case("shufflenet_v2_x1_0", 12),
    "squeezenet": Case("squeezenet1_1", 28, frozenset({"GlobalAveragePool"})),
    "densenet121": Case("densenet121", 14),
    "googlenet": Case("googlenet", 20),
    "inception_v3": Case("inception_v3", 20, side=128),
    "regnet_y_400mf": Case("regnet_y_400mf", 7),
    "convnext_tiny": Case("convnext_tiny", 20, TRANSFORMER | {"GlobalAveragePool"}),
    "vgg11_bn": Case("vgg11_bn", 18, side=224),
    "vit_b_16": Case("vit_b_16", 20, TRANSFORMER, side=224),
    "swin_t": Case("swin_t", 22, TRANSFORMER | {"GlobalAveragePool"}, side=224),
    "iresnet50": Case("iresnet50", 15),
}


def network_of(case):
    torch.manual_seed(0)
    if case.factory == "iresnet50":
        network = iresnet50()
    elif case.factory in FEWER_BLOCKS:
        network = FEWER_BLOCKS[case.factory]()
    else:
        extra = {"init_weights": False} if case.factory in ("googlenet", "inception_v3") else {}
        network = getattr(torchvision.models, case.factory)(weights=None, **extra)
    give_random_weights(network, (3, case.side, case.side), 0)
    return network


def export(network, side, path, *, dynamo):
    """Export as a user would, with the exporter's own defaults and a dynamic batch."""
    example = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    names = {"input_names": ["input"], "output_names": ["logits"]}
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            if dynamo:
                batch = ({0: torch.export.Dim("batch")},)
                torch.onnx.export(
                    network, (example,), path, **names, dynamo=True, dynamic_shapes=batch, external_data=False
                )
            else:
                axes = {"input": {0: "batch"}, "logits": {0: "batch"}}
                torch.onnx.export(network, (example,), path, **names, dynamo=False, dynamic_axes=axes, opset_version=17)
    finally:
        logging.disable(logging.NOTSET)


def images(side, count=4):
    """Smooth random images with some noise: patches of one colour, as photographs have them."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(count, 3, side // 8 + 1, side // 8 + 1)).repeat(8, axis=2).repeat(8, axis=3)
    return (coarse[:, :, :side, :side] + 0.3 * rng.normal(size=(count, 3, side, side))).astype(np.float32)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_quantize_torchvision_model_is_all_integer(case, tmp_path):
    check(case, tmp_path, dynamo=False)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2", "swin_t", "iresnet50"])
def test_quantize_dynamo_export_is_all_integer(name, tmp_path):
    check(CASES[name], tmp_path, dynamo=True)


def check(case, tmp_path, *, dynamo):
    path = tmp_path / "fp32.onnx"
    export(network_of(case), case.side, path, dynamo=dynamo)
    model, x = read_model(path), images(case.side)
    fp32 = run(model, x)
    prepared = run(prepare(model).model, x)
    assert np.abs(prepared - fp32).max() <= 1e-4 * np.abs(fp32).max()

    int8, plan, _ = quantize(model, x)
    left = optimized_ops(int8, tmp_path)
    assert not [name for name in FLOAT_MATH if left[name]]
    # The dynamo exporter multiplies two indices where it writes a pooling as a gather; any other Mul is arithmetic.
    if left["Range"] and left["Mul"] == 1:
        del left["Mul"]
    assert set(left) - INTEGER <= case.float_ops
    if not case.float_ops:
        assert (left["QuantizeLinear"], left["DequantizeLinear"]) == (1, 0)
    assert sqnr_db(fp32, run(int8, x)) > case.floor_db
    assert all(row.why for row in plan.explain() if row.how in ("float", "absorbed"))
    assert run(int8, x[:1]).shape == (1, fp32.shape[1])

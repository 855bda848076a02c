"""The exported ONNX: equal to torch, clean, dynamic in its batch, and absent where it is refused."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="needs quantkit[torch]")
torchvision = pytest.importorskip("torchvision", reason="needs quantkit[torch]")

from export.train_digits import mini_iresnet  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from quantkit.errors import ModelError, OutputError, UsageError  # noqa: E402
from quantkit.export.iresnet import IRESNETS, Conv, IResNet, basic_convs  # noqa: E402
from quantkit.export.network import export_network  # noqa: E402
from quantkit.export.random_weights import give_random_weights  # noqa: E402
from quantkit.export.translate import translate  # noqa: E402

pytestmark = pytest.mark.torch

DIGITS = (1, 8, 8)


@pytest.fixture(scope="module")
def mini() -> nn.Module:
    torch.manual_seed(0)
    network = mini_iresnet()
    give_random_weights(network, DIGITS, 0)
    return network


@pytest.fixture(scope="module")
def small() -> nn.Module:
    """One stage of three basic blocks: enough for what does not depend on the network."""
    torch.manual_seed(0)
    network = IResNet(
        basic_convs, (3,), num_classes=3, in_channels=1, stem=Conv(4, 3), widths=(4,), strides=(1,), groups=(1,)
    )
    give_random_weights(network, DIGITS, 0)
    return network


def run(path: Path, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("iresnet18", 64),
        ("mobilenet_v3_small", 64),
        ("shufflenet_v2_x0_5", 64),
        ("squeezenet1_1", 64),
    ],
)
def test_export_network_computes_what_torch_computes(name: str, size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    factory = IRESNETS.get(name) or (lambda: torchvision.models.get_model(name, weights=None))
    network = factory()
    give_random_weights(network, (3, size, size), 0)
    done = export_network(network, tmp_path / "a.onnx", input_size=(3, size, size))
    batch = np.random.default_rng(1).standard_normal((5, 3, size, size), np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(batch)).numpy()
    assert np.abs(run(done.path, batch) - expected).max() < 1e-4
    assert np.abs(expected).max() > 0.01  # the activations are alive
    assert done.exporter == "dynamo"
    assert done.size_bytes == done.path.stat().st_size
    assert not {"Shape", "ReduceMean", "Identity", "Constant"} & set(operators(done.path))


def test_export_network_keeps_batch_norms_and_names_nodes_after_modules(mini: nn.Module, tmp_path: Path) -> None:
    export_network(mini, path := tmp_path / "a.onnx", input_size=DIGITS)
    model = onnx.load(path)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in mini.modules())
    assert operators(path) == {
        "Conv": 27,
        "BatchNormalization": norms,
        "Relu": 25,
        "Add": 8,
        "MaxPool": 1,
        "GlobalAveragePool": 1,
        "Reshape": 1,
        "Gemm": 1,
    }
    assert {"layer1.2.bn0/BatchNormalization", "layer2.0.downsample.1/Conv", "fc/Gemm"} <= {
        node.name for node in model.graph.node
    }
    constants = {one.name for one in model.graph.initializer}
    assert constants - set(mini.state_dict()) == {"Reshape_input_1"}
    assert all(len(node.input) == 2 for node in model.graph.node if node.op_type == "Conv")
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["input", "logits"]


def test_export_network_twice_gives_same_bytes_without_paths(small: nn.Module, tmp_path: Path) -> None:
    one, other = tmp_path / "one.onnx", tmp_path / "other.onnx"
    for path in (one, other):
        export_network(small, path, input_size=DIGITS, metadata={"quantkit.network": "mini"})
    content = one.read_bytes()
    assert content == other.read_bytes()
    assert b".py" not in content
    assert onnx.load(one).metadata_props[0].value == "mini"


def test_export_network_names_and_opset_are_as_asked(small: nn.Module, tmp_path: Path) -> None:
    done = export_network(
        small, path := tmp_path / "a.onnx", input_size=DIGITS, input_name="x", output_name="y", opset=17
    )
    model = onnx.load(path)
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["x", "y"]
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    assert done.exporter == "dynamo"  # converted down


def test_export_network_opset_below_dynamo_is_written_by_torchscript(small: nn.Module, tmp_path: Path) -> None:
    done = export_network(small, path := tmp_path / "a.onnx", input_size=DIGITS, opset=13)
    assert (done.exporter, done.fallback_reason) == ("torchscript", None)
    assert onnx.load(path).opset_import[0].version == 13
    with pytest.raises(ModelError, match=r"dynamo: .*opset 18 cannot be converted to 13: .*BatchNormalization"):
        export_network(small, path, input_size=DIGITS, opset=13, exporter="dynamo")
    assert operators(path)["BatchNormalization"] == 7
    batch = np.random.default_rng(1).standard_normal((4, *DIGITS), np.float32)
    with torch.inference_mode():
        np.testing.assert_allclose(run(path, batch), small(torch.from_numpy(batch)).numpy(), rtol=0, atol=1e-4)


def test_export_network_images_are_compared_too(small: nn.Module, tmp_path: Path) -> None:
    images = np.random.default_rng(2).uniform(-1, 1, (3, *DIGITS)).astype(np.float32)
    done = export_network(small, tmp_path / "a.onnx", input_size=DIGITS, images=images, exporter="torchscript")
    assert done.parity.images == 3
    assert done.parity.image_error is not None
    assert 0.0 < done.parity.max_abs_error < 1e-4
    assert done.reference_parity is None


class Branching(nn.Module):
    """Takes another way for another input, which no trace can see."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        means = x.mean((2, 3))
        return means if means.sum() > 0 else -means


class Returning(nn.Module):
    """Returns whatever it was made with, once for each image or not."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> object:
        """Return the value."""
        return self.value(x) if callable(self.value) else self.value


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Returning((1, 2)), r"returns tuple, not logits of shape \[N, classes\]"),
        (Returning(lambda x: x), r"returns shape \(2, 1, 8, 8\), not logits"),
        (Returning(lambda x: x.mean((2, 3)) / 0), "returns NaN or infinity on random input"),
        (nn.Conv2d(3, 3, 1), r"does not run on input of size 1x8x8 \(RuntimeError: .*; give its --input-size"),
    ],
    ids=["tuple", "image", "infinite", "channels"],
)
def test_export_network_no_classifier_is_refused(network: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        export_network(network, tmp_path / "a.onnx", input_size=DIGITS)
    assert not list(tmp_path.iterdir())


def test_export_network_differing_from_torch_is_refused_and_keeps_old_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.onnx"
    path.write_text("what was there")
    with pytest.raises(ModelError, match=r"differs from torch by .*before, the dynamo exporter failed with Guard"):
        export_network(Branching(), path, input_size=(3, 8, 8))
    assert path.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")


def test_export_network_difference_above_tolerance_is_refused(small: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"differs from torch by .*, more than 0; try the other --exporter"):
        export_network(small, tmp_path / "a.onnx", input_size=DIGITS, tolerance=0.0, exporter="torchscript")


def test_translate_dynamo_failure_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    example = torch.ones(2, 3, 8, 8)
    with pytest.raises(ModelError, match=r"torch cannot export the network \(dynamo: Guard.*rewrite Python code"):
        translate(Branching(), example, input_name="x", output_name="y", opset=18, exporter="dynamo")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("opset", [8, 1000])
def test_export_network_unknown_opset_is_refused(small: nn.Module, tmp_path: Path, opset: int) -> None:
    with pytest.raises(UsageError, match=f"^opset: there is no opset {opset} to export to; 9 to "):
        export_network(small, tmp_path / "a.onnx", input_size=DIGITS, opset=opset)


def test_export_network_folder_that_cannot_be_made_is_refused(small: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot create the folder"):
        export_network(small, tmp_path / "file" / "a.onnx", input_size=DIGITS)

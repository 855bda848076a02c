"""iResNet against its authors' code, published sizes, and a network written out by hand."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs quantkit[torch]")

from export import iresnet_fingerprints  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from quantkit.export.iresnet import IRESNETS, PAPER_IRESNETS, Block, bottleneck_convs  # noqa: E402

pytestmark = pytest.mark.torch

FINGERPRINTS = json.loads(iresnet_fingerprints.FILE.read_text())


@pytest.mark.parametrize("name", IRESNETS)
def test_iresnet_logits_equal_those_of_authors_code(name: str) -> None:
    found = torch.tensor(iresnet_fingerprints.fingerprint(IRESNETS[name]), dtype=torch.float64)
    expected = torch.tensor(FINGERPRINTS[name], dtype=torch.float64)
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_iresnet_paper_form_differs_from_authors_code() -> None:
    found = torch.tensor(iresnet_fingerprints.fingerprint(PAPER_IRESNETS["iresnet18-paper"]))
    assert (found - torch.tensor(FINGERPRINTS["iresnet18"])).abs().max() > 10.0


@pytest.fixture(scope="module")
def shared_iresnet() -> Path:
    """Folder of logits that others computed with the authors' code, or a skip."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "iresnet"
    if not folder.is_dir():
        pytest.skip("needs ../shared/iresnet: logits of the authors' code, kept beside the checkout")
    return folder


@pytest.fixture(scope="module")
def state_from_names(shared_iresnet: Path) -> Callable[..., dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("state_from_names", shared_iresnet / "state_from_names.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.state_from_names


@pytest.mark.shared
@pytest.mark.parametrize("name", ["iresnet18", "iresnet34", "iresnet50", "iresnet101"])
def test_iresnet_float32_logits_equal_those_computed_elsewhere(
    name: str, shared_iresnet: Path, state_from_names: Callable[..., dict[str, Any]]
) -> None:
    expected = torch.tensor(json.loads((shared_iresnet / "expected_logits.json").read_text())[name])
    network = IRESNETS[name]().eval()
    network.load_state_dict(state_from_names(network.state_dict()))
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = network(image)[0, : len(expected)]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_iresnet_paper_form_has_same_parameters() -> None:
    assert list(PAPER_IRESNETS) == [f"{name}-paper" for name in IRESNETS]
    with torch.device("meta"):
        networks = (IRESNETS["iresnet50"](), PAPER_IRESNETS["iresnet50-paper"]())
    shapes = [{name: one.shape for name, one in network.state_dict().items()} for network in networks]
    assert shapes[0] == shapes[1]


# Millions of parameters, and 1e9 multiply-adds at 224 x 224: of convolutions and the classifier alone, and with four
# operations for each value that a batch norm handles, as the vendor's table counts.
SIZES = {
    "iresnet50": (25.557, 4.128, 4.175),
    "iresnet101": (44.549, 7.840, 7.907),
    "iresnet152": (60.193, 11.552, 11.645),
    "iresnet200": (64.674, 15.046, 15.177),
}


def count_operations(network: nn.Module) -> tuple[int, int]:
    """Return multiply-adds of convolutions and linear layers, and values that pass a batch norm, at 224 x 224."""
    multiply_adds, normalized = 0, 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:  # type: ignore[name-defined]
        nonlocal multiply_adds, normalized
        if isinstance(module, nn.Conv2d):
            multiply_adds += output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            multiply_adds += module.weight.numel()
        elif isinstance(module, nn.BatchNorm2d):
            normalized += output.numel()

    for module in network.modules():
        module.register_forward_hook(count)
    network(torch.empty(1, 3, 224, 224, device="meta"))
    return multiply_adds, normalized


@pytest.mark.parametrize("name", SIZES)
def test_iresnet_has_published_size(name: str) -> None:
    millions, multiply_adds, with_norms = SIZES[name]
    with torch.device("meta"):
        network = IRESNETS[name]().eval()
        counted, normalized = count_operations(network)
    assert round(sum(one.numel() for one in network.parameters()) / 1e6, 3) == millions
    assert round(counted / 1e9, 3) == multiply_adds
    assert round((counted + 4 * normalized) / 1e9, 3) == with_norms


def bottleneck_stage_keys(stage: int, depth: int) -> Iterator[str]:
    """Names of one stage, by the description of the blocks."""
    for index in range(depth):
        block = f"layer{stage}.{index}"
        norms = ["bn1", "bn2"]
        if index >= 2:
            norms.append("bn0")
        if index in (0, depth - 1):
            norms.append("bn3")
        for norm in norms:
            for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                yield f"{block}.{norm}.{leaf}"
        for number in (1, 2, 3):
            yield f"{block}.conv{number}.weight"
        if index == 0:
            yield f"{block}.downsample.1.weight"  # 0 is the pooling
            for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                yield f"{block}.downsample.2.{leaf}"


def test_iresnet_names_are_those_of_published_checkpoints() -> None:
    with torch.device("meta"):
        found = set(IRESNETS["iresnet50"]().state_dict())
    expected = {"conv1.weight", "fc.weight", "fc.bias"}
    expected |= {f"bn1.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    for stage, depth in enumerate((3, 4, 6, 3), start=1):
        expected |= set(bottleneck_stage_keys(stage, depth))
    assert found == expected


@pytest.mark.parametrize("name", IRESNETS)
def test_iresnet_every_variant_runs_and_strides_five_times(name: str) -> None:
    shapes = []
    with torch.device("meta"):
        network = IRESNETS[name](num_classes=7).eval()
        for layer in (network.layer1, network.layer4):
            layer.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape)))
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, 7)
    assert [shape[2:] for shape in shapes] == [(56, 56), (7, 7)]


def test_iresnet_start_block_of_equal_width_pools_shortcut() -> None:
    with torch.device("meta"):
        block = IRESNETS["iresnet18"]().layer1[0]
    assert isinstance(block.downsample, nn.MaxPool2d)


def test_iresnet_grouped_variants_have_published_groups() -> None:
    with torch.device("meta"):
        by_channels, fixed = IRESNETS["iresgroup50"](), IRESNETS["iresgroupfix50"]()
    names = [f"layer{stage}" for stage in (1, 2, 3, 4)]
    assert [getattr(by_channels, name)[0].conv2.groups for name in names] == [8, 16, 32, 64]
    assert [getattr(fixed, name)[0].conv2.groups for name in names] == [64] * 4
    # The 3x3 is four times as wide as ResNet's, and twice as wide as what leaves the block.
    assert by_channels.layer4[0].conv2.out_channels == 2048
    assert by_channels.layer4[0].conv3.out_channels == 1024


def run_by_hand(stage: nn.Sequential, x: torch.Tensor, *, in_place: bool) -> torch.Tensor:  # type: ignore[name-defined]
    """A stage of four bottleneck blocks, written out; in the authors' code the first ReLU of ``first`` is in place."""
    start, first, middle, end = stage

    def branch(block: Block, out: torch.Tensor) -> torch.Tensor:  # type: ignore[name-defined]
        out = functional.relu(block.bn1(block.conv1(out)))
        out = functional.relu(block.bn2(block.conv2(out)))
        return block.conv3(out)

    shortcut = functional.max_pool2d(x, 3, stride=2, padding=1)
    shortcut = start.downsample[2](start.downsample[1](shortcut))
    x = start.bn3(branch(start, x)) + shortcut
    x = branch(first, functional.relu(x, inplace=in_place)) + x
    x = branch(middle, functional.relu(middle.bn0(x))) + x
    x = branch(end, functional.relu(end.bn0(x))) + x
    return functional.relu(end.bn3(x))


@pytest.mark.parametrize("in_place", [True, False], ids=["authors", "paper"])
def test_iresnet_stage_equals_one_written_by_hand(in_place: bool) -> None:
    torch.manual_seed(0)
    blocks = []
    channels = 6
    for index in range(4):
        convs = bottleneck_convs(5, 2 if index == 0 else 1, 1)
        blocks.append(Block(channels, convs, index=index, depth=4, rectified_shortcut=in_place))
        channels = 20
    stage = nn.Sequential(*blocks)
    for module in stage.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.uniform_(-1.0, 1.0)
    stage.eval()
    x = torch.randn(2, 6, 9, 9)
    with torch.inference_mode():
        torch.testing.assert_close(stage(x), run_by_hand(stage, x, in_place=in_place), rtol=0, atol=0)

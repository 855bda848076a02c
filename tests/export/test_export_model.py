"""From a name and weights to a file: iResNets, torchvision and the user's own networks."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs quantkit[torch]")
torchvision = pytest.importorskip("torchvision", reason="needs quantkit[torch]")

from torch import nn  # noqa: E402

from quantkit.config.pipeline import CenterCrop, Decode, Pipeline, Resize, ToTensor  # noqa: E402
from quantkit.data.item import FileItem  # noqa: E402
from quantkit.errors import CheckpointError, ConfigError, ModelError, UsageError  # noqa: E402
from quantkit.export.build import arguments_for_checkpoint, build_network, build_pretrained, input_size_of  # noqa: E402
from quantkit.export.model import export_model  # noqa: E402
from quantkit.export.random_weights import give_random_weights  # noqa: E402

pytestmark = pytest.mark.torch

OWN_MODULE = """
from torch import nn

def tiny(classes=4):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))

ready = tiny(2)
number = 3

def failing():
    raise KeyError("boom")

def text():
    return "text"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_networks.py").write_text(OWN_MODULE)
    (tmp_path / "own_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    return "own_networks"


def test_export_model_own_network_from_checkpoint_is_compared_on_images(own: str, tmp_path: Path) -> None:
    network = build_network(f"{own}:tiny", {"classes": 6})
    torch.save({"state_dict": network.state_dict()}, tmp_path / "a.pth")
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for index, path in enumerate(paths):
        Image.effect_noise((40, 30 + index), 60).convert("RGB").save(path)
    pipeline = Pipeline(ops=(Decode(), Resize(size=16), CenterCrop(size=(16, 16)), ToTensor()))
    done = export_model(
        f"{own}:tiny",
        tmp_path / "out" / "a.onnx",
        checkpoint=tmp_path / "a.pth",
        arguments={"classes": 6},
        input_size=(3, 16, 16),
        images=[FileItem(path) for path in paths],
        pipeline=pipeline,
    )
    assert (done.classes, done.parity.images, done.parameters) == (6, 3, 142)
    stored = {one.key: one.value for one in onnx.load(done.path).metadata_props}
    assert stored["quantkit.network"] == "own_networks:tiny"
    assert re.fullmatch("sha256:[0-9a-f]{64}", stored["quantkit.weights"])


def test_export_model_images_of_other_size_are_refused_before_export(own: str, tmp_path: Path) -> None:
    pipeline = Pipeline(ops=(Decode(), Resize(size=(8, 8)), ToTensor()))
    with pytest.raises(ConfigError, match="8"):
        export_model(
            f"{own}:tiny",
            tmp_path / "a.onnx",
            random_seed=0,
            input_size=(3, 16, 16),
            images=[FileItem(tmp_path / "none.png")],
            pipeline=pipeline,
        )


def test_build_network_object_instead_of_factory_is_used(own: str) -> None:
    assert build_network(f"{own}:ready", {})[-1].out_features == 2


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("own_networks:none", {}, UsageError, "own_networks:none: cannot be imported .*package.module:factory"),
        ("no_such_module:f", {}, UsageError, "cannot be imported .No module named 'no_such_module'"),
        ("own_broken:f", {}, ModelError, "cannot be imported .ZeroDivisionError"),
        ("own_networks:number", {}, UsageError, "is of type int, not a function that returns a network"),
        ("own_networks:text", {}, ModelError, "its factory returned a str, not an nn.Module"),
        ("own_networks:failing", {}, ModelError, "its factory failed .KeyError: 'boom'"),
        ("own_networks:tiny", {"clases": 3}, UsageError, "does not accept these arguments .*'clases'"),
        ("iresnet51", {}, UsageError, "there is no network 'iresnet51'; did you mean iresnet50"),
        ("qqqqqqqq", {}, UsageError, "there is no network 'qqqqqqqq'; give an iResNet"),
    ],
)
@pytest.mark.usefixtures("own")
def test_build_network_unbuildable_is_refused(
    name: str, arguments: dict[str, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build_network(name, arguments)


@pytest.mark.parametrize("sources", [{}, {"random_seed": 0, "weights": "DEFAULT"}])
def test_export_model_several_or_no_weights_are_refused(sources: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give one source of weights; --checkpoint FILE"):
        export_model("resnet18", tmp_path / "a.onnx", **sources)


def test_export_model_checkpoint_of_other_iresnet_is_recognized(tmp_path: Path) -> None:
    network = build_network("iresnet18", {"num_classes": 2})
    torch.save(network.state_dict(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"missing 96 .* it has as many keys as iresnet18"):
        export_model("iresnet34", tmp_path / "a.onnx", checkpoint=tmp_path / "a.pth", num_classes=2)


def test_input_size_is_that_of_published_weights() -> None:
    assert input_size_of("iresnet50") == (3, 224, 224)
    assert input_size_of("inception_v3") == (3, 299, 299)
    assert input_size_of("efficientnet_b1") == (3, 240, 240)
    assert input_size_of("own:network") == (3, 224, 224)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("auxiliary", [True, False])
def test_arguments_for_checkpoint_follow_auxiliary_classifiers(name: str, auxiliary: bool) -> None:
    with torch.device("meta"):
        keys = list(build_network(name, {"aux_logits": auxiliary, "init_weights": False}).state_dict())
        arguments = arguments_for_checkpoint(name, [f"module.{key}" for key in keys])
        assert set(build_network(name, arguments).state_dict()) == set(keys)
    assert arguments_for_checkpoint("resnet18", keys) == {}


def test_build_pretrained_gives_weights_and_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if torch had downloaded them before.
    weights = torchvision.models.EfficientNet_B0_Weights.IMAGENET1K_V1
    network = torchvision.models.efficientnet_b0(weights=None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached = tmp_path / "checkpoints" / Path(weights.url).name
    cached.parent.mkdir()
    torch.save(network.state_dict(), cached)
    found, pipeline = build_pretrained("efficientnet_b0", "EfficientNet_B0_Weights.DEFAULT", {})
    assert torch.equal(found.classifier[1].weight, network.classifier[1].weight)
    image = Image.effect_noise((300, 280), 60).convert("RGB")
    path = tmp_path / "a.png"
    image.save(path)
    from quantkit.data.preprocess import preprocess

    np.testing.assert_array_equal(preprocess(path, pipeline), weights.transforms()(image).numpy())


def test_build_pretrained_unavailable_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(
        CheckpointError, match=r"cannot load the published weights .*no network.*download https://.*pth"
    ):
        build_pretrained("resnet18", "DEFAULT", {})
    with pytest.raises(UsageError, match="resnet18 has no weights 'V9'; choose one of IMAGENET1K_V1, DEFAULT"):
        build_pretrained("resnet18", "V9", {})
    with pytest.raises(UsageError, match="iresnet50 is not a torchvision classifier"):
        build_pretrained("iresnet50", "DEFAULT", {})


def test_random_weights_keep_activations_alive_and_repeat() -> None:
    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        network = build_network("mobilenet_v3_small", {"num_classes": 10})
        give_random_weights(network, (3, 64, 64), seed)
        return network

    one, same, other = make(1), make(1), make(2)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True))
    assert not torch.equal(one.features[0][1].weight, other.features[0][1].weight)
    spreads = []
    for module in one.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda *args: spreads.append(args[2].std().item()))
    with torch.inference_mode():
        one(torch.randn(4, 3, 64, 64))
    assert not one.training
    assert min(spreads) > 0.2
    assert max(spreads) < 5.0

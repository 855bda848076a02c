"""Presets of published torchvision weights: parsing without torch, and the same pixels as torchvision where it is."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from quantkit.config.hub_presets import pipeline_of_torchvision
from quantkit.config.pipeline import Resize
from quantkit.data.preprocess import preprocess
from quantkit.errors import ConfigError, UsageError
from quantkit.workflows.hub_presets import preset_from_torchvision
from quantkit.workflows.presets import load_preset


def transform(**changed: Any) -> SimpleNamespace:
    """What ``torchvision.transforms._presets.ImageClassification`` of ResNet-50's second weights has."""
    given = {
        "resize_size": [232],
        "crop_size": [224],
        "interpolation": SimpleNamespace(value="bilinear"),
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "antialias": True,
    }
    return SimpleNamespace(**(given | changed))


def test_torchvision_transform_gives_its_operations() -> None:
    pipeline = pipeline_of_torchvision(transform(), "resnet50")
    assert pipeline.describe() == (
        "decode, resize 232, center_crop 224 224, to_tensor, normalize mean 0.485 0.456 0.406 std 0.229 0.224 0.225"
    )
    bicubic = transform(interpolation=SimpleNamespace(value="bicubic"), crop_size=[224, 192])
    resize = pipeline_of_torchvision(bicubic, "swin").ops[1]
    assert isinstance(resize, Resize)
    assert resize.interpolation == "bicubic"
    assert pipeline_of_torchvision(bicubic, "swin").output_size == (224, 192)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"resize_size": [256, 320]}, r"resize \[256, 320\] by bilinear, then crop \[224\] cannot be expressed"),
        ({"crop_size": []}, r"then crop \[\] cannot be expressed"),
        ({"interpolation": SimpleNamespace(value="nearest-exact")}, "by nearest-exact, then crop"),
        ({"antialias": False}, "without antialiasing"),
        ({"crop_size": None}, "is no transform of a classifier"),
        ({"interpolation": 3}, "is no transform of a classifier"),
        ({"mean": ["much"]}, "is no transform of a classifier"),
    ],
)
def test_torchvision_transform_that_cannot_be_expressed_is_refused(changed: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match) as error:
        pipeline_of_torchvision(transform(**changed), "resnet50")
    assert error.value.fix == "write a preset with ops"


def test_torchvision_preset_without_torch_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("quantkit.export")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UsageError, match=re.escape("presets need torch") + ".*" + re.escape("pip install 'quantkit[")):
        preset_from_torchvision("resnet50")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("network", "weights"),
    [
        ("resnet50", "IMAGENET1K_V2"),
        ("efficientnet_b0", "DEFAULT"),
        ("swin_t", "DEFAULT"),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"),
    ],
)
def test_torchvision_preset_file_gives_the_pixels_of_torchvision(
    network: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torchvision = pytest.importorskip("torchvision", reason="needs quantkit[torch]")
    from quantkit.cli.main import main

    monkeypatch.chdir(tmp_path)
    arguments = ["preset", "from-torchvision", network, "--weights", weights, "--out", "preset.yaml"]
    monkeypatch.setattr(sys, "argv", ["quantkit", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert "wrote preset.yaml" in out
    assert "next: quantkit calibrate" in out
    pixels = np.random.default_rng(1).integers(0, 256, (300, 420, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    theirs = torchvision.models.get_model_weights(network)[weights].transforms()(Image.open(tmp_path / "photo.png"))
    ours = preprocess(tmp_path / "photo.png", load_preset(tmp_path / "preset.yaml"))
    # Both resize 8-bit pictures with pillow; what is left is the rounding of float32.
    assert np.abs(ours - theirs.numpy()).max() < 1e-5


@pytest.mark.torch
def test_torchvision_preset_of_an_unknown_network_or_weights_names_the_choices() -> None:
    pytest.importorskip("torchvision", reason="needs quantkit[torch]")
    with pytest.raises(UsageError, match="lenet is not a torchvision classifier"):
        preset_from_torchvision("lenet")
    with pytest.raises(UsageError, match=r"resnet50 has no weights 'V9'.*IMAGENET1K_V1"):
        preset_from_torchvision("resnet50", "V9")

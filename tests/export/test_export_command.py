"""``quantkit export`` on the command line, with torch and without."""

import sys
from pathlib import Path

import onnx
import pytest

from quantkit.cli import main as entry
from quantkit.config.pipeline import imagenet_pipeline
from quantkit.config.project import parse_project, pipeline_of_ops


def quantkit(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["quantkit", *(str(one) for one in arguments)])
    with pytest.raises(SystemExit) as stop:
        entry.main()
    return int(stop.value.code or 0)


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_export_without_torch_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.startswith("quantkit.export")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert quantkit(monkeypatch, "export", "iresnet50", "--random-weights") == 2
    assert capsys.readouterr().err == "error: export needs torch; pip install 'quantkit[torch]'\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--exporter", "jit"], "--exporter: 'jit' is not one of auto, dynamo, torchscript"),
        (["--input-size", "1x2x3x4"], "--input-size: invalid input size '1x2x3x4'; write 224, 224x224 or 3x224x224"),
        (["--input-size", "0"], "--input-size: invalid input size '0'"),
        (["--arg", "width"], "--arg: 'width' is not KEY=VALUE"),
        (["--images", "nowhere"], "nowhere: there is no such folder"),
        (["--preset", "imagenets"], "--preset: there is no preset 'imagenets'"),
        (["--target", "vac"], "--target: 'vac' is not one of ort, tensorrt, vacc"),
        (["--reference-arg", "width=1"], "--reference-arg: needs --reference"),
        (["--reference", "iresnet50", "--reference-arg", "width"], "--reference-arg: 'width' is not KEY=VALUE"),
    ],
)
def test_export_wrong_options_are_named_before_torch_is_needed(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantkit(monkeypatch, "export", "iresnet50", "--random-weights", *arguments) != 0
    assert capsys.readouterr().err.startswith(f"error: {message}")


OWN_NETWORK = """
from torch import nn

def net(width, num_classes=10):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
"""


@pytest.mark.torch
def test_export_network_of_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="needs quantkit[torch]")
    pytest.importorskip("torchvision", reason="needs quantkit[torch]")
    (tmp_path / "network_at_hand.py").write_text(OWN_NETWORK)
    sys.path.insert(0, str(tmp_path))
    from network_at_hand import net  # type: ignore[import-not-found]

    sys.path.pop(0)
    torch.save(net(4, 7).state_dict(), "net.pth")
    options = ["--arg", "width=4", "--input-size", "1x12x14", "--num-classes", "7", "--input-name", "image"]
    assert quantkit(monkeypatch, "export", "network_at_hand:net", "--checkpoint", "net.pth", *options) == 0
    said = capsys.readouterr().out.splitlines()
    about = "network_at_hand:net: 75 parameters, image [N, 1, 12, 14], logits [N, 7], opset 18, dynamo exporter, "
    assert said[0].startswith(about)
    assert said[0].endswith(" MB")
    assert said[1].startswith("max abs error against network_at_hand:net in torch: ")
    assert said[2:] == ["wrote net.onnx", "next: quantkit inspect net.onnx"]
    assert onnx.load("net.onnx").graph.input[0].name == "image"


@pytest.mark.torch
@pytest.mark.parametrize("name", ["squeezenet1_1", "mnasnet0_75"])
def test_export_published_weights_print_their_preprocessing(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="needs quantkit[torch]")
    models = pytest.importorskip("torchvision", reason="needs quantkit[torch]").models
    weights = models.get_model_weights(name).DEFAULT
    # As if torch had downloaded them before.
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(models.get_model(name, weights=None).state_dict(), tmp_path / "checkpoints" / Path(weights.url).name)
    options = ["--weights", "DEFAULT", "--input-size", "64", "--exporter", "torchscript"]
    assert quantkit(monkeypatch, "export", name, *options) == 0
    ops = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ops: ")]
    if name == "squeezenet1_1":
        assert ops == []  # the preset imagenet is right
        return
    project = parse_project(ops[0], "quantkit.yaml")
    assert pipeline_of_ops(project.ops, "quantkit.yaml") == imagenet_pipeline(resize=232)

"""The whole way from a flat ImageNet folder and a trained network to the accuracy of a card, command by command.

Sixty photographs stand in for the 50,000. The card is played by the int8 model written for it, run in onnxruntime; all
else is what a user types.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from quantkit.cli.main import main
from quantkit.config.pipeline import PRESETS
from quantkit.data.classes import imagenet_classes, imagenet_index
from quantkit.data.preprocess import preprocess

pytestmark = pytest.mark.shared

IMAGES = 60
CALIBRATION_IMAGES = 20

Quantkit = Callable[..., str]


@pytest.fixture
def quantkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Quantkit:
    """Type a command line in the folder; it must succeed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUANTKIT_DEBUG", raising=False)

    def command(line: str) -> str:
        monkeypatch.setattr(sys, "argv", ["quantkit", *line.split()])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert end.value.code == 0, f"{line}: {said.err}"
        return said.out

    return command


def lay_out_flat(photos: Path, folder: Path) -> None:
    """Name photographs as ImageNet's validation images are named, with labels in a file beside them."""
    chosen = sorted(photos.glob("*.JPEG"))[:: 1000 // IMAGES][:IMAGES]
    assert len(chosen) == IMAGES
    folder.mkdir(parents=True)
    lines = []
    for number, photo in enumerate(chosen, start=1):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        (folder / name).write_bytes(photo.read_bytes())
        lines.append(f"{name} {imagenet_index()[photo.name.split('_')[0]]}\n")
    (folder.parent / "val_label.txt").write_text("".join(lines))


def run_device(model: Path, images: Path, datalist: Path, results: Path) -> None:
    """Answer every line of a datalist with the int8 model, as ``vamp --path_output`` leaves it."""
    results.mkdir()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    for number, line in enumerate(datalist.read_text().splitlines()):
        path = PurePosixPath(line)
        x = preprocess(images / path.parent.name / f"{path.stem}.JPEG", PRESETS["imagenet"])[None]
        np.savez(results / f"output_{number:06d}.npz", output_0=session.run(None, {"input": x})[0])


def shares(text: str) -> tuple[float, float]:
    """The top-1 and top-5 that ``eval`` printed."""
    found = re.search(r"top-1 ([\d.]+) %.*top-5 ([\d.]+) %", text, re.DOTALL)
    assert found is not None
    return float(found[1]), float(found[2])


def card_shares(text: str) -> tuple[float, float]:
    """The top-1 and top-5 that ``vamp eval`` printed, as counts of images, in percent."""
    found = re.search(rf"top-1 (\d+) and top-5 (\d+) of {IMAGES} images right", text)
    assert found is not None
    return 100 * int(found[1]) / IMAGES, 100 * int(found[2]) / IMAGES


def give_checkpoint(source: Path, path: Path) -> None:
    """Write the weights of the ONNX model as a checkpoint of torchvision's network, whose layers come in this order."""
    torch = pytest.importorskip("torch")
    network = pytest.importorskip("torchvision.models").squeezenet1_1()
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(source).graph.initializer}
    convs = [node for node in onnx.load(source).graph.node if node.op_type == "Conv"]
    arrays = [held[name] for node in convs for name in node.input[1:3]]
    state = {
        name: torch.tensor(content)
        for (name, before), content in zip(network.state_dict().items(), arrays, strict=True)
        if before.shape == content.shape
    }
    assert state.keys() == network.state_dict().keys()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)


@pytest.mark.parametrize("given", ["onnx", pytest.param("checkpoint", marks=pytest.mark.torch)])
def test_seed_workflow_runs_through(given: str, shared_assets: Path, tmp_path: Path, quantkit: Quantkit) -> None:
    # What a user has: a network, and ImageNet as it comes.
    if given == "onnx":
        (tmp_path / "squeezenet1_1.onnx").symlink_to(shared_assets / "squeezenet1_1.onnx")
    else:
        give_checkpoint(shared_assets / "squeezenet1_1.onnx", tmp_path / "squeezenet.pth")
        quantkit("export squeezenet1_1 --checkpoint squeezenet.pth --out squeezenet1_1.onnx")
    lay_out_flat(shared_assets / "imagenet_samples", tmp_path / "ImageNet" / "flat")

    quantkit("init squeezenet1_1")
    assert f"{IMAGES} images" in quantkit("imagenet check ImageNet/flat")
    quantkit("imagenet prepare ImageNet/flat --out ImageNet/val")
    assert len(list((tmp_path / "ImageNet" / "val").glob("n*/*.JPEG"))) == IMAGES

    # The ready config says all the rest.
    quantkit(f"calib-set build --images ImageNet/val --count {CALIBRATION_IMAGES} --out calib.csv")
    evaluated = quantkit("eval squeezenet1_1.onnx --out fp32.npz")
    assert shares(evaluated)[0] > 40.0
    flat = "eval squeezenet1_1.onnx --images ImageNet/flat --labels ImageNet/val_label.txt --out flat/fp32.npz"
    assert shares(quantkit(flat)) == shares(evaluated)
    assert f"over {CALIBRATION_IMAGES} images" in quantkit("calibrate --method percentile")
    quantkit("quantize --method kl --target vacc")

    # What the vendor's compiler is given, in both dialects.
    run = tmp_path / "runs" / "squeezenet1_1"
    quantkit(f"vamc convert {run / 'vamc.yaml'} --to build --out build.yaml")
    quantkit("calib-set materialize calib.csv calib")
    quantkit("vamc write --model squeezenet1_1.onnx --calibration-folder calib --dialect compile --out compile.yaml")
    checked = quantkit(f"vamc check build.yaml compile.yaml {run / 'vamc.yaml'} --model squeezenet1_1.onnx")
    assert "3 checked: 0 with errors" in checked

    # What the card is given, and what it answers.
    quantkit("vamp inputs --images ImageNet/val --out npz")
    run_device(run / "int8-vacc.onnx", tmp_path / "ImageNet/val", tmp_path / "npz/npz_datalist.txt", tmp_path / "card")
    (tmp_path / "imagenet.txt").write_text("\n".join(imagenet_classes().values()) + "\n")
    card = card_shares(
        quantkit("vamp eval --results card --datalist npz/npz_datalist.txt --labels imagenet.txt --out relay.txt")
    )
    assert card_shares(quantkit("vamp eval --text relay.txt --labels imagenet.txt")) == card
    assert card[0] > 40.0

    # What int8 cost, foretold and on the card, on images that calibration has not seen.
    quantkit("eval fp32")
    assert "all scores were cached, nothing was run" in quantkit("eval fp32 --exclude calib.csv")
    models = "compare fp32 int8 int8-vacc card=card --datalist npz/npz_datalist.txt"
    result = compare(quantkit, tmp_path, f"{models} --exclude calib.csv")
    assert result["images"] == IMAGES - CALIBRATION_IMAGES
    fp32, int8, foretold, measured = result["models"]
    assert [fp32["name"], int8["name"], foretold["name"], measured["name"]] == ["fp32", "int8", "int8-vacc", "card"]
    assert abs(int8["delta_top1"]) <= 10.0
    assert int8["agreement"] >= 80.0
    for key in ("top1", "top5", "agreement", "delta_top1_ci95", "kl"):
        assert measured[key] == foretold[key]

    # And on all of them, where the card's own evaluation says the same.
    everything = compare(quantkit, tmp_path, f"{models} --drift-images 0")
    assert everything["images"] == IMAGES
    assert (everything["models"][3]["top1"], everything["models"][3]["top5"]) == pytest.approx(card)
    assert (everything["models"][0]["top1"], everything["models"][0]["top5"]) == pytest.approx(
        shares(evaluated), abs=0.01
    )


def compare(quantkit: Quantkit, folder: Path, line: str) -> dict[str, Any]:
    quantkit(f"{line} --json result.json")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result

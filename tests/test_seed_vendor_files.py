"""The seed's four steps, ending with files that the vendor's own scripts read and write.

A calibration set, a build file for ``vamc``, inputs and command for ``vamp``, the accuracy of its results. The scripts'
parts are played here from the description of their formats: the decoding of pictures as OpenCV does it, the card with
nothing but the ``.npz`` inputs and ``vdsp_params.json``, the decoding of its results, and the evaluation of the text.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image, ImageOps

from quantkit.cli.main import main
from quantkit.config.pipeline import PRESETS
from quantkit.data.classes import imagenet_classes
from quantkit.data.preprocess import normalize, transform
from quantkit.vendors.vacc.vdsp import load_vdsp, recognise

pytestmark = pytest.mark.shared

IMAGES = 100
CALIBRATION_IMAGES = 20
TURNED = 3

Quantkit = Callable[..., tuple[str, str]]


@pytest.fixture
def quantkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Quantkit:
    """Type a command line in the folder; it must succeed."""
    monkeypatch.chdir(tmp_path)

    def command(line: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["quantkit", *line.split()])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert end.value.code == 0, f"{line}: {said.err}"
        return said.out, " ".join(said.err.split())

    return command


def lay_out(photos: Path, folder: Path) -> list[Path]:
    """Photographs in folders of WordNet ids, class 480 and both cranes among them, some with an EXIF orientation."""
    found = sorted(photos.glob("*.JPEG"))
    chosen = sorted({*found[:: 1000 // (IMAGES - 3)][: IMAGES - 3], found[480], found[134], found[517]})
    assert len(chosen) in range(IMAGES - 3, IMAGES + 1)
    paths = []
    for place, photo in enumerate(chosen):
        path = folder / photo.name.split("_")[0] / photo.name
        path.parent.mkdir(parents=True)
        if place < TURNED:
            exif = Image.Exif()
            exif[0x0112] = (3, 6, 8)[place]
            with Image.open(photo) as image:
                image.convert("RGB").save(path, exif=exif, quality=95)
        else:
            path.write_bytes(photo.read_bytes())
        paths.append(path)
    return paths


def vendor_names(path: Path) -> list[str]:
    """Write the vendor's list of class names, whose line 481 has lost its end."""
    names = [name.removesuffix(", automatic teller, ATM") for name in imagenet_classes().values()]
    path.write_text("\n".join(names))
    return names


def image2npz(image: Path) -> np.ndarray:
    """One picture as the vendor's step stores it: turned by EXIF, RGB, uint8, ``[3, H, W]``."""
    with Image.open(image) as opened:
        return np.asarray(ImageOps.exif_transpose(opened).convert("RGB")).transpose(2, 0, 1)


def run_device(model: Path, vdsp: Path, datalist: Path, results: Path) -> None:
    """Answer every line of a datalist as ``vamp --path_output`` leaves it, from what the card is given alone."""
    results.mkdir()
    pipeline = recognise(load_vdsp(vdsp)).pipeline
    assert pipeline is not None
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    for number, line in enumerate(datalist.read_text().splitlines()):
        with np.load(line) as stored:
            picture = Image.fromarray(stored["input_0"].transpose(1, 2, 0))
        x = np.empty((1, 3, 224, 224), np.float32)
        normalize(transform(picture, pipeline), pipeline, x[0])
        np.savez(results / f"output_{number:06d}.npz", output_0=session.run(None, {"input": x})[0])


def decode_results(datalist: Path, results: Path, names: list[str]) -> str:
    """The vendor's text of the answers: results sorted by name, five lines each."""
    text = []
    for line, file in zip(datalist.read_text().splitlines(), sorted(results.iterdir()), strict=True):
        with np.load(file) as stored:
            scores = np.squeeze(stored["output_0"])
        for place, index in enumerate(scores.argsort()[-5:][::-1]):
            text.append(
                f"{line}: Relay top-{place} id: {index}, prob: {scores[index]:.8f}, class name: {names[index]}\n"
            )
    return "".join(text)


def eval_topk(text: str) -> str:
    """What the vendor's evaluation prints: names compared, the folder's WordNet id looked up."""
    lines = text.splitlines()
    hits = [imagenet_classes()[line.split("/")[-2]] == line.split(":")[4].strip() for line in lines]
    groups = [hits[at : at + 5] for at in range(0, len(hits), 5)]
    top1, top5 = (sum(any(group[:depth]) for group in groups) / len(groups) * 100 for depth in (1, 5))
    return f"[VACC]:  top1_rate: {np.around(top1, 3)} top5_rate: {np.around(top5, 3)}"


def test_seed_steps_end_with_files_of_the_vendors(
    shared_assets: Path, shared_vacc: Path, tmp_path: Path, quantkit: Quantkit
) -> None:
    (tmp_path / "squeezenet.onnx").symlink_to(shared_assets / "squeezenet1_1.onnx")
    images = lay_out(shared_assets / "imagenet_samples", tmp_path / "val")
    names = vendor_names(tmp_path / "imagenet.txt")

    # 1. A calibration set.
    quantkit(f"calib-set build --images val --count {CALIBRATION_IMAGES} --out calib.csv")
    quantkit("calib-set materialize calib.csv calib")

    # 2. The build file for vamc, the card's preprocessing beside it: one preprocessing, the vendor's iResNet file's.
    out, _ = quantkit(
        "calibrate --model squeezenet.onnx --set calib.csv --preset vacc --exif --target vacc --method percentile "
        "--calibration-folder calib"
    )
    assert "the card does not compute" not in out
    run = tmp_path / "runs/squeezenet"
    vendors = shared_vacc / "vdsp_params/official-iresnet50-vdsp_params.json"
    assert (run / "vdsp_params.json").read_bytes() == vendors.read_bytes()
    quantkit(f"vamc convert {run}/vamc.yaml --to build --out build.yaml")
    checked, _ = quantkit(f"vamc check {run}/vamc.yaml build.yaml --vdsp {vendors}")
    assert "2 checked: 0 with errors" in checked

    # 3. Inputs for vamp, and its command.
    _, said = quantkit(f"vamp inputs --images val --out npz --run {run} --names imagenet.txt")
    assert f"the EXIF orientation of {TURNED} images was applied, as the vendor's image2npz does" in said
    assert "imagenet.txt:481: 'cash machine" in said
    datalist = tmp_path / "npz/npz_datalist.txt"
    lines = datalist.read_text().splitlines()
    assert lines == [str(tmp_path / "npz" / image.parent.name / f"{image.stem}.npz") for image in images]
    for line, image in zip(lines, images, strict=True):
        with np.load(line) as stored:
            assert stored.files == ["input_0"]
            np.testing.assert_array_equal(stored["input_0"], image2npz(image))
    commands, _ = quantkit(f"vamp command {run}/vamc.yaml --datalist npz/npz_datalist.txt --results card")
    assert f"--vdsp_params {run}/vdsp_params.json" in commands
    assert "--datalist npz/npz_datalist.txt --path_output card" in commands
    assert "-s '[3,224,224]'" in commands

    # 4. The accuracy, from the card's results and from the vendor's text, which are one and the same.
    run_device(run / "int8-vacc.onnx", run / "vdsp_params.json", datalist, tmp_path / "card")
    results = "vamp eval --results card --datalist npz/npz_datalist.txt"
    measured, said = quantkit(f"{results} --labels imagenet.txt --out relay.txt")
    text = decode_results(datalist, tmp_path / "card", names)
    assert (tmp_path / "relay.txt").read_text() == text
    printed = eval_topk(text)
    assert quantkit(f"{results}")[0] == measured.rpartition("wrote")[0]  # WordNet ids need no list of names
    assert quantkit("vamp eval --text relay.txt --labels imagenet.txt")[0] == measured.rpartition("wrote")[0]
    right = re.search(r"top-1 (\d+) and top-5 (\d+) of", measured)
    assert right is not None
    # Where the two differ, class 480 or the cranes do, and both figures are there.
    if printed != measured.splitlines()[0]:
        assert " ".join(printed.split()) in said
        assert "class 480" in said or "'crane'" in said
    assert int(right[1]) > 0.4 * len(images)

    # The same answers as the comparison sees them, and as quantkit computes them from the photographs.
    compared, _ = quantkit("compare fp32 int8-vacc card=card --images val --datalist npz/npz_datalist.txt --csv c.csv")
    rows = [line.split(",") for line in (tmp_path / "c.csv").read_text().splitlines()]
    by_name = {row[0]: row for row in rows[1:]}
    top1 = rows[0].index("top1")
    assert float(by_name["card"][top1]) == pytest.approx(100 * int(right[1]) / len(images), abs=0.01)
    assert by_name["card"][top1] == by_name["int8-vacc"][top1]
    other = "the card's inputs were written for other preprocessing"
    assert other not in compared
    compared, _ = quantkit(
        "compare fp32 card=card --images val --datalist npz/npz_datalist.txt --preset imagenet --drift-images 0"
    )
    assert other in " ".join(compared.split())

    # The vendor's classification script appends: the second run is not taken for the first in silence.
    (tmp_path / "relay.txt").write_text(text + text)
    assert quantkit("vamp eval --text relay.txt --labels imagenet.txt --text-run -1")[0].startswith(
        measured.splitlines()[0]
    )


def test_resize_antialias_or_not_moves_top1_by_points(shared_assets: Path, tmp_path: Path, quantkit: Quantkit) -> None:
    """SqueezeNet on every second photograph: 62.8 % as the card computes it, 59.2 % with antialias."""
    for photo in sorted((shared_assets / "imagenet_samples").glob("*.JPEG"))[::2]:
        path = tmp_path / "val" / photo.name.split("_")[0] / photo.name
        path.parent.mkdir(parents=True)
        path.symlink_to(photo)
    (tmp_path / "squeezenet.onnx").symlink_to(shared_assets / "squeezenet1_1.onnx")
    ops = [op.model_dump(mode="json") for op in PRESETS["vacc"].ops]
    ops[1]["antialias"] = True
    (tmp_path / "antialias.yaml").write_text(json.dumps({"ops": ops}))
    for preset, top1 in (("vacc", 62.8), ("antialias.yaml", 59.2)):
        out, _ = quantkit(f"eval squeezenet.onnx --images val --preset {preset}")
        assert float(out.split("top-1 ")[1].split()[0]) == pytest.approx(top1, abs=0.21), preset

"""An image that drives excitations far beyond all others: ranges leave it out, and the user is told."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from quantkit.config.method import Kl, MinMax, Percentile
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationSet
from quantkit.targets import VACC
from quantkit.vendors.vacc.convert import read_spec
from quantkit.vendors.vacc.document import Document
from quantkit.workflows.calibrate import Calibration, calibrate
from quantkit.workflows.quantize import quantize
from quantkit.workflows.quantize_task import QuantizeOptions
from quantkit.workflows.sensitivity import sensitivity
from quantkit.workflows.vacc.build_file import choices_of_run
from quantkit.workflows.vacc.compiler_simulator import CompilerSimulator

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))
WIDEST = Percentile(fraction=1.0)
TEXT = """
<ir_version: 8, opset_import: ["": 17]>
excited (float[N, 3, 8, 8] input) => (float[N, 4] logits) {
    a = Conv <pads = [1, 1, 1, 1]> (input, w1)
    ar = Relu(a)
    s = GlobalAveragePool(ar)
    m = Mul(ar, s)
    b = Conv(m, w2)
    g = GlobalAveragePool(b)
    f = Flatten(g)
    logits = Gemm <transB = 1> (f, w3)
}
"""


def excited_model(path: Path) -> Path:
    """A network with squeeze and excitation: an image ten times as bright drives it a hundred times as far."""
    model = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (8, 3, 3, 3), "w2": (8, 8, 1, 1), "w3": (4, 8)}.items():
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    onnx.save(model, path)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    for index in range(40):
        folder = tmp_path / "images" / "abcd"[index % 4]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 250 if index == 9 else 20, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    excited_model(tmp_path / "model.onnx")
    build_calibration_set(tmp_path / "images", count=40).save(tmp_path / "set.csv")
    return tmp_path


def range_of(path: Path, tensor: str = "m") -> tuple[float, float]:
    """Return the upper end of a range, and the greatest value observed."""
    row = next(row for row in csv.DictReader(path.read_text().splitlines()) if row["tensor"] == tensor)
    return float(row["hi"]), float(row["observed_max"])


def run_on(place: Path, **options: Any) -> Calibration:
    """Calibrate the network on the whole set, in the folder ``run``."""
    return calibrate(place / "model.onnx", place / "set.csv", PIPELINE, run=place / "run", **options)


def build_count(run: Path) -> int | None:
    """Return how many images the build file has the compiler take."""
    return read_spec(Document.load(run / "vamc.yaml")).dataset.count


def scales(path: Path) -> list[bytes]:
    """Return the scales of a quantized model's activations."""
    graph = onnx.load(path).graph
    values = {constant.name: onnx.numpy_helper.to_array(constant).tobytes() for constant in graph.initializer}
    return sorted(values[node.input[1]] for node in graph.node if node.op_type == "QuantizeLinear")


def foretold(place: Path) -> Path:
    """Write what the run is expected to become on the card."""
    simulator = CompilerSimulator.of_run(place / "run")
    return simulator.write(choices_of_run(simulator.run.record), place / "told.onnx")


def test_outliers_are_left_out_of_ranges_and_named(place: Path) -> None:
    done = run_on(place)
    hi, observed = range_of(done.quantized.table)
    assert hi < observed / 50.0
    (told,) = [note for note in done.notes if "times as large" in note]
    assert "1 of 40 images" in told
    assert "b/009.png" in told
    assert told.endswith("unless --keep-outliers is given")
    again = quantize(place / "run", method=Kl())
    assert range_of(again.table)[0] < observed / 50.0
    assert any("b/009.png" in note for note in again.notes)


def test_outliers_are_kept_on_request_and_by_minmax(place: Path) -> None:
    options = QuantizeOptions(keep_outliers=True)
    kept = run_on(place, method=WIDEST, options=options)
    hi, observed = range_of(kept.quantized.table)
    assert hi == pytest.approx(observed)
    assert not any("times as large" in note for note in kept.notes)
    whole = quantize(place / "run", method=MinMax())
    assert range_of(whole.table)[0] == pytest.approx(observed)
    assert any(note.endswith("this method includes them") for note in whole.notes)


def test_outliers_are_left_out_of_set_of_compiler_and_simulation(place: Path) -> None:
    done = run_on(place, method=MinMax(), target=VACC)
    assert any("the images of calibration.csv, without outliers" in note for note in done.notes)
    without = CalibrationSet.load(place / "run" / "calibration.csv")
    assert len(without) == 39
    assert "b/009.png" not in {image.name for image in without.images}
    assert build_count(place / "run") == 39
    hi, _ = range_of(done.quantized.table)
    alone = calibrate(place / "model.onnx", without, PIPELINE, run=place / "alone", method=MinMax(), target=VACC)
    assert hi == pytest.approx(range_of(alone.quantized.table)[0])
    assert scales(foretold(place)) == scales(done.quantized.path)


def test_outliers_are_given_to_compiler_on_request(place: Path) -> None:
    run_on(place, target=VACC)
    done = run_on(place, method=WIDEST, target=VACC, options=QuantizeOptions(keep_outliers=True))
    hi, observed = range_of(done.quantized.table)
    assert hi == pytest.approx(observed)
    assert not (place / "run" / "calibration.csv").exists()
    assert build_count(place / "run") == 40
    assert scales(foretold(place)) == scales(done.quantized.path)


def test_outliers_without_set_are_named_by_digest(place: Path) -> None:
    done = run_on(place)
    (digest,) = done.statistics.outlier_images
    (place / "set.csv").unlink()
    assert any(f"({digest[:12]})" in note for note in quantize(place / "run").notes)


def test_outliers_sensitivity_uses_ranges_of_model(place: Path) -> None:
    run_on(place)
    without, kept = (
        sensitivity(place / "run", count=40, options=QuantizeOptions(keep_outliers=keep)) for keep in (False, True)
    )
    assert (without.images, kept.images) == (39, 40)
    assert min(one.isolated.sqnr_db for one in without.layers) > 20.0

"""End-to-end drift says where a model is bad, local drift which layer made it so: one layer is made bad on purpose."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import tiny_model, write_images

from quantkit.config.method import MinMax
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.data.item import FileItem
from quantkit.data.preprocess import preprocess
from quantkit.evaluation.drift import TensorDrift
from quantkit.evaluation.measure_drift import Drifts, measure_drift
from quantkit.graph.model import read_model, save_model
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.write import write_qdq
from quantkit.report.data import greatest_losses
from quantkit.stats.solve import solve_all
from quantkit.targets import TARGETS, VACC, Target
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.report import report

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))
LOAD = partial(preprocess, pipeline=PIPELINE)
CHAIN = """
<ir_version: 8, opset_import: ["": 17]>
chain (float[N, 3, 8, 8] input) => (float[N, 4] logits) {
    a = Conv <pads = [1, 1, 1, 1]> (input, w1)
    ar = Relu(a)
    b = Conv <pads = [1, 1, 1, 1]> (ar, w2)
    br = Relu(b)
    c = Conv <pads = [1, 1, 1, 1]> (br, w3)
    cr = Relu(c)
    g = GlobalAveragePool(cr)
    f = Flatten(g)
    logits = Gemm <transB = 1> (f, w4)
}
"""
# int8 weights up to this magnitude: of weights below 1, few steps are left.
COARSE = 40.0


def write_chain(path: Path) -> Path:
    """Write three convolutions and a linear layer, all with weights of the same spread."""
    model = onnx.parser.parse_model(CHAIN)
    rng = np.random.default_rng(3)
    for name, shape in {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "w3": (16, 16, 3, 3), "w4": (4, 16)}.items():
        weights = rng.normal(0, 0.2, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    onnx.save(model, path)
    return path


@dataclass
class Chain:
    """A calibrated model, and the int8 model of it in which the second convolution's weights have a coarse scale."""

    folder: Path
    reference: ir.Model
    images: Path
    paths: list[FileItem]

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def spoilt(self, target: Target) -> ir.Model:
        statistics = calibrate(
            self.folder / "chain.onnx", build_calibration_set(self.images, count=16), PIPELINE, run=self.run
        ).statistics
        prepared = prepare(self.reference).model
        ranges = solve_all(statistics.tensors, MinMax(), target)
        thresholds = {"w2": np.full(16, COARSE, np.float32)}
        return write_qdq(prepared, plan(prepared, target), ranges, weight_thresholds=thresholds)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    reference = read_model(write_chain(tmp_path / "chain.onnx"))
    images = write_images(tmp_path / "images", per_class=6)
    return Chain(tmp_path, reference, images, [FileItem(path) for path in sorted(images.rglob("*.png"))[:8]])


def by_name(drifts: tuple[TensorDrift, ...]) -> dict[str, TensorDrift]:
    return {drift.name: drift for drift in drifts}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_isolated_drift_names_spoilt_layer_and_not_those_behind(chain: Chain, target: Target) -> None:
    candidate = chain.spoilt(target)
    found = measure_drift(chain.reference, candidate, chain.paths, LOAD)
    local, end_to_end = by_name(found.isolated), by_name(found.accumulated)
    assert min(local, key=lambda name: local[name].sqnr_db) == "br"
    assert local["br"].sqnr_db < 15.0
    assert min(local[name].sqnr_db for name in ("ar", "cr", "logits")) > 30.0
    behind = list(end_to_end)[list(end_to_end).index("br") :]
    assert len(behind) > 1
    assert all(end_to_end[name].sqnr_db < 15.0 for name in behind)
    assert end_to_end["ar"].sqnr_db > 30.0


def test_isolated_drift_of_first_layer_equals_accumulated(chain: Chain) -> None:
    candidate = chain.spoilt(TARGETS["ort"])
    found = measure_drift(chain.reference, candidate, chain.paths, LOAD)
    local, end_to_end = by_name(found.isolated)["ar"], by_name(found.accumulated)["ar"]
    assert local.to_json() == end_to_end.to_json() | {"op_type": "Conv"}  # the layer, and the ReLU that ends it


def test_measure_drift_any_threads_give_same_bits(chain: Chain) -> None:
    candidate = chain.spoilt(VACC)
    one, four = (measure_drift(chain.reference, candidate, chain.paths, LOAD, threads).isolated for threads in (1, 4))
    assert [drift.to_json() for drift in one] == [drift.to_json() for drift in four]
    assert [drift.name for drift in one] == ["ar", "br", "cr", "logits"]


def test_measure_drift_fixed_batch_counts_each_image_once(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", per_class=4)
    drifts = []
    for batch in ("N", "3"):
        model = tiny_model(tmp_path / f"{batch}.onnx", batch=batch)
        run = tmp_path / f"run-{batch}"
        calibrate(model, build_calibration_set(images, count=8), PIPELINE, run=run)
        candidate = read_model(run / "int8.onnx", allow_quantized=True)
        items = [FileItem(path) for path in sorted(images.rglob("*.png"))]
        drifts.append(measure_drift(read_model(model), candidate, items, LOAD).isolated)
    assert [drift.elements for drift in drifts[0]] == [drift.elements for drift in drifts[1]]
    assert [drift.sqnr_db for drift in drifts[0]] == pytest.approx([drift.sqnr_db for drift in drifts[1]], abs=1e-3)


def test_measure_drift_float_model_or_no_images_is_empty(chain: Chain) -> None:
    assert measure_drift(chain.reference, chain.reference, chain.paths, LOAD) == Drifts()
    assert measure_drift(chain.reference, chain.spoilt(VACC), [], LOAD) == Drifts()


def test_compare_and_report_name_spoilt_layer_first(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(chain.spoilt(TARGETS["ort"]), chain.folder / "spoilt.onnx")
    evaluation = compare(["fp32", chain.folder / "spoilt.onnx"], run=chain.run, images=chain.images, drift_images=8)
    told = evaluation.to_json()["models"]
    assert "worst_layers" not in told[0]
    assert told[1]["worst_layers"][0]["name"] == "br"
    seen = []
    monkeypatch.setattr("quantkit.workflows.report.write_report", lambda data, path: seen.append(data))
    report(evaluation, chain.folder / "report.html")
    losses = greatest_losses(seen[0], seen[0].candidates[0])
    assert losses[0].tensor == "br"
    assert losses[0].why.startswith("isolated SQNR")
    # The class scores were not observed, and still are a layer of the report, in their place.
    assert seen[0].tensors[-1].name == "logits"
    assert seen[0].tensors[-1].inputs
    monkeypatch.undo()
    report(evaluation, chain.folder / "report.html")
    assert losses[0].why in (chain.folder / "report.html").read_text()


def test_compare_without_drift_measures_no_layer(chain: Chain) -> None:
    save_model(chain.spoilt(TARGETS["ort"]), chain.folder / "spoilt.onnx")
    evaluation = compare(["fp32", chain.folder / "spoilt.onnx"], run=chain.run, images=chain.images, drift_images=0)
    assert evaluation.candidates[0].layers == ()

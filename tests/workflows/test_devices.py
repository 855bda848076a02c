"""Devices in whole commands: one device for fp32 and int8, own caches, what is recorded, and what is not mixed.

Without onnxruntime-openvino, a session that runs on the CPU and calls itself that of OpenVINO stands in: it takes the
same way through the code. With it, the same tests run on the provider itself.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from graph_runs import sqnr_db
from models import tiny_model, uneven_model, write_images

from quantkit.config.choices import Stage
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationSet
from quantkit.engine.device import CPU, Device, as_device
from quantkit.engine.predict import Classifier
from quantkit.engine.prefix_sharing import PrefixSharedRuns, WholeRuns, variant_runs
from quantkit.engine.scores import scores_of
from quantkit.errors import ProvenanceError, UsageError
from quantkit.evaluation.selection import SelectionMetric
from quantkit.graph.model import read_model
from quantkit.graph.prepare import prepare
from quantkit.report.sections.sensitivity import summary
from quantkit.search.budget import FloatBudget
from quantkit.search.stages import Goal
from quantkit.stats.file import load_statistics, save_statistics
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.evaluate import evaluate
from quantkit.workflows.quantize_task import QuantizeOptions
from quantkit.workflows.report import report
from quantkit.workflows.sensitivity import sensitivity
from quantkit.workflows.tune import TuneOptions, tune

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))
OPENVINO = "OpenVINOExecutionProvider"
PLAIN = QuantizeOptions(bias_correction=False)


@pytest.fixture
def openvino(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Return OpenVINO as a device, or what stands in for it."""
    device = Device("openvino", batch=4)
    if OPENVINO in ort.get_available_providers():
        return device

    class StandIn(ort.InferenceSession):
        def __init__(self, source, options=None, providers=None, **settings):
            self.asked = [one[0] if isinstance(one, tuple) else one for one in providers or ["CPUExecutionProvider"]]
            super().__init__(source, options, ["CPUExecutionProvider"], **settings)

        def get_providers(self):
            return self.asked

        def get_provider_graph_assignment_info(self):
            return []

    monkeypatch.setattr(ort, "InferenceSession", StandIn)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [OPENVINO, "CPUExecutionProvider"])
    return device


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", per_class=10)


@pytest.fixture
def run(tmp_path: Path, images: Path) -> Path:
    build_calibration_set(images, count=16).save(tmp_path / "set.csv")
    model = tiny_model(tmp_path / "tiny.onnx")
    calibrate(model, tmp_path / "set.csv", PIPELINE, run=tmp_path / "run", options=PLAIN)
    return tmp_path / "run"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the devices that classifiers are opened on."""
    seen: list[str] = []
    begin = Classifier.__init__

    def counted(self, file, device=CPU):
        seen.append(device.kind)
        begin(self, file, device)

    monkeypatch.setattr(Classifier, "__init__", counted)
    return seen


def random_images(count: int, side: int = 8) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.uniform(0, 1, (1, 3, side, side)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("batch", [1, 3, 4, 16])
def test_device_scores_in_batches_equal_single_images(tmp_path: Path, openvino: Device, batch: int) -> None:
    model = prepare(read_model(tiny_model(tmp_path / "tiny.onnx"))).model
    given = random_images(7)
    one = scores_of(model, given, threads=2)
    other = scores_of(model, given, threads=2, device=Device(openvino.kind, batch=batch))
    assert one.shape == other.shape == (7, 4)
    assert sqnr_db(one, other) >= 100.0


def test_device_scores_fill_fixed_batch_as_on_cpu(tmp_path: Path, openvino: Device) -> None:
    model = prepare(read_model(tiny_model(tmp_path / "tiny.onnx", batch="3"))).model
    given = [np.repeat(one, 3, axis=0) for one in random_images(5)]
    one, other = (scores_of(model, given, threads=2, device=device) for device in (CPU, openvino))
    assert one.shape == other.shape == (5, 4)
    assert sqnr_db(one, other) >= 100.0


def test_device_variants_run_whole_and_share_prefix_on_cpu(tmp_path: Path, openvino: Device) -> None:
    model = prepare(read_model(tiny_model(tmp_path / "tiny.onnx"))).model
    given = random_images(5)
    shared, whole = (variant_runs(model, given, threads=2, device=device) for device in (CPU, openvino))
    assert isinstance(shared, PrefixSharedRuns)
    assert isinstance(whole, WholeRuns)
    assert sqnr_db(shared.scores(model), whole.scores(model)) >= 100.0


def test_device_sensitivity_equals_cpu_and_has_own_cache(run: Path, openvino: Device) -> None:
    here = sensitivity(run, options=PLAIN, count=12)
    there = sensitivity(run, options=PLAIN, count=12, device=openvino)
    assert (here.device, there.device) == ("cpu", "openvino (precision=FP32)")
    assert {layer.node for layer in here.layers} == {layer.node for layer in there.layers}
    assert there.whole.sqnr_db == pytest.approx(here.whole.sqnr_db, abs=3.0)
    kept = json.loads((run / "sensitivity-ort.json").read_text())
    assert kept["device"] == "openvino (precision=FP32)"
    assert any("all models ran on openvino (precision=FP32)" in line for line in summary(there))
    assert not any("ran on" in line for line in summary(here))
    assert len(list((run / "cache" / "layer-costs").glob("*.safetensors"))) == 2


def test_device_auto_sensitivity_says_where_layers_run(run: Path, openvino: Device) -> None:
    found = sensitivity(run, options=PLAIN, count=4, device=Device("auto", batch=openvino.batch))
    assert [note for note in found.notes if "fp32 runs on openvino (OpenVINOExecutionProvider" in note]
    assert not [note for note in sensitivity(run, options=PLAIN, count=4, device=openvino).notes if "runs on" in note]


def test_device_scores_of_fp32_repeat_same_bits(run: Path, openvino: Device) -> None:
    model = read_model(run.parent / "tiny.onnx")
    given = random_images(4)
    again = [scores_of(model, given, threads=1, device=openvino) for _ in range(2)]
    assert np.array_equal(again[0], again[1])


def test_device_drift_equals_cpu(run: Path, images: Path, openvino: Device) -> None:
    options: dict[str, Any] = {"run": run, "images": images, "drift_images": 6}
    here, there = (compare(["fp32", "int8"], **options, device=device) for device in (CPU, openvino))
    for kind in ("tensors", "layers"):
        mine, theirs = (getattr(one.candidates[0], kind) for one in (here, there))
        assert [one.name for one in mine] == [one.name for one in theirs]
        assert len(mine) > 0
        for one, other in zip(mine, theirs, strict=True):
            assert other.sqnr_db == pytest.approx(one.sqnr_db, abs=3.0)


def test_device_tune_evaluates_both_models_there(run: Path, images: Path, openvino: Device, opened) -> None:
    model = uneven_model(run.parent / "uneven.onnx")
    other = run.parent / "uneven"
    calibrate(model, run.parent / "set.csv", PIPELINE, run=other, options=PLAIN)
    goal, budget = Goal(max_drop=0, min_agreement=100), FloatBudget(macs=0.0)
    disable = frozenset({Stage.ROUNDING, Stage.RANGES})
    options = TuneOptions(goal=goal, budget=budget, disable=disable)
    done = tune(other, options, images=images, exclude=run.parent / "set.csv", device=openvino)
    assert done.device == json.loads(done.log.read_text())["device"] == "openvino (precision=FP32)"
    assert set(opened) == {"openvino"}
    assert [note for note in done.notes if "fp32 runs on openvino (OpenVINOExecutionProvider" in note]
    opened.clear()
    again = tune(other, options, images=images, exclude=run.parent / "set.csv")
    assert again.device == "cpu"
    assert set(opened) == {"cpu"}, "trials of one device are not taken for those of another"


def test_device_change_of_rewritten_model_is_measured_on_cpu(tmp_path: Path, openvino: Device, monkeypatch) -> None:
    """A device may compute with fewer bits; whether two models are the same is no matter of its precision."""
    model = prepare(read_model(tiny_model(tmp_path / "tiny.onnx"))).model
    metric = SelectionMetric(model, random_images(4), threads=1, device=openvino)
    asked: list[str] = []

    def noted(one, given, *, threads, device=CPU):
        asked.append(device.kind)
        return scores_of(one, given, threads=threads, device=device)

    monkeypatch.setattr("quantkit.evaluation.selection.scores_of", noted)
    assert metric.largest_change(model) == 0.0
    assert asked == ["cpu", "cpu"]
    metric.closeness(model)
    assert asked[2:] == ["openvino"]


def test_device_statistics_of_two_devices_do_not_merge(tmp_path: Path, images: Path, openvino: Device) -> None:
    whole = build_calibration_set(images, count=16)
    model = tiny_model(tmp_path / "tiny.onnx")
    halves = [CalibrationSet(whole.root, whole.images[part::2]) for part in (0, 1)]
    for half, device in zip(halves, (CPU, openvino), strict=True):
        calibrate(model, half, PIPELINE, run=tmp_path / device.kind, options=PLAIN, device=device)
    here, there = (load_statistics(tmp_path / kind / "statistics.safetensors") for kind in ("cpu", "openvino"))
    with pytest.raises(ProvenanceError, match=r"observed on openvino \(precision=FP32\), not on cpu.*same --device"):
        here.merge(there)


def test_device_statistics_without_device_are_of_cpu(run: Path, tmp_path: Path) -> None:
    """Files that were written before devices were recorded stay readable."""
    path = run / "statistics.safetensors"
    content = path.read_bytes()
    statistics = load_statistics(path)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    inner = json.loads(header["__metadata__"]["quantkit-statistics"])
    del inner["provenance"]["device"]
    header["__metadata__"]["quantkit-statistics"] = json.dumps(inner)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    old = tmp_path / "old.safetensors"
    old.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    loaded = load_statistics(old)
    assert loaded.provenance == statistics.provenance
    assert loaded.provenance.device == "cpu"
    save_statistics(loaded, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == content


def test_device_results_name_provider(run: Path, images: Path, openvino: Device, tmp_path: Path) -> None:
    done = compare(["fp32", "int8"], run=run, images=images, drift_images=0, device=openvino)
    models = done.to_json()["models"]
    assert [note for note in done.notes if "runs on openvino (OpenVINOExecutionProvider, precision=FP32)" in note]
    for one in models:
        assert one["ran_on"]["device"] == "openvino"
        assert one["ran_on"]["provider"] == OPENVINO
        assert one["ran_on"]["options"] == {"precision": "FP32"}
        assert one["ran_on"]["onnxruntime"] == ort.__version__
    report(done, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "openvino (OpenVINOExecutionProvider, precision=FP32)" in page
    assert f"on cpu (CPUExecutionProvider), onnxruntime {ort.__version__}" in page


def test_device_of_pass_is_recorded_and_kept(run: Path, tmp_path: Path, openvino: Device) -> None:
    def recorded(folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((folder / "run.json").read_text())["observed_on"]
        return found

    assert recorded(run)["provider"] == "CPUExecutionProvider"
    model, chosen = run.parent / "tiny.onnx", run.parent / "set.csv"
    calibrate(model, chosen, PIPELINE, run=tmp_path / "there", options=PLAIN, device=openvino)
    first = recorded(tmp_path / "there")
    assert (first["device"], first["options"]) == ("openvino", {"precision": "FP32"})
    again = calibrate(model, chosen, PIPELINE, run=tmp_path / "there", options=PLAIN, device=openvino)
    assert again.reused
    assert recorded(tmp_path / "there") == first


@pytest.mark.parametrize("function", [evaluate, compare, calibrate, sensitivity, tune], ids=lambda one: one.__name__)
def test_device_by_name_is_taken_by_every_function(function, run: Path) -> None:
    arguments = {
        "evaluate": ("fp32",),
        "compare": (["fp32", "int8"],),
        "calibrate": (run.parent / "tiny.onnx", run.parent / "set.csv", PIPELINE),
        "sensitivity": (run,),
        "tune": (run, TuneOptions(goal=Goal(max_drop=1))),
    }[function.__name__]
    named = {} if function in (sensitivity, tune) else {"run": run}
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        function(*arguments, **named, device="gpu")
    with pytest.raises(UsageError, match="device"):
        function(*arguments, **named, device=3)


def test_device_by_name_is_that_device() -> None:
    assert as_device("cuda:1") == Device("cuda", index=1)
    assert as_device(CPU) is CPU

"""Devices: what users may write, what is refused, batches in order, and OpenVINO's provider as a second device.

The tests of OpenVINO's provider need onnxruntime-openvino instead of onnxruntime, and are skipped elsewhere.
"""

import json
import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graph_runs import sqnr_db
from models import tiny_model, write_images
from onnx import helper, numpy_helper
from PIL import Image

from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.data.folder import find_labelled_images
from quantkit.engine.batches import map_batches
from quantkit.engine.classifier import read_classifier
from quantkit.engine.device import CPU, Device
from quantkit.engine.placement import DevicePlacement, placement_of
from quantkit.engine.predict import Classifier, evaluate
from quantkit.engine.session import open_session
from quantkit.engine.tensorrt import check_quantized
from quantkit.errors import DeviceError, UsageError
from quantkit.runs.score_cache import scores_key
from quantkit.stats.file import load_statistics
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.evaluate import evaluate as evaluate_model
from quantkit.workflows.quantize_task import QuantizeOptions

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))
OPENVINO = "OpenVINOExecutionProvider" in ort.get_available_providers()
needs_openvino = pytest.mark.skipif(not OPENVINO, reason="needs onnxruntime-openvino instead of onnxruntime")


@pytest.fixture
def model(tmp_path):
    return tiny_model(tmp_path / "tiny.onnx")


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", per_class=5)


def all_scores(model, images, device):
    classifier = Classifier(read_classifier(model), device)
    found = find_labelled_images(images)
    answers = list(evaluate([classifier], found.items, PIPELINE, threads=3))
    assert [one.index for one in answers] == list(range(len(found.names)))
    return np.concatenate([one.scores[0] for one in answers])


@pytest.mark.parametrize(
    ("text", "kind", "index", "name"),
    [("cpu", "cpu", 0, "cpu"), ("cuda:1", "cuda", 1, "cuda:1"), ("tensorrt:0", "tensorrt", 0, "tensorrt")],
)
def test_device_text_gives_kind_and_index(text, kind, index, name):
    device = Device.parse(text, batch=8)
    assert (device.kind, device.index, device.name, device.batch) == (kind, index, name, 8)


@pytest.mark.parametrize(
    ("text", "options", "batch", "message"),
    [
        ("gpu", (), 1, "unknown device 'gpu'"),
        ("cuda:", (), 1, "invalid device 'cuda:'"),
        ("openvino:1", (), 1, "openvino has no device 1"),
        ("cpu", ("a=b",), 1, "the device cpu has no options"),
        ("openvino", ("precision",), 1, "'precision' is not of the form KEY=VALUE"),
        ("openvino", ("a=1", "a=2"), 1, "'a=2' is given twice"),
        ("cpu", (), 0, "invalid batch 0"),
    ],
)
def test_device_that_cannot_be_is_refused(text, options, batch, message):
    with pytest.raises(UsageError, match=message):
        Device.parse(text, batch=batch, options=options)


def test_tensorrt_falls_back_to_cuda_on_the_same_device():
    providers = Device.parse("tensorrt:2").providers()
    names = [one[0] if isinstance(one, tuple) else one for one in providers]
    assert names == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert providers[1][1] == {"device_id": "2", "use_tf32": "0"}


def tensorrt_options(device: Device, *, quantized: bool = False) -> dict[str, str]:
    """Return the options of the provider that comes first, TensorRT's."""
    first = device.providers(quantized=quantized)[0]
    assert isinstance(first, tuple)
    assert first[0] == "TensorrtExecutionProvider"
    return first[1]


def test_tensorrt_keeps_engines_in_the_user_cache_and_allows_int8_for_quantized_models():
    folder = str(Path(os.environ["XDG_CACHE_HOME"]) / "quantkit" / "tensorrt")
    plain, quantized = (tensorrt_options(Device("tensorrt"), quantized=one) for one in (False, True))
    assert (plain["trt_engine_cache_enable"], plain["trt_engine_cache_path"]) == ("1", folder)
    assert "trt_int8_enable" not in plain
    assert quantized["trt_int8_enable"] == "1"
    own = Device.parse("tensorrt", options=["trt_engine_cache_path=elsewhere", "trt_fp16_enable=1"])
    given = tensorrt_options(own)
    assert (given["trt_engine_cache_path"], given["trt_fp16_enable"]) == ("elsewhere", "1")


@pytest.mark.parametrize(
    ("device", "settings"),
    [
        (CPU, {}),
        (Device("cuda"), {"use_tf32": "0"}),
        (Device("cuda", options=(("use_tf32", "1"),)), {"use_tf32": "1"}),
        (Device("openvino"), {"precision": "FP32"}),
        (Device("openvino", options=(("precision", "ACCURACY"),)), {"precision": "ACCURACY"}),
        (Device("openvino", options=(("load_config", "{}"),)), {"load_config": "{}"}),
        (Device("openvino", options=(("device_type", "NPU"),)), {"device_type": "NPU"}),
        (Device("openvino", options=(("device_type", "GPU"),)), {"device_type": "GPU", "precision": "FP32"}),
        (Device("tensorrt"), {}),
    ],
    ids=lambda value: value.describe() if isinstance(value, Device) else "",
)
def test_device_keeps_float32_unless_an_option_says_otherwise(device, settings):
    assert device.settings == settings == device.identity()["options"]


def test_device_options_are_a_mapping_or_pairs():
    one = Device("cuda", options={"use_tf32": 1, "arena_extend_strategy": "kSameAsRequested"})  # type: ignore[dict-item]
    pairs = (("arena_extend_strategy", "kSameAsRequested"), ("use_tf32", "1"))
    assert one == Device("cuda", options=pairs)
    assert one.options == pairs
    assert hash(one) == hash(Device("cuda", options=pairs[::-1]))


def quantized_file(path, zero_point, *, given=True):
    """Write Quantize, Dequantize and Relu around activations with one zero point."""
    inputs = ["x", "scale", "zero"] if given else ["x", "scale"]
    nodes = [
        helper.make_node("QuantizeLinear", inputs, ["q"]),
        helper.make_node("DequantizeLinear", ["q", *inputs[1:]], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.asarray(0.1, np.float32), "scale"),
        numpy_helper.from_array(zero_point, "zero"),
    ]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in "xy")
    graph = helper.make_graph(nodes, "quantized", [x], [y], constants if given else constants[:1])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("zero_point", [np.uint8(128), np.int8(3), np.uint8(0)], ids=["uint8-128", "int8-3", "uint8-0"])
def test_tensorrt_refuses_zero_points_that_it_does_not_have(tmp_path, zero_point):
    model = quantized_file(tmp_path / "q.onnx", zero_point)
    with pytest.raises(DeviceError, match=r"zero points of 0 only, and 1 of .*--target tensorrt"):
        open_session(model, device=Device("tensorrt"))


def test_tensorrt_refuses_activations_that_are_uint8_by_default(tmp_path):
    model = quantized_file(tmp_path / "q.onnx", np.uint8(0), given=False)
    with pytest.raises(DeviceError, match="zero points of 0 only"):
        check_quantized(model, model)


def test_tensorrt_accepts_its_own_target_and_tells_quantized_models(tmp_path, model, images):
    symmetric = quantized_file(tmp_path / "q.onnx", np.int8(0))
    assert check_quantized(symmetric, symmetric)
    assert check_quantized(symmetric.read_bytes(), symmetric)
    assert not check_quantized(model, model)
    chosen = build_calibration_set(images, count=6)
    options = QuantizeOptions(bias_correction=False)
    done = calibrate(model, chosen, PIPELINE, run=tmp_path / "run", target="tensorrt", options=options)
    int8 = done.quantized.path
    assert check_quantized(int8, int8)
    affine = calibrate(model, chosen, PIPELINE, run=tmp_path / "ort", options=options).quantized.path
    with pytest.raises(DeviceError, match="quantize it with --target tensorrt"):
        check_quantized(affine, affine)


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="onnxruntime has CUDA here")
def test_device_without_provider_is_refused():
    with pytest.raises(DeviceError, match=r"no CUDAExecutionProvider; it has .*pip install onnxruntime-gpu"):
        Device("cuda").resolved()


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="onnxruntime has CUDA here")
@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_provider_that_does_not_start_is_an_error_and_no_run_on_the_cpu(model):
    with pytest.raises(DeviceError, match="CUDAExecutionProvider could not be started"):
        open_session(model, device=Device("cuda"))


@pytest.mark.skipif(len(ort.get_available_providers()) > 2 or OPENVINO, reason="another provider is there")
def test_auto_is_the_cpu_where_nothing_else_is():
    assert Device("auto", batch=4).resolved() == Device("cpu", batch=4)


def test_cache_key_depends_on_device_and_options_and_not_on_the_batch(model):
    signature = read_classifier(model).signature

    def digest(device):
        return scores_key("0" * 64, PIPELINE, signature, device).digest

    assert digest(CPU) == digest(Device(batch=8)) == scores_key("0" * 64, PIPELINE, signature).digest
    assert digest(Device("openvino")) == digest(Device("openvino", batch=8))
    others = [CPU, Device("openvino"), Device("openvino", options=(("precision", "FP16"),)), Device("cuda")]
    assert len({digest(one) for one in (*others, Device("cuda", index=1))}) == 5


@pytest.mark.parametrize("device", [Device(batch=4), Device("openvino", batch=4)], ids=lambda device: device.kind)
def test_batches_are_in_order_and_the_last_is_smaller(device):
    def load(job):
        time.sleep(0.001 * (job % 3))
        return 10 * job

    found = list(map_batches(load, lambda jobs, items: (list(jobs), list(items)), range(10), device=device, threads=3))
    assert [jobs for jobs, _ in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [items for _, items in found] == [[0, 10, 20, 30], [40, 50, 60, 70], [80, 90]]


def test_device_runs_one_batch_at_a_time_while_workers_load():
    running, most = threading.Semaphore(1), []
    loads: list[object] = []

    def run(jobs, items):
        most.append(running.acquire(blocking=False))
        if jobs[0] == 0:  # does not end before an image of another batch is loaded
            before, end_s = len(loads), time.monotonic() + 60
            while len(loads) == before and time.monotonic() < end_s:
                time.sleep(0.001)
            assert len(loads) > before
        running.release()
        return len(items)

    device = Device("openvino", batch=4)
    counts = list(map_batches(lambda job: loads.append(job), run, range(64), device=device, threads=2))
    assert sum(counts) == 64
    assert all(most)


@pytest.mark.parametrize("kind", ["cpu", "openvino"])
def test_failure_of_a_load_is_raised_at_its_turn(kind):
    def load(job):
        if job == 5:
            raise ValueError("image 5")
        return job

    batches = map_batches(load, lambda jobs, _: jobs, range(9), device=Device(kind, batch=2), threads=2)
    assert [next(batches), next(batches)] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="image 5"):
        next(batches)


@pytest.mark.parametrize("batch", [2, 7, 64])
def test_scores_on_the_cpu_do_not_depend_on_the_batch_but_for_rounding(model, images, batch):
    one, many = all_scores(model, images, CPU), all_scores(model, images, Device(batch=batch))
    assert sqnr_db(one, many) >= 120.0


def test_fixed_batch_takes_precedence(tmp_path, images):
    fixed = tiny_model(tmp_path / "fixed.onnx", batch="3")
    assert Classifier(read_classifier(fixed), Device(batch=8)).device.batch == 3
    one = all_scores(tiny_model(tmp_path / "one.onnx"), images, CPU)
    assert sqnr_db(one, all_scores(fixed, images, Device(batch=8))) >= 120.0


def test_images_of_several_sizes_run_in_batches_of_one_size(tmp_path):
    model, paths = tiny_model(tmp_path / "tiny.onnx"), []
    free = onnx.load(model)
    for axis in (2, 3):
        free.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    onnx.save(free, model)
    for index, side in enumerate((8, 12, 8, 12, 8)):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(np.full((side, side, 3), 40 * index, np.uint8)).save(paths[-1])
    scores = [
        np.concatenate([one.scores[0] for one in evaluate([classifier], paths, PIPELINE, threads=1)])
        for classifier in (Classifier(read_classifier(model), device) for device in (CPU, Device(batch=4)))
    ]
    assert sqnr_db(*scores) >= 120.0


@needs_openvino
def test_openvino_runs_every_layer_and_gives_the_scores_of_the_cpu(model, images):
    device = Device("openvino", batch=4, options=(("precision", "FP32"),)).resolved()
    session = open_session(model, device=device)
    assert session.get_providers()[0] == "OpenVINOExecutionProvider"
    placed = placement_of(session, device)
    assert (placed.layers_on_cpu, placed.layers) == (0, 3)
    assert sqnr_db(all_scores(model, images, CPU), all_scores(model, images, device)) >= 100.0


@needs_openvino
def test_openvino_refuses_an_option_it_does_not_have(model):
    device = Device.parse("openvino", options=["nonsense=1"]).resolved()
    with pytest.raises(DeviceError, match="Invalid OpenVINO EP option: nonsense"):
        open_session(model, device=device)


@needs_openvino
def test_auto_takes_openvino_and_says_what_ran_there(model):
    device = Device("auto").resolved()
    assert device == Device("openvino", fallback=True)
    notes = Classifier(read_classifier(model), device).notes
    assert notes == ("tiny.onnx: runs on openvino (OpenVINOExecutionProvider, precision=FP32), 3 of 3 layers",)


@pytest.mark.skipif(
    not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"), reason="onnxruntime < 1.24"
)
def test_layers_left_to_the_cpu_are_an_error_unless_auto(model, monkeypatch):
    class OnTheCpu(ort.InferenceSession):
        """A session with a provider that takes no node: onnxruntime then runs all of them on the CPU."""

        def __init__(self, source, options, providers, **settings):
            super().__init__(source, options, ["CPUExecutionProvider"], **settings)

        def get_providers(self):
            return ["OpenVINOExecutionProvider", *super().get_providers()]

    monkeypatch.setattr(ort, "InferenceSession", OnTheCpu)
    with pytest.raises(DeviceError, match="OpenVINOExecutionProvider leaves 3 of 3 layers to the CPU"):
        open_session(model, device=Device("openvino"))
    with_fallback = Classifier(read_classifier(model), Device("openvino", fallback=True))
    assert len(with_fallback.notes) == 1
    assert re.search(
        r"runs on openvino .*, 0 of 3 layers; \d+ of \d+ nodes on the CPU \(.*Conv 2", with_fallback.notes[0]
    )
    placed = with_fallback.placement.to_json()
    assert (placed["layers"], placed["layers_on_cpu"]) == (3, 3)
    assert placed["nodes"] == {"CPUExecutionProvider": sum(placed["left_to_cpu"].values())}


def test_placement_of_the_cpu_is_its_name_and_counts_nothing(model):
    placed = Classifier(read_classifier(model)).placement
    assert placed.describe() == "cpu"
    assert placed.to_json() == {
        "device": "cpu",
        "provider": "CPUExecutionProvider",
        "options": {},
        "onnxruntime": ort.__version__,
        "layers": None,
        "layers_on_cpu": None,
        "nodes": None,
        "left_to_cpu": None,
    }


def test_placement_says_what_a_provider_leaves_to_the_cpu():
    placed = DevicePlacement(
        "cuda:1",
        "CUDAExecutionProvider",
        (("use_tf32", "0"),),
        layers=53,
        layers_on_cpu=0,
        nodes=(("CPUExecutionProvider", 3), ("CUDAExecutionProvider", 120)),
        left_to_cpu=(("TopK", 2), ("Shape", 1)),
    )
    assert placed.describe() == (
        "cuda:1 (CUDAExecutionProvider, use_tf32=0), 53 of 53 layers; 3 of 123 nodes on the CPU (TopK 2, Shape 1)"
    )


def test_placement_says_where_onnxruntime_does_not_tell():
    text = DevicePlacement("cuda", "CUDAExecutionProvider", onnxruntime="1.20.0").describe()
    assert text == "cuda (CUDAExecutionProvider); onnxruntime 1.20.0 does not tell which layers"


@needs_openvino
@pytest.mark.parametrize("batch", [1, 4, 32])
def test_pass_on_openvino_gives_the_statistics_of_the_cpu(model, images, tmp_path, batch):
    chosen = build_calibration_set(images, count=18)
    device = Device("openvino", batch=batch, options=(("precision", "FP32"),))
    calibrate(model, chosen, PIPELINE, run=tmp_path / "cpu")
    done = calibrate(model, chosen, PIPELINE, run=tmp_path / "ov", device=device)
    assert done.statistics.provenance.device == "openvino (precision=FP32)"
    observed_on = json.loads((tmp_path / "ov" / "run.json").read_text())["observed_on"]
    assert (observed_on["provider"], observed_on["options"]) == ("OpenVINOExecutionProvider", {"precision": "FP32"})
    assert (observed_on["layers"], observed_on["layers_on_cpu"]) == (3, 0)
    here, there = (load_statistics(tmp_path / run / "statistics.safetensors") for run in ("cpu", "ov"))
    assert here.images == there.images
    for name, one in here.tensors.items():
        other = there.tensors[name]
        step = (one.hi - one.lo) / 255
        assert abs(one.lo - other.lo) < 0.01 * step
        assert abs(one.hi - other.hi) < 0.01 * step
        assert one.count == other.count
    assert np.abs(here.extremes - there.extremes).max() < 1e-4 * np.abs(here.extremes).max()


@needs_openvino
def test_eval_and_compare_on_openvino(model, images, tmp_path):
    chosen = build_calibration_set(images, count=8)
    calibrate(model, chosen, PIPELINE, run=tmp_path / "run")
    device = Device("openvino", batch=4)
    options = {"images": images, "pipeline": PIPELINE, "cache": tmp_path / "cache"}
    here, there = (evaluate_model(model, **options, device=one) for one in (CPU, device))
    assert there.kept == 0  # the scores of the CPU are not taken for those of OpenVINO
    assert (here.origin.device, there.origin.device) == ("cpu", "openvino (precision=FP32)")
    assert there.ran_on == DevicePlacement(
        "openvino",
        "OpenVINOExecutionProvider",
        (("precision", "FP32"),),
        layers=3,
        layers_on_cpu=0,
        nodes=there.ran_on.nodes,
    )
    assert np.array_equal(here.predictions.top1, there.predictions.top1)
    again = evaluate_model(model, **options, device=Device("openvino"))
    assert again.kept == len(again.predictions)
    result = compare(["fp32", "int8"], run=tmp_path / "run", images=images, device=device, drift_images=0)
    assert {one.ran_on.device for one in result.models} == {"openvino"}

"""The int8 files in a second runtime: OpenVINO on the CPU runs them in integers, as near to fp32 as onnxruntime."""

import functools
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from graph_runs import run, sqnr_db, text_model

from quantkit.config.pipeline import CenterCrop, Decode, Normalize, Pipeline, Resize, ToTensor, imagenet_pipeline
from quantkit.data.build_set import build_calibration_set
from quantkit.data.preprocess import preprocess
from quantkit.graph.model import read_model, save_model
from quantkit.targets import ORT
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.quantize_task import QuantizeOptions

pytest.importorskip("openvino", reason="needs OpenVINO: pip install quantkit[openvino]")
from graph.openvino_runs import OpenVinoModel
from quantizers import quantize_static_like_ours

_IMAGENET = imagenet_pipeline()
_NORMALIZE = _IMAGENET.ops[-1]
# Preprocessing of each model, as the notes beside the models say.
PIPELINES = {
    "squeezenet1_1": _IMAGENET,
    "efficientnet_lite0": Pipeline(
        ops=(
            Decode(),
            Resize(size=256, interpolation="bicubic"),
            CenterCrop(size=(224, 224)),
            ToTensor(),
            Normalize(mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
        )
    ),
    "cifar_resnet20": Pipeline(ops=(Decode(), ToTensor(), _NORMALIZE)),
    "mobilenetv2_cifar10": Pipeline(ops=(Decode(), Resize(size=(128, 128)), ToTensor(), _NORMALIZE)),
}
# Kinds of nodes that compute nothing, or prepare the weights once.
_FREE = {"Input", "Output", "Const", "Reshape"}
_CALIBRATION_IMAGES, _UNSEEN_IMAGES = 20, 30


@pytest.fixture(scope="module")
def photographs(shared_assets, tmp_path_factory):
    """Folders of photographs: calibration images and others, for each kind of model."""
    root = tmp_path_factory.mktemp("photographs")
    sources = sorted((shared_assets / "imagenet_samples").iterdir())
    wanted = _CALIBRATION_IMAGES + _UNSEEN_IMAGES
    for index, position in enumerate(np.linspace(0, len(sources) - 1, wanted).astype(int)):
        target = root / "imagenet" / _part(index) / sources[position].name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(sources[position])
    with zipfile.ZipFile(shared_assets / "cifar10_test.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        for index, position in enumerate(np.linspace(0, len(names) - 1, wanted).astype(int)):
            target = root / "cifar" / _part(index) / names[position].replace("/", "_")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(names[position]))
    return root


def _part(index):
    return "calibration" if index % 2 == 0 and index < 2 * _CALIBRATION_IMAGES else "unseen"


@pytest.fixture(scope="module")
def quantized(shared_assets, photographs, tmp_path_factory):
    """Make, once for each model, ``quantkit calibrate``'s file and that of ``quantize_static``, on the same images."""

    @functools.cache
    def make(name):
        folder = tmp_path_factory.mktemp(name)
        images, pipeline = photographs / ("cifar" if "cifar" in name else "imagenet"), PIPELINES[name]
        fp32 = shared_assets / f"{name}.onnx"
        seen, unseen = (
            np.stack([preprocess(path, pipeline) for path in sorted((images / part).iterdir())])
            for part in ("calibration", "unseen")
        )
        chosen = build_calibration_set(images / "calibration", count=_CALIBRATION_IMAGES, unlabelled=True)
        calibrate(fp32, chosen, pipeline, run=folder / "run")
        static, int8 = quantize_static_like_ours(fp32, seen, folder), folder / "run" / "int8.onnx"
        return SimpleNamespace(
            fp32=fp32,
            int8=int8,
            static=static,
            unseen=unseen,
            chosen=chosen,
            folder=folder,
            ours=OpenVinoModel(int8, unseen.shape),
            peers=OpenVinoModel(static, unseen.shape),
        )

    return make


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", PIPELINES)
def test_openvino_executes_every_layer_in_int8_in_no_more_nodes(quantized, name):
    made = quantized(name)
    layers = sum(node.op_type in ("Conv", "Gemm", "MatMul") for node in onnx.load(made.fp32).graph.node)
    executed = made.ours.executed()
    integer = sum(executed[kind, "u8"] for kind in ("Convolution", "FullyConnected", "MatMul"))
    assert integer == layers
    in_float = {pair: count for pair, count in executed.items() if pair[1] == "f32" and pair[0] not in _FREE}
    # The image is rounded in float, and integers become floats where the scores leave the model.
    assert in_float.pop(("Subgraph", "f32"), 0) <= 1
    assert in_float.pop(("Reorder", "f32"), 0) <= 1
    assert in_float == {}
    assert _work(executed) <= _work(made.peers.executed())


def _work(executed):
    """Return how many nodes are executed for every image."""
    return sum(count for (kind, _), count in executed.items() if kind not in _FREE)


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", PIPELINES)
def test_openvino_scores_are_as_near_to_fp32_as_onnxruntime_within_1_db(quantized, name):
    made = quantized(name)
    fp32 = run(read_model(made.fp32), made.unseen)
    there = sqnr_db(fp32, made.ours.run(made.unseen))
    here = sqnr_db(fp32, run(made.int8, made.unseen))
    of_static = sqnr_db(fp32, made.peers.run(made.unseen))
    print(f"{name}: {there:.1f} dB in OpenVINO, {here:.1f} dB in onnxruntime; quantize_static {of_static:.1f} dB")
    assert there >= here - 1.0
    assert there >= of_static


RESIDUAL = """
<ir_version: 8, opset_import: ["" : 13]>
residual (float[1,16,12,12] x) => (float[1,16,12,12] y)
{
    xq = QuantizeLinear (x, xs, z)
    xd = DequantizeLinear (xq, xs, z)
    wd = DequantizeLinear (w, ws, wz)
    a = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (xd, wd)
    aq = QuantizeLinear (a, s, z)
    ad = DequantizeLinear (aq, s, z)
    b = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (ad, wd)
    bq = QuantizeLinear (b, s, z)
    bd = DequantizeLinear (bq, s, z)
    c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (bd, wd)
    cq = QuantizeLinear (c, s, z)
    cd = DequantizeLinear (cq, s, z)
    sum = Add (READ, ad)
    yq = QuantizeLinear (sum, ys, z)
    y = DequantizeLinear (yq, ys, z)
}
"""


def test_openvino_adds_convolution_to_residual_before_rounding(tmp_path):
    """Why scores differ: onnxruntime rounds between Conv and Add, as the QDQ pair says, and OpenVINO does not."""
    rng = np.random.default_rng(0)
    constants = {
        "xs": np.float32(1 / 32),
        "z": np.uint8(131),
        "w": rng.integers(-127, 128, (16, 16, 3, 3)).astype(np.int8),
        "ws": np.float32(1 / 2048),
        "wz": np.int8(0),
        "s": np.float32(0.0613),
        "ys": np.float32(0.0733),
    }
    written = text_model(RESIDUAL.replace("READ", "cd"), **constants)
    unrounded = text_model(RESIDUAL.replace("READ", "c"), **constants)
    save_model(written, tmp_path / "residual.onnx")
    x = rng.normal(0, 1, (1, 16, 12, 12)).astype(np.float32)
    there = OpenVinoModel(tmp_path / "residual.onnx", x.shape).run(x)

    def steps(y):
        return np.rint((y - there) / constants["ys"])

    # A sum that falls between two integers is rounded by the last bit of a float: a few in a thousand may differ.
    assert np.count_nonzero(steps(run(unrounded, x, optimize=False))) <= 0.005 * x.size
    in_onnxruntime = steps(run(written, x))
    assert np.abs(in_onnxruntime).max() == 1
    assert np.count_nonzero(in_onnxruntime) > 0.1 * x.size
    assert abs(in_onnxruntime.mean()) < 0.05  # roundings, no shift


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_openvino_seven_bit_weights_are_exact_without_vnni(quantized):
    """Without VNNI, 8-bit weights saturate in OpenVINO as in onnxruntime; 7-bit weights do not."""
    made = quantized("squeezenet1_1")
    seven = made.folder / "seven"
    options = QuantizeOptions(weight_bits=7)
    calibrate(made.fp32, made.chosen, PIPELINES["squeezenet1_1"], run=seven, target=ORT, options=options)
    fp32 = run(read_model(made.fp32), made.unseen)
    loss = {
        path: sqnr_db(fp32, _scores(path, made.unseen, made.folder))
        - sqnr_db(fp32, _scores(path, made.unseen, made.folder, instructions="AVX2"))
        for path in (made.int8, seven / "int8.onnx")
    }
    assert abs(loss[seven / "int8.onnx"]) <= 1.0
    assert loss[made.int8] >= 5.0


def _scores(path, x, folder, instructions="DEFAULT"):
    """Return scores from a process in which oneDNN, OpenVINO's kernels, uses certain instructions only."""
    images, scores = folder / "x.npy", folder / "scores.npy"
    np.save(images, x)
    program = Path(__file__).with_name("openvino_runs.py")
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    subprocess.run([sys.executable, program, path, images, scores], check=True, env=environment, timeout=200)
    return np.load(scores)

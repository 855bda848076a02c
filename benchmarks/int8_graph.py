"""Our int8 graph against the one of onnxruntime.quantization.quantize_static, and both against fp32, in turn.

    python benchmarks/int8_graph.py [--models resnet50,iresnet50] [--memory] [--json FILE]

Models are read from ``--model-dir`` (NAME.onnx) or beside the checkout, or exported with random weights where torch is
installed. Both int8 models get the ranges between the least and the greatest value on the same photographs, and are
evaluated on others. Ours has its biases corrected on those photographs, as ``quantkit calibrate`` does; the figure
without is given too. quantize_static runs on what its own pre-processing makes of the model. Latency is that of one
image; each ratio is the median over rounds in which every model is run in turn. With ``--memory`` the largest iResNet
and a generated model of 2.5 GB are read, prepared, planned, written and saved in processes of their own.
"""

import argparse
import io
import json
import logging
import statistics
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
from inputs import KEPT, SHARED, find_model, find_photographs, in_process, peak_mb
from onnxruntime_static import write_static
from PIL import Image

from quantkit.engine.session import open_session
from quantkit.engine.tap import TappedSession
from quantkit.graph.image_input import image_input
from quantkit.graph.model import read_model, save_model
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.plan import plan
from quantkit.graph.qdq.write import write_qdq
from quantkit.numerics import Range
from quantkit.ptq.bias_correction import correct_bias
from quantkit.targets import ORT

MADE = (
    *("resnet18", "resnet50", "resnext50", "wide_resnet50", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("mnasnet", "efficientnet_b0", "shufflenet_v2", "densenet121", "googlenet", "inception_v3", "regnet_y_400mf"),
    *("convnext_tiny", "vgg11_bn", "vit_b_16", "swin_t", "iresnet50"),
)
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
# Operators whose arithmetic is float: those of layers, and the rest that an int8 model should not need.
FLOAT_LAYERS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose")
FLOAT_OTHERS = (
    *("BatchNormalization", "Add", "Mul", "Div", "Sub", "Relu", "Clip", "Sigmoid", "HardSigmoid", "Softmax", "Erf"),
    *("Gelu", "LayerNormalization", "SkipLayerNormalization", "GlobalAveragePool", "AveragePool", "DequantizeLinear"),
)

# Photographs that the biases are corrected on.
CORRECTED_ON = 48

FloatArray = npt.NDArray[np.float32]


def photographs(name: str, folder: Path, side: int, count: int) -> FloatArray:
    """Return photos evenly over the classes, squeezed to the model's input, ``[N, 3, side, side]``, N = 0 for none."""
    archive, sources = SHARED / "cifar10_test.zip", []  # type: Path, list[Any]
    if "cifar" in name and archive.is_file():
        with zipfile.ZipFile(archive) as opened:
            names = sorted(entry for entry in opened.namelist() if entry.endswith(".jpg"))
            places = np.linspace(0, len(names) - 1, count).astype(int)
            sources = [io.BytesIO(opened.read(names[place])) for place in places]
    else:
        sources = list(find_photographs(folder, count))
    images = []
    for source in sources:
        with Image.open(source) as image:
            pixels = np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR), np.float32)
        images.append(((pixels / 255 - MEAN) / STD).transpose(2, 0, 1))
    return np.asarray(images, np.float32)


def write_ours(path: Path, images: FloatArray, out: Path, plain: Path, *, correct: bool) -> dict[str, float]:
    """Write our int8 model as `quantkit calibrate` does, and the one before its bias correction; time the steps."""
    start = time.perf_counter()
    prepared = prepare(read_model(path)).model
    prepared_s = time.perf_counter() - start
    made = plan(prepared, ORT)
    session = TappedSession(prepared, made.observed)
    ends: dict[str, tuple[float, float]] = dict.fromkeys(made.observed, (0.0, 0.0))
    for image in images:
        for name, value in session.run(image[None])[1]:
            lo, hi = ends[name]
            ends[name] = (min(lo, float(value.min())), max(hi, float(value.max())))
    ranges = {name: Range.around(*pair) for name, pair in ends.items()}
    start = time.perf_counter()
    save_model(write_qdq(prepared, made, ranges), plain)
    written_s = time.perf_counter() - start
    batches = [image[None] for image in images[:CORRECTED_ON]]
    start = time.perf_counter()
    shifts = correct_bias(prepared, made, ranges, batches, threads=2).shifts if correct else {}
    save_model(write_qdq(prepared, made, ranges, bias_shift=shifts), out)
    return {"prepare_s": prepared_s, "write_s": written_s, "correct_s": time.perf_counter() - start}


def sqnr_db(reference: FloatArray, other: FloatArray) -> float:
    signal = (reference.astype(np.float64) ** 2).sum()
    return float(10 * np.log10(signal / ((reference.astype(np.float64) - other) ** 2).sum()))


def scores(session: ort.InferenceSession, images: FloatArray) -> FloatArray:
    feed = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {feed: image[None]})[0] for image in images])


def time_in_turn(sessions: dict[str, ort.InferenceSession], image: FloatArray, rounds: int) -> dict[str, list[float]]:
    """Run every model in turn, round after round; return seconds for one image."""
    feeds = {name: {session.get_inputs()[0].name: image[None]} for name, session in sessions.items()}
    once = {}
    for name, session in sessions.items():
        session.run(None, feeds[name])
        start = time.perf_counter()
        session.run(None, feeds[name])
        once[name] = time.perf_counter() - start
    # A turn lasts long enough for the clock, and short enough that all models see the same machine.
    repeats = max(1, min(50, int(0.03 / max(once.values()))))
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(rounds):
        # There and back, so that no model always runs in the wake of the same other one.
        for name, session in list(sessions.items())[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            for _ in range(repeats):
                session.run(None, feeds[name])
            times[name].append((time.perf_counter() - start) / repeats)
    return times


def float_operators(model: Path, folder: Path) -> dict[str, dict[str, int]]:
    """Return how many float operators are in the graph that onnxruntime runs after all optimizations."""
    optimized = folder / "optimized.onnx"
    open_session(model, optimized=optimized)
    graph = onnx.load(optimized, load_external_data=False).graph
    counts = Counter(node.op_type for node in graph.node)
    return {
        "layers": {name: counts[name] for name in FLOAT_LAYERS if counts[name]},
        "others": {name: counts[name] for name in FLOAT_OTHERS if counts[name]},
    }


def compare(name: str, path: Path, options: argparse.Namespace) -> dict[str, Any] | None:
    """Write both int8 models and compare them; None where there are no photographs."""
    shape = image_input(read_model(path))
    images = photographs(name, options.images, shape.height or 224, 2 * options.count)
    if len(images) < 2:
        return None
    seen, unseen = images[::2], images[1::2]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ours, static = folder / "ours.onnx", folder / "static.onnx"
        plain = folder / "plain.onnx"
        steps = write_ours(path, seen, ours, plain, correct=options.bias_correction)
        write_static(path, open_session(path).get_inputs()[0].name, (image[None] for image in seen), static)
        files = {"fp32": path, "static": static, "ours": ours}
        sessions = {key: open_session(file, threads=options.threads) for key, file in files.items()}
        times = time_in_turn(sessions, unseen[0], options.rounds)
        results = {key: scores(session, unseen) for key, session in sessions.items()}
        results["plain"] = scores(open_session(plain), unseen)
        left, theirs = float_operators(ours, folder), float_operators(static, folder)
        sizes = {key: file.stat().st_size for key, file in files.items()}

    def ratio(base: str) -> float:
        return statistics.median(a / b for a, b in zip(times["ours"], times[base], strict=True))

    return {
        "latency_ratio_to_quantize_static": ratio("static"),
        "latency_ratio_to_fp32": ratio("fp32"),
        "latency_ms": {key: 1000 * statistics.median(values) for key, values in times.items()},
        "sqnr_db": sqnr_db(results["fp32"], results["ours"]),
        "sqnr_db_without_bias_correction": sqnr_db(results["fp32"], results["plain"]),
        "sqnr_db_quantize_static": sqnr_db(results["fp32"], results["static"]),
        "agreement": float((results["fp32"].argmax(1) == results["ours"].argmax(1)).mean()),
        "agreement_quantize_static": float((results["fp32"].argmax(1) == results["static"].argmax(1)).mean()),
        "float_ops_left": sum(left["layers"].values()),
        "float_ops": left,
        "float_ops_quantize_static": theirs,
        "bytes": sizes,
        **steps,
    }


def write_wide_model(folder: Path, gigabytes: float) -> Path:
    """Write a convolution and fully connected layers of the given size, as external data."""
    width = 10240
    layers = max(1, round(gigabytes * 1e9 / (4 * width * width)))
    rng = np.random.default_rng(0)
    block = (rng.normal(size=width * 1024) / width**0.5).astype(np.float32)
    with (folder / "wide.data").open("wb") as file:
        for _ in range(layers * 10):
            file.write(block.tobytes())
    image = ir.val("image", ir.DataType.FLOAT, ("N", 3, 32, 32))
    stem = ir.tensor(rng.normal(size=(width // 64, 3, 4, 4)).astype(np.float32), name="stem.weight")
    weights = [ir.Value(name="stem.weight", const_value=stem)]
    nodes = [ir.node("Conv", [image, weights[0]], {"strides": [4, 4]}, name="stem")]
    nodes.append(ir.node("Flatten", [nodes[-1].outputs[0]], name="flatten"))
    size = 4 * width * width
    for layer in range(layers):
        shape = ir.Shape((width, width))
        name = f"fc{layer}.weight"
        tensor = ir.ExternalTensor(
            "wide.data", layer * size, size, ir.DataType.FLOAT, shape=shape, name=name, base_dir=str(folder)
        )
        weights.append(ir.Value(name=name, const_value=tensor, shape=shape, type=ir.TensorType(ir.DataType.FLOAT)))
        nodes.append(ir.node("Gemm", [nodes[-1].outputs[0], weights[-1]], {"transB": 1}, name=f"fc{layer}"))
        nodes.append(ir.node("Relu", [nodes[-1].outputs[0]], name=f"relu{layer}"))
    for node in nodes:
        node.outputs[0].name = f"{node.name}.out"
    logits = nodes[-1].outputs[0]
    logits.type, logits.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(("N", width))
    graph = ir.Graph([image], [logits], nodes=nodes, initializers=weights, opset_imports={"": 17}, name="wide")
    ir.save(ir.Model(graph, ir_version=8), folder / "wide.onnx")
    return folder / "wide.onnx"


def _pass_through(path: Path, out: Path) -> dict[str, Any]:
    start = time.perf_counter()
    prepared = prepare(read_model(path)).model
    made = plan(prepared, ORT)
    save_model(write_qdq(prepared, made, dict.fromkeys(made.observed, Range(-1.0, 4.0))), out)
    return {"peak_mb": peak_mb(), "seconds": time.perf_counter() - start, "layers": len(made.layers)}


def measure_memory(path: Path) -> dict[str, Any]:
    """Take a model from file to int8 file in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = in_process(_pass_through, path, Path(folder) / "int8.onnx")
        result["int8_bytes"] = sum(file.stat().st_size for file in Path(folder).iterdir())
    return result


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join((*KEPT, *MADE)))
    parser.add_argument("--model-dir", type=Path, default=Path("benchmarks/models"))
    parser.add_argument("--images", type=Path, default=SHARED / "imagenet_samples")
    parser.add_argument("--count", type=int, default=50, help="photographs to calibrate on, and as many to evaluate on")
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bias-correction", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--gigabytes", type=float, default=2.5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    models: dict[str, Any] = {}
    for name in filter(None, options.models.split(",")):
        path = find_model(name, options.model_dir)
        if isinstance(path, str):
            print(f"{name}: skipped, {path}")
            continue
        result = compare(name, path, options)
        if result is None:
            print(f"{name}: skipped, no photographs in {options.images}; give --images")
            continue
        models[name] = result
        print(
            f"{name:20} latency x{result['latency_ratio_to_quantize_static']:.3f} of quantize_static, "
            f"x{result['latency_ratio_to_fp32']:.3f} of fp32; SQNR {result['sqnr_db']:.2f} dB "
            f"({result['sqnr_db_without_bias_correction']:.2f} uncorrected, quantize_static "
            f"{result['sqnr_db_quantize_static']:.2f}); float: {result['float_ops']}",
            flush=True,
        )
    report: dict[str, Any] = {"threads": options.threads, "onnxruntime": ort.__version__, "models": models}
    if models:
        ratios = [result["latency_ratio_to_quantize_static"] for result in models.values()]
        report["median_latency_ratio_to_quantize_static"] = statistics.median(ratios)
        print(f"median x{statistics.median(ratios):.3f}, largest x{max(ratios):.3f} of quantize_static")
    if options.memory:
        report["memory"] = memory(options)
        print(json.dumps(report["memory"], indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the largest iResNet, where it is there, and a generated model."""
    result = {}
    iresnet = find_model("iresnet200", options.model_dir)
    if isinstance(iresnet, Path):
        result["iresnet200"] = measure_memory(iresnet)
    with tempfile.TemporaryDirectory() as folder:
        result[f"{options.gigabytes:g}_gb"] = measure_memory(write_wide_model(Path(folder), options.gigabytes))
    return result


if __name__ == "__main__":
    main()

"""``quantkit eval`` and the calibration pass on a device against the same on the CPU, in images per second.

    python benchmarks/gpu.py [--device cuda] [--batches 1,8,32] [--images 256] [--model FILE --preset FILE --photos DIR]
                             [--provider-option KEY=VALUE] [--json FILE]

Without ``--model`` it makes a ResNet-50 with random weights and JPEG photographs of 500 x 375 pixels, so it needs no
data and no torch. The int8 model is made from the pass on the CPU. Where this Python lacks the device's provider, the
script makes an environment in a temporary folder, installs there what is missing (the provider, and quantkit's own
dependencies if need be), and runs itself in it.

Each model is compared with the same model on the CPU: how many best classes differ, and the SQNR of the margins between
the two best scores. Random weights have close scores, so their best classes differ more easily than those of a trained
model. ``host`` is the processor time of an image in eval, which other programs on the machine disturb less than its
rate. A first evaluation of one batch, in which devices compile their kernels, is not counted.
"""

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_REPEATED = "QUANTKIT_GPU_BENCHMARK"
_PROVIDERS = {
    "cuda": ("CUDAExecutionProvider", ["onnxruntime-gpu[cuda,cudnn]"]),
    "tensorrt": ("TensorrtExecutionProvider", ["onnxruntime-gpu[cuda,cudnn]", "tensorrt"]),
    "openvino": ("OpenVINOExecutionProvider", ["onnxruntime-openvino"]),
}
# Blocks of each stage of ResNet-50, and the channels of their inner convolutions.
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))


def ensure_provider(device: str) -> None:
    """Run this program in a temporary environment where the present one lacks the provider or quantkit's packages."""
    provider, packages = _PROVIDERS.get(device.partition(":")[0], ("CPUExecutionProvider", ["onnxruntime"]))
    complete = all(importlib.util.find_spec(name) for name in ("numba", "onnx_ir", "PIL", "pydantic", "safetensors"))
    if complete and _has(provider):
        return
    if os.environ.get(_REPEATED):
        sys.exit(f"{packages[0]} was installed and offers no {provider} here")
    with tempfile.TemporaryDirectory() as folder:
        print(f"installing {' and '.join(packages)} in a temporary environment", flush=True)
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        # Its own packages come first; those of the present environment are still found.
        others = [path for path in sys.path if path.endswith("site-packages")] if complete else []
        site = next(Path(folder).glob("lib/python*/site-packages"))
        (site / "present.pth").write_text("\n".join([str(ROOT), *others]) + "\n")
        needed = packages if complete else [*packages, *_dependencies()]
        subprocess.run([python, "-m", "pip", "install", "-q", *needed], check=True)
        finished = subprocess.run([python, *sys.argv], env={**os.environ, _REPEATED: "1"}, check=False)
    sys.exit(finished.returncode)


def _has(provider: str) -> bool:
    if importlib.util.find_spec("onnxruntime") is None:
        return False
    import onnxruntime as ort

    return provider in ort.get_available_providers()


def _dependencies() -> list[str]:
    """Return what quantkit needs, but onnxruntime, which comes with its provider."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [one for one in project["dependencies"] if not one.startswith("onnxruntime")]


def write_resnet50(path: Path) -> Path:
    """Write a ResNet-50 with batch norms folded and random weights that keep the size of activations."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def conv(x: str, read: int, made: int, side: int, stride: int = 1, gain: float = 2.0, relu: bool = True) -> str:
        name = f"conv{len(weights)}"
        values = rng.standard_normal((made, read, side, side)) * math.sqrt(gain / (read * side * side))
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"{name}.w"))
        weights.append(numpy_helper.from_array(np.zeros(made, np.float32), f"{name}.b"))
        inputs = [x, f"{name}.w", f"{name}.b"]
        nodes.append(helper.make_node("Conv", inputs, [name], strides=[stride] * 2, pads=[side // 2] * 4))
        if not relu:
            return name
        nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"]))
        return f"{name}.relu"

    x = conv("input", 3, 64, 7, 2)
    nodes.append(helper.make_node("MaxPool", [x], ["pool"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    x, width = "pool", 64
    for stage, (blocks, inner) in enumerate(STAGES):
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            y = conv(conv(x, width, inner, 1), inner, inner, 3, stride)
            # A block adds a quarter of the variance that it reads.
            y = conv(y, inner, 4 * inner, 1, gain=0.5, relu=False)
            skip = x if block else conv(x, width, 4 * inner, 1, stride, gain=1.0, relu=False)
            nodes.append(helper.make_node("Add", [y, skip], [f"{y}.sum"]))
            nodes.append(helper.make_node("Relu", [f"{y}.sum"], [f"{y}.out"]))
            x, width = f"{y}.out", 4 * inner
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["features"]))
    fc = rng.standard_normal((1000, width)) / math.sqrt(width)
    weights.append(numpy_helper.from_array(fc.astype(np.float32), "fc.w"))
    nodes.append(helper.make_node("Gemm", ["features", "fc.w"], ["logits"], transB=1))
    image = helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", 3, 224, 224])
    scores = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 1000])
    graph = helper.make_graph(nodes, "resnet50", [image], [scores], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def write_photographs(folder: Path, count: int) -> Path:
    """Write JPEG files of smooth random colours, in two class folders."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for index in range(count):
        target = folder / f"class{index % 2}" / f"{index:04d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(target, quality=90)
    return folder


def evaluated(model: Path, images: Any, pipeline: Any, device: Any, folder: Path) -> tuple[dict[str, float], Any]:
    """Return images per second and host time in ms of eval on a device, and what the model answered."""
    from quantkit.workflows.evaluate import evaluate

    first = images.only(range(min(device.batch, len(images.names))))
    evaluate(model, images=first, pipeline=pipeline, cache=folder / "first", device=device)
    start_s = time.process_time()
    done = evaluate(model, images=images, pipeline=pipeline, cache=folder / "cache", device=device)
    count = len(images.names)
    host_ms = 1000 * (time.process_time() - start_s) / count
    return {"eval": count / done.elapsed_s, "host_ms": host_ms}, done.predictions


def passed(model: Path, images: Any, pipeline: Any, device: Any, folder: Path, target: str) -> tuple[float, Path]:
    """Return images per second of the pass on a device, and the int8 model made from it."""
    from quantkit.data.build_set import choose_images
    from quantkit.workflows.calibrate import calibrate
    from quantkit.workflows.quantize_task import QuantizeOptions

    chosen = choose_images(images, count=len(images.names))
    options = QuantizeOptions(bias_correction=False)
    done = calibrate(model, chosen, pipeline, run=folder / "run", target=target, options=options, device=device)
    return len(images.names) / done.elapsed_s, done.quantized.path


def compared(answers: Any, reference: Any) -> dict[str, float | None]:
    """Return how many best classes differ, and the SQNR of the margins in dB, None where they are equal."""
    import numpy as np

    noise = float(np.square(answers.margin - reference.margin, dtype=np.float64).sum())
    signal = float(np.square(reference.margin, dtype=np.float64).sum())
    differ = int((answers.top1 != reference.top1).sum())
    return {"differ": differ, "margin_sqnr_db": 10 * math.log10(signal / noise) if noise and signal else None}


def show(row: dict[str, Any], first: dict[str, Any]) -> None:
    """Print one row; ratios are to the first of its model."""
    rates = "   ".join(
        f"{name} {row[name]:7.1f} images/s (x{row[name] / first[name]:.2f})" for name in ("eval", "pass") if name in row
    )
    sqnr = "equal" if row["margin_sqnr_db"] is None else f"{row['margin_sqnr_db']:.1f} dB"
    print(
        f"{row['model']:5} {row['device']:9} batch {row['batch']:3}   {rates}   host {row['host_ms']:.0f} ms   "
        f"{row['differ']} answers differ, {sqnr}",
        flush=True,
    )


def main() -> int:
    """Measure and print one line for each model, device and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--preset", default="imagenet")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--provider-option", action="append", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ensure_provider(options.device)

    import numpy as np
    import onnxruntime as ort

    from quantkit.data.folder import find_labelled_images
    from quantkit.data.parallel import available_cpus
    from quantkit.engine.device import CPU, Device
    from quantkit.workflows.presets import load_preset

    report: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fp32 = options.model or write_resnet50(folder / "resnet50.onnx")
        images = find_labelled_images(options.photos or write_photographs(folder / "photographs", options.images))
        images = images.only(np.linspace(0, len(images.names) - 1, options.images).astype(int).tolist())
        pipeline = load_preset(options.preset)
        batches = [int(size) for size in options.batches.split(",")]
        others = [Device.parse(options.device, batch=size, options=options.provider_option) for size in batches]
        print(f"{fp32.name}, {options.images} images, onnxruntime {ort.__version__}, {available_cpus()} processors")
        target = "tensorrt" if others[0].kind == "tensorrt" else "ort"
        passes = [
            passed(fp32, images, pipeline, device, folder / f"pass{number}", target)
            for number, device in enumerate([CPU, *others])
        ]
        int8 = passes[0][1]
        for name, model in (("fp32", fp32), ("int8", int8)):
            reference: Any = None
            for number, device in enumerate([CPU, *others]):
                row, answers = evaluated(model, images, pipeline, device, folder / f"{name}{number}")
                reference = reference or answers
                row |= {"pass": passes[number][0]} if name == "fp32" else {}
                report.append({"model": name, "device": device.name, "batch": device.batch, **row})
                report[-1] |= compared(answers, reference)
                show(report[-1], next(one for one in report if one["model"] == name))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

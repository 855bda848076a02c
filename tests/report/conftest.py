"""A made-up report of a ResNet-50-like network: 71 tensors, 1,000 classes, three int8 models."""

import io
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from quantkit.evaluation.compare_models import EvaluatedModel, compare_models
from quantkit.evaluation.drift import TensorDrift
from quantkit.evaluation.gate import GateMode, parse_gate
from quantkit.evaluation.paired import Interval
from quantkit.evaluation.predictions import Collector
from quantkit.graph.coverage import Coverage, FloatLayer
from quantkit.numerics import Range
from quantkit.report.data import (
    MethodChoice,
    MethodRange,
    ReportData,
    ReportTensor,
    SensitivityFinding,
    TuningLog,
    TuningStage,
    changed_images,
    confusion_pairs,
)
from quantkit.sensitivity.result import Figures, LayerSensitivity, Sensitivity
from quantkit.stats.convergence import ConvergencePoint
from quantkit.stats.observer import Observer

IMAGES, CLASSES = 2000, 1000
MODELS = (("fp32", 102_470_000, 41.2), ("int8-percentile", 25_900_000, 14.8), ("int8-kl", 25_900_000, 14.7),
          ("int8-minmax", 25_900_000, 14.9))  # fmt: skip
NOISE = (0.0, 0.22, 0.34, 0.9)
METHODS = ("minmax", "percentile", "kl", "mse")


def resnet_tensors():
    """Names, operators, layers and inputs of a bottleneck network, in its order."""
    found = [("input", "", "", ()), ("/conv1/Relu", "Relu", "conv1", ("input",))]
    before = "/conv1/Relu"
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            prefix = f"/layer{stage}/layer{stage}.{block}"
            one, two = f"{prefix}/relu/Relu_output_0", f"{prefix}/relu_1/Relu_output_0"
            three, added = f"{prefix}/conv3/Conv_output_0", f"{prefix}/relu_2/Relu_output_0"
            found += [(one, "Relu", f"layer{stage}.{block}.conv1", (before,)),
                      (two, "Relu", f"layer{stage}.{block}.conv2", (one,)),
                      (three, "Conv", f"layer{stage}.{block}.conv3", (two,)),
                      (added, "Relu", f"layer{stage}.{block}.add", (three, before))]  # fmt: skip
            before = added
    return [*found, ("/avgpool/GlobalAveragePool_output_0", "GlobalAveragePool", "avgpool", (before,)),
            ("/fc/Gemm_output_0", "Gemm", "fc", ("/avgpool/GlobalAveragePool_output_0",))]  # fmt: skip


def fake_drift(rng, name, op_type, sqnr_db):
    scale = float(rng.uniform(0.01, 0.06))
    channel = sqnr_db + rng.normal(0, 3, 64)
    return TensorDrift(
        name=name, op_type=op_type, elements=64 * 784 * IMAGES, images=IMAGES, image_share=0.02,
        sqnr_db=sqnr_db, worst_channel=int(channel.argmin()),
        worst_channel_sqnr_db=float(channel.min()), max_err=scale * rng.uniform(3, 40),
        max_err_steps=float(rng.uniform(3, 40)), cosine=1 - 10 ** (-sqnr_db / 10) / 2,
        clipped=float(rng.uniform(0, 2e-5)), range_used=float(rng.uniform(0.8, 1)),
        levels_used=int(rng.integers(180, 256)), collapsed=False,
        channel_sqnr_db=channel, channel_bias=rng.normal(0, 0.05 * scale, 64), scale=scale,
    )  # fmt: skip


def fake_statistics(rng, op_type):
    values = rng.gamma(1.2, 0.7, 40_000) if op_type == "Relu" else rng.normal(0.1, 1.3, 40_000)
    if op_type == "Relu":
        values[rng.random(values.size) < 0.5] = 0.0
    values[:5] *= rng.uniform(1.5, 4)
    observer = Observer()
    observer.observe(values.astype(np.float32))
    return observer.statistics()


def fake_ranges(statistics):
    whole = statistics.range
    parts = dict(zip(METHODS, (1.0, 0.72, 0.61, 0.8), strict=True))
    return tuple(
        MethodRange(method=name, range=Range(whole.lo * part, whole.hi * part), step=(whole.hi - whole.lo) * part / 255,
                    used_by=("int8-percentile",) if name == "percentile" else ())
        for name, part in parts.items()
    )  # fmt: skip


def fake_thumbnail(name):
    seed = int.from_bytes(name.encode()[-6:], "big")
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (96, 96), tuple(rng.integers(40, 220, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        x, y = rng.integers(0, 70, 2).tolist()
        draw.ellipse((x, y, x + 40, y + 30), fill=tuple(rng.integers(0, 255, 3).tolist()))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def fake_coverage(hostile=""):
    layer = FloatLayer(name="conv_17" + hostile, op_type="Conv", why="computed weights" + hostile, multiply_adds=10)
    return Coverage(layers=54, int8_layers=53, multiply_adds=4_000, int8_multiply_adds=3_990, uncounted=0,
                    float_layers=(layer,))  # fmt: skip


def fake_choice(model: str, hostile: str) -> MethodChoice:
    figures = (
        ("percentile", 64, 1.0, 34.2, 98.4, "chosen"),
        ("mse", 64, 0.97, 34.4, 98.4, "tied"),
        ("minmax", 8, 1.5, None, 87.5, "further"),
        ("kl relay", 0, None, None, None, "not tried"),
    )
    names = ("method", "images", "distance", "sqnr_db", "agreement", "outcome")
    rows = tuple(dict(zip(names, one, strict=True)) for one in figures)
    return MethodChoice(model=model, reason=f"percentile: no method is nearer to fp32{hostile}", rows=rows)


def fake_tuning(hostile=""):
    stage = TuningStage(stage="method", tried=4, recipe="mse, biases" + hostile, agreement=0.95, sqnr_db=31.0,
                        seconds=30.0, float_macs=0.0, images=500, delta=-0.6, ci95=Interval(-1.4, 0.2))  # fmt: skip
    rounded = TuningStage(stage="rounding", tried=1, recipe="mse, rounded" + hostile, agreement=0.97, sqnr_db=None,
                          seconds=100.0, float_macs=0.01, images=500, delta=-0.2, ci95=Interval(-0.9, 0.5),
                          kept=True)  # fmt: skip
    return TuningLog(name="int8-tuned" + hostile, target="ort", conclusion=("the goal is met",),
                     stages=(stage, rounded),
                     notes=("a note" + hostile,))  # fmt: skip


def fake_sensitivity(rng, hostile=""):
    def figures(share):
        return Figures(sqnr_db=30.0 - 10 * math.log10(abs(share) + 1e-3), kl=0.01, share=share, accuracy=None)

    layers = tuple(
        LayerSensitivity(node=f"conv{index}" + hostile, op_type="Conv", conv_index=index, macs=10, macs_share=0.1,
                         isolated=figures(float(rng.uniform(0, 0.3))),
                         leave_one_out=figures(float(rng.uniform(-0.1, 0.3))))
        for index in range(10)
    )  # fmt: skip
    return Sensitivity(model="ResNet-50" + hostile, target="ort", method="percentile", by="only", images=32,
                       source="calibration images", macs=100, top1=None, whole=figures(1.0), layers=layers,
                       notes=())  # fmt: skip


def fake_report(*, labelled=True, candidates=3, hostile=""):
    """Build the report; ``hostile`` is put into every name that would come from a file."""
    rng = np.random.default_rng(7)
    labels = np.sort(rng.integers(0, CLASSES, IMAGES))
    scores = rng.normal(0, 1.0, (IMAGES, CLASSES)).astype(np.float32)
    scores[np.arange(IMAGES), labels] += rng.normal(4.2, 1.2, IMAGES).astype(np.float32)
    noisy = [scores + np.float32(level) * rng.normal(0, 1, scores.shape).astype(np.float32) for level in NOISE]
    names = [f"ILSVRC2012_val_{index:08d}{hostile}.JPEG" for index in range(1, IMAGES + 1)]
    collector = Collector(len(MODELS))
    collector.update(noisy, names, labels if labelled else None)
    network = [(name + hostile, op + hostile, layer, tuple(i + hostile for i in inputs))
               for name, op, layer, inputs in resnet_tensors()]  # fmt: skip
    models = []
    for index, (name, size, latency) in enumerate(MODELS[: candidates + 1]):
        level = 46.0 - 20 * math.log10(1 + 4 * NOISE[index])
        falls = np.cumsum(rng.exponential(0.35, len(network)))
        drift = [fake_drift(rng, t[0], t[1], float(level - fall + rng.normal(0, 0.8)))
                 for t, fall in zip(network, falls, strict=True)]  # fmt: skip
        layers = [fake_drift(rng, t[0], t[1], float(rng.normal(42, 3))) for t in network]
        models.append(
            EvaluatedModel(
                name=name + hostile,
                predictions=collector.predictions(index),
                bytes=size,
                latency_ms=latency,
                kl=collector.divergence(index),
                tensors=tuple(drift) if index else (),
                layers=tuple(layers) if index else (),
                latency_spread_ms=Interval(0.9 * latency, 1.2 * latency),
            )
        )
    tensors = []
    for name, op_type, layer, inputs in network:
        statistics = fake_statistics(rng, op_type.removesuffix(hostile))
        last = name.startswith("/fc")
        tensors.append(
            ReportTensor(
                name=name,
                op_type=op_type,
                layer=layer + hostile,
                inputs=inputs,
                statistics=statistics,
                ranges=fake_ranges(statistics),
                reason="the graph's output: its scores stay in float" + hostile if last else "",
            )
        )
    points, images, moved = [], 16, 0.4
    while images < 1000:
        by_method = {method: moved * factor for method, factor in zip(METHODS, (1.0, 0.5, 0.3, 0.4), strict=True)}
        points.append(ConvergencePoint(images, by_method, dict.fromkeys(METHODS, network[9][0])))
        images, moved = images + max(4, images // 4), moved * 0.78
    predictions = [model.predictions for model in models]
    comparison = compare_models(models, warnings=["12 images are in the calibration set too" + hostile])
    gate = parse_gate("top1_drop > 3" if labelled else "agreement < 80", GateMode.FAIL_IF_PROVEN)
    return ReportData(
        title="ResNet-50" + hostile,
        comparison=comparison,
        tensors=tuple(tensors),
        images=changed_images(predictions, picture=fake_thumbnail, limit=60),
        confusions=confusion_pairs(predictions),
        coverage=((models[1].name, fake_coverage(hostile)),),
        choices=(fake_choice(models[1].name, hostile),),
        tunings=(fake_tuning(hostile),),
        sensitivities=(
            SensitivityFinding(
                result=fake_sensitivity(rng, hostile),
                decision=("leave conv:0 in float",),
                command="quantkit quantize --skip conv:0" + hostile,
            ),
        ),
        verdicts=gate.verdicts(comparison),
        class_names=tuple(f"class name {index}{hostile}" for index in range(CLASSES)),
        convergence=tuple(points),
        provenance=(
            ("model", "resnet50.onnx, sha256 1f0e3dad99908345" + hostile),
            ("calibration set", "imagenet_1000.csv, 1,000 images, seed 0"),
            ("method", "percentile, fraction 0.99999"),
            ("target", "ort: uint8 activations, int8 weights per channel"),
            ("versions", "quantkit 0.1.0, onnxruntime 1.32.0, numpy 2.4.6"),
        ),
    )


@pytest.fixture(scope="session")
def report_data():
    return fake_report()


HOSTILE = "</script><script>document.title='owned'</script>\"'><img src=x onerror=alert(1)>"


@pytest.fixture(scope="session")
def other_reports():
    """A single candidate, no labels, and names that try to become markup."""
    return {
        "pair": fake_report(candidates=1),
        "unlabelled": fake_report(labelled=False),
        "hostile": fake_report(hostile=HOSTILE),
    }

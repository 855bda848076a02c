"""Classifiers of every signature that people bring, from calibration to the comparison.

What is right is computed by onnxruntime alone: each file is fed as its own signature says, and its scores are read from
where the test put them.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models import tiny_model, write_images
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import quantkit
from quantkit.config.pipeline import Decode, Normalize, Pipeline, Resize, ToTensor
from quantkit.engine.classifier import read_classifier
from quantkit.errors import ConfigError, ModelError
from quantkit.search.budget import FloatBudget
from quantkit.search.stages import Goal
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.evaluate import evaluate
from quantkit.workflows.sensitivity import sensitivity
from quantkit.workflows.tune import TuneOptions, tune

FLOAT, HALF, DOUBLE, BFLOAT = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16
UINT8, INT32, INT64 = TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64
PLAIN = Pipeline(ops=(Decode(), ToTensor(), Normalize(mean=(0.5,) * 3, std=(0.5,) * 3)))
PIXELS = Pipeline(ops=(Decode(), ToTensor(divisor=1.0)))
CLASSES = 4
LEAST_DB = 18.0


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        dtype: of the image input.
        layout: of the image input.
        inner: type that the layers compute in.
        batch: fixed size of the batch; None where it is dynamic.
        tail: shape of the scores.
        order: outputs in the order of the file; the scores are ``scores``.
        outer: type of the outputs.
        late: the normalization comes before the transpose of an NHWC image.
        inputs: further inputs, with their values.
        declared: whether the file gives sizes of the scores, or their rank alone.
    """

    dtype: int = FLOAT
    layout: str = "NCHW"
    inner: int = FLOAT
    batch: int | None = None
    tail: str = "matrix"
    order: tuple[str, ...] = ("scores",)
    outer: int | None = None
    late: bool = False
    inputs: tuple[tuple[str, float], ...] = ()
    declared: bool = True

    @property
    def pipeline(self) -> Pipeline:
        return PIXELS if self.dtype in (UINT8, INT32) else PLAIN


class Net:
    def __init__(self, kind: Kind, seed: int = 1) -> None:
        self.kind, self.rng = kind, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, name: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        result = out or f"{name.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(name, inputs, [result], f"{name}_{len(self.nodes)}", **attributes))
        return result

    def constant(self, content: np.ndarray, kind: int | None = None, name: str | None = None) -> str:
        name = name or f"c{len(self.weights)}"
        typed = np.asarray(content).astype(helper.tensor_dtype_to_np_dtype(self.kind.inner if kind is None else kind))
        self.weights.append(numpy_helper.from_array(typed, name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values), INT64)

    def conv(self, x: str, channels: int, count: int, size: int = 3) -> str:
        weight = self.constant(self.rng.normal(0, np.sqrt(2 / (channels * size * size)), (count, channels, size, size)))
        return self.op("Conv", x, weight, self.constant(self.rng.normal(0, 0.1, count)), pads=[size // 2] * 4)


def write(path: Path, kind: Kind, pictures: list[Path]) -> Path:
    """Write a small classifier of 3 x 8 x 8 images into four classes, each the best of some of the pictures."""
    model = _model(kind)
    onnx.save(model, path)
    bias = next(one for one in model.graph.initializer if one.name == "last_bias")
    centred = (numpy_helper.to_array(bias) - answers(path, kind, pictures).mean(axis=0)).astype(bias_type(kind))
    bias.CopyFrom(numpy_helper.from_array(centred, "last_bias"))
    onnx.save(model, path)
    return path


def bias_type(kind: Kind) -> np.dtype:
    return helper.tensor_dtype_to_np_dtype(kind.inner)


def _model(kind: Kind) -> onnx.ModelProto:
    net = Net(kind)
    x = "image"
    if kind.inner != kind.dtype:
        x = net.op("Cast", x, to=kind.inner)
    channels_last = (1, 1, 1, 3) if kind.layout == "NHWC" and kind.late else (1, 3, 1, 1)
    if kind.layout == "NHWC" and not kind.late:
        x = net.op("Transpose", x, perm=[0, 3, 1, 2])
    if kind.dtype in (UINT8, INT32):
        x = net.op("Sub", x, net.constant(np.array([127.5, 120.0, 110.0]).reshape(channels_last)))
        x = net.op("Div", x, net.constant(np.array(64.0)))
    elif kind.late:
        x = net.op("Sub", x, net.constant(np.array([0.1, 0.0, -0.1]).reshape(channels_last)))
    if kind.layout == "NHWC" and kind.late:
        x = net.op("Transpose", x, perm=[0, 3, 1, 2])
    for name, _ in kind.inputs:
        x = net.op("Mul", x, name)
    x = net.op("Relu", net.conv(x, 3, 16))
    x = net.op("Relu", net.conv(x, 16, 16), out="maps" if "maps" in kind.order else None)
    pooled = net.op("GlobalAveragePool", x)
    scores = _tail(net, pooled, kind)
    _others(net, scores, pooled, kind)
    first = kind.batch or "N"
    shape = [first, 8, 8, 3] if kind.layout == "NHWC" else [first, 3, 8, 8]
    inputs = [helper.make_tensor_value_info("image", kind.dtype, shape)]
    inputs += [helper.make_tensor_value_info(name, kind.inner, []) for name, _ in kind.inputs]
    outer = kind.outer or kind.inner
    shapes = {
        "scores": (outer, SHAPES[kind.tail](first) if kind.declared else ["a", "b", "c", "d"][: RANKS[kind.tail]]),
        "maps": (kind.inner, [first, 16, 8, 8]),
        "pred": (INT64, [first, 1]),
        "prob": (outer, SHAPES[kind.tail](first)),
        "best": (outer, [first, 1]),
        "features": (kind.inner, [first, 16]),
    }
    outputs = [helper.make_tensor_value_info(name, *shapes[name]) for name in kind.order]
    graph = helper.make_graph(net.nodes, "g", inputs, outputs, net.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


SHAPES = {
    "matrix": lambda n: [n, CLASSES],
    "vector": lambda n: [CLASSES],
    "n11c": lambda n: [n, 1, 1, CLASSES],
    "n1c": lambda n: [n, 1, CLASSES],
    "1nc": lambda n: [1, n, CLASSES],
    "nc11": lambda n: [n, CLASSES, 1, 1],
}


RANKS = {"matrix": 2, "vector": 1, "n1c": 3, "1nc": 3, "n11c": 4, "nc11": 4}


def _tail(net: Net, pooled: str, kind: Kind) -> str:
    """Append the last layer, whose scores differ well from image to image, and bring them into a shape and type."""
    last = net.kind.outer in (None, net.kind.inner)
    out = "scores" if last else None
    weight, bias = net.rng.normal(0, 1, (16, CLASSES)), net.constant(np.zeros(CLASSES), name="last_bias")
    if kind.tail in ("vector", "nc11"):
        weights = net.constant(weight.T[:, :, None, None])
        if kind.tail == "nc11":
            scores = net.op("Conv", pooled, weights, bias, out=out)
        else:
            scores = net.op("Squeeze", net.op("Conv", pooled, weights, bias), out=out)
    else:
        flat = net.op("Flatten", pooled, out="features" if "features" in kind.order else None)
        whole = kind.tail == "matrix"
        scores = net.op("Gemm", flat, net.constant(weight), bias, out=out if whole else None)
        if kind.tail == "1nc":
            scores = net.op("Unsqueeze", scores, net.integers(0), out=out)
        elif not whole:
            shape = {"n11c": (-1, 1, 1, CLASSES), "n1c": (-1, 1, CLASSES)}[kind.tail]
            scores = net.op("Reshape", scores, net.integers(*shape), out=out)
    return scores if last else net.op("Cast", scores, out="scores", to=kind.outer)


def _others(net: Net, scores: str, pooled: str, kind: Kind) -> None:
    if "pred" in kind.order:
        net.op("ArgMax", scores, out="pred", axis=1)
    if "prob" in kind.order:
        net.op("Softmax", scores, out="prob", axis=1)
    if "best" in kind.order:
        net.op("ReduceMax", scores, out="best", axes=[1])


def fed(kind: Kind, picture: Path) -> dict[str, np.ndarray]:
    """Return one picture as the file takes it, made with numpy alone."""
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    image = pixels if kind.dtype in (UINT8, INT32) else (pixels.astype(np.float32) / 255 - 0.5) / 0.5
    image = image if kind.layout == "NHWC" else image.transpose(2, 0, 1)
    image = np.repeat(image[None], kind.batch or 1, axis=0).astype(helper.tensor_dtype_to_np_dtype(kind.dtype))
    more = {name: np.array(value, helper.tensor_dtype_to_np_dtype(kind.inner)) for name, value in kind.inputs}
    return {"image": image, **more}


def answers(model: Path, kind: Kind, pictures: list[Path]) -> np.ndarray:
    """Return the scores ``[images, classes]`` that onnxruntime computes of a file."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    rows = [session.run(["scores"], fed(kind, picture))[0] for picture in pictures]
    return np.stack([row.astype(np.float64).reshape(kind.batch or 1, -1)[0] for row in rows])


def ends(model: Path) -> list[tuple[str, int, list[object]]]:
    """Return name, type and shape of every input and output of a file."""
    graph = onnx.load(model).graph
    return [
        (one.name, one.type.tensor_type.elem_type, [dim.dim_value for dim in one.type.tensor_type.shape.dim])
        for one in (*graph.input, *graph.output)
    ]


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10((reference**2).sum() / ((reference - other) ** 2).sum())


KINDS = {
    "plain": Kind(),
    "vector": Kind(batch=1, tail="vector"),
    "matrix_undeclared": Kind(declared=False),
    "n1c_undeclared": Kind(tail="n1c", declared=False),
    "1nc_undeclared": Kind(tail="1nc", declared=False),
    "vector_undeclared": Kind(tail="vector", declared=False, batch=1),
    "n11c": Kind(tail="n11c"),
    "n11c_batch_1": Kind(tail="n11c", batch=1),
    "n11c_batch_4": Kind(tail="n11c", batch=4),
    "n1c": Kind(tail="n1c"),
    "1nc": Kind(tail="1nc"),
    "1nc_batch_4": Kind(tail="1nc", batch=4),
    "nc11": Kind(tail="nc11"),
    "nc11_batch_2": Kind(tail="nc11", batch=2),
    "nc11_undeclared": Kind(tail="nc11", declared=False),
    "maps_first": Kind(order=("maps", "scores")),
    "class_first": Kind(order=("pred", "scores")),
    "features_first": Kind(order=("features", "scores")),
    "probabilities_first": Kind(order=("prob", "scores")),
    "best_first": Kind(order=("best", "pred", "maps", "scores", "prob")),
    "maps_and_nc11": Kind(order=("maps", "scores"), tail="nc11", batch=1),
    "nhwc": Kind(layout="NHWC"),
    "nhwc_late": Kind(layout="NHWC", late=True),
    "nhwc_batch_3": Kind(layout="NHWC", batch=3),
    "uint8": Kind(dtype=UINT8),
    "uint8_nhwc": Kind(dtype=UINT8, layout="NHWC"),
    "uint8_nhwc_late": Kind(dtype=UINT8, layout="NHWC", late=True, batch=1, tail="vector"),
    "int32": Kind(dtype=INT32),
    "half": Kind(dtype=HALF, inner=HALF),
    "half_inside": Kind(inner=HALF, outer=FLOAT),
    "half_nhwc_maps": Kind(dtype=HALF, inner=HALF, layout="NHWC", order=("maps", "scores"), tail="nc11"),
    "uint8_half": Kind(dtype=UINT8, inner=HALF, outer=FLOAT),
    "factor": Kind(inputs=(("factor", 0.5),)),
    "half_factor": Kind(dtype=HALF, inner=HALF, inputs=(("a", 0.5), ("b", 1.5))),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), per_class=6)


def pictures_of(images: Path) -> list[Path]:
    return sorted(images.rglob("*.png"))


@pytest.mark.parametrize("name", KINDS)
def test_any_classifier_is_scored_and_quantized_as_its_file_says(name: str, images: Path, tmp_path: Path) -> None:
    kind = KINDS[name]
    model, pictures, inputs = tmp_path / "model.onnx", pictures_of(images), dict(kind.inputs)
    write(model, kind, pictures)
    reference = answers(model, kind, pictures)
    assert len(set(reference.argmax(axis=1))) > 1
    done = evaluate(model, images=images, pipeline=kind.pipeline, cache=tmp_path / "kept", inputs=inputs, threads=1)
    assert done.output == "scores"
    np.testing.assert_array_equal(done.predictions.top1, reference.argmax(axis=1))

    chosen = quantkit.build_calibration_set(images, count=16)
    run = tmp_path / "run"
    made = calibrate(model, chosen, kind.pipeline, run=run, inputs=inputs, threads=1)
    assert ends(made.quantized.path) == (
        ends(model) if kind.declared else [*ends(model)[:-1], ends(made.quantized.path)[-1]]
    )
    integer = answers(made.quantized.path, kind, pictures)
    assert sqnr_db(reference, integer) > LEAST_DB
    assert len(made.quantized.plan.layers) == 3

    evaluation = compare(["fp32", "int8"], run=run, images=images, threads=1)
    ours = evaluation.answers[1].predictions
    np.testing.assert_array_equal(ours.top1, integer.argmax(axis=1))
    assert evaluation.answers[1].tensors
    agreement = evaluation.candidates[0].versus
    assert agreement is not None
    assert agreement.agreement == pytest.approx(100 * (integer.argmax(1) == reference.argmax(1)).mean())


@pytest.mark.parametrize("dtype", [DOUBLE, BFLOAT], ids=["float64", "bfloat16"])
def test_any_classifier_types_without_kernels_are_evaluated_in_float32(
    dtype: int, images: Path, tmp_path: Path
) -> None:
    same = Kind(layout="NHWC", tail="nc11")  # the same numbers, stored as float32
    kind = replace(same, dtype=dtype, inner=dtype)
    pictures, model = pictures_of(images), tmp_path / "model.onnx"
    write(tmp_path / "same.onnx", same, pictures)
    made = onnx.load(tmp_path / "same.onnx")
    centred = next(one for one in made.graph.initializer if one.name == "last_bias")
    wanted = _model(kind)
    bias = next(one for one in wanted.graph.initializer if one.name == "last_bias")
    typed = numpy_helper.to_array(centred).astype(helper.tensor_dtype_to_np_dtype(dtype))
    bias.CopyFrom(numpy_helper.from_array(typed, "last_bias"))
    onnx.save(wanted, model)
    reference = answers(tmp_path / "same.onnx", same, pictures)

    done = evaluate(model, images=images, pipeline=PLAIN, cache=tmp_path / "kept", threads=1)
    assert "the model is run in float32" in done.notes[-1]
    sure = np.sort(reference)[:, -1] - np.sort(reference)[:, -2] > 0.1
    np.testing.assert_array_equal(done.predictions.top1[sure], reference.argmax(axis=1)[sure])

    chosen = quantkit.build_calibration_set(images, count=16)
    calibration = calibrate(model, chosen, PLAIN, run=tmp_path / "run", threads=1)
    assert ends(calibration.quantized.path) == ends(model)
    assert any("tensors are computed in float32" in note for note in calibration.notes)
    evaluation = compare(["fp32", "int8"], run=tmp_path / "run", images=images, threads=1)
    assert evaluation.candidates[0].tensors
    if dtype == DOUBLE:  # numpy has it, so the int8 file can be fed directly
        integer = answers(calibration.quantized.path, kind, pictures)
        assert sqnr_db(reference, integer) > LEAST_DB
        np.testing.assert_array_equal(evaluation.answers[1].predictions.top1, integer.argmax(axis=1))


@pytest.mark.parametrize("name", ["best_first", "uint8_nhwc_late", "half_nhwc_maps", "1nc_batch_4", "half_factor"])
def test_any_classifier_is_tuned_and_measured_on_its_scores(name: str, images: Path, tmp_path: Path) -> None:
    kind = KINDS[name]
    model, pictures, run = tmp_path / "model.onnx", pictures_of(images), tmp_path / "run"
    write(model, kind, pictures)
    chosen = quantkit.build_calibration_set(images, count=16)
    chosen.save(tmp_path / "set.csv")
    calibrate(model, tmp_path / "set.csv", kind.pipeline, run=run, inputs=dict(kind.inputs), threads=1)
    found = sensitivity(run, count=8, threads=1)
    assert len(found.layers) == 3
    assert all(math.isfinite(layer.isolated.sqnr_db) and layer.isolated.sqnr_db > 10.0 for layer in found.layers)

    goal = Goal(max_drop=0, min_agreement=100)
    tuned = tune(run, TuneOptions(goal=goal, budget=FloatBudget(layers=0)), images=images, threads=1)
    assert ends(tuned.path) == ends(model)
    reference, integer = answers(model, kind, pictures), answers(tuned.path, kind, pictures)
    assert sqnr_db(reference, integer) > LEAST_DB
    evaluated = [trial.holdout for trial in tuned.trials if trial.holdout is not None]
    assert evaluated[-1].images == len(pictures)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("BGR", 3), ("RGBA", 4), ("BGRA", 4)])
def test_any_classifier_channels_reach_model_in_order(mode: str, channels: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    files = {"L": "L", "LA": "LA"}.get(mode, "RGBA")
    bands = {"L": 1, "LA": 2}.get(mode, 4)
    for index in range(12):
        folder = tmp_path / "images" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, bands), np.uint8)
        Image.fromarray(pixels if bands > 1 else pixels[..., 0], files).save(folder / f"{index}.png")
    weight = rng.normal(0, 1, (2, channels, 1, 1)).astype(np.float32)
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[N, {channels}, 8, 8] x) => (float[N, 2] y)
        {{ c = Conv (x, w)  p = GlobalAveragePool (c)  y = Flatten (p) }}"""
    made = onnx.parser.parse_model(text)
    made.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(made, tmp_path / "model.onnx")
    pipeline = Pipeline(ops=(Decode(mode=mode), ToTensor(divisor=1.0)))
    done = evaluate(tmp_path / "model.onnx", images=tmp_path / "images", pipeline=pipeline, cache=tmp_path, threads=1)
    order = {"L": [0], "LA": [0, 1], "RGB": [0, 1, 2], "BGR": [2, 1, 0], "RGBA": [0, 1, 2, 3], "BGRA": [2, 1, 0, 3]}
    for name, best in zip(done.predictions.names, done.predictions.top1, strict=True):
        pixels = np.asarray(Image.open(tmp_path / "images" / name)).reshape(64, bands)[:, order[mode]]
        assert best == (weight[:, :, 0, 0] @ pixels.mean(axis=0)).argmax()


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (2, "needs 2 channels, and the pipeline gives 3; set the mode of decode to LA$"),
        (4, "needs 4 channels, and the pipeline gives 3; set the mode of decode to RGBA or BGRA$"),
        (8, "needs 8 channels, and the pipeline gives 3; image files have 1 to 4 channels"),
    ],
)
def test_any_classifier_channels_no_pipeline_gives_are_refused(channels: int, message: str, tmp_path: Path) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[N, {channels}, 8, 8] x) => (float[N, {channels}] y)
        {{ p = GlobalAveragePool (x)  y = Flatten (p) }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match=message):
        read_classifier(tmp_path / "model.onnx").check(PLAIN)


def test_any_classifier_uint8_image_refuses_pipeline_of_fractions(images: Path, tmp_path: Path) -> None:
    kind = KINDS["uint8"]
    write(tmp_path / "model.onnx", kind, pictures_of(images))
    message = "integers from 0 to 255, and the pipeline gives fractions from -1 to 1; set the divisor of to_tensor"
    with pytest.raises(ConfigError, match=message):
        read_classifier(tmp_path / "model.onnx").check(PLAIN)


def test_any_classifier_output_asked_for_is_used_everywhere(images: Path, tmp_path: Path) -> None:
    kind, pictures, model = KINDS["probabilities_first"], pictures_of(images), tmp_path / "model.onnx"
    write(model, kind, pictures)
    chosen = quantkit.build_calibration_set(images, count=16)
    done = calibrate(model, chosen, PLAIN, run=tmp_path / "run", output="prob", threads=1)
    assert any("'prob'" in note for note in done.notes)
    asked = evaluate("fp32", run=tmp_path / "run", images=images, cache=tmp_path / "kept", threads=1)
    assert (asked.output, asked.origin.scores) == ("prob", "probabilities")
    found = evaluate(model, images=images, pipeline=PLAIN, cache=tmp_path / "kept", threads=1)
    assert (found.output, found.origin.scores) == ("scores", "logits")
    other = evaluate("fp32", run=tmp_path / "run", output="scores", images=images, cache=tmp_path / "kept", threads=1)
    assert other.output == "scores"
    with pytest.raises(ModelError, match="no output 'nothing'"):
        evaluate(model, images=images, pipeline=PLAIN, cache=tmp_path / "kept", output="nothing")


def test_any_classifier_nhwc_graph_is_no_larger_than_nchw_twin(images: Path, tmp_path: Path) -> None:
    counts = {}
    for name, kind in {"nchw": Kind(dtype=UINT8), "nhwc": KINDS["uint8_nhwc_late"]}.items():
        plain = replace(kind, batch=None, tail="matrix")
        write(tmp_path / f"{name}.onnx", plain, pictures_of(images))
        counts[name] = len(read_classifier(tmp_path / f"{name}.onnx").prepared().model.graph)
    assert counts["nhwc"] == counts["nchw"]


def test_any_classifier_sizes_below_zero_and_question_marks_are_free(tmp_path: Path, images: Path) -> None:
    """PaddlePaddle's exporter writes [-1, 3, ?, ?], and flattens by the shape that the batch has."""
    model = onnx.parser.parse_model(
        """<ir_version: 7, opset_import: ["": 11]>
        g (float[N, 3, H, W] x) => (float[M, 4] scores) {
            c = Conv <strides = [2, 2]> (x, w)
            r = Relu (c)
            p = GlobalAveragePool (r)
            s = Shape (p)
            narrow = Cast <to = 6> (s)
            n = Slice (narrow, zero, one, zero, one)
            wide = Cast <to = 7> (n)
            shape = Concat <axis = 0> (wide, channels)
            flat = Reshape (p, shape)
            scores = MatMul (flat, head)
        }"""
    )
    rng = np.random.default_rng(3)
    weights: dict[str, np.ndarray] = {
        "w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "head": rng.normal(size=(8, 4)).astype(np.float32),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "channels": np.array([8], np.int64),
    }
    model.graph.initializer.extend(numpy_helper.from_array(content, name) for name, content in weights.items())
    for value in (*model.graph.input, *model.graph.output):
        sizes = value.type.tensor_type.shape.dim
        sizes[0].dim_value = -1
        for size in sizes[2:]:
            size.dim_param = "?"
    onnx.save(model, tmp_path / "paddle.onnx")
    described = quantkit.inspect(tmp_path / "paddle.onnx", size=(8, 12))
    assert not described.problems
    assert described.image is not None
    assert described.image.batch is None
    assert described.multiply_adds == 8 * 3 * 9 * 3 * 5 + 8 * 4
    chosen = quantkit.build_calibration_set(images, count=24)
    wide = Pipeline(ops=(Decode(), Resize(size=(8, 12)), ToTensor()))
    done = calibrate(tmp_path / "paddle.onnx", chosen, wide, run=tmp_path / "run", method="minmax")
    assert (done.coverage.int8_layers, done.coverage.uncounted) == (2, 0)
    arrays = calibrate(tmp_path / "paddle.onnx", rng.normal(size=(8, 3, 8, 12)).astype(np.float32), run=tmp_path / "b")
    assert arrays.coverage.multiply_adds == done.coverage.multiply_adds
    (image,) = ort.InferenceSession(done.run / "int8.onnx").get_inputs()
    assert image.shape[1] == 3
    assert all(isinstance(image.shape[axis], str | None) for axis in (0, 2, 3))


def test_any_classifier_with_one_score_is_quantized_and_not_evaluated(tmp_path: Path) -> None:
    images, path = write_images(tmp_path / "images", per_class=10), tmp_path / "binary.onnx"
    weights = {"w": np.full((8, 3, 3, 3), 0.1, np.float32), "v": np.full((1, 8), 0.2, np.float32)}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["z"], transB=1),
        helper.make_node("Sigmoid", ["z"], ["scores"]),
    ]
    values = [
        helper.make_tensor_value_info("image", FLOAT, ["N", 3, 8, 8]),
        helper.make_tensor_value_info("scores", FLOAT, ["N", 1]),
    ]
    graph = helper.make_graph(
        nodes, "g", values[:1], values[1:], [numpy_helper.from_array(v, n) for n, v in weights.items()]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    warnings = [one.what for one in quantkit.inspect(path).problems]
    assert any("one score for each image" in one for one in warnings)
    plain = Pipeline(ops=(Decode(), ToTensor()))
    done = calibrate(path, quantkit.build_calibration_set(images, count=20), plain, run=tmp_path / "run")
    assert done.coverage.int8_layers == 2
    for job in (
        lambda: evaluate("fp32", run=tmp_path / "run", images=images),
        lambda: compare(["fp32", "int8"], run=tmp_path / "run", images=images),
    ):
        with pytest.raises(ModelError, match=r"one score for each image, and accuracy needs one for each class"):
            job()


@pytest.mark.parametrize("method", ["auto", "kl"])
def test_any_classifier_with_external_weights_gives_the_model_of_its_twin(method: str, tmp_path: Path) -> None:
    quantkit.build_calibration_set(write_images(tmp_path / "images", per_class=12), count=40).save(tmp_path / "set.csv")
    model, plain = onnx.load(tiny_model(tmp_path / "tiny.onnx")), Pipeline(ops=(Decode(), ToTensor()))
    place = tmp_path / "outside"
    place.mkdir()
    onnx.save(model, place / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    for path, run in ((tmp_path / "tiny.onnx", "inline"), (place / "net.onnx", "external")):
        calibrate(path, tmp_path / "set.csv", plain, run=tmp_path / run, method=method)
        tune(tmp_path / run, TuneOptions(goal=Goal(max_drop=50.0)), images=tmp_path / "images", limit=16)
        sensitivity(tmp_path / run, count=8)
    for name in ("int8.onnx", "int8-tuned.onnx"):
        assert (tmp_path / "inline" / name).read_bytes() == (tmp_path / "external" / name).read_bytes()

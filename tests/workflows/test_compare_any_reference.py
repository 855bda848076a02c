"""Any model as the reference: quantized by quantkit or by another tool, with names of the user's own."""

import gc
import logging
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from models import write_images
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.data.item import FileItem, ImageItem
from quantkit.data.preprocess import preprocess
from quantkit.engine.predict import Classifier
from quantkit.errors import UsageError
from quantkit.evaluation.measure_drift import Drifts, measure_drift
from quantkit.evaluation.result import Comparison
from quantkit.graph.model import read_model
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.report import report

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))
# The Relu goes into the rounding of onnxruntime's quantizer: its `ar` is the value before it.
CHAIN = """
<ir_version: 8, opset_import: ["": 17]>
chain (float[N, 3, 8, 8] input) => (float[N, 4] logits) {
    a = Conv <pads = [1, 1, 1, 1]> (input, w1)
    ar = Relu(a)
    b = Conv <pads = [1, 1, 1, 1]> (ar, w2)
    br = Relu(b)
    g = GlobalAveragePool(br)
    f = Flatten(g)
    logits = Gemm <transB = 1> (f, w4)
}
"""


class _Images(CalibrationDataReader):
    def __init__(self, images: list[ImageItem]) -> None:
        self._inputs = iter([{"input": preprocess(image, PIPELINE)[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._inputs, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its int8 models by quantkit and by onnxruntime (both formats), and images."""
    folder = tmp_path_factory.mktemp("any")
    model = onnx.parser.parse_model(CHAIN)
    rng = np.random.default_rng(3)
    for name, shape in {"w1": (16, 3, 3, 3), "w2": (16, 16, 3, 3), "w4": (4, 16)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(0, 0.2, shape).astype(np.float32), name))
    onnx.save(model, folder / "fp32.onnx")
    write_images(folder / "images", per_class=8)
    chosen = build_calibration_set(folder / "images", count=16)
    chosen.save(folder / "set.csv")
    calibrate(folder / "fp32.onnx", folder / "set.csv", PIPELINE, run=folder / "run")
    logging.disable(logging.WARNING)
    for name, form in (("qdq", QuantFormat.QDQ), ("qop", QuantFormat.QOperator)):
        quantize_static(
            folder / "fp32.onnx", folder / f"{name}.onnx", _Images(list(chosen.items)), quant_format=form,
            per_channel=True,
        )  # fmt: skip
    logging.disable(logging.NOTSET)
    return folder


def compared(folder: Path, *models: str) -> Comparison:
    return compare(models, images=folder / "images", pipeline=PIPELINE)


def tensor_of(path: Path, name: str, image: Path) -> np.ndarray:
    """A tensor inside a model, by onnxruntime alone."""
    model = onnx.load(path)
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run([name], {"input": preprocess(image, PIPELINE)[None]})[0]


def test_compare_drift_of_foreign_qdq_is_that_of_rounded_tensors(folder: Path) -> None:
    """What `ar` is in onnxruntime's model comes before the Relu; the network goes on with the dequantized value."""
    paths = sorted((folder / "images").rglob("*.png"))
    drifts = measure_drift(read_model(folder / "fp32.onnx"), read_model(folder / "qdq.onnx", allow_quantized=True),
                           [FileItem(path) for path in paths], partial(preprocess, pipeline=PIPELINE))  # fmt: skip
    found = {drift.name: drift for drift in drifts.accumulated}
    for name in ("ar", "br"):
        pairs = [
            (tensor_of(folder / "fp32.onnx", name, path),
             tensor_of(folder / "qdq.onnx", f"{name}_DequantizeLinear_Output", path))
            for path in paths
        ]  # fmt: skip
        x, y = (np.concatenate(one).astype(np.float64) for one in zip(*pairs, strict=True))
        expected = 10 * np.log10((x**2).sum() / ((y - x) ** 2).sum())
        assert found[name].sqnr_db == pytest.approx(expected, abs=0.01)
        assert found[name].sqnr_db > 25


@pytest.mark.parametrize("reference", ["run/int8.onnx", "qdq.onnx", "qop.onnx"])
@pytest.mark.parametrize("candidate", ["fp32.onnx", "run/int8.onnx", "qdq.onnx", "qop.onnx"])
def test_compare_any_model_can_be_reference(reference: str, candidate: str, folder: Path, tmp_path: Path) -> None:
    models = [f"one={folder / reference}", f"other={folder / candidate}"]
    evaluation = compare(models, images=folder / "images", pipeline=PIPELINE)
    result = evaluation
    assert [model.name for model in result.models] == ["one", "other"]
    other = result.candidates[0]
    assert other.versus is not None
    assert other.versus.agreement >= 75
    for drift in other.tensors:
        assert drift.sqnr_db == float("inf") if reference == candidate else drift.sqnr_db > 15
    report(evaluation, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_compare_drift_is_measured_after_evaluation_sessions_are_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, alive = weakref.WeakSet[Classifier](), []

    class Watched(Classifier):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            opened.add(self)

    def counted(*arguments: Any, **options: Any) -> Drifts:
        gc.collect()
        alive.append(len(opened))
        return measure_drift(*arguments, **options)

    monkeypatch.setattr("quantkit.workflows.compare.Classifier", Watched)
    monkeypatch.setattr("quantkit.workflows.compare.measure_drift", counted)
    compared(folder, f"one={folder / 'fp32.onnx'}", f"other={folder / 'run/int8.onnx'}")
    assert alive == [0]


def test_compare_quantized_models_compare_every_tensor_once(folder: Path) -> None:
    (candidate,) = compared(folder, f"a={folder / 'run/int8.onnx'}", f"b={folder / 'qdq.onnx'}").candidates
    assert [drift.name for drift in candidate.tensors] == ["ar", "br", "g", "f", "logits"]
    assert candidate.layers == ()


def test_compare_models_of_run_take_quantized_reference(folder: Path, tmp_path: Path) -> None:
    evaluation = compare(["int8", "fp32"], run=folder / "run", images=folder / "images")
    assert evaluation.reference.name == "int8"
    report(evaluation, tmp_path / "report.html")


def card_results(folder: Path, model: Path, to: Path) -> Path:
    """What a card that computes as a model does would have written, and the list of its inputs beside it."""
    to.mkdir()
    session = onnxruntime.InferenceSession(model.read_bytes())
    images = sorted((folder / "images").rglob("*.png"))
    for number, image in enumerate(images):
        scores = session.run(None, {"input": preprocess(image, PIPELINE)[None]})[0][0]
        np.savez(to / f"{number:06d}.npz", output_0=scores)
    datalist = to.parent / "npz_datalist.txt"
    datalist.write_text("".join(f"{image.with_suffix('.npz')}\n" for image in images))
    return datalist


def test_compare_device_results_as_reference_equal_their_model(folder: Path, tmp_path: Path) -> None:
    datalist = card_results(folder, folder / "fp32.onnx", tmp_path / "card")
    models: list[Any] = [f"card={tmp_path / 'card'}", f"int8={folder / 'run/int8.onnx'}"]
    places: dict[str, Any] = {"images": folder / "images"}
    evaluation = compare(models, **places, pipeline=PIPELINE, datalist=datalist)
    of_model = compare([f"card={folder / 'fp32.onnx'}", models[1]], **places, pipeline=PIPELINE, drift_images=0)
    result = evaluation
    assert result.candidates[0].versus == of_model.candidates[0].versus
    assert not result.candidates[0].tensors
    assert any("card is a result of a card, so the drift" in warning for warning in result.warnings)
    for run in (None, folder / "run"):
        again = compare(models, **places, run=run, pipeline=PIPELINE, datalist=datalist, latency=True)
        report(again, tmp_path / "report.html")
        assert "card" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_compare_results_of_two_devices_need_no_model(folder: Path, tmp_path: Path) -> None:
    datalist = card_results(folder, folder / "fp32.onnx", tmp_path / "half")
    card_results(folder, folder / "run/int8.onnx", tmp_path / "int8")
    models = [f"fp16={tmp_path / 'half'}", f"int8={tmp_path / 'int8'}"]
    result = compare(models, images=folder / "images", pipeline=PIPELINE, datalist=datalist)
    truth = compare([folder / "fp32.onnx", folder / "run/int8.onnx"], images=folder / "images", pipeline=PIPELINE)
    assert result.candidates[0].versus == truth.candidates[0].versus


def test_compare_files_of_one_name_are_refused_before_work(folder: Path) -> None:
    (folder / "copy").mkdir(exist_ok=True)
    (folder / "copy/int8.onnx").write_bytes((folder / "run/int8.onnx").read_bytes())
    one, other = folder / "run/int8.onnx", folder / "copy/int8.onnx"
    with pytest.raises(UsageError, match=rf"2 models have the name 'int8'.* int8-1={one} int8-2={other}$"):
        compare([one, str(other)], images=folder / "images", pipeline=PIPELINE)
    assert compared(folder, f"a={one}", f"b={other}").candidates[0].versus.agreement == 100
    with pytest.raises(UsageError, match="the model 'int8' is named twice; name each model once"):
        compare([one, one], images=folder / "images", pipeline=PIPELINE)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ("int8", "'int8' is not an ONNX file, and no run was given"),
        ("a=nowhere", "a=nowhere: there is no such model file or folder of results"),
        ("=x.onnx", "'=x.onnx' is not an ONNX file"),
    ],
)
def test_compare_unknown_models_are_refused(model: str, match: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=match):
        compared(folder, str(folder / "fp32.onnx"), model)


def test_compare_result_is_shown_without_graph_and_images(folder: Path) -> None:
    shown = [repr(compare(["fp32", "int8"], run=folder / "run", limit=limit, drift_images=0)) for limit in (8, 16)]
    assert abs(len(shown[0]) - len(shown[1])) < 500
    assert not any(word in one for one in shown for word in ("Graph(", "FileItem"))


def test_compare_negative_number_of_drift_images_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"^drift_images: invalid number of images -1; give a number from 0 up"):
        compare([folder / "a.onnx", folder / "b.onnx"], drift_images=-1)


def test_compare_file_with_equals_sign_in_name_is_a_file(folder: Path) -> None:
    odd = folder / "lr=0.1.onnx"
    odd.write_bytes((folder / "fp32.onnx").read_bytes())
    assert compared(folder, str(odd), str(folder / "qdq.onnx")).reference.name == "lr=0.1"

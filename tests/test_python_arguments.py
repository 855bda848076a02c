"""Arguments as people write them in Python: text for paths and names, and one clear error for anything else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import tiny_model, write_images

import quantkit

PIPELINE = "ops:\n- op: decode\n- op: to_tensor\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated model, made with text arguments alone."""
    folder = tmp_path_factory.mktemp("arguments")
    tiny_model(folder / "tiny.onnx")
    write_images(folder / "images", per_class=8)
    (folder / "pipeline.yaml").write_text(PIPELINE)
    quantkit.build_calibration_set(str(folder / "images"), count=16).save(str(folder / "set.csv"))
    quantkit.calibrate(
        str(folder / "tiny.onnx"),
        str(folder / "set.csv"),
        str(folder / "pipeline.yaml"),
        run=str(folder / "run"),
        method="mse",
        target="tensorrt",
    )
    return folder


class _PathLike:
    """A path of another library."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


def test_arguments_names_equal_values(folder: Path) -> None:
    by_name = quantkit.quantize(str(folder / "run"), method="kl", target="ort", out=str(folder / "a.onnx"))
    by_value = quantkit.quantize(
        folder / "run", method=quantkit.Kl(), target=quantkit.ORT, out=_PathLike(folder / "b.onnx")
    )
    assert by_name.path.read_bytes() == by_value.path.read_bytes()
    statistics = quantkit.load_statistics(str(folder / "run/statistics.safetensors"))
    solved = quantkit.solve_all(statistics.tensors, "minmax", "vacc")
    assert solved == quantkit.solve_all(statistics.tensors, quantkit.MinMax(), quantkit.VACC)


def test_arguments_text_paths_and_presets_work_everywhere(folder: Path) -> None:
    image = sorted((folder / "images").rglob("*.png"))[0]
    assert quantkit.preprocess(str(image), str(folder / "pipeline.yaml")).dtype == np.float32
    assert quantkit.preprocess(image, "digits").shape == (1, 8, 8)
    assert np.array_equal(quantkit.preprocess(image, "digits"), quantkit.preprocess(image, quantkit.PRESETS["digits"]))
    quantkit.quantize(folder / "run", out=folder / "c.onnx")
    result = quantkit.compare(
        [str(folder / "tiny.onnx"), f"again={folder / 'tiny.onnx'}", _PathLike(folder / "c.onnx")],
        images=str(folder / "images"),
        pipeline=str(folder / "pipeline.yaml"),
    )
    assert [model.name for model in result.models] == ["tiny", "again", "c"]
    assert quantkit.sensitivity(str(folder / "run"), method="mse", target="tensorrt").layers
    assert len(quantkit.CalibrationSet.load(str(folder / "set.csv"), str(folder / "images"))) == 16


CALIBRATE: dict[str, Any] = {
    "model": "tiny.onnx", "calibration_set": "set.csv", "pipeline": "pipeline.yaml", "run": "new",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"method": "mes"}, "there is no method 'mes'; choose one of auto, minmax"),
        ({"method": 3}, "method: takes a method, not 3; give one of auto, minmax"),
        ({"target": "trt"}, "there is no target 'trt'"),
        ({"target": None}, "target: takes a target, not None; give one of ort"),
        ({"pipeline": "imagnet"}, "there is no preset 'imagnet'"),
        ({"pipeline": None}, "no preprocessing was given"),
        ({"pipeline": [1]}, "pipeline: takes a path or Pipeline, not list "),
        ({"model": None}, "model: takes a path, not None; give the path of one file"),
        ({"model": b"tiny.onnx"}, "model: takes a path, not bytes "),
        ({"calibration_set": ["a.png", "b.png"]}, "list: item 0: str is not an array"),
        ({"run": 3}, "run: takes a path, not int 3"),
        ({"options": "x"}, "options: takes QuantizeOptions, not str 'x'; give quantkit.QuantizeOptions"),
    ],
)
def test_calibrate_refuses_what_it_cannot_use(
    changed: dict[str, Any], match: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(quantkit.QuantkitError, match=match):
        quantkit.calibrate(**(CALIBRATE | changed))


PAIR = ["fp32", "int8-tensorrt"]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: quantkit.compare("int8", run="run"), "models: takes a list of models, not 'int8'"),
        (lambda: quantkit.compare(["fp32", 3], run="run"), "models: takes a path, not int 3"),  # type: ignore[list-item]
        (lambda: quantkit.compare([], run="run"), "a comparison takes at least two models"),
        (lambda: quantkit.compare(PAIR, run="run", images=[]), "list: it yielded no images"),
        (lambda: quantkit.compare(PAIR, run="run", pipeline=7), "pipeline: takes a path or Pipeline, not int 7"),  # type: ignore[arg-type]
        (lambda: quantkit.compare(PAIR, run="run", images="images", exclude=[1]), "exclude: takes a path or Calibrat"),  # type: ignore[arg-type]
        (lambda: quantkit.compare(PAIR, run="run", images="images", labels=[1]), "labels: takes a path, not list"),  # type: ignore[arg-type]
        (lambda: quantkit.sensitivity("run", by="noise"), "by: there is no order 'noise'; choose one of isolated"),  # type: ignore[arg-type]
        (lambda: quantkit.sensitivity(None), "run: takes a path, not None"),
        (lambda: quantkit.tune("run", "0.5"), "tuning: takes TuneOptions, not str '0.5'"),  # type: ignore[arg-type]
        (lambda: quantkit.build_calibration_set(["a.png"]), "list: item 0: str is not an array"),
        (lambda: quantkit.build_calibration_set("images", names=[1]), "names: takes a path, not list "),  # type: ignore[arg-type]
        (lambda: quantkit.load_statistics(["a"]), "path: takes a path, not list "),  # type: ignore[arg-type]
        (lambda: quantkit.preprocess(3, "digits"), "image: takes a path, not int 3"),  # type: ignore[arg-type]
        (lambda: quantkit.run_demo(None), "folder: takes a path, not None"),
        (lambda: quantkit.CalibrationSet.load(None), "path: takes a path, not None"),
        (lambda: quantkit.quantize("run", options=4), "options: takes QuantizeOptions, not int 4"),  # type: ignore[arg-type]
        (lambda: quantkit.solve_all({}, "nope", "ort"), "there is no method 'nope'"),
    ],
)
def test_arguments_wrong_ones_give_one_clear_error(
    call: Any, match: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(quantkit.QuantkitError, match=match):
        call()

"""Build files written from a model, its preprocessing and its images; and those that ship in configs/."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import tiny_model

from quantkit.config.method import Kl, Method, MinMax, Mse, Percentile
from quantkit.config.pipeline import PRESETS, CenterCrop, Decode, Pipeline, Resize, ToTensor
from quantkit.errors import CalibrationSetError, ConfigError, ModelError, OutputError
from quantkit.vendors.vacc.calibration_folder import CalibrationFolder, calibration_folder
from quantkit.vendors.vacc.calibration_tensors import write_calibration_tensors
from quantkit.vendors.vacc.check import check_document, check_file
from quantkit.vendors.vacc.convert import read_spec
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.onnx_facts import read_facts
from quantkit.vendors.vacc.ops import ops_from_pipeline
from quantkit.vendors.vacc.vdsp import load_vdsp, vdsp_from_pipeline
from quantkit.vendors.vacc.write import (
    Build,
    BuildFile,
    Int8,
    VamcOptions,
    read_image_input,
    write_build_file,
)

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "vacc"


def written(**changes: Any) -> BuildFile:
    """The build file of a 224 classifier with ImageNet's preprocessing, some choices changed."""
    choices: dict[str, Any] = {
        "name": "small",
        "checkpoint": "weights/small.onnx",
        "input_name": "input",
        "input_shape": (1, 3, 224, 224),
        "pipeline": PRESETS["imagenet"],
        "method": Percentile(fraction=0.9999),
        "data": CalibrationFolder(path="calibration", suffix="JPEG", count=1000),
    }
    choices |= changes
    calibration = {name: choices.pop(name) for name in list(choices) if name in Int8.__dataclass_fields__}
    model = {name: choices.pop(name) for name in ("name", "checkpoint", "input_name", "input_shape")}
    return write_build_file(Build(**model, options=VamcOptions(**choices)), Int8(**calibration))


@pytest.mark.parametrize("dialect", ["build", "compile"])
@pytest.mark.parametrize("method", [Percentile(fraction=0.9995), Kl(), MinMax(), Mse()], ids=str)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"softmax": True, "skip_conv_layers": [9, 2, 2], "workspace": "out"},
        {"per_channel": False, "weight_scale": "max"},
    ],
    ids=["plain", "head and skipped", "per tensor"],
)
def test_write_build_file_is_read_back(dialect: Any, method: Method, more: dict[str, Any]) -> None:
    build = written(dialect=dialect, method=method, **more)
    document = Document.parse(build.text)
    spec = read_spec(document)
    expected = {"percentile": "percentile", "kl": "kl_divergence", "minmax": "max", "mse": "mse"}[
        {Percentile: "percentile", Kl: "kl", MinMax: "minmax", Mse: "mse"}[type(method)]
    ]
    assert spec.backend.quantize is not None
    assert spec.backend.quantize.calibrate_mode == expected
    assert spec.backend.quantize.calibrate_range == (0.9995 if isinstance(method, Percentile) else None)
    assert spec.backend.quantize.quantize_per_channel == more.get("per_channel", True)
    assert spec.backend.quantize.skip_conv_layers == ([2, 9] if "skip_conv_layers" in more else None)
    assert (spec.graph.extra_ops is not None) == ("softmax" in more)
    assert spec.dataset is not None
    assert spec.dataset.process_ops == list(ops_from_pipeline(PRESETS["imagenet"]).ops)
    assert spec.workspace is not None
    assert spec.workspace.path == more.get("workspace", "./deploy_weights/")
    # The build dialect has no place for the type of the inputs; everything else reads back as it was given.
    frontend = build.spec.frontend.model_copy(update={} if dialect == "compile" else {"dtype": None})
    kept = build.spec.model_copy(update={"frontend": frontend})
    assert spec == kept
    errors = [finding for finding in check_document(document, dialect) if finding.severity == "error"]
    assert errors == []


SETTINGS: dict[str, Any] = {
    "cluster_mode": 0, "data_transport_mode": 3, "skip_matmul_layers": (1, 0, 1), "calibrate_chunk_by": -1,
    "overflow_adaptive": True,
}  # fmt: skip


def test_write_compiler_settings_where_each_dialect_has_them() -> None:
    data = Document.parse(written(**SETTINGS).text).data["backend"]
    assert data["compile"] == {"cluster_mode": 0, "data_transport_mode": 3}
    quantize = {"skip_matmul_layers": [0, 1], "calibrate_chunk_by": -1, "overflow_adaptive": 1}
    assert {key: data["quantize"][key] for key in quantize} == quantize
    build = written(**SETTINGS, dialect="build")
    data = Document.parse(build.text).data["engine"]
    assert data["common"] == {"do_quantization": True, "cluster_mode": 0, "data_transport_mode": 3}
    assert {key: data["calibration"][key] for key in quantize} == quantize
    assert [note.partition(":")[0] for note in build.notes if "not known in this dialect" in note] == [
        "engine.calibration.skip_matmul_layers",
        "engine.calibration.calibrate_chunk_by",
    ]


def test_write_without_compiler_settings_adds_no_section() -> None:
    data = Document.parse(written().text).data["backend"]
    assert list(data) == ["type", "dtype", "quantize"]
    assert list(data["quantize"]) == ["calibrate_mode", "quantize_per_channel", "calibrate_range"]


def test_write_fp16_has_no_calibration() -> None:
    common: dict[str, Any] = {
        "name": "small_fp16", "checkpoint": "small.onnx", "input_name": "input", "input_shape": (1, 3, 224, 224)
    }  # fmt: skip
    build = write_build_file(Build(**common, options=VamcOptions(cluster_mode=0, softmax=True)), None)
    data = Document.parse(build.text).data
    assert list(data) == ["name", "frontend", "graph", "backend", "workspace"]
    assert data["backend"] == {"type": "tvm_vacc", "dtype": "fp16", "compile": {"cluster_mode": 0}}
    older = write_build_file(Build(**common, options=VamcOptions(dialect="build", cluster_mode=0)), None)
    data = Document.parse(older.text).data
    assert data["engine"] == {"type": "vacc", "common": {"do_quantization": False, "cluster_mode": 0}}
    assert list(data) == ["model", "engine", "workspace"]
    for one, dialect in ((build, "compile"), (older, "build")):
        document = Document.parse(one.text)
        assert one.notes == ()
        assert read_spec(document) == one.spec
        assert [f for f in check_document(document, dialect) if f.severity != "note"] == []  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no calibration for skip_matmul_layers, calibrate_chunk_by, overflow_adapt"):
        write_build_file(Build(**common, options=VamcOptions(**SETTINGS)), None)


def test_write_puts_notes_into_file() -> None:
    build = written(dialect="build", method=Mse())
    assert "quant_mode: mse is known only in the compile dialect" in build.notes
    comments = " ".join(line.removeprefix("# ") for line in build.text.splitlines() if line.startswith("#"))
    assert all(" ".join(note.split()) in comments for note in build.notes)
    assert max(len(line) for line in build.text.splitlines()) <= 120


def test_write_ready_tensors_have_no_operations() -> None:
    build = written(data=CalibrationFolder(path="tensors", suffix="npz", count=50))
    assert "process_ops" not in build.text
    assert build.notes == ()
    assert "suffix: npz # preprocessed tensors" in build.text


def test_write_same_choices_give_same_text() -> None:
    assert written().text == written().text


def test_read_image_input_is_that_of_model(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.onnx")
    pipeline = Pipeline(ops=(Decode(), Resize(size=(8, 8)), ToTensor()))
    assert read_image_input(model, pipeline) == ("input", (1, 3, 8, 8))
    with pytest.raises(ConfigError, match="the model needs height 8, and the pipeline gives 9"):
        read_image_input(model, Pipeline(ops=(Decode(), CenterCrop(size=(9, 8)), ToTensor())))
    with pytest.raises(ModelError, match="there is no such model file"):
        read_image_input(tmp_path / "gone.onnx", pipeline)


def test_calibration_folder_gives_suffix_and_count(tmp_path: Path) -> None:
    for name in ("a.JPEG", "sub/b.JPEG", ".hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert calibration_folder(tmp_path) == CalibrationFolder(path=str(tmp_path), suffix="JPEG", count=2)
    assert calibration_folder(tmp_path, count=1).count == 1
    (tmp_path / "c.png").touch()
    assert calibration_folder(tmp_path, suffix="png").count == 1
    with pytest.raises(CalibrationSetError, match=r"must have one suffix \(found: JPEG, png\)"):
        calibration_folder(tmp_path)
    with pytest.raises(CalibrationSetError, match=r"3 files with the suffix .JPEG are needed, and the folder has 2"):
        calibration_folder(tmp_path, suffix="JPEG", count=3)
    with pytest.raises(CalibrationSetError, match="no such folder"):
        calibration_folder(tmp_path / "gone")


def test_calibration_tensors_equal_preprocess(tmp_path: Path, photos: Path) -> None:
    from quantkit.data.folder import find_images
    from quantkit.data.preprocess import preprocess

    pipeline = Pipeline(ops=(Decode(), Resize(size=(8, 8)), ToTensor()))
    images = find_images(photos).items
    folder = write_calibration_tensors(images, pipeline, tmp_path / "t", input_name="input")
    assert (folder.suffix, folder.count) == ("npz", len(images))
    files = sorted((tmp_path / "t").iterdir())
    for file, image in zip(files, images, strict=True):
        with np.load(file, allow_pickle=False) as stored:
            assert stored.files == ["input"]
            np.testing.assert_array_equal(stored["input"], preprocess(image, pipeline)[None])
    before = [file.read_bytes() for file in files]
    write_calibration_tensors(images, pipeline, tmp_path / "t", input_name="input", workers=1)
    assert [file.read_bytes() for file in files] == before
    with pytest.raises(OutputError, match=r"the folder contains \d_.*, which is not in this set"):
        write_calibration_tensors(images[:1], pipeline, tmp_path / "t", input_name="input")
    with pytest.raises(CalibrationSetError, match="there are no images"):
        write_calibration_tensors([], pipeline, tmp_path / "t", input_name="input")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot create the folder"):
        write_calibration_tensors(images, pipeline, tmp_path / "file", input_name="input")


@pytest.mark.parametrize("layers", [50, 101, 152, 200])
@pytest.mark.parametrize("dialect", ["build", "compile"])
def test_shipped_build_files_equal_those_written_now(layers: int, dialect: Any) -> None:
    """Renewed by ``quantkit vamc write --preset vacc --calibration-folder calibration --suffix JPEG --count 1000``."""
    path = CONFIGS / f"iresnet{layers}-{dialect}.yaml"
    name = f"iresnet{layers}"
    build = written(
        name=name,
        checkpoint=f"weights/{name}.onnx",
        pipeline=PRESETS["vacc"],
        method=Percentile(),
        softmax=True,
        dialect=dialect,
    )
    assert path.read_text(encoding="utf-8") == build.text
    findings = check_file(path, vdsp=load_vdsp(CONFIGS / "imagenet-vdsp_params.json")).findings
    assert [finding for finding in findings if finding.severity != "note"] == []


@pytest.mark.parametrize("dialect", ["build", "compile"])
def test_shipped_build_files_of_demo_fit_its_model(dialect: Any) -> None:
    """Renewed by ``quantkit vamc write --preset digits --calibration-folder calibration --suffix png --count 100``."""
    path = CONFIGS / f"mini_iresnet-{dialect}.yaml"
    model = Path("quantkit/demo/mini_iresnet.onnx")
    root = CONFIGS.parents[1]
    input_name, shape = read_image_input(root / model, PRESETS["digits"])
    build = written(
        name="mini_iresnet",
        checkpoint=model.as_posix(),
        input_name=input_name,
        input_shape=shape,
        pipeline=PRESETS["digits"],
        method=Percentile(),
        data=CalibrationFolder(path="calibration", suffix="png", count=100),
        dialect=dialect,
    )
    assert path.read_text(encoding="utf-8") == build.text
    # The demo's model has our own default opset, above the vendor's; the user makes the folder of images.
    assert [finding.message for finding in check_file(path, facts=read_facts(root / model)).findings] == [
        "the model has opset 18; the vendor exports classifiers with opset 10 to 12",
        "calibration does not exist",
    ]


def test_shipped_vdsp_params_equal_preset() -> None:
    path = CONFIGS / "imagenet-vdsp_params.json"
    assert load_vdsp(path) == vdsp_from_pipeline(PRESETS["vacc"]).params
    assert len(list(CONFIGS.iterdir())) == 11

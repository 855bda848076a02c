"""Preprocessing from files of the vendor's, the preset ``vacc``, and warnings of what the card computes otherwise."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from models import tiny_model, write_images
from PIL import Image
from vacc_files import BUILD, COMPILE, USUAL

import quantkit
from quantkit.config.pipeline import PRESETS, CenterCrop, Decode, Normalize, Pad, Pipeline, Resize, ToTensor
from quantkit.errors import ConfigError, VendorFileError
from quantkit.runs.folder import RunFolder
from quantkit.targets import VACC
from quantkit.vendors.vacc.card_preprocessing import card_warning
from quantkit.vendors.vacc.vdsp import in_half, vdsp_from_pipeline
from quantkit.workflows.presets import load_preset, preset_notes
from quantkit.workflows.project import choose_pipeline, load_project

Run = Callable[..., tuple[int, str, str]]

# A build file and vdsp_params of 8 x 8 pictures, for tiny models.
SMALL = COMPILE.replace("[256, 256]", "[8, 8]").replace("    - 224\n    - 224\n", "    - 8\n    - 8\n")
SMALL_PIPELINE = Pipeline(
    ops=(
        Decode(),
        Resize(size=(8, 8), antialias=False),
        CenterCrop(size=(8, 8)),
        ToTensor(),
        Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    )
)


def file_of(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"), [("c.yaml", COMPILE), ("p.json", USUAL), ("p.txt", USUAL), ("c.yml", COMPILE)]
)
def test_load_preset_vendor_file_equals_preset_vacc(tmp_path: Path, name: str, text: str) -> None:
    path = file_of(tmp_path, name, text)
    assert load_preset(path) == load_preset(str(path)) == PRESETS["vacc"]
    assert quantkit.load_preset("vacc") is PRESETS["vacc"]
    assert load_preset(PRESETS["digits"]) is PRESETS["digits"]


def test_load_preset_build_dialect_keeps_its_scaling(tmp_path: Path) -> None:
    pipeline = load_preset(file_of(tmp_path, "b.yaml", BUILD))
    assert pipeline.ops[-2:] == (
        ToTensor(divisor=1.0),
        Normalize(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
    )


def test_load_preset_own_ops_as_yaml_and_json(tmp_path: Path) -> None:
    ops = [op.model_dump(mode="json") for op in PRESETS["vacc"].ops]
    assert load_preset(file_of(tmp_path, "o.json", json.dumps({"ops": ops}, indent=1))) == PRESETS["vacc"]
    assert load_preset(file_of(tmp_path, "o.yaml", "ops:\n- {op: decode, mode: L}\n- op: to_tensor\n")).channels == 1


@pytest.mark.parametrize("encoding", ["utf-16", "gb18030", "utf-8-sig"])
def test_load_preset_build_file_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(COMPILE.replace("# ours", "# 预处理").replace("\n", "\r\n").encode(encoding))
    assert load_preset(path) == PRESETS["vacc"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", COMPILE.replace("  process_ops:", "  house_ops:"), "the build file has no preprocessing operations"),
        ("a.yaml", COMPILE.replace("type: Resize", "type: CustomFunc"), "not supported: CustomFunc has no equivalent"),
        ("a.yaml", "nothing: here\n", "a preprocessing file has the single key ops"),
        ("a.json", "{}", "it has no OpType"),
        ("a.json", USUAL.replace("CROP_NORM", "CROP_ROTATE_NORM"), "has no equivalent in a pipeline"),
        (
            "a.json",
            USUAL.replace('"OimageHeight": 224,', "").replace('"OimageWidth": 224,', ""),
            "the file has no sizes",
        ),
    ],
)
def test_load_preset_file_without_a_pipeline_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises((ConfigError, VendorFileError), match=rf"{name}: .*{message}"):
        load_preset(file_of(tmp_path, name, text))


def test_load_preset_names_that_do_not_exist() -> None:
    with pytest.raises(
        ConfigError, match=r"there is no preset 'vac'; did you mean vacc\? choose one of imagenet, vacc, .*, or a file"
    ):
        load_preset("vac")
    with pytest.raises(ConfigError, match=r"gone\.json: there is no such file"):
        load_preset("gone.json")


def test_preset_notes_say_what_was_inferred(tmp_path: Path) -> None:
    path = file_of(tmp_path, "p.json", USUAL.replace("BILINEAR_CV", "BILINEAR"))
    assert preset_notes(path) == (f"{path}: ResizeType BILINEAR is interpreted as BILINEAR_CV",)
    assert preset_notes("vacc") == preset_notes(None) == ()


def test_quantkit_yaml_preset_file_is_relative_to_its_folder_and_exif_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    file_of(folder, "c.yaml", COMPILE)
    file_of(folder, "quantkit.yaml", "preset: c.yaml\nexif: true\n")
    project = load_project(folder)
    assert choose_pipeline(None, project) == PRESETS["vacc"].with_exif(True)
    assert choose_pipeline("imagenet", project) == PRESETS["imagenet"].with_exif(True)
    assert choose_pipeline(None, project, exif=False) == PRESETS["vacc"]


def test_preset_vacc_gives_the_usual_vdsp_params(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("vamc", "vdsp", "--preset", "vacc", "--out", "p.json")
    assert (code, out) == (0, "wrote p.json\nnext: quantkit vamp command BUILD.yaml --vdsp p.json\n")
    assert (tmp_path / "p.json").read_text() == USUAL
    code, out, err = run("vamc", "vdsp", "--preset", "p.json")
    assert (code, out, err) == (0, USUAL + "\n", "")
    code, out, err = run("vamc", "vdsp", "--preset", "imagenet")
    assert (code, "BILINEAR_PILLOW" in out) == (0, True)
    assert "it resizes to 256 x 256, and resize 256 keeps the aspect" in err
    assert "--preset vacc is what it computes" in err
    assert run("vamc", "vdsp")[0] == run("vamc", "vdsp", "p.json", "--preset", "vacc")[0] == 2


SQUARE = Resize(size=(9, 9), antialias=False)


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ((Decode(), SQUARE, ToTensor()), None),
        ((Decode(exif=True), SQUARE, ToTensor()), None),  # the card decodes nothing
        ((Decode(), Resize(size=(9, 9)), ToTensor()), "it resizes without antialias"),
        (
            (Decode(), Resize(size=9, antialias=False), CenterCrop(size=(8, 8)), ToTensor()),
            "it resizes to 9 x 9",
        ),
        ((Decode(), SQUARE, Pad(), ToTensor()), "the card cannot run this preprocessing: .*one resize"),
        ((Decode(mode="L"), SQUARE, ToTensor()), "the card cannot run this preprocessing: .*only colour images"),
        ((Decode(), Resize(size=(9, 9), interpolation="bicubic"), ToTensor()), "cannot run .*bilinear"),
    ],
)
def test_preset_warning_only_where_the_card_differs(ops: tuple[object, ...], message: str | None) -> None:
    warning = card_warning(Pipeline(ops=ops))
    if message is None:
        assert warning is None
    else:
        assert warning is not None
        assert re.search(message, warning)
        assert "--preset vacc" not in warning  # its size and scaling are others


@pytest.mark.parametrize(("preset", "warned"), [("vendor", False), ("own.yaml", True)])
def test_preset_of_calibrate_for_vacc_is_used_everywhere(run: Run, tmp_path: Path, preset: str, warned: bool) -> None:
    tiny_model(tmp_path / "tiny.onnx")
    write_images(tmp_path / "images")
    file_of(tmp_path, "own.yaml", "ops:\n- op: decode\n- {op: resize, size: [8, 8]}\n- op: to_tensor\n")
    name = {"vendor": "c.yaml"}.get(preset, preset)
    file_of(tmp_path, "c.yaml", SMALL)
    code, out, err = run(
        *("calibrate", "--model", "tiny.onnx", "--images", "images", "--count", 8, "--preset", name, "--exif"),
        *("--target", "vacc", "--run", "run"),
    )
    assert code == 0, err
    assert ("the card does not compute this preprocessing" in out) == warned
    pipeline = RunFolder(tmp_path / "run").read().pipeline
    assert pipeline.decode.exif
    # The vendor's two files say the same, and what the run records.
    assert run("vamc", "check", "run/vamc.yaml", "--vdsp", "run/vdsp_params.json", "--model", "tiny.onnx")[0] == 0
    assert load_preset(tmp_path / "run/vamc.yaml") == pipeline.with_exif(False)
    assert load_preset(tmp_path / "run/vdsp_params.json") == pipeline.with_exif(False) or preset == "vendor"
    # And so do the inputs of the card.
    assert run("vamp", "inputs", "--images", "images", "--out", "npz", "--run", "run")[0] == 0
    assert load_preset(tmp_path / "npz/preprocessing.yaml") == pipeline
    code, _, err = run("vamp", "inputs", "--images", "images", "--out", "npz", "--run", "run", "--no-exif")
    assert (code, "the run was calibrated with the EXIF orientation" in err) == (2, True)
    # For onnxruntime the card's limits are none of the user's business.
    code, out, _ = run("calibrate", "--model", "tiny.onnx", "--set", "run/set.csv", "--preset", name, "--run", "ort")
    assert (code, "the card does not" in out, (tmp_path / "ort/vdsp_params.json").exists()) == (0, False, False)
    # A warning, not a note: --quiet shows it.
    code, out, _ = run("quantize", "--run", "ort", "--target", "vacc", "-q")
    assert (code, "warning: the card does not compute this preprocessing" in out) == (0, warned)
    assert "note: " not in out


def test_preset_path_is_taken_by_python_functions(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.onnx")
    write_images(tmp_path / "images")
    path = file_of(tmp_path, "c.yaml", SMALL)
    chosen = quantkit.build_calibration_set(tmp_path / "images", count=8, seed=0)
    done = quantkit.calibrate(tmp_path / "tiny.onnx", chosen, path, run=tmp_path / "run", target=VACC)
    assert RunFolder(done.run).read().pipeline == SMALL_PIPELINE
    models = [tmp_path / "tiny.onnx", done.quantized.path]
    by_path = quantkit.compare(models, images=tmp_path / "images", pipeline=str(path), drift_images=0)
    by_run = quantkit.compare(models, images=tmp_path / "images", run=done.run, drift_images=0)
    assert by_path.reference.top1 == by_run.reference.top1
    with pytest.raises(ConfigError, match="there is no preset 'none'"):
        quantkit.compare(models, images=tmp_path / "images", pipeline="none")


def test_preset_the_card_lacks_removes_old_vdsp_params(run: Run, tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.onnx")
    write_images(tmp_path / "images")
    file_of(tmp_path, "c.yaml", SMALL)
    file_of(tmp_path, "pad.yaml", "ops:\n- op: decode\n- {op: resize, size: [8, 8]}\n- op: pad\n- op: to_tensor\n")
    base = ("calibrate", "--model", "tiny.onnx", "--images", "images", "--count", 8, "--target", "vacc", "--run", "run")
    assert run(*base, "--preset", "c.yaml")[0] == 0
    assert (tmp_path / "run/vdsp_params.json").is_file()
    code, out, _ = run(*base, "--preset", "pad.yaml", "--fresh")
    assert (code, "the card cannot run this preprocessing" in out) == (0, True)
    assert not (tmp_path / "run/vdsp_params.json").exists()


def test_preset_vendor_file_is_taken_by_every_command(run: Run, tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.onnx")
    write_images(tmp_path / "images")
    file_of(
        tmp_path,
        "c.yaml",
        SMALL.replace("- type: ToTensor", "- type: ToTensor\n  - type: Pad\n    pad_to_square: true"),
    )
    tiny_model(tmp_path / "twin.onnx")
    inferred = "note: c.yaml: Pad: the position of the image in the square is not known"
    for command in (
        ("eval", "tiny.onnx", "--images", "images", "--preset", "c.yaml", "--exif"),
        ("compare", "tiny.onnx", "twin.onnx", "--images", "images", "--preset", "c.yaml", "--drift-images", 0),
        ("calibrate", "--model", "tiny.onnx", "--images", "images", "--count", 8, "--preset", "c.yaml"),
        ("vamc", "write", "--model", "tiny.onnx", "--calibration-folder", "images", "--preset", "c.yaml"),
        ("vamc", "tensors", "images", "--model", "tiny.onnx", "--out", "tensors", "--preset", "c.yaml"),
        ("vamp", "inputs", "--images", "images", "--out", "npz", "--preset", "c.yaml"),
    ):
        code, _, err = run(*command)
        assert (code, inferred in err) == (0, True), (command, err)
    assert run("eval", "fp32", "--run", "runs/tiny", "--images", "images", "--exif")[::2] == (
        2, "error: --exif: the run sets the preprocessing; give --preset too, or drop it"
    )  # fmt: skip
    for words in (("preprocess", "guess"), ("plan", "eval")):
        assert run(*words, "tiny.onnx", "--images", "images", "--exif")[::2] == (
            2, "error: --exif: no preprocessing was given; give --preset too, or drop it"
        )  # fmt: skip


def test_preset_exif_turns_picture_in_evaluation(run: Run, tmp_path: Path) -> None:
    picture = Image.new("RGB", (12, 8), "black")
    picture.paste("white", (0, 0, 6, 8))
    exif = picture.getexif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "x.png", exif=exif)
    plain, turned = (quantkit.preprocess(tmp_path / "x.png", SMALL_PIPELINE.with_exif(exif)) for exif in (False, True))
    assert (plain == turned[:, ::-1, ::-1]).all()
    assert plain[0, 0, 0] > plain[0, 0, -1]


@pytest.mark.shared
def test_load_preset_shared_vendor_files_are_read(shared_vacc: Path) -> None:
    paths = [*sorted((shared_vacc / "vdsp_params").glob("*.json")), *sorted((shared_vacc / "configs").glob("*/*.y*ml"))]
    kinds: Counter[str] = Counter()
    for path in paths:
        try:
            pipeline = load_preset(path)
        except ConfigError:
            kinds["refused"] += 1
            continue
        kinds["vacc" if pipeline == PRESETS["vacc"] else "other"] += 1
        if path.suffix == ".json":
            config = vdsp_from_pipeline(pipeline).params.config
            assert in_half(config.mean) == list(config.mean)
    assert kinds == {"vacc": 76, "other": 73, "refused": 101}


@pytest.mark.shared
def test_preset_vacc_equals_vendor_iresnet_file(run: Run, tmp_path: Path, shared_vacc: Path) -> None:
    tiny_model(tmp_path / "tiny.onnx")
    for name in ("50", "101", "152", "200"):
        assert run("vamc", "vdsp", "--preset", "vacc", "--out", "p.json")[0] == 0
        expected = shared_vacc / f"vdsp_params/official-iresnet{name}-vdsp_params.json"
        assert (tmp_path / "p.json").read_bytes() == expected.read_bytes()

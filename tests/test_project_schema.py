"""The JSON schema of quantkit.yaml, and project files and presets that quantkit writes."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from models import tiny_model
from ruamel.yaml import YAML

import quantkit
from quantkit.config.hub_presets import preset_of_hugging_face, preset_of_timm
from quantkit.config.pipeline import CenterCrop, Decode, Normalize, Pipeline, Resize, ToTensor
from quantkit.config.project import Project, parse_pipeline, parse_project
from quantkit.config.schema import project_schema
from quantkit.config.text import quoted
from quantkit.errors import ConfigError, UsageError
from quantkit.workflows.hub_presets import preset_from_hugging_face, preset_text
from quantkit.workflows.new_project import new_project

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


def _plain(text: str) -> Any:
    return json.loads(json.dumps(YAML(typ="safe", pure=True).load(text)))


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = project_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_schema_accepts_ready_configs(path: Path, validator: Any) -> None:
    assert list(validator.iter_errors(_plain(path.read_text()))) == []


@pytest.mark.parametrize(
    "text",
    [
        "modle: a.onnx",
        "target: trt",
        "method: 3",
        "ops:\n- {op: rezise, size: 3}",
        "ops:\n- {op: decode, mode: CMYK}",
        "fraction: 0.2",
        "version: 2",
    ],
)
def test_schema_and_parser_refuse_the_same(text: str, validator: Any) -> None:
    assert list(validator.iter_errors(_plain(text)))
    with pytest.raises(ConfigError):
        _parsed(text)


def _parsed(text: str) -> Pipeline:
    project = parse_project(text, "quantkit.yaml")
    return parse_pipeline(json.dumps({"ops": list(project.ops or ())}), "quantkit.yaml")


def test_schema_describes_every_key() -> None:
    properties = project_schema()["properties"]
    assert set(properties) == set(Project.model_fields)
    assert all(properties[name]["description"] for name in properties)


@pytest.mark.parametrize(
    "text", ["a.onnx", "a b.onnx", "yes", "a: b", "1.5", "#x", "ü.onnx", "a'b\"c", "-", "C:\\m.onnx"]
)
def test_project_quoted_text_is_read_back(text: str) -> None:
    assert YAML(typ="safe", pure=True).load(f"key: {quoted(text)}") == {"key": text}


def test_project_new_file_is_valid_and_fits_model(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    tiny_model(tmp_path / "models/my net.onnx")
    path = new_project(tmp_path / "models/my net.onnx", tmp_path, images=tmp_path / "val")
    project = parse_project(path.read_text(), path)
    assert project.model == Path("models/my net.onnx")
    summary = quantkit.inspect(tmp_path / "models/my net.onnx")
    assert summary.image is not None
    pipeline = Pipeline(ops=project.ops) if project.ops else quantkit.PRESETS[str(project.preset)]
    assert pipeline.channels == summary.image.channels
    assert pipeline.output_size == (summary.image.height or 224, summary.image.width or 224)


def test_project_new_file_does_not_overwrite(tmp_path: Path) -> None:
    tiny_model(tmp_path / "m.onnx")
    (tmp_path / "quantkit.yaml").write_text("model: other.onnx\n")
    with pytest.raises(UsageError, match="the file exists and is not overwritten"):
        new_project(tmp_path / "m.onnx", tmp_path)
    assert (tmp_path / "quantkit.yaml").read_text() == "model: other.onnx\n"


def test_project_faults_of_file_are_named_at_once() -> None:
    text = "ops:\n- {op: decode, mdoe: RGB}\n- {op: rezise, size: 3}\n- {op: to_tensor, divisor: -1}\n"
    with pytest.raises(ConfigError) as refused:
        parse_pipeline(text, "p.yaml")
    message = str(refused.value)
    assert message.startswith("p.yaml: 3 faults: ")
    assert "there is no key 'ops.0.decode.mdoe', did you mean mode?" in message
    assert "did you mean resize?" in message
    assert "ops.2.to_tensor.divisor: " in message


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ("0.5", "0.25", ((0.5,) * 3, (0.25,) * 3)),
        ("[0.1, 0.2, 0.3]", "0.5", ((0.1, 0.2, 0.3), (0.5,) * 3)),
        ("0", "[1, 2, 3]", ((0.0,) * 3, (1.0, 2.0, 3.0))),
    ],
)
def test_normalize_one_number_is_mean_or_std_of_every_channel(mean: str, std: str, expected: Any) -> None:
    text = f"ops:\n- op: decode\n- op: to_tensor\n- {{op: normalize, mean: {mean}, std: {std}}}\n"
    normalize = parse_pipeline(text, "p.yaml").ops[-1]
    assert isinstance(normalize, Normalize)
    assert (normalize.mean, normalize.std) == expected
    grey = Pipeline(ops=(Decode(mode="L"), ToTensor(), Normalize.model_validate({"mean": 0.5, "std": 0.5}))).ops[-1]
    assert isinstance(grey, Normalize)
    assert grey.mean == (0.5,)


def test_normalize_std_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"greater than 0"):
        parse_pipeline("ops:\n- op: decode\n- op: to_tensor\n- {op: normalize, mean: 0, std: 0}\n", "p.yaml")


# Published configs, and what transformers and timm compute for them.
VIT = {
    "do_normalize": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": 224,
    "resample": 2, "feature_extractor_type": "ViTFeatureExtractor",
}  # fmt: skip
CONVNEXT = {
    "crop_pct": 0.875, "do_normalize": True, "do_resize": True, "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": 224,
    "feature_extractor_type": "ConvNextFeatureExtractor",
}  # fmt: skip
CLIP = {
    "crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 224,
    "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
MOBILENET = {
    "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_normalize": True, "do_rescale": True,
    "do_resize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2,
    "image_processor_type": "MobileNetV2ImageProcessor", "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 256},
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "resizing"),
    [
        (VIT, [Resize(size=(224, 224))]),
        (CONVNEXT, [Resize(size=256, interpolation="bicubic"), CenterCrop(size=(224, 224))]),
        (CONVNEXT | {"size": 384}, [Resize(size=(384, 384), interpolation="bicubic")]),
        (CLIP, [Resize(size=224, interpolation="bicubic"), CenterCrop(size=(224, 224))]),
        (MOBILENET, [Resize(size=256), CenterCrop(size=(224, 224))]),
        (VIT | {"do_resize": False}, []),
    ],
    ids=["vit", "convnext", "convnext-384", "clip", "mobilenet", "no-resize"],
)
def test_hugging_face_config_gives_the_operations_of_its_processor(config: dict[str, Any], resizing: list[Any]) -> None:
    found = preset_of_hugging_face(config, "preprocessor_config.json")
    normalize = Normalize(mean=tuple(config["image_mean"]), std=tuple(config["image_std"]))
    assert list(found.pipeline.ops) == [Decode(), *resizing, ToTensor(), normalize]
    assert found.notes == ()


def test_hugging_face_preset_file_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CLIP))
    found = preset_from_hugging_face(tmp_path / "preprocessor_config.json")
    (tmp_path / "clip.yaml").write_text(preset_text(found.pipeline, "clip"))
    assert quantkit.load_preset(tmp_path / "clip.yaml") == found.pipeline


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"image_processor_type": "LevitImageProcessor"}, "resizes by a special rule"),
        ({"rescale_offset": True}, "rescale_offset cannot be expressed"),
        ({"size": "large"}, "size: must be a size in pixels, not 'large'"),
        ({"size": {"longest_edge": 3}}, "size: must be a size in pixels"),
        ({"resample": 9}, "resample: 9 is not a filter"),
        ({"image_mean": None}, "image_mean: must be a list of numbers"),
        ({"rescale_factor": 0}, "rescale_factor: must be a number above 0"),
    ],
)
def test_hugging_face_config_that_cannot_be_expressed_is_refused(changed: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        preset_of_hugging_face(VIT | changed, "preprocessor_config.json")


@pytest.mark.parametrize(("content", "match"), [("[1]", "is not a JSON object"), ("{", "not JSON"), ("\0", "not JSON")])
def test_hugging_face_file_that_is_none_is_refused(content: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ConfigError, match=match):
        preset_from_hugging_face(tmp_path / "c.json")


TIMM: dict[str, Any] = {
    "architecture": "resnet50",
    "pretrained_cfg": {
        "input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    },
}  # fmt: skip


def test_timm_config_gives_the_operations_of_create_transform() -> None:
    pipeline = preset_of_timm(TIMM, "config.json").pipeline
    assert pipeline.ops[1:3] == (Resize(size=235, interpolation="bicubic"), CenterCrop(size=(224, 224)))
    squashed = preset_of_timm({**TIMM["pretrained_cfg"], "crop_mode": "squash", "crop_pct": 1.0}, "c.json")
    assert squashed.pipeline.ops[1] == Resize(size=(224, 224), interpolation="bicubic")
    with pytest.raises(ConfigError, match="crop_mode: 'border' cannot be expressed"):
        preset_of_timm({**TIMM["pretrained_cfg"], "crop_mode": "border"}, "c.json")


def test_hugging_face_pixels_are_those_of_pillow(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    config = VIT | {"size": 16}
    ours = quantkit.preprocess(tmp_path / "a.png", preset_of_hugging_face(config, "c").pipeline)
    resized = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BILINEAR), np.float32)
    np.testing.assert_allclose(ours, ((resized / 255 - 0.5) / 0.5).transpose(2, 0, 1), rtol=0, atol=1e-6)

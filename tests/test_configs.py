"""The ready-made project files: each is complete and valid, and prepares images as its weights were judged."""

import sys
from pathlib import Path

import pytest

from quantkit.cli.main import main
from quantkit.config.pipeline import IMAGENET_MEAN, CenterCrop, Normalize, Pipeline, Resize
from quantkit.config.project import Project, parse_project
from quantkit.config.ready import ready_configs, title, write_ready_config
from quantkit.errors import UsageError
from quantkit.targets import parse_target
from quantkit.workflows.project import choose_pipeline, load_project, method_of

FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = ready_configs()
# torchvision/models/*.py, the `transforms` of each weights enum: shorter side, crop, filter.
TORCHVISION = {
    "convnext_tiny": ("IMAGENET1K_V1", 236, 224, "bilinear"),
    "densenet121": ("IMAGENET1K_V1", 256, 224, "bilinear"),
    "efficientnet_b0": ("IMAGENET1K_V1", 256, 224, "bicubic"),
    "inception_v3": ("IMAGENET1K_V1", 342, 299, "bilinear"),
    "mobilenet_v2": ("IMAGENET1K_V2", 232, 224, "bilinear"),
    "mobilenet_v3_large": ("IMAGENET1K_V2", 232, 224, "bilinear"),
    "regnet_y_400mf": ("IMAGENET1K_V2", 232, 224, "bilinear"),
    "resnet18": ("IMAGENET1K_V1", 256, 224, "bilinear"),
    "resnet50": ("IMAGENET1K_V2", 232, 224, "bilinear"),
    "squeezenet1_1": ("IMAGENET1K_V1", 256, 224, "bilinear"),
}


def pipeline_of(name: str) -> Pipeline:
    pipeline = choose_pipeline(None, parse_project(CONFIGS[name], name))
    assert pipeline is not None
    return pipeline


def geometry(pipeline: Pipeline) -> tuple[object, object, str]:
    _, resize, crop, _, normalize = pipeline.ops
    assert isinstance(resize, Resize)
    assert isinstance(crop, CenterCrop)
    assert isinstance(normalize, Normalize)
    assert normalize.mean == IMAGENET_MEAN
    return resize.size, crop.size[0], resize.interpolation


def test_configs_all_files_ship_with_package() -> None:
    assert set(CONFIGS) == {path.stem for path in FOLDER.glob("*.yaml")}
    assert set(CONFIGS) == {*TORCHVISION, "iresnet50", "iresnet101", "iresnet152", "iresnet200"}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_valid_and_about_its_network(name: str) -> None:
    project = parse_project(CONFIGS[name], name)
    assert project.model == Path(f"{name}.onnx")
    assert project.run == Path("runs") / name
    assert project.set is not None
    assert project.images is not None
    assert method_of(None, None, project)
    assert parse_target(project.target or "")
    assert f"quantkit export {name} " in CONFIGS[name]
    assert title(CONFIGS[name]).endswith((": 224 x 224", ": 299 x 299"))


@pytest.mark.parametrize("name", CONFIGS)
def test_config_names_every_key_in_use_or_as_comment(name: str) -> None:
    lines = [line.removeprefix("# ") for line in CONFIGS[name].splitlines()]
    named = {line.partition(":")[0] for line in lines if ":" in line}
    assert set(Project.model_fields) - named <= {"preset", "ops", "names"}  # one of the two; ImageNet's are known


@pytest.mark.parametrize("name", TORCHVISION)
def test_config_preprocessing_is_that_of_the_weights_evaluation(name: str) -> None:
    weights, *expected = TORCHVISION[name]
    assert f"--weights {weights}\n" in CONFIGS[name]
    assert weights in title(CONFIGS[name])
    assert list(geometry(pipeline_of(name))) == expected


@pytest.mark.torch
@pytest.mark.parametrize("name", TORCHVISION)
def test_config_preprocessing_equals_torchvision(name: str) -> None:
    models = pytest.importorskip("torchvision", reason="needs quantkit[torch]").models
    transforms = models.get_model_weights(name)[TORCHVISION[name][0]].transforms()
    said = (transforms.resize_size[0], transforms.crop_size[0], transforms.interpolation.value)
    assert geometry(pipeline_of(name)) == said


@pytest.mark.parametrize("depth", [50, 101, 152, 200])
def test_config_of_iresnet_takes_usual_crop(depth: int) -> None:
    assert geometry(pipeline_of(f"iresnet{depth}")) == (256, 224, "bilinear")


def test_init_writes_the_file_once(tmp_path: Path) -> None:
    path = write_ready_config("resnet50", tmp_path)
    assert path.read_text() == CONFIGS["resnet50"]
    assert load_project(tmp_path).model == tmp_path / "resnet50.onnx"
    path.write_text("model: mine.onnx\n")
    with pytest.raises(UsageError, match=r"quantkit.yaml: the file exists and is not overwritten; move it away first"):
        write_ready_config("resnet18", tmp_path)
    assert path.read_text() == "model: mine.onnx\n"


def test_init_does_not_write_through_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "quantkit.yaml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="the file exists"):
        write_ready_config("resnet18", tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_init_says_which_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, code in ((["init"], 0), (["init", "resnet51"], 2), (["init", "iresnet50"], 0)):
        monkeypatch.setattr(sys, "argv", ["quantkit", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        said = capsys.readouterr()
        if arguments == ["init"]:
            assert [line.split()[0] for line in said.out.splitlines()] == list(CONFIGS)
        if code:
            assert "there is no ready-made config 'resnet51'; choose one of convnext_tiny, " in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["quantkit.yaml"]

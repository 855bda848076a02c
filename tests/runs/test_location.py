"""Run folders that are moved or copied, with their model, set and images or without them."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from models import tiny_model, write_images

from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.errors import CalibrationSetError, ModelError, ProvenanceError
from quantkit.runs.folder import RunFolder
from quantkit.runs.location import find_set
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.quantize import quantize
from quantkit.workflows.relink import relink

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder with model, images, set and run."""
    folder = tmp_path / "project"
    images = write_images(folder / "images", per_class=8)
    build_calibration_set(images, count=16).save(folder / "set.csv")
    calibrate(tiny_model(folder / "tiny.onnx"), folder / "set.csv", PIPELINE, run=folder / "runs/tiny")
    return folder


def _all_together(project: Path) -> Path:
    return project.rename(project.parent / "elsewhere") / "runs/tiny"


def _run_alone(project: Path) -> Path:
    moved = project.parent / "other place/run"
    moved.parent.mkdir()
    return (project / "runs/tiny").rename(moved)


def _run_and_model(project: Path) -> Path:
    folder = project.parent / "colleague"
    shutil.copytree(project / "runs/tiny", folder / "runs/tiny")
    (project / "tiny.onnx").rename(folder / "renamed.onnx")
    return folder / "runs/tiny"


@pytest.mark.parametrize("move", [_all_together, _run_alone, _run_and_model])
def test_run_moved_works_as_before(project: Path, move: Callable[[Path], Path], monkeypatch) -> None:
    before = (project / "runs/tiny/int8.onnx").read_bytes()
    run = move(project)
    monkeypatch.chdir(run.parent.parent)
    assert quantize(run).path.read_bytes() == before
    assert compare(["fp32", "int8"], run=run, drift_images=0).images > 0
    written = json.loads((run / "run.json").read_text())
    assert not Path(written["model"]["path"]).is_absolute()
    assert Path(written["model"]["absolute"]).is_file()


def test_run_missing_model_names_the_command_that_helps(project: Path) -> None:
    run = project / "runs/tiny"
    away = project.parent / "models"
    away.mkdir()
    (project / "tiny.onnx").rename(away / "net.onnx")
    with pytest.raises(ModelError, match=r"is missing; .*quantkit relink RUN --model FILE"):
        quantize(run)
    relink(run, model=away / "net.onnx")
    quantize(run)


def test_run_missing_images_are_found_after_relink(project: Path) -> None:
    run, away = project / "runs/tiny", project.parent / "pictures"
    (project / "images").rename(away)
    record = RunFolder(run).read()
    found = find_set(record)
    assert found is not None
    assert not found.items[0].exists()
    with pytest.raises(CalibrationSetError, match="images are missing or changed"):
        relink(run, images=project)
    relink(run, images=away)
    assert compare(["fp32", "int8"], run=run, drift_images=0).images > 0


def test_relink_other_model_is_refused(project: Path) -> None:
    other = tiny_model(project / "other.onnx", seed=9)
    before = (project / "runs/tiny/run.json").read_bytes()
    with pytest.raises(ProvenanceError, match="not the model of the run"):
        relink(project / "runs/tiny", model=other)
    assert (project / "runs/tiny/run.json").read_bytes() == before


def test_relink_takes_an_archive_of_the_images(project: Path) -> None:
    run = project / "runs" / "tiny"
    found = find_set(RunFolder(run).read())
    assert found is not None
    with zipfile.ZipFile(project / "all.zip", "w") as archive:
        for item in found.items:
            archive.writestr(item.id, item.read())  # type: ignore[arg-type]
    shutil.rmtree(found.root)
    relink(run, images=project / "all.zip")
    again = find_set(RunFolder(run).read())
    assert again is not None
    assert again.verify() == ()

"""Command lines as a user types them, run in this process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from models import tiny_model, write_images

from quantkit.cli.main import main

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in a folder, in this process, and check its exit code."""

    def command(folder: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.delenv("QUANTKIT_DEBUG", raising=False)
        monkeypatch.setattr(sys, "argv", ["quantkit", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert end.value.code == code, err + out
        assert "Traceback" not in err
        return out, err

    return command


@pytest.fixture
def command(tmp_path: Path, run: Run) -> Run:
    """Run a command line in the test's own folder."""

    def typed(*arguments: str, code: int = 0) -> tuple[str, str]:
        return run(tmp_path, *arguments, code=code)

    return typed


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder with model, images, preset and ``quantkit.yaml``, before any command."""
    tiny_model(tmp_path / "tiny.onnx")
    write_images(tmp_path / "images", per_class=8)
    (tmp_path / "pipeline.yaml").write_text("ops:\n- op: decode\n- op: to_tensor\n")
    (tmp_path / "quantkit.yaml").write_text("model: tiny.onnx\npreset: pipeline.yaml\nset: calib.csv\n")
    return tmp_path


@pytest.fixture
def calibrated(project: Path, command: Run) -> Path:
    """The project with its calibration set of 16 images and its run."""
    command("calib-set", "build", "--images", "images", "--count", "16", "--out", "calib.csv")
    command("calibrate")
    return project

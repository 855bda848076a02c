"""The benchmark of the sources runs, and says that all forms give the same statistics."""

import importlib.util
import json
import sys
from pathlib import Path

import models
import pytest
from models import tiny_model, write_images


def test_benchmark_of_sources_same_statistics_of_every_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(__file__).parents[3] / "benchmarks" / "sources.py"
    spec = importlib.util.spec_from_file_location("benchmark_sources", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(models, "TEXT", models.TEXT.replace("3, 8, 8", "3, 32, 32"))
    model = tiny_model(tmp_path / "tiny.onnx")
    images = write_images(tmp_path / "images")
    for file in sorted(images.rglob("*.png")):  # parquet names images by their file names alone
        file.rename(file.with_name(f"{file.parent.name}{file.name}"))
    options = ["--preset", "cifar10", "--count", "12", "--rounds", "1", "--json", str(tmp_path / "out.json")]
    monkeypatch.setattr(sys, "argv", [str(path), "--model", str(model), "--images", str(images), *options])
    assert module.main() == 0
    assert "12 images: statistics of all forms are the same" in capsys.readouterr().out
    forms = json.loads((tmp_path / "out.json").read_text())["forms"]
    assert set(forms) == {"folder", "tar", "zip", "webdataset", "parquet", "arrays"}
    encoded = {form: figures["file"] for form, figures in forms.items() if form != "arrays"}
    assert len(set(encoded.values())) == 1

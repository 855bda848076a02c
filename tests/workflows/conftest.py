"""Fixtures for the tests of workflows."""

from pathlib import Path

import pytest
from models import uneven_model, write_images

from quantkit.config.method import Percentile
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.workflows.calibrate import calibrate


@pytest.fixture(scope="module")
def uneven_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``tiny.onnx``, a model that tuning improves, ``images``, ``set.csv`` and a calibrated ``run``."""
    folder = tmp_path_factory.mktemp("uneven")
    images = write_images(folder / "images", per_class=14)
    build_calibration_set(images, count=20).save(folder / "set.csv")
    model, pipeline = uneven_model(folder / "tiny.onnx"), Pipeline(ops=(Decode(), ToTensor()))
    calibrate(model, folder / "set.csv", pipeline, run=folder / "run", method=Percentile(fraction=0.999))
    return folder

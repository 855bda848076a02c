"""Fixtures for all tests: the models and photographs kept beside the checkout, where they are present."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from models import copied_run, tiny_model, write_images

import quantkit
from quantkit.config.pipeline import Decode, Pipeline, ToTensor

# Without bytecode, each of the hundreds of processes that tests start compiles the package again, and each worker all
# test files.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A change is judged by the same examples each time; everywhere else every run looks for new ones.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("default", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def same_numbers_in_any_order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a module's generator ``RNG`` anew for each test, so that none depends on the tests before it."""
    held = getattr(request.module, "RNG", None)
    if held is not None:
        monkeypatch.setattr(request.module, "RNG", np.random.default_rng(held.bit_generator.seed_seq.entropy))


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run of a test."""
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what belongs to no run out of the cache folder of whoever runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture(scope="session")
def demo_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``quantkit demo`` makes, made once for all workers; see `demo_folder`."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    made = base / "demo-of-all"
    with FileLock(base / "demo-of-all.lock"), pytest.MonkeyPatch.context() as patch:
        if not made.is_dir():
            patch.setenv("XDG_CACHE_HOME", str(base / "demo-cache"))
            quantkit.run_demo(base / "demo-in-work").folder.rename(made)
    return made


@pytest.fixture(scope="module")
def demo_folder(demo_of_all: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module's own copy of the folder that ``quantkit demo`` makes."""
    return shutil.copytree(demo_of_all, tmp_path_factory.mktemp("demo") / "quantkit-demo")


@pytest.fixture(scope="session")
def tiny_run_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tiny_run`, made once for each worker."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("tiny-cache")))
        images = write_images(folder / "images", per_class=8)
        quantkit.build_calibration_set(images, count=16).save(folder / "set.csv")
        pipeline = Pipeline(ops=(Decode(), ToTensor()))
        quantkit.calibrate(tiny_model(folder / "tiny.onnx"), folder / "set.csv", pipeline, run=folder / "run")
    return folder


@pytest.fixture
def tiny_run(tiny_run_of_all: Path, tmp_path: Path) -> Path:
    """A calibrated run of `models.tiny_model`, the test's own, beside ``tiny.onnx``, ``set.csv`` and ``images``."""
    return copied_run(tiny_run_of_all, tmp_path)


@pytest.fixture(scope="session")
def shared_assets() -> Path:
    """Folder of real models and photographs, or a skip."""
    folder = SHARED / "assets"
    if not folder.is_dir():
        pytest.skip("needs ../shared/assets: real models and photographs, kept beside the checkout")
    return folder


@pytest.fixture(scope="session")
def shared_vacc() -> Path:
    """Folder of the vendor's public files, or a skip."""
    folder = SHARED / "vacc"
    if not folder.is_dir():
        pytest.skip("needs ../shared/vacc: the vendor's public build files, kept beside the checkout")
    return folder

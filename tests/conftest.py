"""Fixtures for all tests: the models and photographs kept beside the checkout, where they are present."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

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


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what belongs to no run out of the cache folder of whoever runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


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

"""Folders of small pictures, each unlike the others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture(name: str, size: int = 12) -> Image.Image:
    """A picture that depends on its name alone."""
    seed = int.from_bytes(name.encode()[-8:], "big")
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.fixture
def make_images() -> Callable[..., Path]:
    """Write a picture at each name below a folder, and return the folder."""

    def make(root: Path, *names: str) -> Path:
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(name).save(path)
        return root

    return make


@pytest.fixture
def three_classes(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    """Ten cats, ten dogs and three emus."""
    names = [f"{kind}/{number}.png" for kind, n in (("cat", 10), ("dog", 10), ("emu", 3)) for number in range(n)]
    return make_images(tmp_path / "zoo", *names)

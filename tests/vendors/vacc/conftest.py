"""The command line and a few pictures."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantkit.cli.main import main


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., object]:
    """Run quantkit in ``tmp_path``; return exit code, standard output and standard error as one line."""
    monkeypatch.chdir(tmp_path)

    def run_quantkit(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["quantkit", *map(str, arguments)])
        with pytest.raises(SystemExit, match=r"^\d+$") as ended:
            main()
        out, err = capsys.readouterr()
        return int(str(ended.value)), out, " ".join(err.split())

    return run_quantkit


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Three cats and three dogs of different sizes."""
    folder = tmp_path / "photos"
    for index in range(6):
        path = folder / ("cat" if index < 3 else "dog") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9 + index, 12, 3), dtype=np.uint8)).save(path)
    return folder

"""Command lines as a user types them, run in this process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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

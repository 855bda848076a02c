"""What the README shows is run as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


def test_readme_python_example_runs(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [example] = re.findall(r"<!-- example -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.chdir(demo_folder.parent)
    exec(compile(example, "README.md", "exec"), {})
    agreement, tensors = capsys.readouterr().out.split()
    assert float(agreement) > 95
    assert int(tensors) > 20


def test_readme_commands_exist() -> None:
    named = set(re.findall(r"`quantkit ([a-z-]+)`", README.read_text()))
    listing = subprocess.run(
        [sys.executable, "-m", "quantkit.cli.main", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert named
    assert {name for name in named if name not in listing} == set()

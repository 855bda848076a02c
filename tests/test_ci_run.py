"""``.ci/run``: what fails it, and what it says where torch cannot be installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[1] / ".ci" / "run"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def ci_run(folder: Path, failing: str) -> tuple[int, list[str], str]:
    """Run it with a ``make`` that notes its target and fails on one of them; return code, targets and output."""
    programs = folder / "programs"
    programs.mkdir()
    noted = folder / "targets"
    for name, text in (
        ("make", f'echo "$1" >> "{noted}"; [ "$1" != "{failing}" ]'),
        ("chromium", "true"),  # so that nothing is installed
    ):
        path = programs / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([RUN], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, noted.read_text().split(), done.stdout


def test_ci_run_runs_linters_docs_tests_and_torch_tests(tmp_path: Path) -> None:
    assert ci_run(tmp_path, failing="none") == (0, ["lint", "docs", "test", "setup-torch", "test-torch"], "")


@pytest.mark.parametrize("target", ["lint", "docs", "test", "test-torch"])
def test_ci_run_fails_with_each_of_them(target: str, tmp_path: Path) -> None:
    code, targets, _ = ci_run(tmp_path, failing=target)
    assert code != 0
    assert targets[-1] == target


def test_ci_run_without_torch_warns_and_passes(tmp_path: Path) -> None:
    code, targets, said = ci_run(tmp_path, failing="setup-torch")
    assert (code, targets) == (0, ["lint", "docs", "test", "setup-torch"])
    assert "WARNING: torch could not be installed, so the torch tests DID NOT RUN." in said

"""What ships: package data, one version, the GitHub Action, the Dockerfile; ``make dist`` installs the wheel."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from models import tiny_model, write_images

import quantkit

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def test_package_data_names_every_file_that_is_not_python() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["quantkit"]
    files = [
        path.relative_to(ROOT / "quantkit").as_posix()
        for path in (ROOT / "quantkit").rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    ]
    files += [f"configs/{path.name}" for path in (ROOT / "quantkit" / "configs").glob("*.yaml")]
    # An asterisk of setuptools does not cross folders.
    unnamed = [
        file
        for file in files
        if not file.startswith("configs/vacc/")  # examples for the checkout
        and not any(fnmatch.fnmatch(file, one) and file.count("/") == one.count("/") for one in patterns)
    ]
    assert unnamed == []
    assert all(any(fnmatch.fnmatch(file, one) for file in files) for one in patterns)


def test_version_is_stated_in_the_package_alone() -> None:
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "quantkit.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", quantkit.__version__)


def test_changelog_has_a_section_for_the_version_or_unreleased() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0].startswith(quantkit.__version__)


def test_action_is_valid_by_the_schema_of_github() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-actions", "action.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_action_passes_inputs_as_variables_and_never_as_code() -> None:
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
    named = set(re.findall(r"inputs\.([a-z-]+)", (ROOT / "action.yml").read_text()))
    assert named == set(ACTION["inputs"])


def run_action(folder: Path, programs: Path, inputs: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the action's last step as a runner does: variables from inputs, a file for the summary."""
    [step] = [step for step in ACTION["runs"]["steps"] if step.get("name") == "Compare"]
    given = {name: spec.get("default", "") for name, spec in ACTION["inputs"].items()} | inputs
    variables = {name: given[re.findall(r"inputs\.([a-z-]+)", text)[0]] for name, text in step["env"].items()}
    environment: dict[str, Any] = {**os.environ, **variables, "GITHUB_STEP_SUMMARY": str(folder / "summary")}
    environment["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def program(folder: Path, text: str) -> Path:
    """Write a program ``quantkit``; return the folder to put on the path."""
    folder.mkdir()
    path = folder / "quantkit"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return folder


@needs_bash
def test_action_gives_every_input_to_compare_and_keeps_its_exit_code(tmp_path: Path) -> None:
    programs = program(tmp_path / "programs", 'printf "%s\\n" "$@" > arguments; exit 20')
    inputs = {
        "reference": "a b.onnx",
        "candidate": "one.onnx\ntwo.onnx",
        "images": "$(touch hacked)",
        "preset": "imagenet",
        "fail-if": "top1_drop > 0.5\nagreement < 98",
    }
    done = run_action(tmp_path, programs, inputs)
    assert done.returncode == 20, done.stderr
    assert (tmp_path / "arguments").read_text().splitlines() == [
        *("compare", "a b.onnx", "one.onnx", "two.onnx", "--images", "$(touch hacked)", "--preset", "imagenet"),
        *("--fail-if", "top1_drop > 0.5", "--fail-if", "agreement < 98"),
        *("--junit", "quantkit-gates.xml", "--html", "quantkit-report.html", "--markdown", "quantkit-compare.md"),
    ]
    assert not (tmp_path / "hacked").exists()


@needs_bash
@pytest.mark.parametrize(("condition", "code"), [("bytes < 1", 0), ("agreement < 100", 20)])
def test_action_decides_on_real_models(condition: str, code: int, tmp_path: Path) -> None:
    programs = program(tmp_path / "programs", f'exec "{sys.executable}" -m quantkit "$@"')
    tiny_model(tmp_path / "fp32.onnx")
    tiny_model(tmp_path / "other.onnx", seed=1)
    write_images(tmp_path / "images")
    (tmp_path / "as-is.yaml").write_text("ops:\n  - op: decode\n  - op: to_tensor\n")
    inputs = {"reference": "fp32.onnx", "candidate": "other.onnx", "images": "images", "preset": "as-is.yaml"}
    done = run_action(tmp_path, programs, {**inputs, "fail-if": condition})
    assert done.returncode == code, done.stdout + done.stderr
    assert "other" in (tmp_path / "summary").read_text()
    assert (tmp_path / "quantkit-gates.xml").is_file()
    assert (tmp_path / "quantkit-report.html").is_file()


def test_dockerfile_copies_what_exists_and_runs_as_a_plain_user() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    sources = [word for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert {"pyproject.toml", "quantkit", "README.md", "LICENSE", "configs"} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)
    assert all(":" in image for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    least = tuple(map(int, PROJECT["project"]["requires-python"].removeprefix(">=").split(".")))
    pythons = re.findall(r"^FROM python:(\d+)\.(\d+)", text, re.MULTILINE)
    assert pythons
    assert all((int(major), int(minor)) >= least for major, minor in pythons)
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)
    assert text.index("\nUSER ") < text.index("\nENTRYPOINT ")

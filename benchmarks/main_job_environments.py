"""Environments of the peers of ``main_job.py``: each tool is installed into one of its own, outside the checkout."""

import json
import shlex
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

# Tools with the requirements of their environments. onnxruntime's is ours, so that the results are comparable;
# quant_pre_process needs sympy and does not require it.
REQUIREMENTS = {
    "ort": (f"onnxruntime=={version('onnxruntime')}", "onnx", "sympy", "pillow"),
    "nncf": ("nncf", "onnx", f"onnxruntime=={version('onnxruntime')}", "pillow"),
    "aimet": ("aimet-onnx", "pillow"),
    "quark": ("amd-quark", "torch", "onnx", "onnxruntime", "pillow"),
    "modelopt": ("nvidia-modelopt[onnx]", "pillow"),
}
# A build of torch for GPUs brings these, some gigabytes of them.
CUDA_PREFIX = "nvidia-cu"
SHOWN = ("onnxruntime", "onnxruntime-gpu", "nncf", "aimet-onnx", "amd-quark", "nvidia-modelopt", "torch", "onnx")


class NotInstalledError(Exception):
    """A peer's environment cannot be made; the message says why."""


@dataclass(frozen=True)
class Environment:
    """A tool's own Python.

    Attributes:
        python: its interpreter.
        versions: what the table names, ``name version``.
    """

    python: Path
    versions: tuple[str, ...]


def environment(tool: str, folder: Path, pip_options: str) -> Environment:
    """Return the environment of a tool, made where it is not there yet.

    Raises:
        NotInstalledError: pip finds no set of packages, or one with a GPU's libraries.
    """
    place = folder / tool
    python = place / "bin" / "python"
    if not (place / "complete").is_file():
        venv.create(place, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *shlex.split(pip_options)]
        report = place / "report.json"
        _run([*install, "--dry-run", "--report", str(report), *REQUIREMENTS[tool]])
        names = [one["metadata"]["name"] for one in json.loads(report.read_text())["install"]]
        if cuda := [name for name in names if name.lower().startswith(CUDA_PREFIX)]:
            raise NotInstalledError(
                f"would bring {len(cuda)} packages of CUDA ({cuda[0]}, ...); give a CPU build of torch"
            )
        _run([*install, *REQUIREMENTS[tool]])
        (place / "complete").touch()
    listed = json.loads(_run([str(python), "-m", "pip", "list", "--format", "json"]))
    found = {one["name"].lower(): one["version"] for one in listed}
    return Environment(python, tuple(f"{name} {found[name]}" for name in SHOWN if name in found))


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise NotInstalledError(f"pip: {lines[-1] if lines else f'ended with code {done.returncode}'}")
    return done.stdout


def own_versions() -> tuple[str, ...]:
    """Return the versions of the environment that the benchmark itself runs in."""
    names = ("onnxruntime", "numpy", "pillow", "numba", "openvino")
    return (f"Python {sys.version.split()[0]}", *(f"{name} {found}" for name in names if (found := _version(name))))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ImportError:  # PackageNotFoundError is one
        return None

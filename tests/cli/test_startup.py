"""What a command imports: modules that take long are loaded by the commands that need them."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from quantkit.cli.app import app
from quantkit.cli.commands import COMMAND_MODULES, command_line

# Packages that take 0.05 s or more of processor time to import.
HEAVY = {"PIL", "numba", "numpy", "onnx", "onnx_ir", "onnxruntime", "pydantic", "ruamel", "scipy", "sympy"}
_PROGRAM = """
import sys
from quantkit.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("imported:", *sorted(sys.modules))
"""


def imported(*arguments: str, folder: Path | None = None) -> set[str]:
    """Return the names of all modules that a command has imported in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("imported:")[2].split())


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_startup_of_help_imports_no_heavy_package(option: str) -> None:
    assert imported(option) & HEAVY == set()


@pytest.mark.parametrize("command", ["quantize", "calibrate", "compare", "export", "vamc", "calib-set"])
def test_startup_of_command_help_imports_no_heavy_package(command: str) -> None:
    assert imported(command, "--help") & HEAVY <= {"pydantic"}  # typer's own, for the types of options


def test_startup_of_command_imports_no_other_command() -> None:
    modules = imported("quantize", "--help")
    assert {name for name in modules if name in COMMAND_MODULES} == {"quantkit.cli.quantize"}


def test_startup_list_of_commands_is_that_of_modules() -> None:
    for module in COMMAND_MODULES:
        importlib.import_module(module)
    root: Any = typer.main.get_command(app)
    built = {name: one.help.splitlines()[0] for name, one in root.commands.items()}
    listed = {name: one.help for name, one in command_line().commands.items()}
    assert listed == built


@pytest.mark.parametrize("method", ["minmax", "percentile", "kl", "mse"])
def test_startup_of_quantize_imports_neither_compiler_nor_scipy_stats(calibrated: Path, method: str) -> None:
    imported("quantize", "--method", method, folder=calibrated)  # compiles what no earlier process has compiled
    modules = imported("quantize", "--method", method, folder=calibrated)
    assert modules & {"numba", "scipy", "matplotlib", "pandas", "torch", "pyarrow"} == set()
    assert "sympy.core" not in modules


def test_lazy_import_gives_whole_package_when_used() -> None:
    code = (
        "import sys\nfrom quantkit.cli import lazy_imports\nlazy_imports.install()\nimport onnx_ir\n"
        "assert 'sympy.core' not in sys.modules\n"
        "print((onnx_ir.SymbolicDim('n') + 1).value, (2 * onnx_ir.SymbolicDim('n')).evaluate({'n': 3}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["n", "+", "1", "6"]

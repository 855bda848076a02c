"""The package on a platform without what only Unix or Linux has: every module is imported there."""

import subprocess
import sys

# Modules and functions that Windows or macOS lack.
ABSENT_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "posix", "tty", "pty", "syslog")
ABSENT_FUNCTIONS = ("sched_getaffinity", "fork", "getuid", "geteuid", "getpgid", "killpg", "mkfifo", "statvfs", "uname")

CODE = """
import sys

before = set(sys.modules)
import importlib, os, pkgutil
# What others than quantkit need is imported first: they have their own ways around what is absent.
import filelock, numba, numpy, onnx, onnx_ir, onnxruntime, PIL.Image, pydantic, rich.console, rich.progress, rich.table
import ruamel.yaml, safetensors.numpy, scipy.special, scipy.stats, scipy.optimize, typer, typer.main

for name in {modules!r}:
    sys.modules[name] = None  # importing it raises ImportError
for name in {functions!r}:
    if hasattr(os, name):
        delattr(os, name)

import quantkit

count = 0
for found in pkgutil.walk_packages(quantkit.__path__, "quantkit."):
    if found.name.startswith("quantkit.export.") or found.name == "quantkit.__main__":
        continue  # needs torch; runs the command line
    importlib.import_module(found.name)
    count += 1

from quantkit.data.parallel import available_cpus
from quantkit.files import write_text
import pathlib, tempfile

assert available_cpus() >= 1
with tempfile.TemporaryDirectory() as folder:
    write_text(pathlib.Path(folder) / "file", "whole")
    assert (pathlib.Path(folder) / "file").read_text() == "whole"
print(count)
"""


def test_package_imports_where_unix_modules_are_absent() -> None:
    code = CODE.format(modules=ABSENT_MODULES, functions=ABSENT_FUNCTIONS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150


def test_package_runs_as_a_module() -> None:
    import quantkit

    done = subprocess.run([sys.executable, "-m", "quantkit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"quantkit {quantkit.__version__}"

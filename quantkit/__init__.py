"""Post-training int8 quantization for ONNX image classifiers, with measured accuracy loss.

The commands of the command line are functions of the same names (`evaluate` is ``quantkit eval``). They accept paths as
strings or path-like objects, and methods, targets and presets as names or values. Percentages are from 0 to 100.
Names are imported on first use, so importing the package is fast.

Example:
    In the folder written by ``quantkit demo``:

    >>> import quantkit
    >>> done = quantkit.calibrate("mini_iresnet.onnx", "calibration.csv", "digits", run="run", method="mse")
    >>> str(done.coverage)
    'int8: 28 of 28 layers, 100 % of multiply-adds'
"""

import ast
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

__version__ = "0.1.0"


# Modules of functions: ``quantkit.plots.drift(comparison)``.
_MODULES = ("plots",)
# The module of each other public name, from the stub that type checkers read.
_MODULE_OF = {
    alias.name: str(statement.module)
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text("utf-8")).body
    if isinstance(statement, ast.ImportFrom) and statement.module != __name__
    for alias in statement.names
}

__all__ = ["__version__", *_MODULES, *_MODULE_OF]


class _Package(ModuleType):
    """The package module; its functions take precedence over subpackages of the same name.

    Importing ``quantkit.report`` sets that name to the subpackage; ``quantkit.report`` is the function nevertheless.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"quantkit.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'quantkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

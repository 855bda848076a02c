"""Lazy import of packages that dependencies import but rarely use, in processes of the command line."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# onnx_ir imports sympy (0.5 s of processor time) for arithmetic with named dimensions, which no command needs. Its
# module for this arithmetic refers to sympy's functions when it is imported.
LAZY = frozenset({"sympy", "onnx_ir._symbolic_shapes", "numpy.f2py"})


class _LazyFinder:
    """Finds the modules of `LAZY`; they are executed when one of their names is first used."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of a lazy module, None for others."""
        spec = PathFinder.find_spec(name, path, target) if name in LAZY else None
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def install() -> None:
    """Import the modules of `LAZY` lazily from now on; changes the whole process."""
    if not any(isinstance(finder, _LazyFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LazyFinder())

"""Packages that others import at once and hardly use: in a process of the command line they load when they are used."""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# onnx_ir imports sympy, 0.5 s of processor time, for arithmetic with named dimensions, which no command does. Its own
# module of that arithmetic looks sympy's functions up while it is imported.
LAZY = frozenset({"sympy", "onnx_ir._symbolic_shapes"})


class _LazyFinder:
    """Finds some modules as others are found, but to be executed only at the first use of one of their names."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return where a module is, None for those that are imported as usual."""
        spec = PathFinder.find_spec(name, path, target) if name in LAZY else None
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def install() -> None:
    """Have the modules of `LAZY` imported lazily from now on; only in a process of our own."""
    if not any(isinstance(finder, _LazyFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LazyFinder())

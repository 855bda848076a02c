"""The one door: every public name is exported, documented with an example that runs, and typed."""

import ast
import doctest
import inspect
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import quantkit

NAMES = [name for name in quantkit.__all__ if name not in ("__version__", *quantkit._MODULES)]
FUNCTIONS = [name for name in NAMES if inspect.isfunction(getattr(quantkit, name))]
CLASSES = [name for name in NAMES if inspect.isclass(getattr(quantkit, name))]
# Values, and unions of types: they have no documentation of their own.
VALUES = {"ORT", "TENSORRT", "VACC", "PRESETS", "Method"}
# Commands that work with the vendor's files or the terminal alone, and have no function.
COMMANDS = {"quantize", "calibrate", "compare", "evaluate", "inspect", "tune", "sensitivity", "export", "report"}


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_public_name_is_documented_with_an_example_that_runs(
    name: str, demo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo_folder)
    documented = getattr(quantkit, name)
    assert documented.__doc__
    examples = doctest.DocTestFinder(recurse=False).find(documented, name, globs={})
    assert sum(len(one.examples) for one in examples), "the docstring has no example"
    report: list[str] = []
    for one in examples:
        result = doctest.DocTestRunner().run(one, out=report.append)
        assert result.failed == 0, "".join(report)


def test_package_docstring_example_runs(demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo_folder)
    report: list[str] = []
    [example] = doctest.DocTestFinder(recurse=False).find(quantkit, "quantkit", globs={})
    assert doctest.DocTestRunner().run(example, out=report.append).failed == 0, "".join(report)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_function_has_an_explicit_typed_signature(name: str) -> None:
    signature = inspect.signature(getattr(quantkit, name))
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL), parameter
        assert parameter.annotation not in (parameter.empty, Any), parameter


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_function_types_are_exported(name: str) -> None:
    hints = typing.get_type_hints(getattr(quantkit, name))
    exported = {getattr(quantkit, one) for one in NAMES if one not in VALUES}
    missing = {kind.__qualname__ for hint in hints.values() for kind in _own_classes(hint)} - {
        kind.__qualname__ for kind in exported
    }
    assert missing == set()


def _own_classes(hint: Any) -> Iterator[type]:
    if inspect.isclass(hint) and hint.__module__.startswith("quantkit."):
        yield hint
    for part in typing.get_args(hint):
        yield from _own_classes(part)


def test_public_names_are_all_known() -> None:
    assert set(NAMES) - set(FUNCTIONS) - set(CLASSES) == VALUES
    assert set(FUNCTIONS) >= COMMANDS


def test_public_names_exist_and_are_listed_once() -> None:
    assert len(set(quantkit.__all__)) == len(quantkit.__all__)
    assert all(hasattr(quantkit, name) for name in quantkit.__all__)
    assert set(dir(quantkit)) == set(quantkit.__all__)


@pytest.mark.parametrize("order", ["before", "after"])
def test_public_functions_are_not_hidden_by_subpackages(order: str) -> None:
    imports = "import quantkit.report.page, quantkit.sensitivity.measure, quantkit.export.result"
    first, then = ("import quantkit", imports) if order == "after" else (imports, "import quantkit")
    shown = "print([callable(getattr(quantkit, name)) for name in ('report', 'sensitivity', 'export')])"
    code = f"{first}\n{then}\nquantkit.tune\n{shown}"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[True, True, True]"


def test_public_names_are_no_modules() -> None:
    assert not [name for name in NAMES if isinstance(getattr(quantkit, name), ModuleType)]


def test_public_classes_of_the_package_have_distinct_names() -> None:
    found: dict[str, list[str]] = {}
    for path in sorted(Path(quantkit.__file__).parent.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(path.name)
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_import_of_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, quantkit; print([m for m in ('numpy', 'onnx', 'onnxruntime', 'numba', 'PIL') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_import_of_command_line_for_help_loads_no_engine() -> None:
    code = (
        "import sys; sys.argv = ['quantkit', '--help']\n"
        "from quantkit.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print([m for m in ('onnxruntime', 'numba', 'scipy', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_public_name_unknown_is_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'calibrte'"):
        quantkit.calibrte  # type: ignore[attr-defined]  # noqa: B018


def test_array_types_are_declared_in_one_place() -> None:
    root = Path(quantkit.__file__).parent
    declared = [
        f"{path.relative_to(root)}: {target.id}"
        for path in sorted(root.rglob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
        and target.id.endswith(("FloatArray", "Float32Array", "Float64Array", "IntArray"))
    ]
    assert declared == [f"types.py: {name}" for name in ("FloatArray", "Float32Array", "Float64Array", "IntArray")]

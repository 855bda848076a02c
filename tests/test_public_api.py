import subprocess
import sys

import pytest

import quantkit


def test_every_public_name_is_there_and_listed_once() -> None:
    assert len(set(quantkit.__all__)) == len(quantkit.__all__)
    assert all(hasattr(quantkit, name) for name in quantkit.__all__)
    assert set(dir(quantkit)) == set(quantkit.__all__)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, quantkit; print([m for m in ('numpy', 'onnx', 'onnxruntime', 'numba', 'PIL') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_the_command_line_shows_its_help_without_loading_the_engine() -> None:
    code = (
        "import sys; sys.argv = ['quantkit', '--help']\n"
        "from quantkit.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print([m for m in ('onnxruntime', 'numba', 'scipy', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_a_name_that_is_not_there_says_so() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'calibrte'"):
        quantkit.calibrte  # noqa: B018

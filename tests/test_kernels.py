"""Compiled functions: their results are those of Python, and their machine code is kept and loaded without numba."""

import ctypes
import math
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import llvmlite.binding as llvm
import numpy as np
import pytest

from quantkit import kernels
from quantkit.kernels import Kernel, address, inlined, kernel

FACTOR = 3.0


@inlined
def _scaled_log(x: float) -> float:
    return FACTOR * math.log(x)


@kernel("float64", "float64*", "int64")
def _total(x: np.ndarray, size: int) -> float:
    total = 0.0
    for i in range(size):
        total += _scaled_log(x[i])
    return total


def _expected(x: np.ndarray) -> float:
    total = 0.0
    for value in x:
        total += FACTOR * math.log(value)
    return total


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kernels, "_folders", lambda: (tmp_path,))
    return tmp_path


def _fresh() -> Kernel:
    return Kernel(_total.function, _total.result, _total.arguments)


def test_kernel_result_has_the_bits_of_python() -> None:
    x = np.random.default_rng(0).random(1000) + 0.5
    assert _total(x, x.size) == _expected(x)


def test_kernel_takes_the_address_of_an_array() -> None:
    x = np.arange(1.0, 9.0)
    assert _fresh().at(address(x), x.size) == _total(x, x.size)


def test_address_of_an_array_with_gaps_is_refused() -> None:
    with pytest.raises(TypeError, match="not contiguous"):
        address(np.ones((4, 4))[:, 0])


def test_kernel_takes_a_read_only_array() -> None:
    x = np.arange(1.0, 9.0)
    x.flags.writeable = False
    assert _total(x, x.size) == _expected(x)


@pytest.mark.parametrize("x", [np.ones(4, np.float32), np.ones((4, 4))[:, 0], np.ones(4, np.int64)])
def test_kernel_refuses_arrays_of_another_type_or_with_gaps(x: np.ndarray) -> None:
    with pytest.raises(ctypes.ArgumentError, match="argument 1"):
        _total(x, x.size)


def test_kernel_machine_code_is_cached_and_damage_noticed(folder: Path) -> None:
    x = np.arange(1.0, 9.0)
    _fresh()(x, x.size)
    (file,) = folder.iterdir()
    content = file.read_bytes()
    damaged = content[:-1] + bytes([content[-1] ^ 1])
    file.write_bytes(damaged)
    assert _fresh()(x, x.size) == _expected(x)
    assert file.read_bytes() != damaged
    assert kernels._read(file.name) is not None


def test_kernel_works_where_no_folder_can_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(kernels, "_folders", lambda: (tmp_path / "file",))
    assert _fresh()(np.ones(4), 4) == 0.0


def test_kernel_key_depends_on_constants_and_inlined_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    key = _total._key()
    monkeypatch.setitem(_total.function.__globals__, "FACTOR", 4.0)
    assert _total._key() != key
    monkeypatch.undo()
    assert _total._key() == key
    monkeypatch.setitem(_total.function.__globals__, "_scaled_log", inlined(lambda x: math.log(x) * FACTOR))
    assert _total._key() != key


def test_kernel_that_needs_numba_at_run_time_runs_without_cached_code(folder: Path) -> None:
    def allocates(size: int) -> float:
        return float(np.ones(size).sum())

    assert isinstance(allocates, FunctionType)
    assert Kernel(allocates, "float64", ("int64",))(3) == 3.0
    assert list(folder.iterdir()) == []


def test_kernel_runs_with_an_llvmlite_that_lacks_a_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __getattr__(self, name: str) -> object:
            if name == "create_pass_builder":
                raise AttributeError(name)
            return getattr(llvm, name)

    monkeypatch.setattr(kernels, "llvm", Other())
    assert _fresh()(np.ones(4), 4) == 0.0
    assert list(folder.iterdir()) == []


def test_kernel_of_earlier_process_needs_no_numba() -> None:
    code = (
        "import sys\nimport numpy as np\n"
        "from quantkit.evaluation.drift_kernel import Grid, image_terms\n"
        "from quantkit.stats.observer import Observer\nfrom quantkit.stats.solve import solve_all\n"
        "observer = Observer()\nobserver.observe(np.random.default_rng(0).standard_normal(1000))\n"
        "statistics = {'x': observer.statistics()}\n"
        "for method, target in (('mse', 'ort'), ('mse', 'vacc'), ('kl', 'ort'), ('kl', 'vacc'), ('kl', 'tensorrt')):\n"
        "    solve_all(statistics, method, target)\n"
        "x = np.ones((2, 3), np.float32)\nimage_terms(x, x, Grid(1.0, 0, -128, 127))\n"
        "print('numba' in sys.modules)"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert outputs[1].strip() == "False"

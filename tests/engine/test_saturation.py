"""Detection of processors whose 8-bit products saturate, against what Linux says of the processor."""

import platform
from pathlib import Path

import pytest

from quantkit.engine.saturation import products_saturate


def flags():
    path = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not path.is_file():
        pytest.skip("needs an x86 processor under Linux")
    line = next(line for line in path.read_text().splitlines() if line.startswith("flags"))
    return set(line.split())


def test_products_saturate_agrees_with_processor_flags():
    vnni = bool(flags() & {"avx512_vnni", "avx_vnni"})
    assert products_saturate() is not vnni

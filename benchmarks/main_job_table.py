"""The tables of ``main_job.py`` in Markdown."""

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def machine() -> str:
    """Return the processor, its instructions for int8, cores and memory."""
    cpu = Path("/proc/cpuinfo")
    text = cpu.read_text() if cpu.is_file() else ""
    found = re.search(r"model name\s*: (.*)", text)
    vnni = next((flag for flag in ("amx_int8", "avx512_vnni", "avx_vnni") if flag in text), "no VNNI")
    gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = found[1] if found else platform.processor()
    return f"{name}, {vnni}, {os.cpu_count()} cores, {gb:.0f} GB, {platform.system()}"


def markdown(found: dict[str, Any]) -> str:
    """Return the tables, with date, machine, versions and command."""
    lines = []
    for name, one in found["models"].items():
        fp32 = one["fp32"]
        trained = "top1" in fp32
        head = f"top-1 of fp32 {fp32['top1']:.2f}" if trained else "random weights"
        latency = [f"fp32 {fp32['onnxruntime_ms']:.1f} ms in onnxruntime"]
        latency += [f"{fp32['openvino_ms']:.1f} ms in OpenVINO"] if "openvino_ms" in fp32 else []
        lines += [f"**{name}** ({head}; {', '.join(latency)})", ""]
        columns = ["tool", "wall, s", "CPU, s", "memory, MB"]
        columns += ["agreement, %", "top-1, difference"] if trained else []
        columns += ["onnxruntime, ms", "OpenVINO, ms"]
        lines += [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        lines += [f"| {' | '.join(row(tool, figures, trained))} |" for tool, figures in one["tools"].items()]
        lines += [f"| {tool} | failed: {why} |{' |' * (len(columns) - 2)}" for tool, why in one["failed"].items()]
        lines.append("")
    lines += [f"{found['date']}; {found['machine']}; load average {found['load']}. {'; '.join(found['own'])}."]
    lines += [f"{kind}: {', '.join(versions)}." for kind, versions in found["environments"].items()]
    lines += [f"{kind} was left out: {why}." for kind, why in found["missing"].items()]
    lines += ["", f"    {found['command']}", ""]
    return "\n".join(lines)


def row(tool: str, figures: dict[str, Any], trained: bool) -> Iterator[str]:
    """Yield the cells of a tool."""
    yield tool
    for key in ("wall_s", "cpu_s"):
        ratio = f" ({figures[f'{key}_ratio']:.2f} x)" if f"{key}_ratio" in figures else ""
        yield f"{figures[key]:.1f}{ratio}"
    yield f"{figures['peak_mb']:,.0f}"
    if trained:
        yield f"{figures['agreement']:.2f} ± {figures['agreement_se']:.2f}"
        yield f"{figures['difference']:+.2f} [{figures['lo']:+.2f}, {figures['hi']:+.2f}]"
    for key in ("onnxruntime_ms", "openvino_ms"):
        yield f"{figures[key]:.1f}" if key in figures else "–"

"""Whole commands as a user waits for them, from the start of the process to its end, on the network of the demo.

    python benchmarks/startup.py [--rounds 15] [--demo FOLDER] [--cold] [--commands TEXT] [--json FILE]

Commands take turns; each one is run once before, so that compiled code and bytecode are there, unless ``--cold``. Wall
seconds and processor seconds are medians over the rounds. Ratios are of processor seconds, which other programs on the
machine disturb least, to a process that imports numpy, onnx and onnxruntime and does nothing.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BASE = "import numpy, onnx, onnxruntime"
_QUANTKIT = ("-m", "quantkit")
COMMANDS: dict[str, tuple[str, ...]] = {
    "python": ("-c", "pass"),
    BASE: ("-c", BASE),
    "quantkit --help": (*_QUANTKIT, "--help"),
    "quantkit quantize --help": (*_QUANTKIT, "quantize", "--help"),
    "quantkit inspect": (*_QUANTKIT, "inspect", "mini_iresnet.onnx"),
    **{
        f"quantkit quantize --method {method}": (*_QUANTKIT, "quantize", "--run", "run", "--method", method)
        for method in ("minmax", "percentile", "kl", "mse")
    },
    "quantkit compare (cached)": (*_QUANTKIT, "compare", "fp32", "int8", "--run", "run"),
}


def run(arguments: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """Run a process; return its wall seconds and its processor seconds."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start_s = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True, capture_output=True)
    wall_s = time.perf_counter() - start_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(commands: dict[str, tuple[str, ...]], rounds: int, demo: Path | None, cold: bool) -> dict[str, Any]:
    """Return wall seconds, processor seconds and the ratio of each command."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "demo"
        if demo is None:
            run((*_QUANTKIT, "demo", "--out", folder.name), Path(place))
        else:
            shutil.copytree(demo, folder)
        for arguments in commands.values() if not cold else ():
            run(arguments, folder)
        for _ in range(rounds):
            for name, arguments in commands.items():
                times[name].append(run(arguments, folder))
    base = [processor for _, processor in times[BASE]]
    return {
        name: {
            "wall_s": statistics.median(wall for wall, _ in found),
            "processor_s": statistics.median(processor for _, processor in found),
            "ratio": statistics.median(one / other for (_, one), other in zip(found, base, strict=True)),
        }
        for name, found in times.items()
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--demo", type=Path, help="copy this folder of quantkit demo, in place of making one")
    parser.add_argument("--cold", action="store_true", help="leave out the run before the first round")
    parser.add_argument("--commands", default="", help="measure the commands that contain this text, and the base")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    commands = {name: one for name, one in COMMANDS.items() if name == BASE or options.commands in name}
    figures = measure(commands, options.rounds, options.demo, options.cold)
    print(f"{'':36}  wall s  processor s  ratio")
    for name, one in figures.items():
        print(f"{name:36}  {one['wall_s']:6.2f}  {one['processor_s']:11.2f}  {one['ratio']:5.2f}")
    if options.json:
        options.json.write_text(json.dumps({"rounds": options.rounds, "commands": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()

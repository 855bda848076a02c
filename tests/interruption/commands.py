"""The long commands, what each needs and what it leaves; and how they are run, killed, and compared.

Commands run in children forked from a server that has imported everything: so that a kill falls into their work, and
not into a second of imports.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from models import tiny_model, write_images
from PIL import Image

_SERVER = """
import importlib, json, os, resource, signal, sys, time
from quantkit.cli import main as cli
from quantkit.cli.commands import COMMAND_MODULES
for module in (*COMMAND_MODULES, "onnxruntime", "quantkit.workflows.calibrate", "quantkit.workflows.compare",
               "quantkit.workflows.evaluate", "quantkit.workflows.tune", "quantkit.data.build_set",
               "quantkit.vendors.vacc.inputs"):
    importlib.import_module(module)
children = []
for line in sys.stdin:
    said = json.loads(line)
    start = time.monotonic()
    if "arguments" in said:
        child = os.fork()
        if child == 0:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            os.dup2(os.open(said["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            sys.argv = ["quantkit", *said["arguments"]]
            if said.get("largest_file"):
                resource.setrlimit(resource.RLIMIT_FSIZE, (said["largest_file"],) * 2)
            os.chdir(said["folder"])
            code = 70
            try:
                cli.main()
            except SystemExit as end:
                code = end.code or 0
            finally:
                os._exit(code)
        children.append(child)
    if "kill_after_s" in said:
        deadline = start + said["kill_after_s"]
        while time.monotonic() < deadline and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
    if said.get("wait", True):
        codes = [os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in children]
        children = []
        print(json.dumps({"codes": codes, "seconds": time.monotonic() - start}), flush=True)
"""


@dataclass(frozen=True)
class Command:
    """A command that takes long.

    Attributes:
        name: as the user types it.
        arguments: all of them.
        leaves: results that must be the same bits however it is interrupted; a folder stands for all files in it.
    """

    name: str
    arguments: tuple[str, ...]
    leaves: tuple[str, ...]


_IMAGES = ("--images", "images")
_PRESET = ("--preset", "pipeline.yaml")

# In the order of the main job: each uses what those before it leave. A new long command is one more entry.
COMMANDS = (
    Command("calib-set build", ("calib-set", "build", *_IMAGES, "--count", "40", "--out", "calib.csv"), ("calib.csv",)),
    Command(
        "calibrate",
        ("calibrate", "--model", "tiny.onnx", "--set", "calib.csv", *_PRESET, "--run", "run"),
        (
            *("run/statistics.safetensors", "run/int8.onnx"),
            *("run/ranges.csv", "run/run.json", "run/vamc.yaml"),
        ),
    ),
    Command(
        "quantize",
        ("quantize", "--run", "run", "--method", "mse", "--target", "vacc", "--bias-correction"),
        ("run/int8-vacc.onnx", "run/int8-vacc.ranges.csv", "run/run.json"),
    ),
    Command(
        "tune",
        ("tune", "run", "--target", "vacc", "--max-drop", "0", "--min-agreement", "100", *_IMAGES),
        ("run/int8-vacc-tuned.onnx", "run/vamc-tuned.yaml", "run/run.json"),
    ),
    Command(
        "compare",
        ("compare", "fp32", "int8", "--run", "run", *_IMAGES, "--json", "out.json", "--csv", "out.csv"),
        ("out.json", "out.csv"),
    ),
    Command("eval", ("eval", "tiny.onnx", *_IMAGES, *_PRESET, "--out", "eval.npz"), ("eval.npz",)),
    Command("sensitivity", ("sensitivity", "--run", "run"), ("run/sensitivity-ort.json",)),
    Command("vamp inputs", ("vamp", "inputs", *_IMAGES, "--out", "npz"), ("npz",)),
)


class Server:
    """Runs commands in children of one process that has imported everything."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        # Python keeps bytecode that a full disk or a limit on file sizes has cut short, and fails on it ever after.
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        environment.pop("QUANTKIT_DEBUG", None)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(
        self, folder: Path, *commands: Command, kill_after_s: float | None = None, largest_file: int | None = None
    ) -> tuple[list[int], float]:
        """Run commands at once; exit codes (-9 of one that was killed) and seconds come back.

        What a command says on stderr is in ``errors.N``. It may be kept from writing files beyond so many bytes.
        """
        for index, command in enumerate(commands):
            errors = str(folder / f"errors.{index}")
            said: dict[str, Any] = {"arguments": command.arguments, "folder": str(folder), "errors": errors}
            if largest_file is not None:
                said["largest_file"] = largest_file
            if kill_after_s is not None:
                said["kill_after_s"] = kill_after_s
            self._say({**said, "wait": index == len(commands) - 1})
        assert self._process.stdout is not None
        answer = json.loads(self._process.stdout.readline())
        return answer["codes"], answer["seconds"]

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _say(self, said: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(said) + "\n")
        self._process.stdin.flush()


def prepare(folder: Path) -> None:
    """Write a model, pictures large enough that decoding them takes a while, and a pipeline."""
    tiny_model(folder / "tiny.onnx")
    write_images(folder / "images", per_class=20)
    rng = np.random.default_rng(0)
    for path in sorted((folder / "images").rglob("*.png")):
        small = np.asarray(Image.open(path))
        large = np.kron(small, np.ones((24, 24, 1), np.uint8)) + rng.integers(0, 9, (192, 192, 3), np.uint8)
        Image.fromarray(large.astype(np.uint8)).save(path)
    (folder / "pipeline.yaml").write_text("ops:\n- op: decode\n- {op: resize, size: [8, 8]}\n- op: to_tensor\n")


def results(folder: Path, command: Command) -> dict[str, bytes]:
    """Return the results of a command that are there, by their path."""
    found: dict[str, bytes] = {}
    for name in command.leaves:
        place = folder / name
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file() and not file.name.startswith("."):
                found[str(file.relative_to(folder))] = file.read_bytes()
    return found


class Snapshot:
    """A folder as it is now, to be put back under the same path, since records hold absolute paths."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._copy = folder, folder.with_name(folder.name + ".before")
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(folder, self._copy)

    def restore(self) -> None:
        """Put it back."""
        shutil.rmtree(self._folder)
        shutil.copytree(self._copy, self._folder)

"""What the benchmarks share: where models and photographs come from, and jobs in processes of their own."""

import multiprocessing
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.data.images import IMAGE_SUFFIXES

SHARED = Path(__file__).resolve().parents[2] / "shared" / "assets"
# Models kept beside the checkout; all others are read from a folder, or exported there.
KEPT = ("squeezenet1_1", "cifar_resnet20", "mobilenetv2_cifar10")


def find_model(name: str, folder: Path) -> Path | str:
    """Return the model's file, made with random weights where torch is installed, or why there is none."""
    for path in (folder / f"{name}.onnx", SHARED / f"{name}.onnx"):
        if path.is_file():
            return path
    if name in KEPT:
        return f"needs {SHARED / name}.onnx, or {folder / name}.onnx"
    path = folder / f"{name}.onnx"
    try:
        from quantkit.export.model import export_model
    except ImportError:
        return f"needs {path}, or quantkit[torch] to make it"
    folder.mkdir(parents=True, exist_ok=True)
    export_model(name, path, random_seed=0)
    return path


def find_photographs(folder: Path, count: int) -> list[Path]:
    """Return images of a folder and the folders in it, evenly over their sorted names; none where there is none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    places = np.unique(np.linspace(0, len(found) - 1, count).astype(int)) if found else ()
    return [found[place] for place in places]


def peak_mb() -> float:
    """Return this process' peak resident memory; unlike ru_maxrss it does not begin with the parent's."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    return int(found[1]) / 1024 if found else float("nan")


def in_process(job: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a job in a process of its own.

    Raises:
        RuntimeError: the job failed, with its own words, or its process was ended.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, job, arguments))
    process.start()
    sender.close()
    try:
        done, result = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"its process ended with code {process.exitcode}") from None
    process.join()
    if not done:
        raise RuntimeError(result)
    return result


def _send(sender: Any, job: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        sender.send((True, job(*arguments)))
    except Exception as error:
        traceback.print_exc()
        sender.send((False, f"{type(error).__name__}: {error}"))

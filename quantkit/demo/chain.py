"""The demo workflow on bundled digits and a small network: calibrate, quantize by every method, compare."""

import shutil
from dataclasses import dataclass
from importlib.resources import as_file
from importlib.resources import files as package_files
from pathlib import Path

from quantkit.config.arguments import AnyPath, as_path
from quantkit.config.method import METHODS, parse_method
from quantkit.config.pipeline import PRESETS
from quantkit.config.project import PROJECT_FILE
from quantkit.data.build_set import build_calibration_set
from quantkit.demo.digits import MODEL, unpack_digits
from quantkit.evaluation.result import Comparison
from quantkit.files import make_folder, replacing, write_text
from quantkit.progress import Progress, as_progress
from quantkit.runs.folder import FP32
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.quantize import quantize

PRESET = "digits"

_PROJECT = f"""\
# Defaults of quantkit commands in this folder.
model: {MODEL}
preset: {PRESET}
set: calibration.csv
images: images/test
run: run
"""


@dataclass(frozen=True)
class Demo:
    """Result of the demo.

    Attributes:
        folder: output folder.
        run: its run folder.
        comparison: fp32 compared with one int8 model per method.

    Example:
        >>> import quantkit
        >>> demo = quantkit.run_demo("quantkit-demo")  # doctest: +SKIP
        >>> demo.comparison.candidates[0].name  # doctest: +SKIP
        'minmax'
    """

    folder: Path
    run: Path
    comparison: Comparison


def run_demo(folder: AnyPath, progress: Progress | None = None) -> Demo:
    """Unpack the digits and their network, calibrate once, quantize by every method, compare.

    Args:
        folder: output folder; created if missing.
        progress: receives the progress, and a message for each step.

    Raises:
        OutputError: the folder cannot be written, or contains other files with the names that the demo uses.

    Example:
        >>> import quantkit
        >>> demo = quantkit.run_demo("quantkit-demo")  # doctest: +SKIP
    """
    progress, folder = as_progress(progress), as_path(folder, "folder")
    make_folder(folder)
    progress.message("unpacking 897 handwritten digits and a miniature iResNet")
    images = unpack_digits(folder / "images")
    model = folder / MODEL
    with as_file(package_files("quantkit.demo") / MODEL) as shipped, replacing(model) as temporary:
        shutil.copyfile(shipped, temporary)
    write_text(folder / PROJECT_FILE, _PROJECT)
    progress.message("building a class-balanced calibration set of 200 images")
    build_calibration_set(images / "calibration", count=200, progress=progress).save(folder / "calibration.csv")
    progress.message("calibrating: one pass over them, for every method")
    run = folder / "run"
    calibrate(model, folder / "calibration.csv", PRESETS[PRESET], run=run, progress=progress)
    for name in METHODS:
        progress.message(f"quantizing by {name}, from the statistics of that pass, and correcting biases")
        quantize(run, method=parse_method(name), out=run / f"{name}.onnx")
    progress.message("comparing all of them with fp32 on 697 other images")
    comparison = compare([FP32, *METHODS], run=run, images=images / "test", drift_images=0, progress=progress)
    return Demo(folder, run, comparison)

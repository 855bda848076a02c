"""The public doors that inputs of each kind come through: the library's function, and a command line.

Each door of the library returns in a few words what was read.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from bad_input.corpus_arrays import _npz
from bad_input.corpus_models import model
from PIL import Image

from quantkit.config.pipeline import Decode
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.classes import read_class_names
from quantkit.data.folder import find_labelled_images
from quantkit.data.images import decode_image
from quantkit.data.preprocess import check_pipeline
from quantkit.data.sources.open import open_source
from quantkit.engine.classifier import read_classifier
from quantkit.errors import LabelError
from quantkit.evaluation.predictions_file import load_predictions
from quantkit.ptq import run_correction
from quantkit.runs.cache import CacheKey, ResultCache
from quantkit.runs.folder import RunFolder
from quantkit.runs.score_cache import ScoreCache
from quantkit.stats.file import load_statistics
from quantkit.vendors.vacc.check import check_file
from quantkit.vendors.vacc.convert import convert
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.evaluate import is_relay_text, read_rates, read_relay_text
from quantkit.vendors.vacc.results import DeviceOutput, pair_outputs, read_scores
from quantkit.vendors.vacc.vdsp import load_vdsp, recognise
from quantkit.workflows.project import choose_pipeline, load_project

Door = Callable[[Path], str]
CACHE_KEY = CacheKey("bias", 1, {})


def prepare(folder: Path) -> None:
    """Write the sound files that a command needs beside the bad one."""
    onnx.save(model(), folder / "good.onnx")
    rng = np.random.default_rng(0)
    for name in ("a/0.png", "b/0.png", "b/1.png"):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    (folder / "flat").mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"flat/{name}.png")
    (folder / "pipeline.yaml").write_text("ops:\n- op: decode\n- {op: resize, size: [8, 8]}\n- op: to_tensor\n")
    (folder / "names.txt").write_text("a\nb\nc\nd\n")
    (folder / "card").mkdir()
    for number in range(2):
        (folder / f"card/output_{number:06d}.npz").write_bytes(_npz(output_0=np.eye(4, dtype=np.float32)[number]))
    (folder / "one.list").write_text("x/a/0.npz\n")
    (folder / "build.yaml").write_text("name: good\nfrontend:\n  type: onnx\n  checkpoint: good.onnx\n")


def _image(path: Path) -> str:
    decoded = decode_image(path, Decode())
    height, width, _ = decoded.pixels.shape
    return ", ".join([f"{width} x {height}", *decoded.notes])


def _source(path: Path) -> str:
    return f"{len([item.read() for item in open_source(path).items])} images"


def _model(path: Path) -> str:
    signature = read_classifier(path).signature
    return f"{signature.image.channels} channels, {signature.scores.classes} classes"


def _project(path: Path) -> str:
    return str(load_project(path.parent))


def _pipeline(path: Path) -> str:
    pipeline = choose_pipeline(str(path), load_project(path.parent))
    assert pipeline is not None
    check_pipeline(pipeline, 3, None, None)
    return str(pipeline)


def _build_file(path: Path) -> str:
    return convert(Document.load(path), "compile").text


def _labels(path: Path) -> str:
    found = find_labelled_images(path.parent.parent / "flat", path)
    assert found.labels is not None
    if found.labels.max() >= 4:  # what the step says of this model
        raise LabelError(f"the labels go up to {found.labels.max()}")
    return ", ".join(f"{name[0]} {label}" for name, label in zip(found.names, found.labels, strict=True))


def _evaluation(path: Path) -> str:
    names = path.parent.parent / "names.txt"
    return str(read_relay_text(path, names) if is_relay_text(path) else read_rates(path))


DOORS: dict[str, Door] = {
    "image": _image,
    "model": _model,
    "project": _project,
    "pipeline": _pipeline,
    "build file": _build_file,
    "vdsp_params": lambda path: str(recognise(load_vdsp(path))),
    "labels": _labels,
    "run record": lambda path: str(RunFolder(path.parent).read()),
    "evaluation text": _evaluation,
    "datalist": lambda path: str(pair_outputs(path.parent.parent / "card", path)),
    "calibration set": lambda path: str(len(CalibrationSet.load(path))),
    "card result": lambda path: str(read_scores(DeviceOutput(path, "a/0"), 4)),
    "statistics": lambda path: str(len(load_statistics(path).tensors)),
    "predictions": lambda path: str(len(load_predictions(path)[0])),
    "tar": _source,
    "zip": _source,
    "parquet": _source,
}


def command_line(kind: str, path: Path) -> list[str]:
    """Return a command that meets the input; it runs in the folder of `prepare`, a project's in its own."""
    file, images = str(path), ["--images", "images"]
    labelled = path.name.startswith(("class_", "null_label", "half_labelled"))
    built = ["calib-set", "build", "--images", file, "--count", "1", "--out", "drawn.csv"]
    tensors = ["--model", "good.onnx", "--preset", "pipeline.yaml", "--out", "tensors"]
    lines = {
        "image": ["eval", "good.onnx", "--images", str(path.parent.parent), "--preset", "pipeline.yaml"],
        "model": ["calibrate", "--model", file, *images, "--count", "2", "--preset", "pipeline.yaml"],
        "project": ["calibrate"],
        "pipeline": ["eval", "good.onnx", *images, "--preset", file],
        "build file": ["vamc", "convert", file, "--to", "compile"],
        "vdsp_params": ["vamc", "check", "build.yaml", "--vdsp", file],
        "labels": ["eval", "good.onnx", "--images", "flat", "--labels", file, "--preset", "pipeline.yaml"],
        "run record": ["quantize", "--run", str(path.parent)],
        "evaluation text": ["vamp", "eval", "--text", file, "--labels", "names.txt"],
        "datalist": ["vamp", "eval", "--results", "card", "--datalist", file, "--labels", "names.txt"],
        "calibration set": ["calib-set", "check", file],
        "card result": [
            "vamp",
            "eval",
            "--results",
            str(path.parent),
            "--datalist",
            "one.list",
            "--labels",
            "names.txt",
        ],
        "statistics": ["stats", "show", file],
        "predictions": ["eval", "--merge", file, file, "--out", "merged.npz"],
        **{form: built if labelled else ["vamc", "tensors", file, *tensors] for form in ("tar", "zip", "parquet")},
    }
    return lines[kind]


def input_folder(kind: str, place: Path) -> Path:
    """Return where an input belongs: a picture into a class folder."""
    return place / "input" / "a" if kind == "image" else place / "input"


def _cached_scores(path: Path) -> str:
    cache, key = ResultCache(path.parent), CacheKey("scores", 1, {"model": "0" * 64})
    with ScoreCache(cache, key, [b"0" * 16]) as empty:
        file = empty.path
    file.write_bytes(path.read_bytes())
    with ScoreCache(cache, key, [b"0" * 16]) as scores:
        return str(scores.known)


def _cache_entry(path: Path) -> str:
    cache = ResultCache(path.parent)
    file = cache.path(CACHE_KEY)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(path.read_bytes())
    return str(run_correction._load(cache, CACHE_KEY))


def _check_build_file(path: Path) -> str:
    """Check, and convert to the other dialect."""
    check_file(path)
    convert(Document.load(path), "build")
    return _build_file(path)


# More that parses what it did not write, beyond what has a list of bad inputs.
FUZZED: dict[str, Door] = {
    **DOORS,
    "build file": _check_build_file,
    "cache entry": _cache_entry,
    "class names": lambda path: str(read_class_names(path)),
    "cached scores": _cached_scores,
}

"""Image sources against a folder: the same statistics, and the speed of reading and preprocessing.

    python benchmarks/sources.py [--images DIR] [--model ONNX] [--preset NAME] [--count 1000] [--rounds 3] [--json F]

The images of a folder are written as tar, zip, WebDataset shards, parquet and ready arrays. For each form: one pass of
`calibrate`, of which the SHA-256 of the tensors' statistics and of the whole file are compared with the folder's (the
file names the digests of the images, so that of arrays differs); and the time to read and preprocess every image once,
in order and in random order, on all processors. The forms take turns, twenty images each; a ratio is the median of the
rounds' ratios to the folder, above 1 where the form is faster.
"""

import argparse
import hashlib
import io
import json
import statistics
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from quantkit.config.pipeline import PRESETS, Pipeline
from quantkit.data.folder import find_labelled_images
from quantkit.data.given_set import whole_source
from quantkit.data.item import ImageItem
from quantkit.data.parallel import map_in_order
from quantkit.data.preprocess import preprocess
from quantkit.data.source import ImageSource
from quantkit.stats.file import Statistics
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.quantize_task import QuantizeOptions

SHARED = Path(__file__).resolve().parents[2] / "shared" / "assets"
SHARDS, ROWS = 4, 100
# Images of one form that are read before it is the next one's turn.
IN_TURN = 20


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write_tar(folder: Path, found: ImageSource) -> Path:
    """Write one tar of the images."""
    with tarfile.open(folder / "images.tar", "w") as archive:
        for item in found.items:
            add(archive, item.id, bytes(item.read()))
    return folder / "images.tar"


def write_zip(folder: Path, found: ImageSource) -> Path:
    """Write one deflated zip of the images."""
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for item in found.items:
            archive.writestr(item.id, bytes(item.read()))
    return folder / "images.zip"


def write_webdataset(folder: Path, found: ImageSource) -> str:
    """Write WebDataset shards of images and class indices."""
    assert found.labels is not None
    for shard in range(SHARDS):
        with tarfile.open(folder / f"data-{shard:06d}.tar", "w") as archive:
            for item, label in list(zip(found.items, found.labels, strict=True))[shard::SHARDS]:
                add(archive, item.id, bytes(item.read()))
                add(archive, f"{item.id.partition('.')[0]}.cls", str(label).encode())
    return str(folder / f"data-{{000000..{SHARDS - 1:06d}}}.tar")


def write_parquet(folder: Path, found: ImageSource) -> Path:
    """Write parquet in the layout of Hugging Face's ImageNet, row groups of 100 images."""
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = [{"bytes": bytes(item.read()), "path": item.id} for item in found.items]
    table = pyarrow.table({"image": pyarrow.array(rows, kind), "label": pyarrow.array(found.labels)})
    pyarrow.parquet.write_table(table, folder / "images.parquet", row_group_size=ROWS)
    return folder / "images.parquet"


FORMS: dict[str, Callable[[Path, ImageSource], Any]] = {
    "folder": lambda _, found: found,
    "tar": write_tar,
    "zip": write_zip,
    "webdataset": write_webdataset,
    "parquet": write_parquet,
}


def digest_of(found: Statistics) -> str:
    """Return a SHA-256 of the histograms, and of the extremes of the images in whatever order."""
    digest = hashlib.sha256()
    for name, tensor in found.tensors.items():
        digest.update(f"{name} {tensor.count} {tensor.zeros} {tensor.lo!r} {tensor.hi!r}\n".encode())
        digest.update(tensor.bins.tobytes() + tensor.counts.tobytes())
    digest.update(b"".join(sorted(row.tobytes() for row in found.extremes)))
    return digest.hexdigest()


def seconds_to_preprocess(items: Sequence[ImageItem], pipeline: Pipeline) -> float:
    """Return how long all processors take to read and preprocess images."""
    start_s = time.perf_counter()
    deque(map_in_order(partial(preprocess, pipeline=pipeline), items), maxlen=0)
    return time.perf_counter() - start_s


def main() -> int:
    """Write every form, compare the statistics, and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=SHARED / "squeezenet1_1.onnx")
    parser.add_argument("--images", type=Path, default=SHARED / "imagenet_samples")
    parser.add_argument("--preset", choices=PRESETS, default="imagenet")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.model.is_file() or not options.images.is_dir():
        print("needs a classifier (--model) and photographs (--images)", file=sys.stderr)
        return 1
    found = find_labelled_images(options.images)
    found = found.only(range(0, len(found), max(1, len(found) // options.count))[: options.count])
    with tempfile.TemporaryDirectory(prefix="quantkit-sources-") as scratch:
        folder = Path(scratch)
        sources = {form: find_labelled_images(write(folder, found)) for form, write in FORMS.items()}
        pipeline = PRESETS[options.preset]
        arrays = np.stack([preprocess(item, pipeline) for item in found.items])
        sources["arrays"] = find_labelled_images((arrays, found.labels))
        digests = statistics_of(options.model, sources, pipeline, folder)
        ratios = measure(sources, pipeline, options.rounds)
    result = {form: {**digests[form], **ratios[form]} for form in sources}
    for form, figures in result.items():
        print(
            f"{form:10} tensors {figures['tensors'][:12]}   file {figures['file'][:12]}   "
            f"in order {figures['in order']:.2f} x folder   random order {figures['random order']:.2f} x folder"
        )
    same = len({figures["tensors"] for figures in result.values()}) == 1
    print(f"{len(found)} images: statistics of all forms are {'the same' if same else 'NOT the same'}")
    if options.json:
        options.json.write_text(json.dumps({"images": len(found), "forms": result}, indent=2) + "\n")
    return 0 if same else 1


def statistics_of(
    model: Path, sources: dict[str, ImageSource], pipeline: Pipeline, folder: Path
) -> dict[str, dict[str, str]]:
    """Return the digests of the statistics of each form."""
    digests = {}
    for form, source in sources.items():
        plain = QuantizeOptions(bias_correction=False)
        done = calibrate(model, whole_source(source), pipeline, run=folder / f"run-{form}", options=plain)
        file = (done.run / "statistics.safetensors").read_bytes()
        digests[form] = {"tensors": digest_of(done.statistics), "file": hashlib.sha256(file).hexdigest()}
    return digests


def measure(sources: dict[str, ImageSource], pipeline: Pipeline, rounds: int) -> dict[str, dict[str, float]]:
    """Return the speed of each form as a ratio to the folder's, the median of the rounds."""
    count = len(sources["folder"])
    orders = {"in order": list(range(count)), "random order": np.random.default_rng(0).permutation(count).tolist()}
    ratios: dict[str, dict[str, float]] = {form: {} for form in sources}
    for order, positions in orders.items():
        found = [seconds_in_turn(sources, positions, pipeline) for _ in range(rounds)]
        for form in sources:
            ratios[form][order] = statistics.median(seconds["folder"] / seconds[form] for seconds in found)
    return ratios


def seconds_in_turn(sources: dict[str, ImageSource], positions: Sequence[int], pipeline: Pipeline) -> dict[str, float]:
    """Return how long each form takes; a few images of each in turn, so that all meet the same machine."""
    seconds = dict.fromkeys(sources, 0.0)
    for start in range(0, len(positions), IN_TURN):
        for form, source in sources.items():
            items = [source.items[position] for position in positions[start : start + IN_TURN]]
            seconds[form] += seconds_to_preprocess(items, pipeline)
    return seconds


if __name__ == "__main__":
    sys.exit(main())

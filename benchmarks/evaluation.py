"""``quantkit eval`` against the loop one would write: pillow, onnxruntime, one image after the other, one process.

    python benchmarks/evaluation.py [--images DIR] [--count 200] [--rounds 3] [--json FILE]

The loop gives onnxruntime all processors within one run, as it takes them by default; `eval` runs one image a thread.
Both do the same work on the same images from the same files, in turn, round by round; the ratio is the median of the
rounds' ratios. Where their top-1 differs in more than one image of a hundred, it stops. ``decode`` and ``infer`` say
where the loop's time goes.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from inputs import SHARED
from PIL import Image

from quantkit.config.pipeline import IMAGENET_MEAN, IMAGENET_STD, PRESETS
from quantkit.data.folder import find_labelled_images
from quantkit.data.parallel import available_cpus
from quantkit.data.source import ImageSource
from quantkit.workflows.evaluate import evaluate


def load(path: Path) -> np.ndarray:
    """Prepare an image as torchvision does, in plain pillow and numpy."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = 256 / min(image.size)
    width, height = (256 if side == min(image.size) else int(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    x = (pixels - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def plain_loop(model: Path, images: ImageSource) -> tuple[list[int], float, float]:
    """Return the predicted classes, and the seconds spent on decoding and on inference."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    predicted, decode_s, infer_s = [], 0.0, 0.0
    for path in (item.path for item in images.items):
        start_s = time.perf_counter()
        x = load(path)
        between_s = time.perf_counter()
        predicted.append(int(session.run(None, {name: x})[0].argmax()))
        decode_s += between_s - start_s
        infer_s += time.perf_counter() - between_s
    return predicted, decode_s, infer_s


def quantkit_eval(model: Path, images: ImageSource) -> list[int]:
    """Return the predicted classes of an evaluation that finds nothing kept."""
    with tempfile.TemporaryDirectory() as cache:
        done = evaluate(model, images=images, pipeline=PRESETS["imagenet"], cache=Path(cache))
    return [int(one) for one in done.predictions.top1]


def main() -> int:
    """Run the rounds and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=SHARED / "squeezenet1_1.onnx")
    parser.add_argument("--images", type=Path, default=SHARED / "imagenet_samples")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.model.is_file() or not options.images.is_dir():
        print("skipped: needs a classifier of 224 x 224 images (--model) and photographs (--images)")
        return 0
    found = find_labelled_images(options.images)
    found = found.only(range(0, len(found.names), max(1, len(found.names) // options.count))[: options.count])
    rounds = []
    for turn in range(options.rounds + 1):
        start_s = time.perf_counter()
        expected, decode_s, infer_s = plain_loop(options.model, found)
        between_s = time.perf_counter()
        predicted = quantkit_eval(options.model, found)
        end_s = time.perf_counter()
        agreeing = sum(one == other for one, other in zip(expected, predicted, strict=True))
        if agreeing < 0.99 * len(expected):
            print(f"the two agree on {agreeing} of {len(expected)} images only", file=sys.stderr)
            return 1
        rates = [len(expected) / (between_s - start_s), len(expected) / (end_s - between_s)]
        note = "" if turn else "  (not counted: files and code are read for the first time)"
        print(
            f"loop {rates[0]:6.1f} images/s (decode {1000 * decode_s / len(expected):.1f} ms, infer "
            f"{1000 * infer_s / len(expected):.1f} ms)   eval {rates[1]:6.1f} images/s   ratio "
            f"{rates[1] / rates[0]:.2f}   same top-1 on {agreeing} of {len(expected)}{note}"
        )
        if turn:
            rounds.append({"loop": rates[0], "eval": rates[1], "ratio": rates[1] / rates[0]})
    ratio = statistics.median(one["ratio"] for one in rounds)
    print(f"median ratio {ratio:.2f} on {available_cpus()} processors")
    if options.json:
        options.json.write_text(json.dumps({"rounds": rounds, "ratio": ratio}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

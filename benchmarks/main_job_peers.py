"""The whole job as the users of another quantizer write it; ``main_job.py`` runs this file in that tool's environment.

    python main_job_peers.py TOOL JOB.json INT8.onnx

It calibrates on some images and evaluates fp32 and int8 on others, each image decoded once, with Pillow and default
sessions of onnxruntime, and prints the accuracies with the interval of their difference as JSON. Each tool has the
settings that its documentation recommends for onnxruntime on a CPU, as far as it has any.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image

Job = dict[str, Any]


def load(path: str, how: Job) -> np.ndarray:
    """Return an image as float32 ``[1, 3, H, W]``, resized and cropped as torchvision does it."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    size, crop = how["resize"], how["crop"]
    if isinstance(size, int):
        shorter = min(image.size)
        size = [size if side == shorter else int(side * size / shorter) for side in image.size[::-1]]
    image = image.resize((size[1], size[0]), Image.Resampling[how["interpolation"].upper()])
    if crop is not None:
        left, top = round((image.width - crop) / 2), round((image.height - crop) / 2)
        image = image.crop((left, top, left + crop, top + crop))
    pixels = np.asarray(image, np.float32) / np.float32(how["divisor"])
    x = (pixels - np.float32(how["mean"])) / np.float32(how["std"])
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def images_of(job: Job) -> Iterator[np.ndarray]:
    """Yield the calibration images, each read when it is asked for."""
    return (load(path, job["preprocessing"]) for path, _ in job["calibrate"])


def by_onnxruntime(job: Job, method: str, out: Path) -> None:
    """QDQ, uint8 activations, int8 weights per channel, after onnxruntime's own pre-processing."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = images_of(job)

        def get_next(self) -> Any:
            image = next(self.images, None)
            return None if image is None else {job["input"]: image}

    before = out.with_suffix(".pre.onnx")
    quant_pre_process(job["model"], str(before))
    quantize_static(
        str(before),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
    )


def by_nncf(job: Job, out: Path) -> None:
    """The mixed preset (affine activations), with the fast bias correction that is NNCF's default."""
    import nncf
    import onnx

    dataset = nncf.Dataset(job["calibrate"], lambda pair: {job["input"]: load(pair[0], job["preprocessing"])})
    count, preset = len(job["calibrate"]), nncf.QuantizationPreset.MIXED
    onnx.save(nncf.quantize(onnx.load(job["model"]), dataset, subset_size=count, preset=preset), out)


TOOLS: dict[str, Callable[[Job, Path], None]] = {
    "ort-minmax": lambda job, out: by_onnxruntime(job, "MinMax", out),
    "ort-percentile": lambda job, out: by_onnxruntime(job, "Percentile", out),
    "ort-entropy": lambda job, out: by_onnxruntime(job, "Entropy", out),
    "nncf": by_nncf,
}


def evaluate(job: Job, int8: Path) -> dict[str, float]:
    """Return the accuracies in percent, and the 95 % interval of their paired difference, by its normal form."""
    sessions = [ort.InferenceSession(model, providers=["CPUExecutionProvider"]) for model in (job["model"], str(int8))]
    answers = []
    for path, _ in job["evaluate"]:
        feed = {job["input"]: load(path, job["preprocessing"])}
        answers.append([int(session.run(None, feed)[0].argmax()) for session in sessions])
    fp32, quantized = np.asarray(answers).T
    labels = np.asarray([label for _, label in job["evaluate"]])
    difference = (quantized == labels).astype(float) - (fp32 == labels)
    half = 1.96 * difference.std() / len(labels) ** 0.5
    return {
        "fp32_top1": 100 * float((fp32 == labels).mean()),
        "top1": 100 * float((quantized == labels).mean()),
        "lo": 100 * float(difference.mean() - half),
        "hi": 100 * float(difference.mean() + half),
    }


def main() -> None:
    """Do the job that the command line names."""
    tool, job, out = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    TOOLS[tool](job, out)
    print(json.dumps(evaluate(job, out)))


if __name__ == "__main__":
    main()

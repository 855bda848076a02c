"""The whole job as the users of another quantizer write it; ``main_job.py`` runs this file in that tool's environment.

    python main_job_peers.py TOOL JOB.json MODEL.onnx INT8.onnx [--no-spinning]

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
from onnxruntime_static import write_static
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


def images_of(job: Job, count: int | None = None) -> Iterator[np.ndarray]:
    """Yield the calibration images, or the first of them, each read when it is asked for."""
    return (load(path, job["preprocessing"]) for path, _ in job["calibrate"][:count])


def by_onnxruntime(job: Job, method: str, out: Path) -> None:
    """QDQ, uint8 activations, int8 weights per channel, after onnxruntime's own pre-processing.

    Its histograms keep every activation of every image, so these methods get fewer images.
    """
    images = images_of(job, None if method == "MinMax" else job["histogram_images"])
    write_static(Path(job["model"]), job["input"], images, out, method)


def by_nncf(job: Job, out: Path) -> None:
    """The mixed preset (affine activations), with the fast bias correction that is NNCF's default."""
    import nncf
    import onnx

    dataset = nncf.Dataset(job["calibrate"], lambda pair: {job["input"]: load(pair[0], job["preprocessing"])})
    count, preset = len(job["calibrate"]), nncf.QuantizationPreset.MIXED
    onnx.save(nncf.quantize(onnx.load(job["model"]), dataset, subset_size=count, preset=preset), out)


def by_aimet(job: Job, out: Path) -> None:
    """Batch norms folded, AIMET's own search for ranges (tf_enhanced), uint8 activations, int8 weights per channel."""
    import onnx
    from aimet_onnx import QuantizationSimModel
    from aimet_onnx.batch_norm_fold import fold_all_batch_norms_to_weight

    model = onnx.load(job["model"])
    fold_all_batch_norms_to_weight(model)
    sim = QuantizationSimModel(model, quant_scheme="tf_enhanced", config_file="default")
    sim.compute_encodings({job["input"]: image} for image in images_of(job))
    onnx.save(sim.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True), out)


def by_quark(job: Job, out: Path) -> None:
    """Its A8W8 settings and its default calibration (percentile), with uint8 activations and weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader
    from quark.onnx import Int8Spec, ModelQuantizer, QConfig, QLayerConfig, UInt8Spec
    from quark.onnx.quantization.config.spec import QuantGranularity

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = images_of(job)

        def get_next(self) -> Any:
            image = next(self.images, None)
            return None if image is None else {job["input"]: image}

    weights = Int8Spec(quant_granularity=QuantGranularity.Channel)
    extra = {"ForceQuantizeNoInputCheck": True, "AlignSlice": False, "FoldRelu": True, "AlignConcat": True}
    config = QConfig(QLayerConfig(activation=UInt8Spec(), weight=weights), extra_options=extra)
    ModelQuantizer(config).quantize_model(job["model"], str(out), Reader())


def by_modelopt(job: Job, out: Path) -> None:
    """Symmetric int8, as TensorRT has it, by the maximum; all images at once, since it takes one array."""
    from modelopt.onnx.quantization import quantize

    quantize(
        job["model"],
        quantize_mode="int8",
        calibration_data={job["input"]: np.concatenate(list(images_of(job)))},
        calibration_method="max",
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out),
    )


TOOLS: dict[str, Callable[[Job, Path], None]] = {
    "ort-minmax": lambda job, out: by_onnxruntime(job, "MinMax", out),
    "ort-percentile": lambda job, out: by_onnxruntime(job, "Percentile", out),
    "ort-entropy": lambda job, out: by_onnxruntime(job, "Entropy", out),
    "nncf": by_nncf,
    "aimet": by_aimet,
    "quark": by_quark,
    "modelopt": by_modelopt,
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


def stop_spinning() -> None:
    """Let no thread of onnxruntime wait in a loop: on a busy machine that takes time that is no work."""

    class Session(ort.InferenceSession):
        def __init__(self, path_or_bytes: Any, sess_options: Any = None, *others: Any, **named: Any) -> None:
            sess_options = sess_options or ort.SessionOptions()
            sess_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            super().__init__(path_or_bytes, sess_options, *others, **named)

    ort.InferenceSession = Session


def main() -> None:
    """Do the job that the command line names."""
    if "--no-spinning" in sys.argv:
        stop_spinning()
    tool, job, out = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[4])
    job["model"] = sys.argv[3]
    TOOLS[tool](job, out)
    print(json.dumps(evaluate(job, out)))


if __name__ == "__main__":
    main()

"""A sound file of every kind, to be damaged: bytes that a door reads without complaint."""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bad_input.bad_item import BadInput
from bad_input.corpus_archives import file, parquet, tar, zipped
from bad_input.corpus_models import model
from bad_input.corpus_texts import GOOD_MANIFEST, LINES, RELAY
from PIL import Image
from safetensors.numpy import save

from quantkit.evaluation.predictions import Predictions
from quantkit.evaluation.predictions_file import Origin, save_predictions
from quantkit.runs.cache import CacheKey
from quantkit.stats.file import Provenance, Statistics, save_statistics
from quantkit.stats.observer import Observer

PROJECT: dict[str, Any] = {
    "version": 1,
    "model": "good.onnx",
    "ops": [{"op": "decode"}, {"op": "to_tensor"}],
    "set": "calib.csv",
    "method": "percentile",
    "fraction": 0.999,
    "target": "ort",
    "skip": ["conv:0", "re:.*"],
}
PIPELINE: dict[str, Any] = {
    "ops": [
        {"op": "decode", "mode": "RGB", "exif": False},
        {"op": "resize", "size": 8, "interpolation": "bilinear", "antialias": True},
        {"op": "center_crop", "size": [8, 8]},
        {"op": "to_tensor", "divisor": 255.0},
        {"op": "normalize", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
    ]
}
COMPILE: dict[str, Any] = {
    "name": "small",
    "frontend": {"checkpoint": "small.onnx", "type": "onnx", "dtype": "fp32", "shape": {"in": [1, 3, 8, 8]}},
    "backend": {
        "type": "tvm_vacc",
        "dtype": "int8",
        "quantize": {"calibrate_mode": "percentile", "quantize_per_channel": True, "skip_conv_layers": [0]},
    },
    "graph": {"extra_ops": {"type": "softmax"}},
    "dataset": {
        "type": "tvm",
        "path": "photos",
        "sampler": {"suffix": "JPEG", "get_data_num": 10},
        "process_ops": [
            {"type": "DecodeImage"},
            {"type": "Resize", "size": [8, 8]},
            {"type": "CenterCrop", "crop_size": [8, 8]},
            {"type": "Normalize", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
            {"type": "ToTensor"},
        ],
    },
    "workspace": {"path": "out"},
}
BUILD: dict[str, Any] = {
    "model": {"name": "small", "inputs": {"input": [1, 3, 8, 8]}, "checkpoint": "small.onnx"},
    "engine": {
        "type": "vacc",
        "common": {"do_quantization": True},
        "add_extra_ops_to_graph": {"type": None},
        "calibration": {"quant_mode": "percentile", "per_channel": True},
    },
    "dataset": {
        "path": "photos",
        "sampler": {"suffix": "JPEG", "get_data_num": 10},
        "transform_ops": [{"type": "DecodeImage"}, {"type": "Resize", "size": [8, 8]}, {"type": "ToTensor"}],
    },
    "workspace": {"work_dir": "out", "save_log": True},
}
VDSP: dict[str, Any] = {
    "OpType": "FUSION_OP_RGB_RESIZE_CVTCOLOR_CROP_NORM_TENSOR",
    "OpConfig": {
        "IimageFormat": "RGB_PLANAR",
        "IimageWidth": 8,
        "IimageHeight": 8,
        "OimageWidth": 8,
        "OimageHeight": 8,
        "CropX": 0,
        "CropY": 0,
        "ResizeWidth": 8,
        "ResizeHeight": 8,
        "Mean": [14275, 14275, 14275],
        "Std": [13107, 13107, 13107],
        "NormaType": "DIV255_MINUSMEAN_DIVSTD",
        "ColorCvtCode": "NO_CHANGE",
    },
}
RECORD: dict[str, Any] = {
    "version": 1,
    "quantkit": "0.1.0",
    "model": {
        "path": "/m.onnx",
        "sha256": "0",
        "input": "image",
        "shape": [None, 3, 8, 8],
        "output": "logits",
        "classes": 4,
    },
    "set": {"path": "/set.csv", "digest": "0", "images": 4, "images_used": 4},
    "pipeline": PIPELINE,
    "quantized": {"int8": {"file": "int8.onnx", "sha256": "0", "target": "ort", "method": "kl", "options": {"a": 1}}},
}


def _written(write: Any, suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file{suffix}"
        write(path)
        return path.read_bytes()


def statistics() -> bytes:
    """Return a statistics file of two tensors."""
    tensors = {}
    for name, step in (("x", 1.0), ("y", -3.0)):
        observer = Observer()
        observer.observe(np.linspace(-1, step, 20, dtype=np.float32))
        tensors[name] = observer.statistics()
    provenance = Provenance(model_sha256="0", pipeline_sha256="0", quantkit="0", onnxruntime="0")
    extremes = np.array([[[-1.0, 1.0], [-3.0, -1.0]], [[-0.5, 0.5], [-2.0, -1.0]]], np.float32)
    made = Statistics(tensors, extremes, provenance, ("0", "1"))
    return _written(lambda path: save_statistics(made, path), ".safetensors")


def predictions() -> bytes:
    """Return the predictions of one of two shards."""
    said = Predictions.from_scores(np.eye(4, dtype=np.float32), list("abcd"), np.arange(4))
    origin = Origin("0", "0", "0", "logits", "0", "0", ((1, 2),))
    return _written(lambda path: save_predictions(path, said, origin), ".npz")


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, output_0=np.eye(4, dtype=np.float32)[:1])
    return buffer.getvalue()


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def _text(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


SOUND = tuple(
    BadInput(kind, name, content, "")
    for kind, name, content in (
        ("image", "sound.png", _png()),
        ("model", "sound.onnx", model().SerializeToString()),
        ("project", "quantkit.yaml", _text(PROJECT)),
        ("pipeline", "sound.yaml", _text(PIPELINE)),
        ("build file", "build.yaml", _text(BUILD)),
        ("build file", "compile.yaml", _text(COMPILE)),
        ("vdsp_params", "sound.json", _text(VDSP)),
        ("labels", "sound.txt", LINES.encode()),
        ("run record", "run.json", _text(RECORD)),
        ("evaluation text", "sound.txt", RELAY.encode()),
        ("evaluation text", "old.txt", b"[VACC]:  top1_rate: 71.5 top5_rate: 90.25\n"),
        ("datalist", "sound.list", b"x/a/0.npz\nx/a/1.npz\n"),
        ("calibration set", "sound.csv", GOOD_MANIFEST.encode()),
        ("card result", "sound.npz", _npz()),
        ("statistics", "sound.safetensors", statistics()),
        ("predictions", "sound.npz", predictions()),
        (
            "cache entry",
            "entry.safetensors",
            save(
                {"c": np.zeros(4, np.float32)},
                {
                    "quantkit-cache": json.dumps(
                        {"digest": CacheKey("bias", 1, {}).digest, "values": {"before_db": 1.0, "after_db": 2.0}}
                    )
                },
            ),
        ),
        ("class names", "names.txt", b"cat\ndog\nemu\n"),
        ("tar", "sound.tar", tar(file("b/c.png", b"x"), file("good.cls", b"1"), file("b/c.cls", b"0"))),
        ("zip", "sound.zip", zipped(("b/c.png", b"x"))),
        ("parquet", "sound.parquet", parquet()),
        ("cached scores", "any.scores", b"{}".ljust(1024) + b"\0" * 72),
    )
)

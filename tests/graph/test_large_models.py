"""Weights in a file beside the model: read and quantized in little more memory than the int8 form needs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graph_runs import session

from quantkit.graph.model import model_files, read_model

BIG = "QUANTKIT_TEST_BIG"

# Runs in a process of its own, whose peak is that of this work alone.
WORK = """
import re, sys
from pathlib import Path
from quantkit.graph.model import read_model, save_model
from quantkit.graph.qdq.plan import plan
from quantkit.graph.prepare import prepare
from quantkit.graph.qdq.write import write_qdq
from quantkit.numerics import Range
from quantkit.targets import ORT

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

before = peak_mb()
model = read_model(Path(sys.argv[1]))
prepared = prepare(model).model
made = plan(prepared, ORT)
int8 = write_qdq(prepared, made, dict.fromkeys(made.observed, Range(-1.0, 4.0)))
save_model(int8, Path(sys.argv[2]))
print(peak_mb() - before, len(made.layers))
"""


def wide_model(folder, width, layers):
    """Fully connected layers behind a convolution, their weights as external data."""
    rng = np.random.default_rng(0)
    block = (rng.normal(size=(64, width)) / width**0.5).astype(np.float32).tobytes()
    with (folder / "wide.data").open("wb") as file:
        for _ in range(layers * (width // 64)):
            file.write(block)
    image = ir.val("image", ir.DataType.FLOAT, ("N", 3, 32, 32))
    stem = ir.tensor(rng.normal(size=(width // 64, 3, 4, 4)).astype(np.float32), name="stem.weight")
    weights = [ir.Value(name="stem.weight", const_value=stem)]
    nodes = [ir.node("Conv", [image, weights[0]], {"strides": [4, 4]}, name="stem")]
    nodes.append(ir.node("Flatten", [nodes[-1].outputs[0]], name="flatten"))
    size, shape = 4 * width * width, ir.Shape((width, width))
    for layer in range(layers):
        place: dict[str, Any] = {"name": f"fc{layer}.weight", "base_dir": str(folder)}
        tensor = ir.ExternalTensor("wide.data", layer * size, size, ir.DataType.FLOAT, shape=shape, **place)
        weight = ir.Value(name=tensor.name, const_value=tensor, shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
        weights.append(weight)
        nodes.append(ir.node("Gemm", [nodes[-1].outputs[0], weight], {"transB": 1}, name=f"fc{layer}"))
        nodes.append(ir.node("Relu", [nodes[-1].outputs[0]], name=f"relu{layer}"))
    for node in nodes:
        node.outputs[0].name = f"{node.name}.out"
    logits = nodes[-1].outputs[0]
    logits.type, logits.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(("N", width))
    graph = ir.Graph([image], [logits], nodes=nodes, initializers=weights, opset_imports={"": 17}, name="wide")
    ir.save(ir.Model(graph, ir_version=8), folder / "wide.onnx")
    return folder / "wide.onnx"


def extra_memory_mb(path, out):
    done = subprocess.run([sys.executable, "-c", WORK, path, out], capture_output=True, text=True, check=True)
    extra, layers = done.stdout.split()
    return float(extra), int(layers)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc to measure memory")
def test_large_model_memory_stays_below_size_of_fp32_weights(tmp_path):
    """The int8 model is held three times while it is written: a little less than the fp32 weights once."""
    path = wide_model(tmp_path, 2048, 12)
    fp32_mb = (tmp_path / "wide.data").stat().st_size / 2**20
    extra, layers = extra_memory_mb(path, tmp_path / "int8.onnx")
    assert layers == 13
    assert extra < fp32_mb + 40


def test_large_model_external_weights_become_integers_in_one_file(tmp_path):
    path = wide_model(tmp_path, 256, 2)
    extra_memory_mb(path, tmp_path / "int8.onnx")
    int8 = read_model(tmp_path / "int8.onnx", allow_quantized=True)
    assert model_files(tmp_path / "int8.onnx") == [tmp_path / "int8.onnx"]
    scores = session(int8).run(None, {"image": np.zeros((2, 3, 32, 32), np.float32)})[0]
    assert scores.shape == (2, 256)


@pytest.mark.skipif(not os.environ.get(BIG), reason=f"set {BIG} to quantize a model of 2.5 GB")
def test_large_model_of_2_5_gb_is_quantized_within_4_gb(tmp_path):
    path = wide_model(tmp_path, 10240, 6)
    assert (tmp_path / "wide.data").stat().st_size > 2.5e9
    extra, layers = extra_memory_mb(path, tmp_path / "int8.onnx")
    assert layers == 7
    assert extra < 4000

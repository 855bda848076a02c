"""Every benchmark runs from start to end on a tiny model, and says what it lacks instead of failing."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from quantkit.data.build_set import build_calibration_set

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
SIDE = 224
TEXT = """
<ir_version: 8, opset_import: ["": 17]>
tiny (float[N, 3, 224, 224] input) => (float[N, 4] logits) {
    a = Conv <strides = [32, 32]> (input, w1, b1)
    r = Relu(a)
    g = GlobalAveragePool(r)
    f = Flatten(g)
    logits = Gemm <transB = 1> (f, w2, b2)
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``tiny.onnx``, sixteen labelled photographs, and a calibration set of four of them."""
    folder = tmp_path_factory.mktemp("benchmarks")
    model = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in {"w1": (8, 3, 32, 32), "b1": (8,), "w2": (4, 8), "b2": (4,)}.items():
        values = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, folder / "tiny.onnx")
    for label in range(4):
        (folder / "images" / str(label)).mkdir(parents=True)
        for index in range(4):
            pixels = rng.integers(0, 180, (32, 32, 3), np.uint8)
            pixels[..., label % 3] += 70
            image = Image.fromarray(pixels).resize((SIDE, SIDE))
            image.save(folder / "images" / str(label) / f"{index}.png")
    return folder


def run(script: str, *arguments: object, folder: Path) -> tuple[str, Any]:
    """Run a benchmark as a user does; return its output and its figures."""
    figures = folder / f"{script}.json"
    command = [sys.executable, str(FOLDER / script), *map(str, arguments), "--json", str(figures)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(figures.read_text()) if figures.exists() else {}


def test_benchmark_calibration_measures_pass_memory_and_peers(folder: Path) -> None:
    arguments = ["--models", "tiny", "--model-dir", folder, "--images", folder / "images", "--count", 4, "--rounds", 1]
    _, figures = run("calibration.py", *arguments, "--peer-count", 2, "--memory-counts", "2,4", folder=folder)
    tiny = figures["models"]["tiny"]
    assert tiny["images"] == 4
    assert tiny["ratio_to_inference"] > 0
    assert tiny["auto_cpu_seconds"] > 0
    assert set(tiny["peers"]) == {"ort_minmax", "ort_percentile", "ort_entropy"}
    assert tiny["sketch"]["percentile_worst_relative_error"] < 2**-8


def test_benchmark_startup_measures_whole_commands(folder: Path, demo_folder: Path) -> None:
    arguments = ["--rounds", 1, "--cold", "--demo", demo_folder, "--commands", "mi"]
    output, figures = run("startup.py", *arguments, folder=folder)
    commands = figures["commands"]
    assert list(commands) == ["import numpy, onnx, onnxruntime", "quantkit quantize --method minmax"]
    assert all(one["processor_s"] > 0 for one in commands.values())
    assert all(name in output for name in commands)


def test_benchmark_int8_graph_compares_with_quantize_static(folder: Path) -> None:
    arguments = ["--models", "tiny", "--model-dir", folder, "--images", folder / "images", "--count", 4, "--rounds", 2]
    _, figures = run("int8_graph.py", *arguments, folder=folder)
    tiny = figures["models"]["tiny"]
    assert tiny["sqnr_db"] > 20
    assert tiny["float_ops_left"] == 0
    assert tiny["latency_ratio_to_fp32"] > 0


def test_benchmark_evaluation_agrees_with_plain_loop(folder: Path) -> None:
    arguments = ["--model", folder / "tiny.onnx", "--images", folder / "images", "--count", 16, "--rounds", 1]
    out, figures = run("evaluation.py", *arguments, folder=folder)
    assert "same top-1 on 16 of 16" in out
    assert figures["ratio"] > 0


def test_benchmark_accuracy_measures_default_tuned_and_peers(folder: Path) -> None:
    build_calibration_set(folder / "images", count=8).save(folder / "set.csv")
    arguments = ["--model", folder / "tiny.onnx", "--set", folder / "set.csv", "--images", folder / "images"]
    out, figures = run(
        "accuracy.py", *arguments, "--preset", "imagenet", "--targets", "ort", "--min-agreement", 1, folder=folder
    )
    tiny = figures["models"]["tiny"]
    assert 0 <= tiny["ort"]["default"]["agreement"] <= 100
    assert {"onnxruntime minmax", "onnxruntime entropy", "onnxruntime percentile"} <= set(tiny["peers"])
    assert "nncf" in out


def test_benchmark_main_job_measures_whole_job_and_names_failing_tool(folder: Path, tmp_path: Path) -> None:
    environment = tmp_path / "ort"  # stands for a peer's environment whose tool does not work
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").write_text(
        '#!/bin/sh\ncase "$*" in *pip*) echo "[]";; *) echo "no quantizer here" >&2; exit 3;; esac\n'
    )
    (environment / "bin" / "python").chmod(0o755)
    (environment / "complete").touch()
    arguments = ["--model", folder / "tiny.onnx", "--images", folder / "images", "--peers", "ort-minmax", "--rounds", 2]
    sizes = ["--calibrate", 4, "--evaluate", 8, "--held-out", 10, "--cold"]
    kept = ["--environments", tmp_path, "--keep-environments"]
    table = folder / "main_job.md"
    out, figures = run("main_job.py", *arguments, *sizes, *kept, "--markdown", table, folder=folder)
    tiny = figures["models"]["tiny"]
    assert tiny["failed"] == {"ort-minmax": "no quantizer here"}
    assert "| ort-minmax | failed: no quantizer here |" in out
    assert set(tiny["tools"]) == {"quantkit"}
    ours = tiny["tools"]["quantkit"]
    assert len(ours["rounds"]) == 2
    assert ours["cpu_s"] > 0
    assert ours["wall_s_ratio"] == 1
    assert ours["peak_mb"] > 50
    assert 0 <= ours["agreement"] <= 100
    assert ours["lo"] <= ours["difference"] <= ours["hi"]
    assert ours["onnxruntime_ms"] > 0
    assert "| quantkit |" in table.read_text()
    assert "--peers ort-minmax" in out


def test_benchmark_peers_loop_reads_images_as_quantkit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    from main_job_cases import Preprocessing  # type: ignore[import-not-found]
    from main_job_peers import load  # type: ignore[import-not-found]

    from quantkit.config.pipeline import PRESETS
    from quantkit.data.preprocess import preprocess

    rng = np.random.default_rng(0)
    for number, size in enumerate([(300, 411), (640, 257), (256, 256)]):
        path = folder / f"photograph{number}.png"
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
        ours = preprocess(path, PRESETS["imagenet"])
        np.testing.assert_array_equal(load(str(path), asdict(Preprocessing()))[0], ours)


def test_benchmark_accuracy_compares_methods_with_auto(folder: Path) -> None:
    build_calibration_set(folder / "images", count=8).save(folder / "set.csv")
    arguments = ["--model", folder / "tiny.onnx", "--set", folder / "set.csv", "--images", folder / "images"]
    out, figures = run("accuracy.py", *arguments, "--preset", "imagenet", "--methods", "--peers", "none", folder=folder)
    methods = figures["models"]["tiny"]["methods of ort"]
    assert list(methods) == ["auto: percentile", "minmax", "percentile", "kl", "mse"]
    assert methods["auto: percentile"]["agreement"] == methods["percentile"]["agreement"]
    assert "auto: percentile" in out


def test_benchmark_accuracy_takes_the_answers_of_fp32_for_labels(folder: Path) -> None:
    build_calibration_set(folder / "images", count=8).save(folder / "set.csv")
    arguments = ["--model", folder / "tiny.onnx", "--set", folder / "set.csv", "--images", folder / "images"]
    arguments += ["--preset", "imagenet", "--methods", "--unlabelled", "--targets", "vacc", "--peers", "none"]
    _, figures = run("accuracy.py", *arguments, folder=folder)
    methods = figures["models"]["tiny"]["methods of vacc"]
    assert all(one["fp32_top1"] == 100.0 and one["top1"] == one["agreement"] for one in methods.values())


def test_benchmark_gpu_measures_both_models_on_device_and_cpu(folder: Path) -> None:
    arguments = ["--model", folder / "tiny.onnx", "--photos", folder / "images", "--images", 8]
    out, figures = run("gpu.py", *arguments, "--device", "cpu", "--batches", "1,4", folder=folder)
    assert [(row["model"], row["batch"]) for row in figures] == [(m, b) for m in ("fp32", "int8") for b in (1, 1, 4)]
    assert all(row["differ"] == 0 and row["eval"] > 0 for row in figures)
    assert all(("pass" in row) == (row["model"] == "fp32") for row in figures)
    assert "answers differ" in out


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("calibration.py", ["--images", "absent"]),
        ("int8_graph.py", ["--images", "absent", "--models", "squeezenet1_1", "--model-dir", "absent"]),
        ("evaluation.py", ["--model", "absent.onnx"]),
        ("main_job.py", ["--models", "iresnet50", "--model-dir", "absent", "--peers", "none"]),
    ],
)
def test_benchmark_without_input_says_what_it_needs(script: str, arguments: list[str], tmp_path: Path) -> None:
    out, figures = run(script, *arguments, folder=tmp_path)
    assert "skipped" in out
    assert not figures.get("models")


def test_benchmark_cluster_has_bits_of_threads(folder: Path) -> None:
    pytest.importorskip("ray", reason="needs quantkit[ray]")
    common = ("--model", "tiny.onnx", "--images", "images", "--set", 16)
    shown, figures = run("cluster.py", *common, "--parts", "nodes", folder=folder)
    assert figures["nodes"]["same"]
    assert "2 nodes" in shown

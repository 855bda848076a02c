"""Device options of commands: each command that runs models has them, and says where they ran."""

import json
from pathlib import Path

import pytest

from quantkit.stats.file import load_statistics, save_statistics


@pytest.mark.parametrize("name", ["calibrate", "eval", "compare", "sensitivity", "tune", "report"])
def test_device_options_are_in_every_command_that_runs_models(name: str, command) -> None:
    shown, _ = command(name, "--help")
    for option in ("--device", "--batch", "--provider-option"):
        assert option in shown


@pytest.mark.parametrize("name", ["eval", "compare", "sensitivity", "tune", "report"])
def test_device_missing_is_one_line(name: str, calibrated: Path, command) -> None:
    models = {"eval": ["fp32"], "compare": ["fp32", "int8"]}.get(name, [])
    _, err = command(name, *models, "--device", "tensorrt", code=14)
    assert "no TensorrtExecutionProvider" in err
    assert "pip install onnxruntime-gpu" in err


def test_eval_json_names_device_and_provider(calibrated: Path, command) -> None:
    command("eval", "fp32", "--json", "eval.json", "--batch", "4")
    found = json.loads((calibrated / "eval.json").read_text())
    assert found["ran_on"]["provider"] == "CPUExecutionProvider"
    assert (found["ran_on"]["device"], found["origin"]["device"]) == ("cpu", "cpu")
    assert found["output"] == "logits"


def test_compare_json_names_the_device_of_each_model(calibrated: Path, command) -> None:
    command("compare", "fp32", "int8", "--json", "compare.json", "--drift-images", "0")
    models = json.loads((calibrated / "compare.json").read_text())["models"]
    assert [one["ran_on"]["device"] for one in models] == ["cpu", "cpu"]


def test_stats_merge_refuses_another_device(calibrated: Path, command) -> None:
    path = next(calibrated.glob("runs/*/statistics.safetensors"))
    statistics = load_statistics(path)
    elsewhere = statistics.provenance.__class__(**{**vars(statistics.provenance), "device": "cuda (use_tf32=0)"})
    save_statistics(
        statistics.__class__(**{**vars(statistics), "provenance": elsewhere}), calibrated / "gpu.safetensors"
    )
    _, err = command("stats", "merge", str(path), "gpu.safetensors", "--out", "merged.safetensors", code=9)
    assert "observed on cuda (use_tf32=0), not on cpu" in err
    assert not (calibrated / "merged.safetensors").exists()
    shown, _ = command("stats", "show", "gpu.safetensors")
    assert "on cuda (use_tf32=0)" in shown

"""``quantkit plan``: the arithmetic of estimates, and what is measured."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from models import tiny_model, write_images

import quantkit
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.engine.cluster.costs import DRIVER_IMAGE_S, JOB_S, START_S
from quantkit.engine.device import CPU, Device
from quantkit.errors import ConfigError, UsageError
from quantkit.report.tables import duration
from quantkit.workflows.plan import _estimate, _on_nodes, _on_workers, _Rates

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))
# An image takes 0.1 s on each of two threads, which use 100 MB each beside 500.
RATES = _Rates(32, 0.02, (0.08,), 0.05, 2, 500.0, 700.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model, another one, and 16 images."""
    tiny_model(tmp_path / "model.onnx")
    tiny_model(tmp_path / "other.onnx", seed=1)
    write_images(tmp_path / "images")
    return tmp_path


def test_estimate_of_nodes_divides_the_work_among_their_threads() -> None:
    made = _estimate("eval", _on_nodes(4, 8, CPU), RATES, 32_000, 2, CPU)
    # 32 threads: 0.1 s and a sixteenth of a job's cost for each image, and half a job of 16 images at the end.
    assert (made.where, made.processes, made.threads) == ("4 nodes", 8, 32)
    seconds = START_S + 32_000 * (0.1 + JOB_S / 16) / 32 + (1.6 + JOB_S) / 2
    assert made.seconds == pytest.approx(seconds, rel=1e-12)
    assert made.process_mb == 900.0  # four threads


def test_estimate_ends_where_the_driver_is_busy() -> None:
    made = _estimate("eval", _on_nodes(1000, 64, CPU), RATES, 50_000, 2, CPU)
    assert made.images_per_s == pytest.approx(1.0 / DRIVER_IMAGE_S, rel=1e-12)


def test_estimate_of_workers_on_this_machine_uses_no_more_than_its_processors() -> None:
    two, eight = (_estimate("eval", _on_workers(count, 2), RATES, 1000, 2, CPU) for count in (2, 8))
    assert two.images_per_s == pytest.approx(eight.images_per_s, rel=0.01)
    assert two.images_per_s < 20.0


def test_estimate_of_nodes_with_a_device_multiplies_its_rate() -> None:
    made = _estimate("eval", _on_nodes(4, 8, Device("cuda")), RATES, 32_000, 2, Device("cuda"))
    assert made.processes == 4
    assert made.images_per_s == pytest.approx(4 / (0.05 + JOB_S / 16 / 2), rel=1e-12)


@pytest.mark.parametrize("job", ["eval", "calibrate"])
def test_plan_measures_model_and_images(folder: Path, job: Literal["eval", "calibrate"]) -> None:
    made = quantkit.plan_job(
        job,
        [folder / "model.onnx"],
        images=folder / "images",
        pipeline=PIPELINE,
        count=5000,
        nodes=[1, 8],
        workers=[2],
    )
    assert [one.where for one in made.estimates] == ["here", "local:2", "1 node", "8 nodes"]
    assert made.images == 5000
    assert made.decode_s > 0.0
    assert made.run_s["model"] > 0.0
    here = made.estimates[0]
    assert here.seconds == pytest.approx(5000 / here.images_per_s, rel=1e-12)
    assert made.rows()[0]["hours"] == pytest.approx(here.seconds / 3600, rel=1e-12)


def test_plan_of_a_comparison_names_every_model(folder: Path) -> None:
    models = [folder / "model.onnx", folder / "other.onnx"]
    made = quantkit.plan_job("compare", models, images=folder / "images", pipeline=PIPELINE)
    assert list(made.run_s) == ["model", "other"]
    assert made.images == 16


def test_plan_of_ready_arrays_needs_no_preprocessing(folder: Path) -> None:
    arrays = np.zeros((5, 3, 8, 8), np.float32)
    assert quantkit.plan_job("eval", [folder / "model.onnx"], images=arrays).images == 5


def test_plan_without_preprocessing_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="no preprocessing was given"):
        quantkit.plan_job("eval", [folder / "model.onnx"], images=folder / "images")


def test_plan_of_a_pipeline_that_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="224"):
        quantkit.plan_job("eval", [folder / "model.onnx"], images=folder / "images", pipeline="imagenet")


@pytest.mark.parametrize(
    ("job", "names", "options", "message"),
    [
        ("tune", ["model"], {}, "there is no plan for 'tune'"),
        ("eval", ["model", "other"], {}, "eval takes one model, and 2 were given"),
        ("eval", [], {}, "takes a list of models"),
        ("compare", ["model", "model"], {}, "two models have one name"),
        ("eval", ["model"], {"nodes": [0]}, "invalid number 0"),
    ],
)
def test_plan_refuses_what_it_cannot_plan(
    folder: Path, job: str, names: list[str], options: dict[str, list[int]], message: str
) -> None:
    models = [folder / f"{name}.onnx" for name in names]
    with pytest.raises(UsageError, match=message):
        quantkit.plan_job(job, models, images=folder / "images", pipeline=PIPELINE, **options)  # type: ignore[arg-type]


def test_plan_command_prints_a_table_and_writes_json(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantkit.cli.main import main

    (folder / "preset.yaml").write_text("ops:\n- op: decode\n- op: to_tensor\n")
    monkeypatch.chdir(folder)
    arguments = ["plan", "eval", "model.onnx", "--images", "images", "--preset", "preset.yaml", "--count", "50000"]
    monkeypatch.setattr("sys.argv", ["quantkit", *arguments, "--nodes", "1,64", "--json", "plan.json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "eval, 50,000 images" in shown
    assert "64 nodes" in shown
    written = json.loads((folder / "plan.json").read_text())
    assert [one["where"] for one in written["estimates"]] == ["here", "1 node", "64 nodes"]


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (99, "99 s"), (720, "12 min"), (12_240, "3.4 h")])
def test_plan_duration_has_one_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text

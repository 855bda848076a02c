"""Advice on the compiler's options: every combination once, the best by the rule told, and a file that says it."""

import itertools
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import uneven_model, write_images
from typer.testing import CliRunner

from quantkit.cli.vamc import vamc
from quantkit.config.method import Percentile
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.errors import UsageError
from quantkit.vendors.vacc.convert import read_spec
from quantkit.vendors.vacc.document import Document
from quantkit.vendors.vacc.write import VamcOptions
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.vacc import search_options as module
from quantkit.workflows.vacc.build_file import CompilerOptions
from quantkit.workflows.vacc.compiler_simulator import CompilerSimulator
from quantkit.workflows.vacc.search_options import Advice, Candidate, advise, sensitivities_of, worth_skipping

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("advised")
    images = write_images(folder / "images", per_class=12)
    build_calibration_set(images, count=12).save(folder / "set.csv")
    model = uneven_model(folder / "tiny.onnx")
    calibrate(model, folder / "set.csv", PIPELINE, run=folder / "run", method=Percentile(fraction=0.9999))
    return folder / "run"


@pytest.fixture(scope="module")
def advice(run: Path) -> Advice:
    return advise(run, skips=0)


def options_of(candidate: dict[str, Any]) -> tuple[object, ...]:
    return candidate["calibrate_mode"], candidate["quantize_per_channel"], candidate["weight_scale"]


def test_advise_table_has_every_combination_once(advice: Advice) -> None:
    rows = [options_of(one) for one in advice.to_json()["candidates"]]
    modes = ("percentile", "kl_divergence", "max", "mse")
    assert sorted(rows, key=str) == sorted(itertools.product(modes, (True, False), ("max", "power2")), key=str)
    assert all(one.skip_convs == () for one in advice.candidates)


def test_advise_best_agrees_most_and_file_has_its_options(advice: Advice, run: Path) -> None:
    told = advice.to_json()
    assert told["best"] in told["candidates"]
    assert told["best"]["chosen_on"]["agreement"] == max(one["chosen_on"]["agreement"] for one in told["candidates"])
    assert told["best"]["quantize_per_channel"] is True
    assert min(one["chosen_on"]["agreement"] for one in told["candidates"]) < 99.0
    assert advice.path == run / "vamc-advised.yaml"
    calibration = read_spec(Document.load(advice.path)).backend.quantize
    assert calibration is not None
    assert (calibration.calibrate_mode, calibration.quantize_per_channel, calibration.weight_scale) == options_of(
        told["best"]
    )
    assert calibration.skip_conv_layers is None
    if calibration.calibrate_mode == "percentile":
        assert calibration.calibrate_range == 0.9999


def test_advise_figures_equal_comparison_of_either_half(advice: Advice, run: Path, tmp_path: Path) -> None:
    path = CompilerSimulator.of_run(run).write(advice.best.choices, tmp_path / "best.onnx")
    whole = compare(["fp32", path], run=run, drift_images=0)
    best = advice.best
    assert advice.images == (18, 18)
    for key in ("changed", "agreement"):
        halves = [getattr(one.versus, key) for one in (best.chosen_on, best.evaluated_on)]
        expected = sum(halves) if key == "changed" else sum(halves) / 2
        assert getattr(whole.candidates[0].versus, key) == pytest.approx(expected)
    assert best.chosen_on.top1 is not None
    assert best.evaluated_on.top1 is not None
    assert whole.candidates[0].top1 == pytest.approx((best.chosen_on.top1 + best.evaluated_on.top1) / 2)


def test_advise_command_writes_same_file(advice: Advice) -> None:

    text = advice.path.read_text()
    advice.path.unlink()
    program, *words = shlex.split(advice.command)
    assert program == "quantkit"
    assert words[:2] == ["vamc", "write"]
    result = CliRunner().invoke(vamc, words[1:])
    assert result.exit_code == 0, result.output
    assert advice.path.read_text() == text


def test_advise_skipped_conv_must_earn_its_place(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "AGREES_ENOUGH", 100.1)
    advice = advise(run, skips=2, out=tmp_path / "out.yaml", options=VamcOptions(dialect="build"))
    skipping = [one for one in advice.candidates if one.skip_convs]
    assert [len(one.skip_convs) for one in skipping] in ([1], [1, 2])
    assert advice.sensitivities[0].gain_db == max(one.gain_db for one in advice.sensitivities)
    assert skipping[0].skip_convs == (advice.sensitivities[0].conv,)
    assert advice.best.skip_convs == ()  # what is as good without is taken without
    assert json.loads(json.dumps(advice.to_json()))["sensitivities"][0]["conv"] == advice.sensitivities[0].conv


def test_worth_skipping_longer_list_must_agree_beyond_chance(advice: Advice) -> None:
    def agreeing(count: int) -> Candidate:
        return replace(advice.best, agrees=np.arange(100) < count)

    plain, one, two, three = agreeing(80), agreeing(86), agreeing(93), agreeing(95)
    assert worth_skipping(plain, [one, two, three]) is two  # 2 of 100 more are within chance
    assert worth_skipping(plain, [agreeing(82), agreeing(70)]) is plain
    assert worth_skipping(plain, []) is plain


def test_advise_sensitivity_finds_uneven_convolution(run: Path) -> None:
    found = sensitivities_of(CompilerSimulator.of_run(run), CompilerOptions(per_channel=False), threads=1)
    assert [one.conv for one in found] == [1, 0]
    assert found[0].gain_db > 3.0
    assert np.isfinite(found[1].gain_db)


def test_advise_one_image_is_refused(run: Path) -> None:
    with pytest.raises(UsageError, match="needs at least two images"):
        advise(run, limit=1)

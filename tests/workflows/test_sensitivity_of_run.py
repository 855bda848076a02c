"""Sensitivity within a run: against models written whole, interrupted and repeated, and where images are missing."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from models import tiny_model, write_images
from progress_log import ProgressLog

from quantkit.config.method import Percentile
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.config.project import Project
from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationSet
from quantkit.data.item import ImageItem
from quantkit.data.preprocess import preprocess
from quantkit.engine.prefix_sharing import PrefixSharedRuns
from quantkit.errors import CalibrationSetError, LabelError, UsageError
from quantkit.targets import ORT, VACC
from quantkit.workflows import sensitivity as step
from quantkit.workflows.compare import compare
from quantkit.workflows.project import run_of_subject
from quantkit.workflows.quantize import quantize
from quantkit.workflows.quantize_task import QuantizeOptions
from quantkit.workflows.sensitivity import sensitivity

PIPELINE = Pipeline(ops=(Decode(), ToTensor()))
PLAIN = QuantizeOptions(bias_correction=False)


@pytest.fixture
def run(tiny_run: Path) -> Path:
    return tiny_run


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows with every variant that is run."""
    seen: list[int] = []
    scores = PrefixSharedRuns.scores

    def counted(self, variant, **options):
        seen.append(len(variant.graph))
        return scores(self, variant, **options)

    monkeypatch.setattr(PrefixSharedRuns, "scores", counted)
    return seen


def scores_of_file(path: Path, images: Sequence[ImageItem]) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": preprocess(image, PIPELINE)[None]})[0] for image in images])


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    ratios = np.square(reference).sum(axis=1) / np.square(reference - other).sum(axis=1)
    return float(10 * np.log10(ratios).mean())


@pytest.mark.parametrize("target", [ORT, VACC], ids=lambda target: target.name)
def test_sensitivity_figures_equal_models_with_layers_skipped(run: Path, target) -> None:
    found = sensitivity(run, target=target, options=PLAIN, count=16)
    images = list(CalibrationSet.load(run.parent / "set.csv").items)
    reference = scores_of_file(run.parent / "tiny.onnx", images)
    names = [layer.node for layer in found.layers]

    def written(*skipped: str) -> float:
        options = QuantizeOptions(bias_correction=False, skip=skipped)
        path = quantize(run, target=target, options=options, out=run / "one.onnx").path
        return sqnr_db(reference, scores_of_file(path, images))

    assert found.images == 16
    assert found.whole.sqnr_db == pytest.approx(written())
    assert len(names) == 3
    for layer in found.layers:
        assert layer.isolated.sqnr_db == pytest.approx(written(*(n for n in names if n != layer.node)), abs=0.3)
        assert layer.leave_one_out.sqnr_db == pytest.approx(written(layer.skip), abs=0.3)


def test_sensitivity_most_costly_layer_comes_first(run: Path) -> None:
    shares = [layer.isolated.share for layer in sensitivity(run).layers]
    assert shares == sorted(shares, reverse=True)
    saved = [layer.leave_one_out.share for layer in sensitivity(run, by="leave-one-out").layers]
    assert saved == sorted(saved, reverse=True)


def test_sensitivity_repeated_runs_nothing(run: Path, measured: list[int]) -> None:
    first = sensitivity(run)
    assert len(measured) == 6
    again = sensitivity(run, threads=1)
    assert len(measured) == 6
    assert again == first


@pytest.mark.parametrize(
    "changed",
    [{"target": VACC}, {"method": Percentile(fraction=0.99)}, {"count": 8}, {"options": PLAIN}, {"by": "accuracy"}],
    ids=lambda changed: next(iter(changed)),
)
def test_sensitivity_other_options_are_measured_anew(run: Path, measured: list[int], changed) -> None:
    sensitivity(run)
    sensitivity(run, **changed)
    assert len(measured) == 12


def test_sensitivity_interrupted_measures_remaining_layers_only(run: Path, measured: list[int]) -> None:
    def stop(name: str, done: int, total: int) -> None:
        assert total == 3
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sensitivity(run, progress=ProgressLog(stop))
    assert len(measured) == 4
    resumed = sensitivity(run)
    assert len(measured) == 6
    for entry in (run / "cache/layer-costs").iterdir():
        entry.unlink()
    assert sensitivity(run) == resumed
    assert len(measured) == 12


@pytest.mark.parametrize("damage", [b"", b"[]", "halved"])
def test_sensitivity_damaged_cache_entry_is_measured_again(run: Path, measured: list[int], damage) -> None:
    first = sensitivity(run)
    (kept,) = (run / "cache/layer-costs").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2] if damage == "halved" else damage)
    assert sensitivity(run) == first
    assert len(measured) == 12
    assert kept.read_bytes() == whole


def test_sensitivity_images_in_several_lots_give_same_figures(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, log = sensitivity(run), ProgressLog()
    monkeypatch.setattr(step, "_LOT", 5)
    assert sensitivity(run, progress=log) == first
    assert log.tasks == [("measuring layers", "layers")]
    assert log.counts == [(done, 12) for done in range(1, 13)]


def test_sensitivity_accuracy_equals_compare(run: Path) -> None:
    options = partial(QuantizeOptions, bias_correction=False)
    found = sensitivity(run, by="accuracy", options=options(), images=run.parent / "images")
    assert found.images == 32
    agreements = [layer.isolated.accuracy.agreement for layer in found.layers if layer.isolated.accuracy is not None]
    assert agreements == sorted(agreements)
    assert len(agreements) == 3
    layer = found.layers[0]
    quantize(run, options=options(skip=(layer.node,)), out=run / "other.onnx")
    quantize(run, options=options())
    result = compare(["fp32", "int8", "other"], run=run, images=run.parent / "images")
    assert found.top1 == result.reference.top1
    for figures, model in zip((found.whole, layer.leave_one_out), result.candidates, strict=True):
        assert figures.accuracy is not None
        assert model.versus is not None
        assert model.versus.top1 is not None
        assert figures.accuracy.top1 == model.top1
        assert figures.accuracy.delta_top1 == pytest.approx(model.versus.top1.value)
        assert figures.accuracy.delta_top1_ci95 == model.versus.top1.ci95
        assert figures.accuracy.agreement == model.versus.agreement
        assert figures.kl == pytest.approx(model.versus.kl, rel=0.05)


def test_sensitivity_includes_bias_correction_of_run(run: Path) -> None:
    corrected, plain = sensitivity(run), sensitivity(run, options=PLAIN)
    assert any("biases corrected" in note for note in corrected.notes)
    assert plain.notes == ()
    assert corrected.whole.sqnr_db != plain.whole.sqnr_db


def test_sensitivity_skipped_layer_is_not_measured(run: Path) -> None:
    found = sensitivity(run, options=QuantizeOptions(skip=("conv:0",)))
    assert [layer.skip for layer in found.layers if layer.conv_index is not None] == ["conv:1"]


def test_sensitivity_files_hold_figures(run: Path) -> None:
    found = sensitivity(run, by="accuracy", images=run.parent / "images")
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert [one["layer"] for one in plain["layers"]] == [layer.skip for layer in found.layers]
    assert plain["layers"][0]["isolated"]["delta_top1_ci95"] == list(
        vars(found.layers[0].isolated.accuracy.delta_top1_ci95).values()
    )
    head, *rows = found.csv_text().splitlines()
    assert len(rows) == 3
    values = dict(zip(head.split(","), rows[0].split(","), strict=True))
    assert float(values["leave_one_out_share"]) == found.layers[0].leave_one_out.share
    assert float(values["isolated_delta_top1_lo"]) == found.layers[0].isolated.accuracy.delta_top1_ci95.lo


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("gone", r"\.png: the calibration image is missing; restore it"),
        ("changed", r"\.png: the image has changed since the calibration"),
        ("no manifest", r"set\.csv"),
        ("other set", r"the calibration set is not the one of the run"),
    ],
)
def test_sensitivity_without_images_is_refused(run: Path, fault: str, match: str) -> None:
    paths = sorted(Path(str(item.where)) for item in CalibrationSet.load(run.parent / "set.csv").items)
    match fault:
        case "gone":
            for path in paths:
                path.unlink()
        case "changed":
            for path, other in zip(paths, [*paths[1:], paths[0]], strict=True):
                path.rename(path.with_suffix(".old"))
                path.write_bytes((other if other.exists() else other.with_suffix(".old")).read_bytes())
        case "no manifest":
            (run.parent / "set.csv").unlink()
        case _:
            build_calibration_set(run.parent / "images", count=8).save(run.parent / "set.csv")
    with pytest.raises(CalibrationSetError, match=match):
        sensitivity(run)


def test_sensitivity_impossible_request_is_refused_before_work(run: Path, tmp_path: Path, measured: list[int]) -> None:
    with pytest.raises(UsageError, match="this is not a run folder; run quantkit calibrate first"):
        sensitivity(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(UsageError, match=r"^images: labelled images need the order by accuracy; add --by accuracy"):
        sensitivity(run, images=run.parent / "images")
    with pytest.raises(UsageError, match="0 images are too few"):
        sensitivity(run, count=0)
    write_images(tmp_path / "five", classes=tuple("abcde"))
    with pytest.raises(LabelError, match="the labels go up to 4, and the model has 4 classes"):
        sensitivity(run, by="accuracy", images=tmp_path / "five")
    assert measured == []


def test_run_of_subject_is_found_by_folder_or_model(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_of_subject(run, Project()) == run
    (tmp_path / "runs").mkdir()
    own = run.rename(tmp_path / "runs" / "tiny")
    assert run_of_subject(tmp_path / "tiny.onnx", Project()) == own.relative_to(tmp_path)
    assert run_of_subject(None, Project()) == own.relative_to(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    other = tiny_model(tmp_path / "elsewhere" / "tiny.onnx", seed=1)
    with pytest.raises(UsageError, match=r"runs/tiny: this run belongs to .*/tiny\.onnx; give the run folder"):
        run_of_subject(other, Project())

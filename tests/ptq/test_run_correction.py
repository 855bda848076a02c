"""Bias correction in the chain: on by default, kept in the run, used again, and said to be missing where it is."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from models import tiny_model, write_images

from quantkit.config.method import Percentile
from quantkit.config.pipeline import Decode, Pipeline, ToTensor
from quantkit.data.build_set import build_calibration_set
from quantkit.data.calibration_set import CalibrationSet
from quantkit.ptq import run_correction as correction
from quantkit.ptq.bias_correction import BiasCorrection
from quantkit.ptq.layers import biased_layers, no_shifts
from quantkit.targets import VACC
from quantkit.vendors.vacc.convert import read_spec
from quantkit.vendors.vacc.document import Document
from quantkit.workflows.calibrate import calibrate
from quantkit.workflows.compare import compare
from quantkit.workflows.quantize import quantize
from quantkit.workflows.quantize_task import QuantizeOptions

COARSE = Percentile(fraction=0.99)
PIPELINE = Pipeline(ops=(Decode(), ToTensor()))


@pytest.fixture
def run(tiny_run: Path) -> Path:
    return tiny_run


def said(notes: Sequence[str], text: str) -> bool:
    return any(text in note for note in notes)


def test_run_correction_same_quantization_uses_cached_shifts(run: Path) -> None:
    before = (run / "int8.onnx").read_bytes()
    shutil.rmtree(run.parent / "images")
    quantize(run)
    assert (run / "int8.onnx").read_bytes() == before


def test_run_correction_shifts_are_estimated_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correction, "correct_bias", lambda *_, **__: pytest.fail("the biases were estimated again"))
    quantize(run)


def test_run_correction_other_method_is_corrected_anew(run: Path) -> None:
    (before,) = (run / "cache/bias").iterdir()
    assert said(quantize(run, method=COARSE, use_images=False).notes, "no image was used")
    done = quantize(run, method=COARSE, use_images=True)
    assert said(done.notes, "dB on 8 calibration images held back")
    (after,) = set((run / "cache/bias").iterdir()) - {before}
    assert after.read_bytes() != before.read_bytes()
    quantize(run)
    assert said(quantize(run).notes, "biases corrected"), "the first correction is still there"


@pytest.mark.parametrize(("after_db", "kept", "far"), [(11.9, True, True), (12.0, True, False), (25.0, False, True)])
def test_run_correction_scores_far_from_fp32_are_noted(run: Path, monkeypatch, after_db, kept, far) -> None:
    def found(model, plan, *_, **__):
        return BiasCorrection(no_shifts(biased_layers(plan)) if kept else {}, 3.0, after_db, 8)

    monkeypatch.setattr(correction, "correct_bias", found)
    notes = quantize(run, method=COARSE, use_images=True).notes
    used_db = after_db if kept else 3.0
    assert any(f"far from those of fp32 (SQNR {used_db:.1f} dB)" in note for note in notes) == far


@pytest.mark.parametrize(("after_db", "why"), [(20.4, "gains nothing beyond chance"), (19.6, "gains nothing")])
def test_run_correction_without_gain_is_left_out_and_noted(run, monkeypatch, after_db, why) -> None:
    monkeypatch.setattr(correction, "correct_bias", lambda *_, **__: BiasCorrection({}, 20.0, after_db, 3))
    done = quantize(run, method=COARSE, use_images=True)
    note = f"biases are not corrected, as that {why}: SQNR of the scores 20.0 -> {after_db} dB"
    assert said(done.notes, f"{note} on 3 calibration images held back")
    plain = quantize(run, method=COARSE, options=QuantizeOptions(bias_correction=False), out=run / "plain.onnx")
    assert done.path.read_bytes() == plain.path.read_bytes()


def test_run_correction_three_images_are_too_few(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", per_class=1)
    build_calibration_set(images, count=3).save(tmp_path / "set.csv")
    done = calibrate(tiny_model(tmp_path / "tiny.onnx"), tmp_path / "set.csv", PIPELINE, run=tmp_path / "run")
    assert said(done.notes, "biases are not corrected: that takes 4 calibration images or more")


@pytest.mark.parametrize("fault", ["gone", "changed", "no manifest"])
def test_run_correction_without_images_is_skipped_with_note(run: Path, fault: str) -> None:
    image, other = (Path(str(item.where)) for item in CalibrationSet.load(run.parent / "set.csv").items[:2])
    match fault:
        case "gone":
            image.unlink()
        case "changed":
            image.write_bytes(other.read_bytes())
        case _:
            (run.parent / "set.csv").unlink()
    done = quantize(run, method=COARSE, use_images=True)
    assert said(done.notes, "biases are not corrected for these ranges")
    plain = quantize(run, method=COARSE, options=QuantizeOptions(bias_correction=False), out=run / "plain.onnx")
    assert done.path.read_bytes() == plain.path.read_bytes()


def test_run_correction_turned_off_leaves_model_uncorrected(run: Path) -> None:
    corrected = (run / "int8.onnx").read_bytes()
    done = quantize(run, options=QuantizeOptions(bias_correction=False))
    assert not any("biases" in note for note in done.notes)
    assert done.path.read_bytes() != corrected


def test_run_correction_damaged_cache_entry_is_made_again(run: Path) -> None:
    (entry,) = (run / "cache/bias").iterdir()
    shifts, model = entry.read_bytes(), (run / "int8.onnx").read_bytes()
    entry.write_bytes(b"no safetensors")
    quantize(run, use_images=True)
    assert entry.read_bytes() == shifts
    assert (run / "int8.onnx").read_bytes() == model


@pytest.mark.parametrize(("saturates", "bits", "warned"), [(True, None, True), (True, 7, False), (False, None, False)])
def test_quantize_saturating_processor_is_noted(
    run: Path, monkeypatch: pytest.MonkeyPatch, saturates, bits, warned
) -> None:
    monkeypatch.setattr("quantkit.workflows.quantize.products_saturate", lambda: saturates)
    notes = quantize(run, options=QuantizeOptions(weight_bits=bits)).notes
    assert any("products saturate" in note for note in notes) == warned


def test_run_correction_vacc_writes_corrected_fp32_model(run: Path, tmp_path: Path) -> None:
    """Quantized by itself, without correction, that model is the corrected int8 model but for its new ranges."""
    done = calibrate(tmp_path / "tiny.onnx", tmp_path / "set.csv", PIPELINE, run=tmp_path / "card", target=VACC)
    corrected_fp32 = tmp_path / "card" / "fp32-vacc.onnx"
    assert done.quantized.corrected_fp32 == corrected_fp32
    assert read_spec(Document.load(tmp_path / "card" / "vamc.yaml")).frontend.checkpoint == str(corrected_fp32)
    again = calibrate(
        corrected_fp32,
        tmp_path / "set.csv",
        PIPELINE,
        run=tmp_path / "again",
        target=VACC,
        options=QuantizeOptions(bias_correction=False),
    )
    assert again.quantized.corrected_fp32 is None
    other = shutil.copy(again.quantized.path, tmp_path / "foretold.onnx")
    result = compare(["fp32", "int8-vacc", other], run=tmp_path / "card", images=tmp_path / "images", drift_images=0)
    corrected, foretold = (one.versus for one in result.candidates)
    assert corrected is not None
    assert foretold is not None
    assert foretold.kl == pytest.approx(corrected.kl, rel=0.5)

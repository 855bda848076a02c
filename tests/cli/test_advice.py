"""Errors and notes give advice that helps: each says what is wrong and the command or option that fixes it."""

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def folder(project: Path, command: Run) -> Path:
    """A project with a calibrated run."""
    command("calib-set", "build", "--images", "images", "--count", "16", "--out", "calib.csv")
    command("calibrate", "--target", "vacc")
    return project


def test_advice_file_of_other_kind_is_named_for_what_it_is(folder: Path, command: Run) -> None:
    np.savez(folder / "a.npz", a=np.zeros(3))
    (folder / "b.bin").write_bytes(b"0123456789")
    whole = (folder / "runs/tiny/statistics.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    expected = {
        "images": "is a folder, not a statistics file; give the statistics.safetensors of a run folder",
        "runs/tiny": "is a folder, not a statistics file; give runs/tiny/statistics.safetensors",
        "tiny.onnx": "is an ONNX model, not a statistics file; give",
        "calib.csv": "is a CSV file (a calibration set or a table), not a statistics file; give",
        "runs/tiny/run.json": "is a JSON file, not a statistics file; give",
        "quantkit.yaml": "is a YAML file, not a statistics file; give",
        "a.npz": "is a NumPy archive, not a statistics file; give",
        "b.bin": "is of another format, not a statistics file; give",
        "cut.safetensors": "the statistics file is damaged",
    }
    for name, said in expected.items():
        _, err = command("stats", "show", name, code=8)
        assert err.startswith(f"error: {name}: {said}"), err


def test_advice_missing_calibration_folder_has_its_command(folder: Path, command: Run) -> None:
    out, err = command("calibrate", "--target", "vacc")
    (note,) = [line for line in out.splitlines() if "is not there yet: " in line]
    _, err = command("vamc", "write", "--run", "runs/tiny", "--out", "v.yaml")
    assert "is not there yet: quantkit calib-set materialize" in err
    out, _ = command("vamc", "check", "runs/tiny/vamc.yaml")
    assert "warning: " in out
    assert "does not exist; create it: quantkit calib-set materialize SET.csv" in out
    (comment,) = [line for line in (folder / "runs/tiny/vamc.yaml").read_text().splitlines() if "# made by: " in line]
    pasted = note.partition("is not there yet: ")[2]
    assert comment.partition("# made by: ")[2] == pasted
    out, _ = command(*shlex.split(pasted)[1:])
    assert out.endswith("vamc.yaml\n")
    out, _ = command(*shlex.split(out.splitlines()[-1])[2:])
    assert "does not exist" not in out
    out, _ = command("calibrate", "--target", "vacc")
    assert "is not there yet" not in out


def test_advice_own_calibration_folder_is_not_commented(folder: Path, command: Run) -> None:
    command("vamc", "write", "--run", "runs/tiny", "--calibration-folder", "/data/calib", "--out", "v.yaml")
    assert "made by" not in (folder / "v.yaml").read_text()


def test_advice_missing_vdsp_params_have_their_command(folder: Path, command: Run) -> None:
    _, err = command("vamp", "command", "runs/tiny/vamc.yaml")
    assert err == (
        "note: vdsp_params.json does not exist; write it with quantkit vamc write --run RUN --vdsp vdsp_params.json\n"
    )
    _, err = command("vamc", "check", "runs/tiny/vamc.yaml", "--vdsp", "p.json", code=10)
    assert "p.json: there is no such file; write it with quantkit vamc write --run RUN --vdsp p.json" in err
    (folder / "vdsp_params.json").write_text("{}")
    assert command("vamp", "command", "runs/tiny/vamc.yaml")[1] == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("calibrate --count 5", "--count: the calibration set is calib.csv, and nothing is drawn; give --images"),
        ("calibrate --seed 1", "--seed: the calibration set is calib.csv"),
        ("calibrate --set calib.csv --labels l.txt", "--labels: the calibration set is calib.csv"),
        ("tune --preset imagenet", "--preset: a calibrated run has its own preprocessing; give --set too"),
        ("calib-set build --unlabelled --out c.csv", "--unlabelled: there are no images to draw from; give --images"),
        ("quantize --activations int4", "--activations: 'int4' is not one of uint8, int8"),
        ("quantize --weight-bits 6", "--weight-bits: cannot quantize to 6; choose 7 or 8"),
    ],
)
def test_advice_options_without_effect_are_refused(words: str, said: str, folder: Path, command: Run) -> None:
    _, err = command(*words.split(), code=2)
    assert err.startswith(f"error: {said}")


def test_advise_says_what_it_ranks_by(folder: Path, command: Run) -> None:
    out, _ = command("vamc", "advise", "--images", "images", "--skips", "0")
    assert "ranked by agreement with fp32 on the selection split, then by top-1; of equals, the first tried" in out


def test_advice_missing_calibration_set_has_its_command(project: Path, command: Run) -> None:
    _, err = command("calibrate", code=6)
    assert "write it with quantkit calib-set build --images FOLDER --out calib.csv" in err


def test_advice_init_of_present_network_continues_with_images(tmp_path: Path, command: Run) -> None:
    assert "next: quantkit export squeezenet1_1" in command("init", "squeezenet1_1")[0]
    (tmp_path / "quantkit.yaml").unlink()
    (tmp_path / "squeezenet1_1.onnx").touch()
    assert "next: quantkit calib-set build --images FOLDER --out calib.csv" in command("init", "squeezenet1_1")[0]


def test_advice_after_eval_of_an_int8_file_compares_it(calibrated: Path, command: Run) -> None:
    on = ("--images", "images", "--preset", "pipeline.yaml")
    out, _ = command("eval", "runs/tiny/int8.onnx", *on)
    assert out.endswith("next: quantkit compare FP32.onnx runs/tiny/int8.onnx --images FOLDER --preset pipeline.yaml\n")
    out, _ = command("eval", "tiny.onnx", *on)
    assert out.endswith("next: quantkit calibrate --model tiny.onnx --images FOLDER --preset pipeline.yaml\n")


def test_advice_after_calibration_on_all_images_asks_for_others(project: Path, command: Run) -> None:
    command("calib-set", "build", "--images", "images", "--out", "calib.csv")
    out, _ = command("calibrate")
    assert out.endswith("next: quantkit compare fp32 int8 --run runs/tiny --images FOLDER\n")
    out, _ = command("calibrate", "--images", "images", "--count", "8", "--run", "runs/eight")
    assert out.endswith("next: quantkit compare fp32 int8 --run runs/eight\n")
    command(*out.splitlines()[-1].split()[2:])


def test_advice_preset_that_does_not_fit_the_model_names_the_option(project: Path, command: Run) -> None:
    _, err = command("calibrate", "--images", "images", "--preset", "digits", code=3)
    assert "error: --preset: the model needs 3 channels, and the pipeline gives 1; set the mode of decode to RGB" in err

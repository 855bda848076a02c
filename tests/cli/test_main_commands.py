"""The command line as a newcomer meets it: what it prints, where it ends, and with which code."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantkit.runs.folder import RunFolder
from quantkit.runs.location import set_of_run

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def folder(project: Path) -> Path:
    return project


def test_calibrate_and_compare_need_only_the_project_file(folder: Path, run: Run) -> None:
    run(folder, "calib-set", "build", "--images", "images", "--count", "16", "--out", "calib.csv")
    out, _ = run(folder, "calibrate", "--method", "percentile")
    assert "over 16 images in" in out
    out, _ = run(folder, "compare", "fp32", "int8", "--json", "out.json", "--csv", "o.csv", "--markdown", "o.md")
    assert "16 images, difference to fp32 with its 95 % interval" in out
    assert max(map(len, out.splitlines()[:4])) <= 80
    assert json.loads((folder / "out.json").read_text())["images"] == 16
    assert (folder / "o.csv").stat().st_size > 0
    assert "| int8 |" in (folder / "o.md").read_text()
    out, _ = run(folder, "quantize", "--method", "kl", "--explain")
    assert "wrote runs/tiny/int8-kl.onnx" in out
    assert "operator  Conv" in out
    out, _ = run(folder, "stats", "show", "runs/tiny/statistics.safetensors")
    assert "tensors over 16 images" in out
    run(folder, "stats", "diff", *["runs/tiny/statistics.safetensors"] * 2)


def test_gate_failed_ends_with_its_own_code(folder: Path, run: Run) -> None:
    run(folder, "calib-set", "build", "--images", "images", "--count", "16", "--out", "calib.csv")
    run(folder, "calibrate")
    run(folder, "compare", "fp32", "int8", "--fail-if", "agreement < 0")
    _, err = run(folder, "compare", "fp32", "int8", "--fail-if", "agreement <= 100", code=20)
    assert err.splitlines()[-1].startswith("error: ")


def test_gate_repeated_counts_and_every_verdict_is_written(folder: Path, run: Run) -> None:
    run(folder, "calib-set", "build", "--images", "images", "--count", "16", "--out", "calib.csv")
    run(folder, "calibrate")
    failing, passing = ("--fail-if", "agreement <= 100"), ("--fail-if", "agreement < 0")
    files = ("--json", "out.json", "--markdown", "out.md", "--junit", "out.xml")
    for conditions in ((*failing, *passing), (*passing, *failing)):
        out, err = run(folder, "compare", "fp32", "int8", *conditions, *files, code=20)
        assert 'gate FAILED: --fail-if "agreement <= 100": int8: agreement is ' in out
        assert 'gate passed: --fail-if "agreement < 0": int8: agreement is ' in out
        assert err.splitlines()[-1].startswith('error: --fail-if "agreement <= 100": int8: ')
        gates = json.loads((folder / "out.json").read_text())["gates"]
        assert {gate["condition"]: gate["passed"] for gate in gates} == {
            "agreement <= 100": False,
            "agreement < 0": True,
        }
        assert "gate FAILED" in (folder / "out.md").read_text()
        assert (folder / "out.xml").read_text().count("<failure ") == 1
    out, _ = run(folder, "compare", "fp32", "int8", "--fail-unless-proven", "agreement >= 0")
    assert 'gate passed: --fail-unless-proven "agreement >= 0"' in out
    run(folder, "compare", "fp32", "int8", "--fail-unless-proven", "agreement > 99.9", code=20)


def test_gate_without_figure_is_refused_or_reported(folder: Path, run: Run) -> None:
    _, err = run(folder, "compare", "fp32", "int8", "--junit", "out.xml", code=2)
    assert err == "error: --junit: needs a condition; give --fail-if too\n"
    _, err = run(folder, "compare", "fp32", "int8", "--fail-if", "latency_ms > 1", code=2)
    assert "latency_ms is not measured; give --latency" in err
    run(folder, "compare", "fp32", "int8", "--fail-if", "bytes > 1", "--junit", "out.xml", code=2)
    assert '<error message="' in (folder / "out.xml").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "fp32", "int8", "--images", "a", "--images", "b"),
        ("calibrate", "--method", "kl", "--method", "mse"),
        ("quantize", "--per-channel", "--per-tensor"),
        ("calib-set", "build", "--count", "5", "--count", "6", "--out", "c.csv"),
        ("vamc", "write", "--run", "a", "--run", "b"),
        ("tune", "--max-drop", "1", "--max-drop=2"),
    ],
)
def test_option_of_one_value_repeated_is_refused(arguments: tuple[str, ...], folder: Path, run: Run) -> None:
    _, err = run(folder, *arguments, code=2)
    assert "takes one value and was given 2 times. See quantkit " in err


def test_gate_failed_with_closed_output_keeps_its_code(folder: Path, run: Run) -> None:
    run(folder, "calib-set", "build", "--images", "images", "--count", "16", "--out", "calib.csv")
    run(folder, "calibrate")
    for condition, code in (("agreement <= 100", 20), ("agreement < 0", 0)):
        line = [sys.executable, "-m", "quantkit.cli.main", "compare", "fp32", "int8", "--fail-if", condition]
        with subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.close()
            assert process.wait(timeout=120) == code


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["calibrate", "--method", "nope"], 2, "'nope' is not one of auto, minmax"),
        (["calibrate", "--nope"], 2, "there is no such option"),
        (["nope"], 2, "No such command"),
        (["calibrate", "--model", "missing.onnx"], 7, "missing.onnx: there is no such model file"),
        (["calibrate", "--set", "missing.csv"], 6, "missing.csv"),
        (["calibrate", "--set", "a.csv", "--images", "images"], 2, "give --set or --images, not both"),
        (["calibrate", "--images", "nowhere"], 6, "nowhere: there is no such folder"),
        (["calibrate", "--images", "images", "--count", "0"], 2, "count"),
        (["calibrate", "--images", "images", "--count", "8", "--preset", "nope"], 3, "there is no preset 'nope'"),
        (["calibrate", "--images", "images", "--count", "8", "--preset", "imagenet"], 3, "the model needs height 8"),
        (["calibrate", "--images", "images", "--count", "8", "--run", "tiny.onnx"], 12, "cannot create the folder"),
        (["calibrate", "--images", "images", "--count", "8", "--target", "tpu"], 2, "'tpu' is not one of ort"),
        (["calibrate", "--images", "images", "--count", "8", "--skip", "no_such"], 2, "no_such"),
        (["calibrate", "--until-stable", "often"], 2, "invalid percentage 'often'"),
        (["calibrate", "--dialect", "klingon"], 2, "is not one of build, compile"),
        (["compare", "fp32", "int8"], 2, "this is not a run folder; run quantkit calibrate first"),
        (["compare", "fp32", "int8", "--fail-if", "fun > 1"], 2, "fun"),
        (["compare", "fp32", "int8", "--limit", "0"], 2, "--limit"),
        (["compare", "fp32", "int8", "--drift-images", "-1"], 2, "--drift-images"),
        (["quantize", "--run", "nowhere"], 2, "this is not a run folder"),
        (["stats", "show", "tiny.onnx"], 8, "tiny.onnx: is an ONNX model, not a statistics file"),
        (["stats", "merge", "a.safetensors", "--out", "b"], 2, "at least two files"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_bad_input_is_one_line_and_exit_code(
    folder: Path, run: Run, arguments: list[str], code: int, message: str
) -> None:
    _, err = run(folder, *arguments, code=code)
    [line] = [line for line in err.splitlines() if line.strip()]
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: tiny.onnx\n", "there is no key 'modle'; did you mean model?"),
        ("model: [1, 2]\n", "model:"),
        ("a: &x [1]\nb: *x\n", "line 2: aliases (*x) are not allowed"),
        ("model: a\nmodel: b\n", "found duplicate key"),
        ("model: !!python/object:os.system x\n", "could not determine a constructor"),
        ("- a list\n", "must be a mapping"),
        ("model: 'unfinished\n", "line"),
        ("preset: imagenet\nops: []\n", "give preset or ops, not both"),
        ("version: 2\n", "version"),
    ],
)
def test_project_file_wrong_says_where(folder: Path, run: Run, text: str, message: str) -> None:
    (folder / "quantkit.yaml").write_text(text)
    _, err = run(folder, "calibrate", code=3)
    assert message in err
    assert "quantkit.yaml" in err


def test_debug_anywhere_on_line_shows_traceback(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quantkit.cli.main", "calibrate", "--method", "nope", "--debug"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_main_end_of_file_within_a_command_is_unexpected_and_no_interruption(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object, **__: object) -> None:
        raise EOFError("marshal data too short")

    monkeypatch.setattr("quantkit.workflows.inspect.inspect", damaged)
    _, err = run(folder, "inspect", "tiny.onnx", code=70)
    assert "unexpected EOFError: marshal data too short" in err


def test_demo_prints_one_table_and_names_its_files(demo_folder: Path, run: Run) -> None:
    place = demo_folder.parent  # a second demo: statistics and scores are cached
    out, _ = run(place, "demo")
    rows = [line.split()[0] for line in out.splitlines() if line[:1].isalpha()]
    assert [row for row in rows if row in {"fp32", "minmax", "percentile", "kl", "mse"}][:5] == [
        "fp32",
        "minmax",
        "percentile",
        "kl",
        "mse",
    ]
    assert "quantkit-demo/run" in out.replace(str(place), "")
    out, _ = run(demo_folder, "compare", "fp32", "int8")
    assert "697 images" in out


def test_compare_files_without_preprocessing_ask_for_preset(folder: Path, run: Run) -> None:
    (folder / "quantkit.yaml").unlink()
    _, err = run(folder, "compare", "tiny.onnx", "a=tiny.onnx", "--images", "images", code=2)
    assert err == ("error: no preprocessing was given; give --preset, or --run of a calibrated run\n")
    run(folder, "compare", "tiny.onnx", "a=tiny.onnx", "--images", "images", "--preset", "pipeline.yaml")


def test_command_interrupted_says_how_to_go_on(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("quantkit.workflows.inspect.inspect", interrupted)
    out, err = run(folder, "inspect", "tiny.onnx", code=130)
    assert (out, err) == ("", "error: interrupted; run the same command again to resume\n")


def test_calibrate_other_draw_that_is_refused_leaves_set_of_run(folder: Path, run: Run) -> None:
    """A set that is drawn for a run that has another one is refused, and replaces no file of the run."""
    draw = ("calibrate", "--images", "images", "--run", "drawn", "--method", "kl", "--count")
    run(folder, *draw, "8")
    before = (folder / "drawn/set.csv").read_bytes()
    _, err = run(folder, *draw, "12", code=2)
    assert "this run has another calibration set (8 images)" in err
    assert (folder / "drawn/set.csv").read_bytes() == before
    run(folder, "sensitivity", "drawn", "--count", "4")
    run(folder, *draw, "12", "--fresh")
    record = RunFolder(folder / "drawn").read()
    assert (record.set.images, set_of_run(record).digest) == (12, record.set.digest)
    run(folder, *draw, "8", "--fresh")
    assert Path(RunFolder(folder / "drawn").read().set.path).name == "set.csv"


def test_calibrate_faults_of_the_model_come_before_a_set_is_drawn(folder: Path, run: Run) -> None:
    draw = ("--images", "images", "--run", "undrawn", "--count", "8")
    _, err = run(folder, "calibrate", "gone.onnx", "--preset", "pipeline.yaml", *draw, code=7)
    assert err == "error: gone.onnx: there is no such model file\n"
    _, err = run(folder, "calibrate", "tiny.onnx", "--preset", "digits", *draw, code=3)
    assert "the model needs 3 channels, and the pipeline gives 1" in err
    assert not (folder / "undrawn").exists()

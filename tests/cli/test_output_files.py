"""Output files that would replace an input or another output are refused before a command starts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from quantkit.cli.output_files import check_output_files
from quantkit.errors import UsageError


@pytest.mark.parametrize("name", ["out", "json", "csv", "html", "log_file"])
@pytest.mark.parametrize("other", ["model", "exclude", "models"])
def test_output_that_is_an_input_is_refused(tmp_path: Path, name: str, other: str) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    value = [str(path)] if other == "models" else str(path)
    with pytest.raises(UsageError, match="is an input of this command and is not overwritten"):
        check_output_files({name: f"{tmp_path}/./file", other: value})


def test_output_that_is_a_named_input_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    path.write_text("mine")
    with pytest.raises(UsageError, match="is an input"):
        check_output_files({"out": str(path), "models": ["fp32", f"int8={path}"]})


def test_two_outputs_in_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is also given for --json"):
        check_output_files({"json": str(tmp_path / "r"), "html": str(tmp_path / "r")})


@pytest.mark.parametrize("name", ["run.json", "quantkit.yaml", "m.onnx", "statistics.safetensors", "set.csv"])
def test_report_in_place_of_a_file_that_is_read_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("# quantkit calibration set\n")
    with pytest.raises(UsageError, match="is a file that quantkit reads and is not overwritten"):
        check_output_files({"csv": str(path)})


def test_earlier_report_and_devices_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("{}")
    check_output_files({"json": str(path), "csv": "/dev/null", "html": "/dev/null", "model": None, "limit": "3"})
    check_output_files({"json": True, "model": str(path)})


def test_commands_keep_a_set_that_is_excluded_and_a_build_file_that_is_converted(
    calibrated: Path, command: Callable[..., tuple[str, str]]
) -> None:
    before = (calibrated / "calib.csv").read_bytes(), (calibrated / "runs/tiny/vamc.yaml").read_bytes()
    _, err = command("compare", "fp32", "int8", "--exclude", "calib.csv", "--csv", "calib.csv", code=2)
    assert err == "error: --csv: calib.csv is an input of this command and is not overwritten; give another name\n"
    _, err = command("compare", "fp32", "int8", "--json", "quantkit.yaml", code=2)
    assert "is a file that quantkit reads and is not overwritten" in err
    build = "runs/tiny/vamc.yaml"
    _, err = command("vamc", "convert", build, "--to", "build", "--out", build, code=2)
    assert "is an input of this command and is not overwritten" in err
    assert before == ((calibrated / "calib.csv").read_bytes(), (calibrated / build).read_bytes())

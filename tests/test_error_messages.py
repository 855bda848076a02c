"""Errors name arguments in Python and options on the command line, by one mechanism."""

import re
import sys
from pathlib import Path

import pytest

import quantkit
from quantkit.cli.main import main
from quantkit.errors import UsageError


@pytest.mark.parametrize(
    ("call", "said", "option"),
    [
        (lambda: quantkit.load_preset("imagnet"), "pipeline: there is no preset 'imagnet'; did you", "--preset: "),
        (lambda: quantkit.QuantizeOptions(weight_bits=6), "weight_bits: cannot quantize to 6", "--weight-bits: "),
        (lambda: quantkit.QuantizeOptions(activation_type="i4"), "activation_type: cannot", "--activations: "),
        (lambda: quantkit.Device("gpu"), "device: unknown device 'gpu'", "--device: "),
        (lambda: quantkit.FloatBudget(macs=200), "macs: 200 is not between 0 and 100", "--max-float: "),
    ],
)  # fmt: skip
def test_argument_of_wrong_value_is_named_as_in_python_and_as_the_option_on_the_command_line(
    call: object, said: str, option: str
) -> None:
    with pytest.raises(quantkit.QuantkitError) as caught:
        call()  # type: ignore[operator]
    assert re.match(said, str(caught.value))
    assert caught.value.command_line.startswith(option)


def test_command_in_a_fix_is_to_be_typed_and_keeps_its_options() -> None:
    error = UsageError("is gone", where="m.onnx", fix="run quantkit relink RUN --model FILE")
    assert str(error) == error.command_line == "m.onnx: is gone; run quantkit relink RUN --model FILE"


def test_option_of_the_command_line_is_named_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["quantkit", "calibrate", "m.onnx", "--set", "s.csv", "--preset", "imagnet"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.startswith("error: --preset: there is no preset 'imagnet'")

"""What sensitivities recommend, by figures worked by hand."""

import math
import shlex
from pathlib import Path

import pytest

from quantkit.config.method import Kl, Percentile
from quantkit.sensitivity.result import Figures, LayerSensitivity, Sensitivity
from quantkit.workflows.quantize_task import QuantizeOptions
from quantkit.workflows.sensitivity_decision import compare_command, decide, quantize_command


def figures(share: float, left: float = 1.0) -> Figures:
    """Return the figures of a model with this share of the noise of the full int8 model, which has 30 dB."""
    sqnr_db = 30.0 - 10.0 * math.log10(left) if left > 0.0 else math.inf
    return Figures(sqnr_db=sqnr_db, kl=0.01, share=share, accuracy=None)


def layer(index: int | None, share: float, macs: float | None, node: str = "node") -> LayerSensitivity:
    return LayerSensitivity(
        node=node if index is None else f"conv_{index}",
        op_type="Gemm" if index is None else "Conv",
        conv_index=index,
        macs=1,
        macs_share=macs,
        isolated=figures(share),
        leave_one_out=figures(share, left=1.0 - share),
    )


def found(*layers: LayerSensitivity, target: str = "ort") -> Sensitivity:
    return Sensitivity(
        model="m", target=target, method="kl", by="isolated", images=8, source="calibration images", macs=10, top1=None,
        whole=figures(1.0), layers=layers, notes=(),
    )  # fmt: skip


def test_decision_names_layer_gain_and_cost() -> None:
    """A quarter of the noise goes: -10 log10(0.75) = 1.249 dB."""
    decision = decide(found(layer(3, 0.05, 0.5), layer(0, 0.25, 0.009)))
    assert decision.lines() == ("leave conv:0 in float: +1.2 dB, 0.9 % of multiply-adds",)
    assert decision.gains_db == pytest.approx((1.2494,), abs=1e-4)
    assert decision.to_json()["skip"] == ["conv:0"]


def test_decision_takes_at_most_three_layers_within_the_budget() -> None:
    layers = [layer(0, 0.4, 0.02), layer(1, 0.35, 0.2), layer(2, 0.3, 0.05), layer(3, 0.25, 0.02), layer(4, 0.22, 0.0)]
    decision = decide(found(*layers))
    assert decision.skips == ("conv:0", "conv:2", "conv:3")  # conv:1 is beyond 10 %, conv:4 would be the fourth
    assert decision.macs_share == pytest.approx(0.09)
    assert decision.lines()[-1].startswith("together 9.0 % of multiply-adds; their gains overlap")


def test_decision_without_worthwhile_layer_names_none() -> None:
    decision = decide(found(layer(0, 0.1, 0.01), layer(1, -0.2, 0.01)))
    assert decision.layers == ()
    assert decision.lines() == (
        (
            "no layer is worth leaving in float: none gains 1 dB for 10 % or less of the multiply-adds; the best gains "
            "+0.5 dB; try quantkit tune"
        ),
    )
    assert decide(found()).lines()[0].endswith("of the multiply-adds; try quantkit tune")


def test_decision_for_compiler_names_convolutions_only() -> None:
    layers = (layer(None, 0.5, 0.01, "fc"), layer(2, 0.3, 0.01))
    assert decide(found(*layers)).skips == ("fc", "conv:2")
    assert decide(found(*layers, target="vacc")).skips == ("conv:2",)


def test_decision_layer_that_makes_all_noise_gains_without_bound() -> None:
    decision = decide(found(layer(0, 1.0, 0.01)))
    assert decision.gains_db == (math.inf,)
    assert decision.to_json()["gains_db"] == [None]


def test_decision_command_repeats_all_choices_and_quotes_names() -> None:
    options = QuantizeOptions(
        per_channel=False, activation_type="int8", weight_bits=7, power_of_two=True, skip=("fc*",), keep_outliers=True
    )
    words = shlex.split(quantize_command(Path("my runs/x"), found(), Percentile(fraction=0.999), options, ["a b"]))
    assert words == [
        "quantkit", "quantize", "--run", "my runs/x", "--method", "percentile", "--fraction", "0.999", "--per-tensor",
        "--activations", "int8", "--weight-bits", "7", "--power-of-two", "--keep-outliers", "--bias-correction",
        "--skip", "fc*", "--skip", "a b", "--out", "my runs/x/int8-mixed.onnx",
    ]  # fmt: skip
    plain = quantize_command(Path("r"), found(target="vacc"), Kl(), QuantizeOptions(bias_correction=False), ["conv:0"])
    assert plain == (
        "quantkit quantize --run r --method kl --target vacc --no-bias-correction --skip conv:0 "
        "--out r/int8-vacc-mixed.onnx"
    )
    assert compare_command(Path("r"), found()) == "quantkit compare fp32 int8-mixed --run r"

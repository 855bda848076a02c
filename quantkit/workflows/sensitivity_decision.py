"""Recommendations from sensitivities: which layers to leave in float, with gain and cost."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.config.method import Method, Percentile, method_name
from quantkit.runs.folder import FP32
from quantkit.sensitivity.result import LayerSensitivity, Sensitivity
from quantkit.targets import ORT, TARGETS
from quantkit.workflows.quantize_task import QuantizeOptions

# Minimum gain of a layer in the SQNR of the scores: a fifth of the noise.
WORTH_DB = 1.0
# As `quantkit tune` does by default.
MAX_MACS = 0.1
MAX_LAYERS = 3


@dataclass(frozen=True, kw_only=True)
class FloatDecision:
    """The layers to leave in float.

    Attributes:
        layers: the layers, largest gain first; empty if no layer is worth it.
        gains_db: measured gain in the SQNR of the scores when only this layer is left in float, in dB.
        macs_share: share of the multiply-adds that would run in float.
        best_gain_db: the largest gain of a single layer in dB, minus infinity without layers.
    """

    layers: tuple[LayerSensitivity, ...]
    gains_db: tuple[float, ...]
    macs_share: float
    best_gain_db: float

    @property
    def skips(self) -> tuple[str, ...]:
        """The values of ``--skip``, one per layer."""
        return tuple(layer.skip for layer in self.layers)

    def lines(self) -> tuple[str, ...]:
        """Return a description, one line per layer and one for all together."""
        if not self.layers:
            best = f"; the best gains {self.best_gain_db:+.1f} dB" if math.isfinite(self.best_gain_db) else ""
            limits = f"{WORTH_DB:g} dB for {100 * MAX_MACS:.0f} % or less of the multiply-adds"
            return (f"no layer is worth leaving in float: none gains {limits}{best}; try quantkit tune",)
        found = [
            f"leave {layer.skip} in float: {gain:+.1f} dB, {_share(layer.macs_share)} of multiply-adds"
            for layer, gain in zip(self.layers, self.gains_db, strict=True)
        ]
        if len(self.layers) > 1:
            found.append(
                f"together {_share(self.macs_share)} of multiply-adds; their gains overlap, so compare them together"
            )
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "skip": list(self.skips),
            "gains_db": [gain if math.isfinite(gain) else None for gain in self.gains_db],
            "macs_share": self.macs_share,
        }


def decide(found: Sensitivity) -> FloatDecision:
    """Select the layers to leave in float, greedily by the gain of each one alone in the SQNR of the scores.

    A layer is selected if it gains at least `WORTH_DB` by itself, up to `MAX_LAYERS` layers and `MAX_MACS` of the
    multiply-adds. The joint gain is not predicted, because consecutive layers share the rounding between them. For a
    compiler that calibrates by itself, only convolutions are selected.
    """
    convs_only = found.target in TARGETS and TARGETS[found.target].compiler_calibrates
    layers = [
        layer
        for layer in found.layers
        if layer.macs_share is not None
        and math.isfinite(found.whole.sqnr_db)
        and (layer.conv_index is not None or not convs_only)
    ]

    def gain_db(layer: LayerSensitivity) -> float:
        return layer.leave_one_out.sqnr_db - found.whole.sqnr_db

    chosen: list[LayerSensitivity] = []
    macs = 0.0
    for layer in sorted(layers, key=gain_db, reverse=True):
        assert layer.macs_share is not None
        if len(chosen) == MAX_LAYERS or gain_db(layer) < WORTH_DB:
            break
        if macs + layer.macs_share <= MAX_MACS:
            chosen.append(layer)
            macs += layer.macs_share
    return FloatDecision(
        layers=tuple(chosen),
        gains_db=tuple(map(gain_db, chosen)),
        macs_share=macs,
        best_gain_db=max(map(gain_db, layers), default=-math.inf),
    )


def quantize_command(
    run: Path, found: Sensitivity, method: Method, options: QuantizeOptions, skips: Sequence[str]
) -> str:
    """Return the command that writes the int8 model with more layers in float and otherwise equal options."""
    words = ["quantkit", "quantize", "--run", str(run), "--method", method_name(method)]
    if isinstance(method, Percentile) and method.fraction != Percentile().fraction:
        words += ["--fraction", f"{method.fraction!r}"]
    if found.target != ORT.name:
        words += ["--target", found.target]
    if options.per_channel is not None:
        words.append("--per-channel" if options.per_channel else "--per-tensor")
    if options.activation_type is not None:
        words += ["--activations", options.activation_type]
    if options.weight_bits is not None:
        words += ["--weight-bits", str(options.weight_bits)]
    if options.power_of_two:
        words.append("--power-of-two")
    if options.keep_outliers:
        words.append("--keep-outliers")
    words.append("--bias-correction" if options.bias_correction else "--no-bias-correction")
    for skip in (*options.skip, *skips):
        words += ["--skip", skip]
    return shlex.join([*words, "--out", str(run / f"{mixed_name(found)}.onnx")])


def mixed_name(found: Sensitivity) -> str:
    """Return the name of the model with layers in float; it differs from the run's int8 model."""
    suffix = "" if found.target == ORT.name else f"-{found.target}"
    return f"int8{suffix}-mixed"


def compare_command(run: Path, found: Sensitivity) -> str:
    """Return the command that measures the gain of the model with layers in float."""
    return shlex.join(["quantkit", "compare", FP32, mixed_name(found), "--run", str(run)])


def _share(value: float | None) -> str:
    return "an unknown share" if value is None else f"{100 * value:.1f} %"

"""One way to make an int8 model, as data: what a search tries and the cache stores."""

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

from quantkit.config.method import Method, method_json, method_words
from quantkit.graph.qdq.plan import PlanOptions
from quantkit.ptq.input_folding import LEVELS
from quantkit.targets import Target


class WeightCorrection(StrEnum):
    """How weights and biases are corrected once the ranges are set."""

    NONE = "none"
    BIAS = "bias"
    ROUNDING = "rounding"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an int8 model is made from the fp32 model and its calibration images.

    Attributes:
        method: how ranges are set.
        channel_shift: channels shifted so that tensors of signed values span less.
        equalization: strength of the rescaling of channels: 0 for none, 1 for the least predicted noise.
        refined: ends of ranges moved where that brings the scores nearer to fp32.
        correction: biases corrected; or weights rounded for the layer's result and biases corrected; or neither.
        per_channel: one weight scale per output channel, or one per tensor.
        power_of_two: weight thresholds rounded up to powers of two.
        input_folding: the first layer reads the levels of 8-bit images, which are not rounded.
        skip: layers left in float by the search, by node name.
    """

    method: Method
    channel_shift: bool = False
    equalization: float = 0.0
    refined: bool = False
    correction: WeightCorrection = WeightCorrection.BIAS
    per_channel: bool = True
    power_of_two: bool = False
    input_folding: bool = False
    skip: tuple[str, ...] = ()

    def target(self, target: Target) -> Target:
        """Return the target with the weights of this recipe."""
        return target.with_options(per_channel=self.per_channel, power_of_two=self.power_of_two)

    def left_out(self, options: PlanOptions) -> PlanOptions:
        """Return what stays in float: the user's layers, those of the search, and the operator of input folding."""
        levels = (LEVELS,) if self.input_folding else ()
        return replace(options, skip=(*options.skip, *self.skip, *levels))

    def changed(self, **fields: Any) -> Self:
        """Return the recipe with some fields changed."""
        return replace(self, **fields)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, different for every two recipes."""
        plain = asdict(self) | {"method": method_json(self.method)}
        return plain | {"correction": self.correction.value, "skip": list(self.skip)}

    def describe(self) -> str:
        """Return the recipe in a few words."""
        words = [method_words(self.method)]
        if not self.per_channel:
            words.append("per tensor")
        if self.power_of_two:
            words.append("power2")
        if self.channel_shift:
            words.append("shifted")
        if self.equalization:
            words.append(f"equalized {self.equalization:g}")
        if self.refined:
            words.append("refined")
        words += {WeightCorrection.NONE: [], WeightCorrection.BIAS: ["biases"], WeightCorrection.ROUNDING: ["rounded"]}[
            self.correction
        ]
        if self.input_folding:
            words.append("input folding")
        if self.skip:
            words.append(f"{len(self.skip)} in float")
        return ", ".join(words)

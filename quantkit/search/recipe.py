"""A recipe: the options of an int8 model in a search."""

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

from quantkit.config.method import Method, method_json, method_words
from quantkit.graph.qdq.plan import PlanOptions
from quantkit.ptq.input_folding import LEVELS
from quantkit.targets import Target


class WeightCorrection(StrEnum):
    """How weights and biases are corrected after the ranges are set."""

    NONE = "none"
    BIAS = "bias"
    ROUNDING = "rounding"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Options of an int8 model in a search.

    Attributes:
        method: calibration method.
        channel_shift: shift channels to narrow the ranges of tensors with signed values.
        equalization: strength of the rescaling of channels: 0 for none, 1 for the smallest predicted noise.
        refined: refine the ends of ranges to reduce the error of the scores.
        correction: correct biases; or round weights for the layer's output and correct biases; or neither.
        per_channel: one weight scale per output channel, or one per tensor.
        power_of_two: round weight thresholds up to powers of two.
        input_folding: the first layer reads the levels of 8-bit images, without rounding.
        skip: names of layers left in float by the search.
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
        """Return the target with the weight scheme of this recipe."""
        return target.with_options(per_channel=self.per_channel, power_of_two=self.power_of_two)

    def left_out(self, options: PlanOptions) -> PlanOptions:
        """Return the nodes in float: the user's layers, those of the search, and the operator of input folding."""
        levels = (LEVELS,) if self.input_folding else ()
        return replace(options, skip=(*options.skip, *self.skip, *levels))

    def changed(self, **fields: Any) -> Self:
        """Return the recipe with some fields changed."""
        return replace(self, **fields)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, distinct for distinct recipes."""
        plain = asdict(self) | {"method": method_json(self.method)}
        return plain | {"correction": self.correction.value, "skip": list(self.skip)}

    def describe(self) -> str:
        """Return a short description of the recipe."""
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

"""One way to make an int8 model, as data: what a search tries and a journal keeps."""

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

from quantkit.config.method import Method, method_name
from quantkit.graph.plan import PlanOptions
from quantkit.targets import Target
from quantkit.tuning.exact_input import LEVELS


class Mending(StrEnum):
    """What is done to weights and biases once the ranges stand."""

    NONE = "none"
    BIAS = "bias"
    ROUNDING = "rounding"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an int8 model is made from the fp32 model and its calibration images.

    Attributes:
        method: how ranges are set.
        centering: channels moved so that tensors of signed values span less.
        equalization: strength of the rescaling of channels: 0 for none, 1 for the least predicted noise.
        refined: ends of ranges moved to where the scores are nearest to fp32.
        mending: biases corrected; or weights rounded for the layer's result and biases corrected; or neither.
        per_channel: one weight scale per output channel, or one per tensor.
        power_of_two: weight thresholds rounded up to powers of two.
        exact_input: the first layer reads the levels of 8-bit images, which are not rounded.
        skip: layers left in float by the search, by node name.
    """

    method: Method
    centering: bool = False
    equalization: float = 0.0
    refined: bool = False
    mending: Mending = Mending.BIAS
    per_channel: bool = True
    power_of_two: bool = False
    exact_input: bool = False
    skip: tuple[str, ...] = ()

    def target(self, target: Target) -> Target:
        """Return the target with the weights of this recipe."""
        return target.with_options(per_channel=self.per_channel, power_of_two=self.power_of_two)

    def left_out(self, options: PlanOptions) -> PlanOptions:
        """Return what stays in float: what the user wants there, what the search left, and what makes levels."""
        levels = (LEVELS,) if self.exact_input else ()
        return replace(options, skip=(*options.skip, *self.skip, *levels))

    def changed(self, **fields: Any) -> Self:
        """Return the recipe with some fields changed."""
        return replace(self, **fields)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, from which no two recipes are alike."""
        plain = asdict(self) | {"method": {"name": method_name(self.method), **asdict(self.method)}}
        return plain | {"mending": self.mending.value, "skip": list(self.skip)}

    def describe(self) -> str:
        """Return the recipe in a few words."""
        words = [method_name(self.method)]
        if not self.per_channel:
            words.append("per tensor")
        if self.power_of_two:
            words.append("power2")
        if self.centering:
            words.append("centered")
        if self.equalization:
            words.append(f"equalized {self.equalization:g}")
        if self.refined:
            words.append("refined")
        words += {Mending.NONE: [], Mending.BIAS: ["biases"], Mending.ROUNDING: ["rounded"]}[self.mending]
        if self.exact_input:
            words.append("exact input")
        if self.skip:
            words.append(f"{len(self.skip)} in float")
        return ", ".join(words)

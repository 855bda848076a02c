"""Estimates the time of a search from its first trial."""

from collections.abc import Set
from types import MappingProxyType

from quantkit.config.choices import Stage

# The time of each stage, in times of the first trial: its trials, previews and the observation of rewritten models.
# Measured on EfficientNet-Lite0 and MobileNetV2, rounded up. Layers in float come on top, and few searches need them.
_TRIALS = MappingProxyType(
    {
        Stage.METHOD: 3.0,
        Stage.WEIGHT_SCALE: 2.0,
        Stage.CHANNEL_SHIFT: 4.0,
        Stage.EQUALIZATION: 7.0,
        Stage.RANGES: 4.0,
        Stage.ROUNDING: 10.0,
        Stage.INPUT_FOLDING: 13.0,  # it rounds the weights again
    }
)
# The first evaluation decodes the images and runs fp32 too; each later one takes about this share of its time.
_LATER_EVALUATION = 0.4


def estimated_seconds(stages: Set[Stage], trial_s: float, evaluation_s: float) -> float:
    """Return the time of a search that runs all stages but layers in float, in seconds.

    Args:
        stages: stages to run.
        trial_s: time of the first trial in seconds.
        evaluation_s: time of its evaluation on the held-out images in seconds.
    """
    taken = [stage for stage in stages if stage in _TRIALS]
    return sum(_TRIALS[stage] * trial_s + _LATER_EVALUATION * evaluation_s for stage in taken)


def estimated_time(seconds: float) -> str:
    """Return the sentence about the time of a search."""
    text = f"{seconds / 60.0:.0f} min" if seconds >= 90.0 else f"{seconds:.0f} s"
    return f"estimated time: about {text}, less where an early stage meets the budget"

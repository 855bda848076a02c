"""Names that users choose from: on the command line, in ``quantkit.yaml``, and in Python."""

from enum import StrEnum
from typing import Literal

TargetName = Literal["ort", "tensorrt", "vacc"]


class Stage(StrEnum):
    """A stage of the search.

    Example:
        >>> import quantkit
        >>> quantkit.Stage("rounding").value
        'rounding'
    """

    METHOD = "method"
    WEIGHT_SCALE = "weight-scale"
    CHANNEL_SHIFT = "channel-shift"
    EQUALIZATION = "equalization"
    RANGES = "ranges"
    ROUNDING = "rounding"
    INPUT_FOLDING = "input-folding"
    PRECISION = "precision"

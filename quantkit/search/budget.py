"""Limits on the layers that a search may leave in float."""

from dataclasses import dataclass

from quantkit.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class FloatBudget:
    """Limits on layers in float.

    Attributes:
        macs: percent of the network's multiply-adds, 0 to 100.
        layers: number of layers; None for any.
        convs_only: only 2-D convolutions, the operators of VACC's ``skip_conv_layers``.

    Raises:
        UsageError: a value is out of range.

    Example:
        >>> import quantkit
        >>> quantkit.FloatBudget(macs=5.0, layers=3).layers
        3
    """

    macs: float = 10.0
    layers: int | None = None
    convs_only: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.macs <= 100.0:
            raise UsageError(
                f"{self.macs} is not between 0 and 100 percent", where="--max-float", fix="write a tenth as 10"
            )
        if self.layers is not None and self.layers < 0:
            raise UsageError(f"{self.layers} is below 0", where="--max-skips")

"""Calibration methods as data; `quantkit.stats.solve` computes ranges by them."""

from dataclasses import dataclass
from typing import Literal

from quantkit.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class MinMax:
    """Range from the observed minimum to the observed maximum.

    Example:
        >>> import quantkit
        >>> quantkit.MinMax()
        MinMax()
    """


@dataclass(frozen=True, kw_only=True)
class Percentile:
    """Range that cuts off the rarest values.

    Attributes:
        fraction: fraction of the values inside the range, in (0.5, 1].
        of: ``magnitude`` cuts the largest ``|x|``, ``value`` cuts half of the rest at either end; ``auto`` takes
            magnitude for a symmetric scheme and value for an affine one.

    Example:
        >>> import quantkit
        >>> quantkit.Percentile(fraction=0.999).of
        'auto'
    """

    fraction: float = 0.99999
    of: Literal["auto", "magnitude", "value"] = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.fraction, int | float) or not 0.5 < self.fraction <= 1.0:
            raise UsageError(
                f"the percentile fraction must be in (0.5, 1], not {self.fraction}",
                fix="99.999 percent is written 0.99999",
            )


@dataclass(frozen=True, kw_only=True)
class Kl:
    """Range with the smallest Kullback-Leibler divergence between the histogram and its quantized version.

    Attributes:
        definition: ``tensorrt`` (2048 bins of ``|x|``, 128 levels), ``relay`` (8001 bins on [-T, T], 255 levels; the
            VACC compiler is based on Relay), ``ort`` (onnxruntime's search with 2048 bins and 255 levels), or ``auto``
            for that of the target.

    Example:
        >>> import quantkit
        >>> quantkit.Kl(definition="tensorrt")
        Kl(definition='tensorrt')
    """

    definition: Literal["auto", "tensorrt", "relay", "ort"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Mse:
    """Range with the smallest expected squared quantization error over the histogram.

    Example:
        >>> import quantkit
        >>> quantkit.Mse()
        Mse()
    """


Method = MinMax | Percentile | Kl | Mse

METHODS: dict[str, type[MinMax] | type[Percentile] | type[Kl] | type[Mse]] = {
    "minmax": MinMax,
    "percentile": Percentile,
    "kl": Kl,
    "mse": Mse,
}


def method_name(method: Method) -> str:
    """Return the name a method has on the command line."""
    return next(name for name, kind in METHODS.items() if isinstance(method, kind))


def as_method(method: "Method | str | None") -> Method:
    """Return a method given as a value or by name, percentile for None.

    Raises:
        UsageError: no such method.
    """
    if method is None:
        return Percentile()
    if isinstance(method, str):
        return parse_method(method)
    if isinstance(method, MinMax | Percentile | Kl | Mse):
        return method
    fix = f"give one of {', '.join(METHODS)}, or a value such as quantkit.Mse()"
    raise UsageError(f"takes a method, not {method!r}", where="method", fix=fix)


def parse_method(name: str, *, fraction: float | None = None) -> Method:
    """Return the method with a command-line name.

    Raises:
        UsageError: there is no such method, or a fraction is given for a method without one.
    """
    if name not in METHODS:
        raise UsageError(f"there is no method {name!r}", where="--method", fix=f"choose one of {', '.join(METHODS)}")
    if fraction is None:
        return METHODS[name]()
    if name != "percentile":
        raise UsageError(f"the method {name} has no fraction", where="--fraction", fix="use --method percentile")
    return Percentile(fraction=fraction)

"""Calibration methods as data; `quantkit.stats.solve` computes ranges by them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

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
        is_number = isinstance(self.fraction, int | float)
        if not is_number or not 0.5 < self.fraction <= 1.0:
            percent = self.fraction if is_number and 50.0 < self.fraction <= 100.0 else 99.999
            raise UsageError(
                f"the percentile fraction must be in (0.5, 1], not {self.fraction}",
                fix=f"{percent:g} percent is written {percent / 100.0:.10g}",
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


@dataclass(frozen=True, kw_only=True)
class Auto:
    """The method whose int8 model is nearest to fp32 on calibration images; see `quantkit.calibrate`.

    Example:
        >>> import quantkit
        >>> quantkit.Auto()
        Auto()
    """


AUTO = "auto"

Method = MinMax | Percentile | Kl | Mse
MethodName = Literal["minmax", "percentile", "kl", "mse"]
MethodOrAuto = Literal["auto", MethodName]
METHODS: dict[str, type[Method]] = dict(zip(get_args(MethodName), get_args(Method), strict=True))


def method_name(method: Method | Auto) -> str:
    """Return the name a method has on the command line."""
    if isinstance(method, Auto):
        return AUTO
    return next(name for name, kind in METHODS.items() if isinstance(method, kind))


def method_words(method: Method | Auto) -> str:
    """Return a method with the settings that are not its defaults: ``percentile 0.9999``, ``kl relay``."""
    words = [method_name(method)]
    if isinstance(method, Percentile):
        words += [f"{method.fraction:.10g}"] if method.fraction != Percentile().fraction else []
        words += [f"of {method.of}"] if method.of != Percentile().of else []
    elif isinstance(method, Kl) and method.definition != Kl().definition:
        words.append(method.definition)
    return " ".join(words)


def method_json(method: Method | Auto) -> dict[str, Any]:
    """Return a method as JSON values: its name and its settings."""
    return {"name": method_name(method), **asdict(method)}


def recorded_method(name: str, options: Mapping[str, Any]) -> Method:
    """Return the method of a record: its name, and options of which some may be settings of the method.

    Raises:
        UsageError: no such method, or a setting that it does not have.
    """
    if name not in METHODS:
        raise UsageError(f"there is no method {name!r}", where="run.json", fix="run quantkit calibrate again")
    kind = METHODS[name]
    return kind(**{field.name: options[field.name] for field in fields(kind) if field.name in options})


def as_method(method: "Method | Auto | str") -> Method:
    """Return a method given as a value or by its name.

    Raises:
        UsageError: no such method, or ``auto``, which is a choice between methods.
    """
    chosen = as_method_or_auto(method)
    if isinstance(chosen, Auto):
        raise UsageError(
            "auto compares int8 models on calibration images, and takes no part in this",
            where="method",
            fix=f"give one of {', '.join(METHODS)}",
        )
    return chosen


def as_method_or_auto(method: "Method | Auto | str | None") -> Method | Auto:
    """Return a method given as a value or by its name, `Auto` for None.

    Raises:
        UsageError: no such method.
    """
    if method is None:
        return Auto()
    if isinstance(method, str):
        return parse_method(method)
    if isinstance(method, Method | Auto):
        return method
    fix = f"give one of {AUTO}, {', '.join(METHODS)}, or a value such as quantkit.Mse()"
    raise UsageError(f"takes a method, not {method!r}", where="method", fix=fix)


def parse_method(name: str, *, fraction: float | None = None) -> Method | Auto:
    """Return the method of a command-line name.

    Raises:
        UsageError: there is no such method, or a fraction is given for a method without one.
    """
    if name != AUTO and name not in METHODS:
        choices = ", ".join((AUTO, *METHODS))
        raise UsageError(f"there is no method {name!r}", where="--method", fix=f"choose one of {choices}")
    if fraction is not None:
        if name != "percentile":
            raise UsageError(f"the method {name} takes no fraction", where="--fraction", fix="use --method percentile")
        return Percentile(fraction=fraction)
    return Auto() if name == AUTO else METHODS[name]()

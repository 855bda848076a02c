"""Computes ranges from statistics by any method; pure functions without images or models."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import assert_never

from quantkit.config.method import Kl, Method, MinMax, Mse, Percentile, as_method
from quantkit.numerics import Range
from quantkit.stats.kl import ort_threshold, relay_threshold, tensorrt_threshold
from quantkit.stats.mse import affine_mse_range, symmetric_mse_threshold
from quantkit.stats.observed import Observed
from quantkit.stats.percentile import magnitude_percentile, two_sided_percentile
from quantkit.stats.tensor import TensorStatistics
from quantkit.targets import ActivationScheme, Target, as_target


def solve(statistics: TensorStatistics, method: Method, target: Target) -> Range:
    """Return the range of a tensor; it is within the observed range and contains zero.

    The range of an empty or all-zero tensor is [0, 0], that of a constant is from zero to it. A tensor so sparse that a
    method would cut all non-zero values keeps its observed range.
    """
    if statistics.count == 0 or statistics.constant:
        return statistics.range
    range_ = _solve(statistics, method, target)
    return range_ if range_.threshold > 0.0 else statistics.range


def _solve(statistics: TensorStatistics, method: Method, target: Target) -> Range:
    scheme = target.activations
    match method:
        case MinMax():
            return statistics.range
        case Percentile(fraction=fraction, of=of):
            if of == "magnitude" or (of == "auto" and scheme.symmetric):
                return _clip(statistics, magnitude_percentile(statistics, fraction))
            return two_sided_percentile(statistics, fraction)
        case Kl(definition=definition):
            return _clip(statistics, _kl(statistics, target.kl_definition if definition == "auto" else definition))
        case Mse():
            return _mse(statistics, scheme)
        case _:
            assert_never(method)


def solve_all(
    statistics: Observed | Mapping[str, TensorStatistics],
    method: Method | str,
    target: Target | str,
    *,
    keep_outliers: bool = False,
    threads: int = 2,
) -> dict[str, Range]:
    """Return the range of every tensor, in the order of ``statistics``, as set by `quantkit.calibrate`.

    Args:
        statistics: from `load_statistics`, in which case outlier images are excluded unless the method is ``minmax``;
            or statistics by tensor name, with all values included.
        method: calibration method, a value or a name.
        target: target, a value or a name.
        keep_outliers: include outlier images.
        threads: number of tensors solved in parallel.

    Raises:
        UsageError: no such method or target.

    Example:
        In the folder written by ``quantkit demo``:

        >>> import quantkit
        >>> statistics = quantkit.load_statistics("run/statistics.safetensors")
        >>> quantkit.solve_all(statistics, "minmax", "ort")["input"]
        Range(lo=-1.0, hi=1.0)
    """
    method, target = as_method(method), as_target(target)
    if isinstance(statistics, Observed):
        statistics = statistics.for_ranges(method, target, keep_outliers=keep_outliers)
    with ThreadPoolExecutor(threads) as pool:
        ranges = pool.map(lambda one: solve(one, method, target), statistics.values())
        return dict(zip(statistics, ranges, strict=True))


def solve_observed(
    observed: Observed,
    method: Method,
    target: Target,
    *,
    keep_outliers: bool = False,
    needed: Iterable[str] | None = None,
) -> dict[str, Range]:
    """Return the range of every observed tensor, or of those needed, from the images that may set it.

    Args:
        observed: statistics of a model's tensors.
        method: calibration method.
        target: target.
        keep_outliers: include outlier images; see `Observed.for_ranges`.
        needed: names of tensors in the order of the result; tensors that were not observed are skipped.
    """
    tensors = observed.for_ranges(method, target, keep_outliers=keep_outliers)
    if needed is not None:
        tensors = {name: tensors[name] for name in needed if name in tensors}
    return solve_all(tensors, method, target)


def _kl(statistics: TensorStatistics, definition: str) -> float:
    match definition:
        case "tensorrt":
            return tensorrt_threshold(statistics)
        case "relay":
            return relay_threshold(statistics)
        case _:
            return ort_threshold(statistics)


def _mse(statistics: TensorStatistics, scheme: ActivationScheme) -> Range:
    if scheme.symmetric:
        return _clip(statistics, symmetric_mse_threshold(statistics, divisor=scheme.divisor, qmax=scheme.qmax))
    return affine_mse_range(statistics, steps=scheme.qmax - scheme.qmin)


def _clip(statistics: TensorStatistics, threshold: float) -> Range:
    """Return [-threshold, threshold] cut to the observed range."""
    observed = statistics.range
    return Range(max(-threshold, observed.lo) + 0.0, min(threshold, observed.hi))

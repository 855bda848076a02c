"""From statistics to a range, by any method: pure functions, no image and no model."""

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
    """Return the range of one tensor: within the observed one, containing zero.

    An empty tensor and one that is always zero give [0, 0]; a constant gives the range from zero to it. A tensor so
    sparse that a method would cut all that is not zero keeps its observed range.
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
    """Return the range of every tensor, in the order of ``statistics``, as `quantkit.calibrate` sets it.

    Args:
        statistics: of `load_statistics`: outlier images do not set ranges then, but for ``minmax``. Or statistics by
            tensor name, which do not know images: all values count.
        method: how ranges are set, a value or a name.
        target: what they are set for, a value or a name.
        keep_outliers: count all images.
        threads: tensors solved side by side.

    Raises:
        UsageError: no such method or target.

    Example:
        In the folder that ``quantkit demo`` makes:

        >>> import quantkit
        >>> statistics, _ = quantkit.load_statistics("run/statistics.safetensors")
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
        observed: what images made of a model.
        method: how ranges are set.
        target: what they are set for.
        keep_outliers: count all images; see `Observed.for_ranges`.
        needed: names of tensors, in the order the ranges are to have; those that were not observed are passed over.
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

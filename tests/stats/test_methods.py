"""Ranges by every method, against definitions written out independently, on raw values."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stats.references import mean_squared_error, relay_divergences, tensorrt_divergences

from quantkit.config.method import Kl, Method, MinMax, Mse, Percentile, parse_method
from quantkit.errors import UsageError
from quantkit.numerics import Range
from quantkit.stats.bins import MANTISSA_BITS
from quantkit.stats.kl import symmetric_divergences
from quantkit.stats.kl import tensorrt_divergences as our_tensorrt
from quantkit.stats.linear import linear_magnitudes, linear_symmetric
from quantkit.stats.observed import Observed
from quantkit.stats.observer import Observer
from quantkit.stats.percentile import magnitude_percentile, two_sided_percentile
from quantkit.stats.solve import solve, solve_all
from quantkit.stats.tensor import TensorStatistics
from quantkit.targets import ORT, TENSORRT, VACC, Target

BIN = 2.0**-MANTISSA_BITS
METHODS = [MinMax(), Percentile(), Percentile(fraction=0.99), Kl(), Mse()]
TARGETS = [ORT, TENSORRT, VACC]


def statistics_of(x: np.ndarray) -> TensorStatistics:
    observer = Observer()
    observer.observe(x)
    return observer.statistics()


def distributions() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    normal = rng.standard_normal(60_000)
    return {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "laplace": rng.laplace(size=60_000) * 3,
        "relu6": np.clip(normal * 4, 0, 6),
        "outlier": np.append(np.abs(normal), [40.0, 55.0]),
        "skewed": rng.gamma(1.5, size=60_000) - 0.3,
        "negative": -np.abs(normal),
        "small": normal[:40] * 1e-5,
    }


CASES = distributions()
floats = st.floats(-1e6, 1e6, width=32)
tensors = hnp.arrays(np.float32, st.integers(1, 200), elements=floats)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("method", METHODS, ids=repr)
@settings(max_examples=25, deadline=None)
@given(x=tensors)
def test_solve_any_tensor_range_contains_zero_within_observed(method: Method, target: Target, x: np.ndarray) -> None:
    statistics = statistics_of(x)
    range_ = solve(statistics, method, target)
    observed = statistics.range
    assert observed.lo <= range_.lo <= 0.0 <= range_.hi <= observed.hi
    if observed.hi > observed.lo:
        assert range_.hi > range_.lo


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize(
    ("values", "expected"),
    [([], Range(0, 0)), ([0.0] * 9, Range(0, 0)), ([3.5] * 9, Range(0, 3.5)), ([-2.0], Range(-2.0, 0))],
    ids=["empty", "zero", "constant", "single negative"],
)
def test_solve_degenerate_tensor_has_stated_range(method: Method, values: list[float], expected: Range) -> None:
    statistics = statistics_of(np.array(values, np.float32))
    for target in TARGETS:
        assert solve(statistics, method, target) == expected


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fraction", [0.5001, 0.9, 0.999, 0.99999, 1.0])
def test_percentile_magnitude_is_value_of_its_rank(name: str, fraction: float) -> None:
    x = np.abs(CASES[name]).astype(np.float32)
    exact = float(np.sort(x)[min(int(x.size * fraction), x.size - 1)])
    assert magnitude_percentile(statistics_of(CASES[name]), fraction) == pytest.approx(exact, rel=BIN)


def test_percentile_magnitude_of_evenly_spread_bin_is_exact() -> None:
    within = (1.0 + (np.arange(64) + 0.5) / 64 * BIN).astype(np.float32)  # the bin from 1 to 1 + BIN
    statistics = statistics_of(np.append(within, np.float32(2.0)))
    for rank in (0, 17, 63):
        assert magnitude_percentile(statistics, (rank + 0.5) / 65) == within[rank]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fraction", [0.9, 0.999, 0.99999])
def test_percentile_two_sided_cuts_half_at_either_end(name: str, fraction: float) -> None:
    x = np.sort(CASES[name].astype(np.float32))
    cut = int(x.size * (1 - fraction) / 2)
    range_ = solve(statistics_of(CASES[name]), Percentile(fraction=fraction), ORT)
    assert range_.lo == pytest.approx(min(float(x[cut]), 0.0), rel=BIN)
    assert range_.hi == pytest.approx(max(float(x[x.size - 1 - cut]), 0.0), rel=BIN)


@given(x=tensors)
@settings(max_examples=60, deadline=None)
def test_percentile_of_all_values_is_minmax_and_larger_never_narrows(x: np.ndarray) -> None:
    statistics = statistics_of(x)
    for target in TARGETS:
        assert solve(statistics, Percentile(fraction=1.0), target) == statistics.range
    wide, narrow = two_sided_percentile(statistics, 0.99), two_sided_percentile(statistics, 0.9)
    assert wide.lo <= narrow.lo
    assert narrow.hi <= wide.hi
    assert magnitude_percentile(statistics, 0.9) <= magnitude_percentile(statistics, 0.99)


@given(x=hnp.arrays(np.float32, 80, elements=st.floats(-1e3, 1e3, width=32)), k=st.integers(-6, 6))
@settings(max_examples=40, deadline=None)
def test_solve_scaled_tensor_scales_range(x: np.ndarray, k: int) -> None:
    assume((np.abs(x[x != 0]) > 1e-20).all())
    factor = 2.0**k
    one, other = statistics_of(x), statistics_of(x * np.float32(factor))
    for method in (MinMax(), Percentile(fraction=0.95)):
        before, after = solve(one, method, ORT), solve(other, method, ORT)
        assert (after.lo, after.hi) == (before.lo * factor, before.hi * factor)


@pytest.mark.parametrize("name", [n for n in CASES if n != "small"])
@pytest.mark.parametrize(("target", "divisor"), [(TENSORRT, 127.0), (VACC, 128.0)], ids=["127", "128"])
def test_mse_symmetric_is_least_of_fine_search_over_raw_values(name: str, target: Target, divisor: float) -> None:
    x = CASES[name].astype(np.float32)
    greatest = float(np.abs(x).max())
    candidates = np.linspace(0.05, 1.0, 400) * greatest
    errors = [mean_squared_error(x, t / divisor, -127, 127, 0) for t in candidates]
    found = solve(statistics_of(x), Mse(), target).threshold
    ours = mean_squared_error(x, found / divisor, -127, 127, 0)
    # One sketch bin in the threshold moves the error by far less than this.
    assert ours <= min(errors) * 1.005


@pytest.mark.parametrize("name", [n for n in CASES if n != "small"])
def test_mse_affine_is_least_of_search_over_raw_values(name: str) -> None:
    x = CASES[name].astype(np.float32)
    observed = statistics_of(x).range
    shares = np.linspace(0.2, 1.0, 41)

    def error(lo: float, hi: float) -> float:
        qparams = ORT.activations.qparams(Range(lo, hi))
        return mean_squared_error(x, float(qparams.scale), 0, 255, int(qparams.zero_point))

    lows = shares * observed.lo if observed.lo else [0.0]
    highs = shares * observed.hi if observed.hi else [0.0]
    least = min(error(float(lo), float(hi)) for lo in lows for hi in highs)
    found = solve(statistics_of(x), Mse(), ORT)
    assert error(found.lo, found.hi) <= least * 1.01


@given(x=tensors)
@settings(max_examples=40, deadline=None)
def test_mse_error_exceeds_minmax_by_at_most_a_bin(x: np.ndarray) -> None:
    """A value is known to a bin, at most a quarter of minmax's step wide, and rounding errors change no faster."""
    statistics = statistics_of(x)
    assume(not statistics.constant)
    greatest = statistics.range.threshold
    found = solve(statistics, Mse(), VACC).threshold
    ours, minmax = (mean_squared_error(x, t / 128, -127, 127, 0) ** 0.5 for t in (found, greatest))
    assert ours <= minmax + 2 * greatest * BIN


histograms = hnp.arrays(np.int64, st.integers(150, 301).map(lambda n: n | 1), elements=st.integers(0, 40))


@given(histogram=histograms)
@settings(max_examples=30, deadline=None)
def test_kl_relay_divergences_equal_those_of_its_loop(histogram: np.ndarray) -> None:
    assume(histogram.any())
    ours, theirs = symmetric_divergences(histogram, 63, True), relay_divergences(histogram, 63)
    finite = np.isfinite(theirs)
    np.testing.assert_array_equal(np.isfinite(ours), finite)
    np.testing.assert_allclose(ours[finite], theirs[finite], atol=2e-6)


@given(histogram=histograms)
@settings(max_examples=30, deadline=None)
def test_kl_tensorrt_divergences_equal_those_of_its_loop(histogram: np.ndarray) -> None:
    assume(histogram.any())
    ours, theirs = our_tensorrt(histogram), tensorrt_divergences(histogram)
    finite = np.isfinite(theirs)
    np.testing.assert_array_equal(np.isfinite(ours), finite)
    np.testing.assert_allclose(ours[finite], theirs[finite], atol=1e-9)


@pytest.mark.parametrize("name", ["normal", "relu", "outlier"])
def test_kl_ort_divergence_is_least_where_onnxruntime_finds_it(name: str) -> None:
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    x, bins, levels = CASES[name], 513, 255
    greatest = float(np.abs(x).max())
    histogram, edges = np.histogram(x, bins=bins, range=(-greatest, greatest))
    wide = (histogram, edges, np.float64(-np.inf), np.float64(np.inf))  # its clipping to the extremes put off
    theirs = calibrate.HistogramCollector.get_entropy_threshold(None, wide, levels)
    divergences = symmetric_divergences(histogram, levels, False)
    chosen = int(np.argmin(np.abs(edges - theirs[1]))) - bins // 2 - 1 - levels // 2
    # It computes in float32, so that it may take another of two candidates a millionth apart.
    assert divergences[chosen] <= divergences.min() + 5e-6


@pytest.mark.parametrize("name", CASES)
def test_linear_bins_equal_histogram_of_raw_values(name: str) -> None:
    x = CASES[name].astype(np.float32)
    greatest = float(np.abs(x).max())
    statistics = statistics_of(x)
    for ours, raw in (
        (linear_magnitudes(statistics, 2048), np.histogram(np.abs(x), bins=2048, range=(0, greatest))[0]),
        (linear_symmetric(statistics, 2049), np.histogram(x, bins=2049, range=(-greatest, greatest))[0]),
    ):
        assert ours.sum() == x.size
        # Only values within one bin of the sketch from an edge may lie on its other side.
        assert np.abs(np.cumsum(ours) - np.cumsum(raw)).max() <= max(raw.max(), 3)


def grey_levels(rng: np.random.Generator, levels: int, size: int) -> np.ndarray:
    """Values of normalized images: equally spaced, many times each, half of them the darkest."""
    shades = np.where(rng.random(size) < 0.5, 0, rng.integers(0, levels, size))
    return (shades / (levels - 1) * 2 - 1).astype(np.float32)


@given(levels=st.integers(9, 64), seed=st.integers(0, 2**16))
@example(levels=50, seed=0)  # shades in other places within their bins have another best candidate
@settings(max_examples=15, deadline=None)
def test_kl_grey_levels_threshold_is_that_of_raw_histogram(levels: int, seed: int) -> None:
    x = grey_levels(np.random.default_rng(seed), levels, 20_000)
    # What the statistics know of a shade: the middle of the bin of its sign, exponent and 9 bits of the mantissa.
    lower = x.view(np.uint32) >> 14 << 14
    middle = (lower.view(np.float32).astype(float) + (lower + (1 << 14)).view(np.float32)) / 2
    raw = np.histogram(np.clip(middle, -1.0, 1.0), bins=8001, range=(-1.0, 1.0))[0].astype(np.int64)
    truth = symmetric_divergences(raw, 255, True)
    best = 127 + int(np.argmin(truth)) + 4001
    assert solve(statistics_of(x), Kl(), VACC).threshold == pytest.approx(best * 2 / 8001 - 1, abs=1e-9)


# How often each shade of the digits of the demo occurs in its calibration set: 0 (black), 16, 32, ... 240, 255.
DIGIT_SHADES = (6286, 428, 357, 348, 366, 297, 307, 255, 372, 283, 325, 320, 369, 407, 398, 483, 1199)


def test_kl_vacc_demo_digits_threshold_is_that_of_raw_values() -> None:
    shades = np.minimum(np.arange(17) * 16, 255)
    x = np.repeat((shades.astype(np.float32) / 255 - 0.5) / 0.5, DIGIT_SHADES)
    raw, edges = np.histogram(x, bins=8001, range=(-1.0, 1.0))
    best = int(np.argmin(relay_divergences(raw.astype(np.int64), 255))) + 127
    assert solve(statistics_of(x), Kl(), VACC).threshold == pytest.approx(edges[4000 + best + 1], abs=BIN / 2)
    assert edges[4000 + best + 1] > 0.87  # spread over the bins that they lie in, the shades gave 0.12


def test_linear_bins_of_one_value_repeated_are_not_spread() -> None:
    rng = np.random.default_rng(7)
    x = np.repeat(np.asarray([-1.0, 0.0, 0.3, 0.7, 1.0], np.float32), 100)
    assert np.count_nonzero(linear_symmetric(statistics_of(x), 8001)) == 5
    assert np.count_nonzero(linear_magnitudes(statistics_of(x), 8000)) == 4
    narrow = rng.uniform(1.0, 1.0 + BIN / 2, 1000).astype(np.float32)
    assert np.count_nonzero(linear_magnitudes(statistics_of(narrow), 8000)) >= 7


def test_linear_bins_of_repeated_extremes_are_the_outermost() -> None:
    statistics = statistics_of(np.repeat(np.asarray([-0.7, 0.0, 0.7], np.float32), 100))
    symmetric, magnitudes = linear_symmetric(statistics, 8001), linear_magnitudes(statistics, 8000)
    assert [symmetric[0], symmetric[4000], symmetric[-1]] == [100, 100, 100]
    assert [magnitudes[0], magnitudes[-1]] == [100, 200]


def test_solve_all_keeps_order_of_tensors() -> None:
    statistics = {name: statistics_of(x) for name, x in CASES.items()}
    solved = solve_all(statistics, Percentile(), ORT)
    assert list(solved) == list(CASES)
    assert solved["relu"] == solve(statistics["relu"], Percentile(), ORT)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_percentile_sparse_tensor_keeps_observed_range(target: Target) -> None:
    x = np.zeros(1000, np.float32)
    x[7] = 5.0
    assert solve(statistics_of(x), Percentile(fraction=0.9), target) == Range(0.0, 5.0)


def test_parse_method_bad_name_or_fraction_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no method 'entropy'; choose one of auto, minmax, percentile, kl, mse"):
        parse_method("entropy")
    with pytest.raises(UsageError, match=r"the method kl takes no fraction"):
        parse_method("kl", fraction=0.9)
    with pytest.raises(UsageError, match=r"99\.9 percent is written 0\.999$"):
        parse_method("percentile", fraction=99.9)


def test_solve_all_statistics_leave_out_outlier_images_as_calibrate_does() -> None:
    usual = np.linspace(-1.0, 1.0, 4096, dtype=np.float32)
    statistics = statistics_of(np.concatenate([usual, np.full(16, 900.0, np.float32)]))
    extremes = np.tile(np.array([-1.0, 1.0], np.float32), (64, 1, 1))
    extremes[7] = (-1.0, 900.0)
    observed = Observed({"x": statistics}, extremes)
    kept, cut = (solve_all(observed, Percentile(fraction=1.0), ORT, keep_outliers=keep)["x"] for keep in (True, False))
    assert kept.hi > 800.0
    assert cut.hi == pytest.approx(1.0, abs=0.01)
    assert solve_all(observed, MinMax(), ORT)["x"].hi == 900.0

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quantkit.stats.bins import MANTISSA_BITS, SHIFT, SIGN_BIN, bin_of, magnitude_edges, signed_edges

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(finite)
def test_bin_of_value_has_edges_around_it(value: float) -> None:
    x = np.array([value], np.float32)
    lower, upper = signed_edges(bin_of(x))
    assert lower[0] <= float(x[0]) <= upper[0]


@given(finite.filter(lambda v: abs(v) >= 2.0**-126))
def test_bin_of_normal_number_is_relatively_narrow(value: float) -> None:
    lower, upper = magnitude_edges(bin_of(np.array([value], np.float32)))
    assert upper[0] - lower[0] <= lower[0] * 2.0**-MANTISSA_BITS


@given(finite, finite)
def test_bins_ascend_with_the_magnitude_within_a_sign(a: float, b: float) -> None:
    one, other = bin_of(np.abs(np.array([a, b], np.float32)))
    assert (one <= other) if abs(np.float32(a)) <= abs(np.float32(b)) else (one >= other)


def test_bin_of_both_zeros_is_zero_and_negatives_follow_the_sign_bin() -> None:
    bins = bin_of(np.array([0.0, -0.0, -1.0, 1.0], np.float32))
    assert bins[0] == bins[1] == 0
    assert bins[2] == bins[3] + SIGN_BIN


def test_bin_of_infinity_and_nan_is_non_finite() -> None:
    non_finite = 0x7F800000 >> SHIFT  # the exponent of infinities and NaN
    bins = bin_of(np.array([np.inf, -np.inf, np.nan, np.finfo(np.float32).max], np.float32))
    assert (bins[:3] % SIGN_BIN >= non_finite).all()
    assert bins[3] == non_finite - 1


def test_bins_neighbours_share_an_edge() -> None:
    bins = np.arange(0, SIGN_BIN - 1, 977)
    _, upper = magnitude_edges(bins)
    lower, _ = magnitude_edges(bins + 1)
    np.testing.assert_array_equal(upper, lower)
